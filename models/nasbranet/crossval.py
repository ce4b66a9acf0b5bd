"""Cross-validation of a plan's network: folds trained one by one or side by side, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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
from models.nasbranet.plan import FOUND_TEACHER, SHIPPED_PLAN, NetworkPlan
from models.training import data
from models.training.folds import Study, check_folds, keep_settings, refuse_other_folds, run_fold
from models.training.judge import per_patient
from models.training.loop import Schedule
from models.training.metrics import mean_interval

EPOCHS = "10x0.5,4x0.75,3x1"
"""What two CPU cores train in an hour and a half for all five folds."""


def cross_validate(
    data_folder: Annotated[Path, typer.Option("--data", help=data.DATA_HELP)],
    out: Annotated[Path, typer.Option(help="a folder for each fold is made in it; what is there is gone on with")],
    plan: Annotated[str, typer.Option(help="a plan of models/plans by name, or a JSON file")] = SHIPPED_PLAN,
    folds: Annotated[int, typer.Option(help="into how many parts the patients are divided")] = 5,
    only: Annotated[list[int] | None, typer.Option(help="train only this fold; repeatable, default all")] = None,
    epochs: Annotated[str, typer.Option(help="epochs x image scale, one after another")] = EPOCHS,
    batch: Annotated[int, typer.Option(min=1, help="slices a step")] = Schedule.batch,
    workers: Annotated[int, typer.Option(min=0, help="processes that read and augment slices")] = Schedule.workers,
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
    teacher_plan: Annotated[str, typer.Option(help="the teacher's plan, by name or a JSON file")] = FOUND_TEACHER,
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
        schedule=Schedule.parse(
            epochs, batch=batch, workers=workers, seed=seed, peak_rate=peak_rate, patience=patience
        ),
        inner_folds=inner_folds,
        cache=cache,
    )
    check_folds(study.cases, folds, only or ())

    pending = [k for k in only or range(folds) if not (out / f"fold_{k}" / "result.json").exists()]
    begun = {} if start_from is None else _networks(study, start_from, network, pending)
    teachers = {} if teacher_run is None else _networks(study, teacher_run, NetworkPlan.load(teacher_plan), pending)
    settings: dict[str, object] = {
        "plan": network.model_dump(mode="json"), "folds": folds, "epochs": epochs, "batch": batch, "seed": seed,
        "peak_rate": peak_rate, "patience": patience, "inner_folds": inner_folds,
        "began_with": start_from and start_from.name, "teacher": teacher_run and teacher_run.name,
    }  # fmt: skip
    keep_settings(out, settings)
    with Progress(console=console) as progress:
        for fold in pending:
            make = partial(begun.__getitem__, fold) if begun else partial(NASBraNet, network)
            run_fold(study, fold, make, out / f"fold_{fold}", progress, teachers.get(fold))
    result = gather(out, study.cases)
    began = {} if start_from is None else {"started_from": start_from.name}
    write_json(out / "result.json", result | {"plan": Path(plan).stem, "epochs": epochs, "seed": seed} | began)
    low, high = result["dice_interval"]
    console.print(f"Dice {result['dice_mean']:.3f} ({low:.3f} to {high:.3f}), {result['patients']} patients")


def _networks(study: Study, run: Path, plan: NetworkPlan, folds: Iterable[int]) -> dict[int, NASBraNet]:
    """Open another cross-validation's network of each fold; raises DataError where one saw who judges that fold."""
    opened = {}
    for fold in folds:
        refuse_other_folds(study, fold, run / f"fold_{fold}")
        opened[fold] = load_network(plan, run / f"fold_{fold}" / "last.pt")
    return opened


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
