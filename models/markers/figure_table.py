"""Patients' figures kept as a table, so that models are fitted and judged anew without the images.

A row is a patient and an outline, drawn or found. Labels, sites and ages stay in the data folder's labels.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.markers.figure_fit import Patient
from models.markers.figure_model import with_age
from models.markers.image_features import feature_names
from models.markers.labels import Subject
from models.training.data import DataError

TABLE = "figures.csv"
DRAWN, FOUND = "drawn", "found"
DIGITS = 6
"""Significant digits that are kept."""


def write_table(path: Path, patients: Iterable[Patient]) -> None:
    """Write what `read_table` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("patient", "outline", *feature_names()))
        for patient in patients:
            for outline, figures in ((DRAWN, patient.drawn), (FOUND, patient.found)):
                if figures is not None:
                    writer.writerow((patient.name, outline, *(f"{figure:.{DIGITS}g}" for figure in figures[:-1])))


def read_table(path: Path, subjects: Sequence[Subject]) -> list[Patient]:
    """Return the subjects whom the table describes, with the age that the data folder tells.

    Raises DataError where the table is of other figures, or is none.
    """
    kept: dict[tuple[str, str], NDArray[np.float64]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != ("patient", "outline", *feature_names()):
            raise DataError(f"{path} is no table of the figures that this version reads; make it anew from the images")
        for name, outline, *figures in rows:
            try:
                kept[name, outline] = np.array([float(figure) for figure in figures])
            except ValueError:
                raise DataError(f"{path} holds what is no number, of {name}") from None
    return [
        Patient(
            s.patient, s.case.site, bool(s.label), with_age(kept[s.patient, DRAWN], s.age_years),
            with_age(kept[s.patient, FOUND], s.age_years) if (s.patient, FOUND) in kept else None,
        )
        for s in subjects
        if (s.patient, DRAWN) in kept
    ]  # fmt: skip
