"""The comparison of the marker networks on our patients: the thesis's tables and the MGMT paper's, every row.

Every network of a marker trains on the same folds by patient, with the same trainer, schedule and seed. A fold lies
in a folder of its own, so a run can be broken off and taken up again; the tables show what is there. Folds come
first, networks second: a comparison that is broken off early is still one of like with like.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from models.json_file import write_json
from models.markers.crossval import OUTCOMES, Study, gather, kept_outcomes, run_fold
from models.markers.data import PIXELS
from models.markers.labels import find_marker, read_subjects
from models.markers.metrics import OneClass, Performance, by_site, measure
from models.markers.outcomes import Outcome
from models.markers.plots import draw_curves, draw_roc, mean_curve
from models.markers.recipe import DROPOUT, Schedule
from models.markers.roster import PAPER_ACCURACY, TABLES, Entry, roster
from models.markers.tables import Mgmt, Report, Row
from models.markers.trainer import read_log
from models.training import data
from models.training.folds import keep_or_refuse

COMMAND = ("python", "-m", "models.markers", "compare")
Studies = Mapping[tuple[str, str], Study]
"""By marker and run."""
console = Console(stderr=True)


def compare(
    data_folder: Annotated[Path, typer.Option("--data", help="folder with labels.csv and one folder of slices a case")],
    out: Annotated[Path, typer.Option(help="folder for a folder a network and fold, and compare.md, compare.json")],
    tables: Annotated[str, typer.Option(help="which, with commas between")] = ",".join(TABLES),
    size: Annotated[str, typer.Option(help="of the networks: light, or 50 as in the sources")] = "light",
    pixels: Annotated[int, typer.Option(help="side of their input; 224 is the sources', less is faster")] = PIXELS,
    epochs: Annotated[int, typer.Option(help="epochs of each fold")] = 20,
    mgmt_epochs: Annotated[str, typer.Option(help="epochs after which MGMT_value is told")] = ",".join(
        map(str, PAPER_ACCURACY)
    ),
    threshold: Annotated[float | None, typer.Option(help="of high proliferation; default the median patient")] = None,
    folds: Annotated[int, typer.Option(help="parts the patients are dealt into")] = 5,
    folds_run: Annotated[int, typer.Option(help="how many of them to train; 0 only collects what is there")] = 5,
    batch: Annotated[int, typer.Option(help="slices a step")] = 16,
    slices: Annotated[int, typer.Option(help="slices of each patient an epoch")] = 8,
    peak_rate: Annotated[float, typer.Option(help="highest learning rate of the one-cycle schedule")] = 1e-3,
    dropout: Annotated[float, typer.Option(help="how often training hides a sequence")] = DROPOUT,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    seed: Annotated[int, typer.Option(help="of folds, weights, slices and augmentation")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all")] = 0,
    workers: Annotated[int, typer.Option(help="processes that augment slices")] = 0,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Train what is missing and write the sources' tables for our patients; what is not trained says so."""
    if threads:
        torch.set_num_threads(threads)
    entries = roster(tables, size, dropout)
    schedule = Schedule(
        epochs=epochs, batch=batch, slices=slices, pixels=pixels, peak_rate=peak_rate, seed=seed, workers=workers
    )
    kept = _epochs(mgmt_epochs)
    studies = _studies(entries, data_folder, leave_out or (), threshold, schedule, kept, folds, cache)
    settings = {"size": size, **schedule.describe(), "dropout": dropout, "folds": folds}
    for (marker, run), study in studies.items():
        keep_or_refuse(out / marker / run / "settings.json", study.describe() | {"keep": list(study.schedule.keep)})
    for fold in range(min(folds_run, folds)):
        for (marker, run), study in studies.items():
            console.print(f"{study.marker.title}, {run}: fold {fold + 1} of {folds}")
            with Progress(console=console) as progress:
                run_fold(study, fold, out / marker / run / f"fold_{fold}", progress)
    words: list[object] = ["--size", size, "--pixels", pixels, "--epochs", epochs, "--mgmt-epochs", mgmt_epochs]
    words += ["--folds", folds, "--batch", batch, "--slices", slices, "--peak-rate", peak_rate]
    words += ["--dropout", dropout, "--seed", seed]
    words += [] if threshold is None else ["--threshold", threshold]
    words += [part for word in leave_out or () for part in ("--leave-out", word)]
    report = collect(entries, studies, out, settings, words)
    write_json(out / "compare.json", report.content())
    (out / "compare.md").write_text(report.markdown(), encoding="utf-8")
    console.print(f"{out / 'compare.md'} and compare.json written")


def collect(
    entries: Sequence[Entry], studies: Studies, out: Path, settings: Mapping[str, object], words: Sequence[object]
) -> Report:
    """Gather what the finished folds say, keep it as outcomes beside them, and draw the pictures."""
    tables: dict[str, list[Row]] = {}
    shown: dict[str, dict[str, Outcome]] = {}
    mgmt = None
    for entry in entries:
        study, folder = studies[entry.marker, entry.run], out / entry.marker / entry.run
        outcome, done = gather(study, folder)
        if done:
            outcome.save(folder / OUTCOMES)
        row = Row(
            entry=entry, performance=_measure(outcome), folds_done=done, folds=study.folds, sites=by_site(outcome)
        )
        if row.performance is not None:
            shown.setdefault(entry.table, {})[entry.run] = outcome
        if entry.table == "mgmt":
            mgmt = _mgmt(row, study, folder, out)
        else:
            tables.setdefault(entry.table, []).append(row)
    for table, outcomes in shown.items():
        title = studies[TABLES[table][0], next(iter(outcomes))].marker.title
        draw_roc(outcomes, out / f"roc_{table}.png", title)
    commands = {
        table: shlex.join(map(str, [*COMMAND, "--data", "DIR", "--out", "OUT", "--tables", table, *words]))
        for table in TABLES
    }
    return Report(settings=settings, tables=tables, mgmt=mgmt, commands=commands)


def _studies(
    entries: Sequence[Entry],
    folder: Path,
    leave_out: Sequence[str],
    threshold: float | None,
    schedule: Schedule,
    kept: tuple[int, ...],
    folds: int,
    cache: Path,
) -> dict[tuple[str, str], Study]:
    """Make each run's study; rows that share a run share its study."""
    thresholds = {"proliferation": threshold}
    labelled = {
        name: read_subjects(folder, find_marker(name, threshold=thresholds.get(name)), leave_out)
        for name in {entry.marker for entry in entries}
    }
    studies = {}
    for entry in entries:
        marker, subjects = labelled[entry.marker]
        own = replace(schedule, epochs=max(kept), keep=kept) if entry.table == "mgmt" else schedule
        studies[entry.marker, entry.run] = Study(
            marker=marker, subjects=subjects, recipe=entry.recipe, schedule=own, folds=folds, cache=cache
        )
    for study in studies.values():
        study.recipe.make(study.schedule)  # a size that is none of ours is refused before anything is written
    return studies


def _mgmt(row: Row, study: Study, folder: Path, out: Path) -> Mgmt:
    """Read what the MGMT network says after each of the kept epochs, and draw how it trained."""
    outcomes = {epoch: gather(study, folder, str(epoch))[0] for epoch in study.schedule.keep}
    for epoch, outcome in outcomes.items():
        if outcome.patients:
            outcome.save(folder / kept_outcomes(epoch))
    curves = {f"fold_{n}": log for n in range(study.folds) if (log := read_log(folder / f"fold_{n}"))}
    if curves:
        draw_curves(curves, out / "mgmt_curves.png", f"{study.marker.title}: training, {len(curves)} folds and mean")
    return Mgmt(
        row=row,
        outcomes=outcomes,
        performances={epoch: _measure(outcome) for epoch, outcome in outcomes.items()},
        curve=mean_curve(curves),
    )


def _measure(outcome: Outcome) -> Performance | None:
    """Measure an outcome; None where there is not a patient of each class yet."""
    try:
        return measure(outcome.labels, outcome.probabilities)
    except OneClass:
        return None


def _epochs(words: str) -> tuple[int, ...]:
    """Read epochs as the command line gives them, for example 10,20,50,100."""
    try:
        found = tuple(sorted({int(word) for word in words.split(",")}))
    except ValueError:
        raise data.DataError(f"--mgmt-epochs wants numbers with commas between, not {words!r}") from None
    if found[0] < 1:
        raise data.DataError("--mgmt-epochs begin at 1")
    return found
