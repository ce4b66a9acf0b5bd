"""What a series may be, and how pieces of evidence add up to a verdict.

A piece of evidence gives points to kinds: natural log-odds, set by hand, so that e to the points is how many times
likelier the kind becomes. Points of all pieces are added; `weigh` turns the sums into a probability. T1 before and
after contrast agent are one kind here; `series_agent` tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONTRASTS = ("T1", "T1C", "T2", "FLAIR")
UNKNOWN = "unknown"
FACT = 20.0
"""Points of what a header states as a fact, such as a b-value: no sum of other evidence outweighs it."""
DOUBT = 1.0
"""Points that "unknown" has from the start: a wrong series is worse than a missing one."""
DECIDED = 0.7
"""A kind less probable than this is not taken for true."""
FORBIDDEN = (
    "localizer", "calibration", "spectroscopy", "report", "perfusion", "ADC map", "diffusion tensor", "diffusion",
    "functional", "echo-planar", "susceptibility", "angiography", "derived", "phase image", "Dixon part", "spine",
    "other body part", "STIR", "double inversion", "steady state", "proton density", "proton density or dual echo",
    "other modality", "no image", "too few slices",
)  # fmt: skip
"""Kinds that are never taken for one of the four contrasts."""


@dataclass(frozen=True)
class Evidence:
    """One thing that a header, a text or an image says about what the series is."""

    source: str
    """Where it was found, with its values: "timing (TR 520 ms, TE 12 ms)"."""
    points: Mapping[str, float]
    """Log-odds by kind."""
    says: str = ""
    """A sentence of its own for the reason, where "SOURCE says KIND" will not do."""

    @property
    def kind(self) -> str:
        """What it speaks for most."""
        return max(self.points, key=lambda kind: self.points[kind])


def add(evidence: Sequence[Evidence]) -> dict[str, float]:
    """Sum the points of each kind; the contrasts and "unknown" are always there."""
    sums = {"T1": 0.0, "T2": 0.0, "FLAIR": 0.0, UNKNOWN: DOUBT}
    for piece in evidence:
        for kind, points in piece.points.items():
            sums[kind] = sums.get(kind, 0.0) + points
    return sums


def weigh(evidence: Sequence[Evidence]) -> tuple[str, float]:
    """Give the most probable kind and its probability, 0 to 1."""
    sums = add(evidence)
    best = max(sums, key=lambda kind: sums[kind])
    return best, 1.0 / sum(math.exp(points - sums[best]) for points in sums.values())


def explain(evidence: Sequence[Evidence], kind: str) -> str:
    """Say which pieces speak for a kind, and for a contrast which speak against it."""
    told = [e for e in evidence if e.kind == kind and e.points[kind] > 0]
    facts = [e for e in told if e.points[kind] >= FACT] or told
    spoken = [e.says for e in facts if e.says]
    sources = [e.source for e in facts if not e.says]
    if sources:
        spoken.insert(0, f"{_listed(sources)} {'say' if len(sources) > 1 else 'says'} {kind}")
    if kind in CONTRASTS and not any(e.source == "description" for e in evidence):
        spoken.append("the description tells nothing")
    against = [f"{e.source} says {e.kind}" for e in evidence if e.kind != kind and e.points[e.kind] >= 1]
    return "; ".join(spoken) + (f"; against it: {', '.join(against)}" if against and kind in CONTRASTS else "")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
