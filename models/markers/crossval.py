"""Cross-validation of a marker network: every patient is judged by a network that never saw one of their slices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from sklearn.model_selection import StratifiedGroupKFold

from models import frame
from models.json_file import write_json
from models.markers.cells import Cells
from models.markers.data import TumourSlices, load_slices
from models.markers.labels import Marker, Subject, label_of_patients
from models.markers.outcomes import Outcome, PatientOutcome
from models.markers.pooling import PatientClassifier
from models.markers.receptive_field import measure_cells
from models.markers.recipe import Recipe, Schedule
from models.markers.slices import SEQUENCES
from models.markers.trainer import LAST, MarkerTrainer, ask_patient, kept_weights, load_weights
from models.training import data
from models.training.folds import keep_or_refuse

OUTCOMES = "outcomes.json"


def kept_outcomes(epoch: int) -> str:
    """Name the file of what was said after an epoch whose weights are kept."""
    return f"outcomes_{epoch:03d}.json"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A cross-validation: whose label, which patients, which network, how long."""

    marker: Marker
    subjects: Sequence[Subject]
    recipe: Recipe
    schedule: Schedule = field(default_factory=Schedule)
    folds: int = 5
    cache: Path = Path("runs/prepared")

    def split(self, fold: int) -> tuple[list[Subject], list[Subject]]:
        """Divide into (training, held out) by patient, with each class's share kept.

        Raises `DataError` where there are fewer patients of a class than folds, or there is no such fold.
        """
        if not 0 <= fold < self.folds:
            raise data.DataError(f"there is no fold {fold} of {self.folds}; the first is 0")
        labels = label_of_patients(self.subjects)
        fewest = min(sum(label == wanted for label in labels.values()) for wanted in (0, 1))
        if not 2 <= self.folds <= fewest:
            raise data.DataError(f"{fewest} patients of a class cannot be dealt to {self.folds} folds (2 at least)")
        dealer = StratifiedGroupKFold(self.folds, shuffle=True, random_state=self.schedule.seed)
        of_case = [subject.label for subject in self.subjects]
        dealt = list(dealer.split(np.zeros(len(of_case)), of_case, [s.patient for s in self.subjects]))
        train, held = ([self.subjects[i] for i in part] for part in dealt[fold])
        refuse_shared(train, held)
        return train, held

    def describe(self) -> dict[str, Any]:
        """Say what was asked of whom, as data for JSON."""
        labels = label_of_patients(self.subjects)
        return {
            "title": self.marker.title, "column": self.marker.column, "positive": self.marker.positive,
            "negative": self.marker.negative, "threshold": self.marker.threshold, "folds": self.folds,
            "patients": len(labels), "positives": sum(labels.values()), "frame": str(frame.VERSION),
            **self.recipe.describe(), **self.schedule.describe(),
        }  # fmt: skip


def refuse_shared(train: Iterable[Subject], held: Iterable[Subject]) -> None:
    """Raise `DataError` where a patient is on both sides of a split."""
    data.refuse_shared_patients((s.case for s in train), (s.case for s in held))


def fit(
    study: Study, training: Sequence[Subject], held: Sequence[Subject], folder: Path, progress: Progress
) -> PatientClassifier:
    """Train on some patients, or go on where it stopped; the others are only written down.

    Raises `DataError` where a patient is on both sides, or the folder holds a training with another split.
    """
    refuse_shared(training, held)
    names = {"training": [s.case.name for s in training], "validation": [s.case.name for s in held]}
    keep_or_refuse(folder / "split.json", names)
    classifier = study.recipe.make(study.schedule)
    trainer = MarkerTrainer(classifier, load(study, training, progress), study.schedule, folder)
    trainer.resume()
    trainer.run(progress)
    return classifier


def run_fold(study: Study, fold: int, folder: Path, progress: Progress) -> None:
    """Train and judge one fold in `folder`, unless that is done.

    Writes split.json, last.pt, log.csv and, when all is done, result.json: the held-out patients' outcomes after
    the last epoch and after each that is kept.
    """
    done = folder / "result.json"
    if done.exists():
        return
    training, held = study.split(fold)
    classifier = fit(study, training, held, folder, progress)
    write_json(done, judge_fold(study, classifier, held, fold, folder, progress))


def weights_of(schedule: Schedule, folder: Path) -> dict[str, Path]:
    """Name the weights that a fold in `folder` keeps: "last", and those after each epoch that is kept."""
    return {"last": folder / LAST} | {str(epoch): kept_weights(folder, epoch) for epoch in schedule.keep}


def judge_fold(
    study: Study,
    classifier: PatientClassifier,
    held: Sequence[Subject],
    fold: int,
    folder: Path,
    progress: Progress,
    shown: Sequence[str] = SEQUENCES,
) -> dict[str, list[dict[str, Any]]]:
    """Ask a fold's weights in `folder`, each in turn, about the held-out patients; returns result.json's content.

    Sequences that are not `shown` are missing in every patient.
    """
    by_patient: dict[str, list[TumourSlices]] = {}
    for case in load(study, held, progress):
        by_patient.setdefault(case.subject.patient, []).append(case)
    result = {}
    for name, path in weights_of(study.schedule, folder).items():
        load_weights(classifier, path)
        cells = measure_cells(classifier.network)
        result[name] = [
            _judge_patient(classifier, patient, cases, fold, cells, shown)
            for patient, cases in sorted(by_patient.items())
        ]
    return result


def _judge_patient(
    classifier: PatientClassifier,
    patient: str,
    cases: list[TumourSlices],
    fold: int,
    cells: Cells,
    shown: Sequence[str],
) -> dict[str, Any]:
    probability, attention = ask_patient(classifier, cases, cells, shown)
    first = cases[0].subject
    return {
        "patient": patient, "site": first.case.site, "fold": fold, "label": first.label, "probability": probability,
        "attention": asdict(attention) if attention else None,
    }  # fmt: skip


def load(study: Study, subjects: Sequence[Subject], progress: Progress) -> list[TumourSlices]:
    """Prepare cases, or read them from the cache."""
    task = progress.add_task("preparing", total=len(subjects))
    loaded = []
    for subject in subjects:
        loaded.append(load_slices(subject, study.cache, study.schedule.pixels))
        progress.advance(task)
    progress.remove_task(task)
    return loaded


def gather(study: Study, out: Path, after: str = "last") -> tuple[Outcome, int]:
    """Put together what the finished folds in `out` say, after the last epoch or a kept one; and count them.

    Raises `DataError` where a fold judged patients that the study has not, as one copied here might.
    """
    finished = [path for fold in range(study.folds) if (path := out / f"fold_{fold}" / "result.json").exists()]
    rows = [row for path in finished for row in json.loads(path.read_text(encoding="utf-8")).get(after, [])]
    labels = label_of_patients(study.subjects)
    if any(labels.get(row["patient"]) != row["label"] for row in rows):
        raise data.DataError(f"{out} holds a fold of other patients or labels")
    patients = tuple(PatientOutcome(**row) for row in rows)
    return Outcome(study.marker.name, study.recipe.network, study.describe(), patients), len(finished)
