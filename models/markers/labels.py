"""Which markers can be trained, and whose label is known: from the columns of a data folder's labels.csv.

Columns and values are those of M. Ceccarelli et al., Cell 2016, as kept in labels.csv; a site with labels of its
own names its column and its positive value instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from models.markers.slices import NEGATIVE, POSITIVE
from models.training import data


@dataclass(frozen=True)
class Marker:
    """A question with two answers, and where the truth stands."""

    name: str
    column: str
    positive: str
    """Value of the positive class; of a score, what is above the threshold is called so."""
    negative: str
    """Value of the negative class; empty: every other value that is not empty."""
    title: str
    score: bool = False
    """The column holds numbers, and `threshold` divides them."""
    threshold: float | None = None
    """Scores above it are positive; None until it is known."""

    def at(self, threshold: float | None) -> Marker:
        """Return the marker with a threshold; raises `DataError` where its column holds no score."""
        if threshold is not None and not self.score:
            raise data.DataError(f"{self.title} is no score and takes no threshold")
        return replace(self, threshold=threshold)

    def label(self, value: str) -> int | None:
        """Return 1 or 0 for a table's value, in capitals or not, or None where it says neither.

        Raises `DataError` where a score is no number, or has no threshold.
        """
        value = value.strip()
        if not value:
            return None
        if self.score:
            if self.threshold is None:
                raise data.DataError(f"{self.title} needs a threshold")
            return int(_number(value, self.column) > self.threshold)
        told = value.casefold()
        if told == self.positive.casefold():
            return POSITIVE
        return NEGATIVE if told == self.negative.casefold() or not self.negative else None


MARKERS: Mapping[str, Marker] = MappingProxyType(
    {
        marker.name: marker
        for marker in (
            Marker("idh", "idh", "Mutant", "WT", "IDH mutation"),
            Marker("codel", "codel_1p19q", "codel", "non-codel", "1p/19q co-deletion"),
            Marker("mgmt", "mgmt", "Methylated", "Unmethylated", "MGMT promoter methylation"),
            Marker(
                "proliferation", "proliferation_score", "high", "low",
                "Proliferation (RNA surrogate of Ki-67)", score=True,
            ),
            Marker("tert", "tert", "Mutant", "WT", "TERT promoter mutation"),
            Marker("atrx", "atrx", "Mutant", "WT", "ATRX mutation"),
            Marker("grade", "grade", "G3", "G2", "Grade 3 against 2"),
        )
    }
)  # fmt: skip
"""The markers of data/tcga_lgg by name."""
ALSO = MappingProxyType({"1p19q": "codel", "1p/19q": "codel"})
"""Other names that markers go by: the node's own, for one."""


@dataclass(frozen=True)
class Subject:
    """One case of a patient whose label is known."""

    case: data.Case
    label: int
    has_t1: bool
    sex: str
    """As the table has it; empty where it is not known."""
    age_years: float | None

    @property
    def patient(self) -> str:
        """Whose case it is: splits are made by patient."""
        return self.case.patient


def find_marker(
    name: str, column: str | None = None, positive: str | None = None, threshold: float | None = None
) -> Marker:
    """Return a marker by name, or one made of a column and its positive value or its threshold.

    Raises `DataError` where there is none.
    """
    name = ALSO.get(name, name)
    if column is None:
        if positive is not None or name not in MARKERS:
            raise data.DataError(
                f"no marker {name!r} of our own; there is {', '.join(MARKERS)}; or give --column and --positive"
            )
        return MARKERS[name].at(threshold)
    if (positive is None) == (threshold is None):
        raise data.DataError("--column wants --positive, or of a score --threshold")
    if positive is not None:
        return Marker(name, column, positive, "", f"{column}: {positive}")
    return Marker(name, column, "high", "low", f"{column} above {threshold:g}", score=True, threshold=threshold)


def marker_from_settings(name: str, settings: Mapping[str, Any]) -> Marker:
    """Return the marker that a run's settings.json describes, but for its name, which it does not tell."""
    threshold: float | None = settings["threshold"]
    column, positive, negative, title = (str(settings[key]) for key in ("column", "positive", "negative", "title"))
    return Marker(name, column, positive, negative, title, score=threshold is not None, threshold=threshold)


def read_subjects(folder: Path, marker: Marker, leave_out: Sequence[str] = ()) -> tuple[Marker, list[Subject]]:
    """List the cases whose label is known as `read_labelled` does; raises `DataError` where a class has no patient."""
    marker, subjects, _ = read_labelled(folder, marker, leave_out)
    if {subject.label for subject in subjects} != {POSITIVE, NEGATIVE}:
        raise data.DataError(f"{folder} does not have patients of both classes of {marker.title}")
    return marker, subjects


def read_labelled(
    folder: Path, marker: Marker, leave_out: Sequence[str] = ()
) -> tuple[Marker, list[Subject], list[data.Case]]:
    """List the cases whose label is known, and those whose is not; of a score the threshold is the median patient.

    `leave_out` are parts of names of cases. Raises `DataError` where the table lacks the column, or a patient's cases
    disagree.
    """
    cases = [c for c in data.read_cases(folder) if not any(word in c.name for word in leave_out)]
    rows = {row["case"]: row for row in data.read_table(folder / "labels.csv")}
    if cases and marker.column not in rows[cases[0].name]:
        raise data.DataError(f"{folder / 'labels.csv'} has no column {marker.column}")
    if marker.score and marker.threshold is None:
        known = {c.patient: (rows[c.name][marker.column] or "").strip() for c in cases}
        scores = [_number(value, marker.column) for value in known.values() if value]
        marker = replace(marker, threshold=median(scores) if scores else 0.0)
    subjects = [
        Subject(
            case, label, data.yes_or_no(rows[case.name], "has_t1") is not False,
            rows[case.name].get("sex") or "", _age(rows[case.name].get("age") or ""),
        )
        for case in cases
        if (label := marker.label(rows[case.name][marker.column] or "")) is not None
    ]  # fmt: skip
    label_of_patients(subjects)
    known_names = {subject.case.name for subject in subjects}
    return marker, subjects, [case for case in cases if case.name not in known_names]


def label_of_patients(subjects: Iterable[Subject]) -> dict[str, int]:
    """Return each patient's label; raises `DataError` where a patient's cases disagree."""
    labels: dict[str, int] = {}
    for subject in subjects:
        if labels.setdefault(subject.patient, subject.label) != subject.label:
            raise data.DataError(f"cases of patient {subject.patient} have different labels")
    return labels


def _age(value: str) -> float | None:
    return _number(value, "age") if value.strip() else None


def _number(value: str, column: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise data.DataError(f"{value!r} in column {column} of labels.csv is no number") from None
