"""Cross-validation of a plan's network: folds trained one by one or side by side, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from models.json_file import write_json
from models.nasbranet.export import load_network
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import NetworkPlan
from models.training import data
from models.training.folds import Study, refuse_other_folds, run_fold
from models.training.judge import per_patient
from models.training.loop import Schedule
from models.training.metrics import mean_interval

EPOCHS = "10x0.5,4x0.75,3x1"
"""What two CPU cores train in an hour and a half for all five folds."""


def cross_validate(
    data_folder: Annotated[Path, typer.Option("--data", help="folder with labels.csv and one folder of slices a case")],
    out: Annotated[Path, typer.Option(help="a folder for each fold is made in it; what is there is gone on with")],
    plan: Annotated[str, typer.Option(help="a plan of models/plans by name, or a JSON file")] = "thesis",
    folds: Annotated[int, typer.Option(help="into how many parts the patients are divided")] = 5,
    only: Annotated[list[int] | None, typer.Option(help="train only this fold; repeatable, default all")] = None,
    epochs: Annotated[str, typer.Option(help="epochs x image scale, one after another")] = EPOCHS,
    seed: Annotated[int, typer.Option(help="of the folds, the weights and the augmentation")] = 0,
    peak_rate: Annotated[float, typer.Option(help="highest learning rate of the one-cycle schedule")] = 2e-3,
    start_from: Annotated[
        Path | None, typer.Option(help="a cross-validation with the same folds: each fold begins with its weights")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="stop after so many validations without gain; needs --inner-folds")
    ] = None,
    inner_folds: Annotated[int, typer.Option(help="one of so many parts of a fold's own patients watches")] = 0,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    teacher_run: Annotated[
        Path | None, typer.Option(help="cross-validation of a teacher: each fold learns from that fold's network")
    ] = None,
    teacher_plan: Annotated[str, typer.Option(help="the teacher's plan")] = "teacher",
    threads: Annotated[int, typer.Option(help="CPU threads; with 1, run two folds side by side")] = 0,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Train and judge by patient: every patient is judged by a network that never saw one of their slices.

    Writes OUT/fold_K/ and, from all folds that are done, OUT/result.json with Dice by patient and its interval.
    """
    console = Console(stderr=True)
    if threads:
        torch.set_num_threads(threads)
    network = NetworkPlan.load(plan)
    everyone = data.read_cases(data_folder)
    study = Study(
        cases=data.usable(everyone, leave_out or ()),
        helpers=data.flair_only(everyone, leave_out or ()),
        folds=folds,
        schedule=Schedule.parse(epochs, seed=seed, peak_rate=peak_rate, patience=patience),
        inner_folds=inner_folds,
        cache=cache,
    )

    def first(fold: int) -> NASBraNet:
        if start_from is None:
            return NASBraNet(network)
        refuse_other_folds(study, fold, start_from / f"fold_{fold}")
        return load_network(network, start_from / f"fold_{fold}" / "last.pt")

    with Progress(console=console) as progress:
        for fold in only if only else range(folds):
            teacher = None
            if teacher_run is not None:
                refuse_other_folds(study, fold, teacher_run / f"fold_{fold}")
                teacher = load_network(NetworkPlan.load(teacher_plan), teacher_run / f"fold_{fold}" / "last.pt")
            run_fold(study, fold, partial(first, fold), out / f"fold_{fold}", progress, teacher)
    result = gather(out, study.cases)
    began = {} if start_from is None else {"started_from": start_from.name}
    write_json(out / "result.json", result | {"plan": network.name, "epochs": epochs, "seed": seed} | began)
    low, high = result["dice_interval"]
    console.print(f"Dice {result['dice_mean']:.3f} ({low:.3f} to {high:.3f}), {result['patients']} patients")


def gather(out: Path, cases: Sequence[data.Case]) -> dict[str, Any]:
    """Put the folds that are done together: Dice of each case, mean and 95 % interval over patients."""
    finished = sorted(out.glob("fold_*/result.json"))
    found: dict[str, float] = {}
    for done in finished:
        found |= json.loads(done.read_text(encoding="utf-8"))["cases"]
    patients = list(per_patient(cases, found).values())
    mean, interval = mean_interval(patients)
    return {
        "dice_mean": mean, "dice_interval": list(interval), "lowest": float(np.min(patients)),
        "patients": len(patients), "cases": dict(sorted(found.items())), "folds_done": len(finished),
    }  # fmt: skip
