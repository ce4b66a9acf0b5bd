"""Train one network: on a share of the patients, watching the rest, or on all of them for shipping."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from models.nasbranet.export import load_network
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import FOUND_TEACHER, SHIPPED_PLAN, NetworkPlan
from models.training import data
from models.training.augment import Slices
from models.training.folds import check_folds, keep_or_refuse, keep_settings, refuse_seen, seen_by
from models.training.judge import judge, segmenter
from models.training.loop import Schedule, Trainer


def train(
    data_folder: Annotated[Path, typer.Option("--data", help=data.DATA_HELP)],
    out: Annotated[Path, typer.Option(help="folder for checkpoints and the log; an interrupted run resumes")],
    plan: Annotated[str, typer.Option(help="a plan of models/plans by name, or a JSON file")] = SHIPPED_PLAN,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    folds: Annotated[int, typer.Option(help="validation is one of this many parts; 0: train on every patient")] = 5,
    fold: Annotated[int, typer.Option(help="which part")] = 0,
    seed: Annotated[int, typer.Option(help="of the split, the weights and the augmentation")] = 0,
    epochs: Annotated[str, typer.Option(help="epochs x image scale, one after another")] = "14x0.5,10x0.75,12x1",
    batch: Annotated[int, typer.Option(min=1, help="slices a step")] = Schedule.batch,
    workers: Annotated[int, typer.Option(min=0, help="processes that read and augment slices")] = Schedule.workers,
    empty_share: Annotated[float, typer.Option(help="tumour-free slices per tumour slice, drawn anew")] = 0.4,
    init: Annotated[Path | None, typer.Option(help="begin from this training's weights (its last.pt)")] = None,
    peak_rate: Annotated[float, typer.Option(help="highest learning rate of the one-cycle schedule")] = 2e-3,
    within: Annotated[Path | None, typer.Option(help="a split.json: only its training cases take part")] = None,
    flair_only: Annotated[bool, typer.Option(help="let cases without a true T1C teach what FLAIR alone shows")] = True,
    patience: Annotated[
        int | None,
        typer.Option(help="stop after so many validations without gain; never report on those patients then"),
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="a teacher's training folder, to learn from")] = None,
    teacher_plan: Annotated[str, typer.Option(help="the teacher's plan, by name or a JSON file")] = FOUND_TEACHER,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all")] = 0,
    bias_field: Annotated[bool, typer.Option(help="remove the bias field (N4), as the node does")] = True,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Train a plan's network; unless --patience is given, nothing is chosen on the validation patients."""
    console = Console(stderr=True)
    if threads:
        torch.set_num_threads(threads)
    if folds == 0 and patience is not None:
        raise data.DataError("--patience needs validation patients; give --folds")
    schedule = Schedule.parse(epochs, batch=batch, workers=workers, peak_rate=peak_rate, seed=seed, patience=patience)
    everyone = data.read_cases(data_folder)
    cases = data.usable(everyone, leave_out or ())
    if within is not None:
        cases = data.of_split(cases, within, "training")
    if folds:
        check_folds(cases, folds, [fold])
    training, held = data.split(cases, folds, fold, seed) if folds else (cases, [])
    if flair_only:
        helpers = data.flair_only(everyone, leave_out or ())
        data.refuse_shared_patients(helpers, held)
        training = [*training, *helpers]
    before = [folder for folder in (init and init.parent, teacher) if folder is not None]
    for folder in before if held else ():
        refuse_seen(folder, everyone, held)
    names = {"training": [c.name for c in training], "validation": [c.name for c in held]}
    if seen := sorted({name for folder in before for name in seen_by(folder)}):
        names["seen_before"] = seen  # so that what begins from this one is refused their judgement too
    keep_or_refuse(out / "split.json", names)
    architecture = NetworkPlan.load(plan)
    settings: dict[str, object] = {
        "plan": architecture.model_dump(mode="json"), "epochs": epochs, "batch": batch, "seed": seed,
        "peak_rate": peak_rate, "empty_share": empty_share, "patience": patience, "bias_field": bias_field,
        "began_with": init and init.parent.name, "teacher": teacher and teacher.name,
    }  # fmt: skip
    torch.manual_seed(seed)
    network = NASBraNet(architecture) if init is None else load_network(architecture, init)
    learnt = None if teacher is None else load_network(NetworkPlan.load(teacher_plan), teacher / "last.pt")
    keep_settings(out, settings)
    with Progress(console=console) as progress:

        def prepare(part: list[data.Case]) -> list[data.Prepared]:
            shown = progress.track(part, description="preparing")
            return [data.prepare(case, cache, bias_field=bias_field) for case in shown]

        slices, watched = Slices(prepare(training), empty_share, seed), prepare(held)
        trainer = Trainer(network, slices, schedule, out, learnt)
        if trainer.resume():
            console.print(f"resuming after epoch {trainer.epoch}")
        validate = (lambda: float(np.mean(list(judge(segmenter(network), watched).values())))) if watched else None
        trainer.run(progress, validate)
