"""Choose among series that show the same contrast, and say why one is better than another.

The order of the questions is the order of what matters; docs/series.md gives the reason of each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from operators.domain import Series
from operators.headers import number, values
from operators.series_agent import agent_recorded
from operators.series_evidence import words
from operators.series_geometry import coverage_mm, geometry_fault, plane, slice_count
from operators.series_words import read_agent

LEAST_COVERAGE_MM = 80.0
"""A series that covers less of the head is taken only where nothing better is there."""
THIN_MM = 1.6
"""Slices as thin as this can be cut anew in any plane."""
POOR = re.compile(
    r"motion|artefact|artifact|(?<![a-z])bad(?![a-z])|bewegung|verwackelt|bouge|mov(?:ed|imento)|abort|repetir"
)
PARTIAL = re.compile(r"in ?-?phase|(?<![a-z])i(?:am|ac)s?(?![a-z])|dixon.*(?<![a-z])in(?![a-z])|trigem")
SATURATED = re.compile(r"(?<![a-z])f\.?s\.?(?![a-z])|fat ?-?sat|fsat|spair|spir(?![a-z])|(?<![a-z])mt(?:c|r)?(?![a-z])")


@dataclass(frozen=True)
class Merit:
    """Why one series may be better than another: the questions in order, True or more being better."""

    sound: bool
    """Whether the slices make a regular volume."""
    covers: bool
    undisturbed: bool
    whole: bool
    plain: bool
    plane: int
    original: bool
    slices: int
    unsaturated: bool
    moment: float

    @property
    def rank(self) -> tuple[float, ...]:
        """Comparable: the greatest is chosen."""
        return tuple(float(value) for value in vars(self).values())


NAMES = {
    "sound": "its slices make a regular volume",
    "covers": "covers more of the head",
    "undisturbed": "not marked as disturbed by motion",
    "whole": "shows the whole head plainly",
    "plain": "before contrast agent",
    "plane": "axial, or thin enough to be cut so",
    "original": "original, not derived",
    "slices": "of more slices",
    "unsaturated": "without fat saturation or magnetisation transfer",
    "moment": "a later repeat",
}


def merit(series: Series, kind: str, moment: float) -> Merit:
    """Judge a series as a candidate for one contrast; `moment` orders repeats."""
    text = words(series)
    agent = read_agent(text)
    enhanced = kind in {"T2", "FLAIR"} and (agent or (agent is None and agent_recorded(series) is True))
    return Merit(
        sound=not geometry_fault(series),
        covers=coverage_mm(series) >= LEAST_COVERAGE_MM,
        undisturbed=not POOR.search(text),
        whole=not PARTIAL.search(text),
        plain=not enhanced,
        plane=_plane(series),
        original="DERIVED" not in values(series.header, "ImageType"),
        slices=slice_count(series),
        unsaturated=not SATURATED.search(text),
        moment=moment,
    )


def has_broken_slices(series: Series) -> bool:
    """Say whether slices that tell where they lie make no volume; others are judged when the volume is built."""
    placed = all(i.header.get("ImagePositionPatient") for i in series.instances)
    return placed and bool(geometry_fault(series))


def _plane(series: Series) -> int:
    """Axial first, for the networks were trained on axial slices; then 3-D in any plane; then thick slices."""
    if plane(series) == "axial":
        return 2
    spacing = number(series.header, "SpacingBetweenSlices") or number(series.header, "SliceThickness") or 99.0
    return 1 if spacing <= THIN_MM else 0


def advantage(best: Merit, other: Merit) -> str:
    """Name the first question that decided between two."""
    for name, mine, yours in zip(NAMES, best.rank, other.rank, strict=True):
        if mine != yours:
            return f"better: {NAMES[name]}"
    return "equal and came first"
