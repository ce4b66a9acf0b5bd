"""The command that asks trained folds about their held-out patients again.

What a class map covers is measured when a fold is done. Where that measure has changed since, the weights are still
there: hours of training need not be spent again for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from models.json_file import read_json, write_json
from models.markers.crossval import OUTCOMES, Study, gather, judge_fold, kept_outcomes, refuse_shared, weights_of
from models.markers.labels import Subject, marker_from_settings, read_subjects
from models.markers.outcomes import Outcome
from models.markers.recipe import from_settings
from models.markers.slices import SEQUENCES
from models.training.data import DataError
from models.training.loop import placed

SAME = 0.02
"""Probabilities of the same weights and images on two machines differ by less."""

Result = dict[str, list[dict[str, Any]]]
"""Content of a fold's result.json."""


@dataclass(frozen=True)
class Run:
    """A training with folds that are done, in a folder of its own."""

    folder: Path
    study: Study
    folds: Mapping[int, Sequence[Subject]]
    """The held-out cases of each fold that is done."""

    def fold(self, number: int) -> Path:
        """Name a fold's folder."""
        return self.folder / f"fold_{number}"


def judge(
    run: Annotated[list[Path], typer.Option(help="a training's folder, or a comparison's OUT/MARKER/RUN; repeatable")],
    data_folder: Annotated[Path, typer.Option("--data", help="the folder that it was trained from")],
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all")] = 0,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Measure again what trained folds make of their held-out patients and where they look; nothing is trained.

    Rewrites result.json of each fold that is done, and the outcomes. Where weights or cases are missing, or the
    probabilities are no longer those on record, nothing of that run is written.
    """
    console = Console(stderr=True)
    if threads:
        torch.set_num_threads(threads)
    for found in [open_run(folder, data_folder, cache) for folder in run]:
        with Progress(console=console) as progress:
            results = {number: judge_again(found, number, progress) for number in found.folds}
        for number, result in results.items():
            write_json(found.fold(number) / "result.json", result)
        _rewrite_outcomes(found)
        told = f"{found.folder}: {len(results)} of {found.study.folds} folds judged again"
        console.print(told, highlight=False, soft_wrap=True)


def open_run(folder: Path, data_folder: Path, cache: Path) -> Run:
    """Find what a run was made of; raises `DataError` where it cannot be judged again."""
    settings = read_json(folder / "settings.json")
    recipe, schedule = from_settings(settings)
    kept = folder / OUTCOMES
    marker = marker_from_settings(Outcome.load(kept).marker if kept.exists() else "", settings)
    splits = {
        number: read_json(folder / f"fold_{number}" / "split.json")
        for number in range(settings["folds"])
        if (folder / f"fold_{number}" / "result.json").exists()
    }
    if not splits:
        raise DataError(f"{folder} has no fold that is done; train first")
    _, labelled = read_subjects(data_folder, marker)
    named = {name for split in splits.values() for part in split.values() for name in part}
    subjects = [subject for subject in labelled if subject.case.name in named]
    if missing := len(named) - len(subjects):
        raise DataError(f"{data_folder} lacks {missing} of the {len(named)} cases of {folder}, or their labels")
    study = Study(
        marker=marker, subjects=subjects, recipe=recipe, schedule=schedule, folds=settings["folds"], cache=cache
    )
    now = json.loads(json.dumps(study.describe()))
    if other := sorted(key for key, value in now.items() if settings.get(key) != value):
        raise DataError(
            f"{folder} was trained with another {', '.join(other)} than {data_folder} and this version give"
        )
    found = Run(folder, study, {n: _held(subjects, split) for n, split in splits.items()})
    weights = [path for number in found.folds for path in weights_of(schedule, found.fold(number)).values()]
    if gone := [path for path in weights if not path.exists()]:
        raise DataError(f"there is no {gone[0]}; without its weights a fold cannot be judged again")
    return found


def ask_fold(run: Run, number: int, progress: Progress, shown: Sequence[str] = SEQUENCES) -> Result:
    """Ask a fold's weights about its held-out patients, other sequences than `shown` missing; nothing is written."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = placed(run.study.recipe.make(run.study.schedule), device)
    return judge_fold(run.study, classifier, run.folds[number], number, run.fold(number), progress, shown)


def judge_again(run: Run, number: int, progress: Progress) -> Result:
    """Ask a fold's weights about its held-out patients; raises `DataError` where they no longer say what they said."""
    found = ask_fold(run, number, progress)
    before: Result = read_json(run.fold(number) / "result.json")
    change = max(_change(before.get(name, []), rows) for name, rows in found.items())
    if not change <= SAME:
        raise DataError(
            f"{run.fold(number)}: a probability differs by {change:.2f} from the one on record; other weights or images"
        )
    return found


def _held(subjects: Sequence[Subject], split: Mapping[str, list[str]]) -> list[Subject]:
    """Return the cases that a fold held out, as its split.json has them."""
    training, held = (
        [subject for subject in subjects if subject.case.name in split[part]] for part in ("training", "validation")
    )
    refuse_shared(training, held)
    return held


def _change(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> float:
    """Return the largest change of a patient's probability; 1 where the patients are not the same."""
    old, new = ({row["patient"]: row["probability"] for row in rows} for rows in (before, after))
    if old.keys() != new.keys():
        return 1.0
    return max(abs(float(old[patient]) - float(new[patient])) for patient in old)


def _rewrite_outcomes(run: Run) -> None:
    """Gather the folds anew into those files that there are; the others are written when training ends."""
    files = {OUTCOMES: "last"} | {kept_outcomes(epoch): str(epoch) for epoch in run.study.schedule.keep}
    for name, after in files.items():
        if (run.folder / name).exists():
            gather(run.study, run.folder, after)[0].save(run.folder / name)
