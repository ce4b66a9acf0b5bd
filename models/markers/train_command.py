"""The command that trains any marker, in folds by patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from models.markers.crossval import OUTCOMES, Study, fit, gather, run_fold
from models.markers.data import PIXELS
from models.markers.labels import find_marker, read_subjects
from models.markers.metrics import OneClass, measure
from models.markers.recipe import DROPOUT, SEQUENCES, Recipe, Schedule
from models.markers.screen import verdict
from models.training.folds import keep_or_refuse

FINAL = "final"
"""Folder of the network that trains on all patients."""


def train(
    data_folder: Annotated[Path, typer.Option("--data", help="folder with labels.csv and one folder of slices a case")],
    out: Annotated[Path, typer.Option(help="a folder for each fold is made in it; what is there is gone on with")],
    marker: Annotated[str, typer.Option(help="idh, codel, mgmt, proliferation, tert, atrx, grade; or a new name")],
    column: Annotated[str | None, typer.Option(help="another column, with --positive or --threshold")] = None,
    positive: Annotated[str | None, typer.Option(help="its positive value; all others are negative")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="a score above it is high; default the median patient's, kept with the run")
    ] = None,
    model: Annotated[str, typer.Option(help="network, as in models/markers/zoo.py")] = "middle-a",
    size: Annotated[str, typer.Option(help="of the network: light, or 50 as in the sources")] = "light",
    pixels: Annotated[int, typer.Option(help="side of its input; 224 is the sources', a smaller one faster")] = PIXELS,
    sequences: Annotated[str, typer.Option(help="that the network may read, with commas")] = ",".join(SEQUENCES),
    pooling: Annotated[str, typer.Option(help="of a patient's slices: mean, or attention, which is learnt")] = "mean",
    dropout: Annotated[float, typer.Option(help="how often training hides a sequence")] = DROPOUT,
    backbone: Annotated[str | None, typer.Option(help="resnet or resnest, if not the source's")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="leave out of kinet: multi_scale, merge, metadata; repeatable")
    ] = None,
    epochs: Annotated[int, typer.Option(help="epochs of each fold")] = 20,
    batch: Annotated[int, typer.Option(help="slices a step")] = 16,
    slices: Annotated[int, typer.Option(help="slices of each patient an epoch")] = 8,
    peak_rate: Annotated[float, typer.Option(help="highest learning rate of the one-cycle schedule")] = 1e-3,
    folds: Annotated[int, typer.Option(help="into how many parts the patients are divided")] = 5,
    only: Annotated[list[int] | None, typer.Option(help="train only this fold; repeatable, default all")] = None,
    final: Annotated[bool, typer.Option(help="train on all patients too, to export; it is judged by nobody")] = False,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    seed: Annotated[int, typer.Option(help="of folds, weights, slices and augmentation")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all")] = 0,
    workers: Annotated[int, typer.Option(help="processes that augment slices")] = 0,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Train a network for one marker, in folds by patient; resumes where it was broken off.

    Writes OUT/fold_K/ and, from all folds that are done, OUT/outcomes.json: each patient's probability, by the
    network that never saw them.
    """
    console = Console(stderr=True)
    if threads:
        torch.set_num_threads(threads)
    asked = find_marker(marker, column, positive, threshold)
    found, subjects = read_subjects(data_folder, asked, leave_out or ())
    study = Study(
        marker=found,
        subjects=subjects,
        recipe=Recipe(
            network=model, size=size, sequences=tuple(sequences.split(",")), dropout=dropout, backbone=backbone,
            without=tuple(without or ()), pooling=pooling,
        ),
        schedule=Schedule(
            epochs=epochs, batch=batch, slices=slices, pixels=pixels, peak_rate=peak_rate, seed=seed, workers=workers
        ),
        folds=folds,
        cache=cache,
    )  # fmt: skip
    study.recipe.make(study.schedule)  # a name that is none of ours is refused before anything is written
    keep_or_refuse(out / "settings.json", study.describe())
    with Progress(console=console) as progress:
        for fold in only if only else range(folds):
            run_fold(study, fold, out / f"fold_{fold}", progress)
        if final:
            fit(study, study.subjects, [], out / FINAL, progress)
    outcome, done = gather(study, out)
    outcome.save(out / OUTCOMES)
    console.print(f"{found.title}: {len(outcome.patients)} patients, {done} of {folds} folds, {out / OUTCOMES} written")
    try:
        performance = measure(outcome.labels, outcome.probabilities)
    except OneClass as error:
        console.print(str(error))
        return
    console.print(f"AUC {performance.figures['auc']}. {verdict(performance)}")
