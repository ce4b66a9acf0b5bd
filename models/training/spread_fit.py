"""Measure how far volume and diameters on the network's outline lie from those on the drawn one, on held-out patients.

The coverage that is reported is nested: each fold's patients are judged with quantiles and a confidence that the other
folds gave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.diameters import diameters
from models.refine import Refinement, Spread
from models.training.refine_fit import Held, calibrate, judged

LEVEL = 0.9
MEASURES = ("volume", "long_axis", "short_axis")
BoolArray = NDArray[np.bool_]


class TooFewPatients(ValueError):
    """No interval can be given that holds as often as it says."""


@dataclass(frozen=True)
class SpreadFit:
    """What was fitted, and how it does on patients that it was not fitted on."""

    spread: Spread
    covered: dict[str, float]
    """Share of patients whose drawn measure lies in the interval, by measure."""
    factor: dict[str, float]
    """Median over patients of upper limit divided by value."""


def fit_spread(held: Sequence[Held], refinement: Refinement, level: float = LEVEL) -> SpreadFit:
    """Fit the intervals' quantiles on patients in whom a tumour was found.

    Raises TooFewPatients where there are fewer than `level` needs, or all are of one fold.
    """
    cases = [case for case in held if _mask(case, refinement).any() and case.truth.any()]
    errors = np.array([_errors(case, refinement) for case in cases])
    folds = np.array([case.fold for case in cases])
    limits, covered = np.zeros_like(errors), np.zeros_like(errors, bool)
    for fold in np.unique(folds):
        here, others = folds == fold, folds != fold
        if not others.any():
            raise TooFewPatients("patients of one fold alone cannot be judged by others")
        known = refinement
        if refinement.expected:
            known = calibrate([c for c in cases if c.fold != fold], refinement, refinement.doubtful)
        doubts = _doubts(cases, refinement, known)
        limits[here] = doubts[here, None] * _quantiles(errors[others] / doubts[others, None], level)
        covered[here] = errors[here] <= limits[here]
    quantiles = _quantiles(errors / _doubts(cases, refinement, refinement)[:, None], level)
    found = dict(zip(MEASURES, (float(round(q, 4)) for q in quantiles), strict=True))
    return SpreadFit(
        Spread(level=level, patients=len(cases), **found),
        dict(zip(MEASURES, covered.mean(axis=0).tolist(), strict=True)),
        dict(zip(MEASURES, np.exp(np.median(limits, axis=0)).tolist(), strict=True)),
    )


def _mask(case: Held, refinement: Refinement) -> BoolArray:
    return refinement.mask(case.probability(flips=refinement.flips), case.spacing_mm)


def _doubts(cases: Sequence[Held], refinement: Refinement, known: Refinement) -> NDArray[np.float64]:
    """Scale of each case's error, by the confidence that `known` was calibrated to; as the node has it without one."""
    expected = [judged(case, refinement)[0] for case in cases]
    sure = np.interp(expected, known.expected, known.observed) if known.expected else expected
    return np.array([Spread.doubt(float(dice)) for dice in sure])


def _errors(case: Held, refinement: Refinement) -> list[float]:
    """|log(drawn / found)| of each measure."""
    found, drawn = (_measures(mask, case.spacing_mm) for mask in (_mask(case, refinement), case.truth))
    return [abs(math.log(theirs / ours)) for theirs, ours in zip(drawn, found, strict=True)]


def _measures(mask: BoolArray, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Volume in mm3, both diameters in mm, of a mask that is not empty."""
    lines = diameters(mask, spacing_mm[1:])
    if lines is None:
        raise ValueError("an empty mask has no measures")
    return float(mask.sum()) * float(np.prod(spacing_mm)), lines[1].millimetres, lines[2].millimetres


def _quantiles(scores: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Take the split-conformal quantile of each column: the ceil((n + 1) level)-th smallest."""
    place = math.ceil((len(scores) + 1) * level)
    if place > len(scores):
        raise TooFewPatients(f"{len(scores)} patients are too few for intervals that hold in {level:.0%}")
    ordered: NDArray[np.float64] = np.sort(scores, axis=0)[place - 1]
    return ordered
