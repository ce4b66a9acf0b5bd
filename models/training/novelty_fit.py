"""Describe what a network was trained on, for the node's check of its input (models.novelty)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from models import frame
from models.novelty import Reference, feature_names
from models.training.data import DataError

CHANNELS = ("T1C", "FLAIR")
FEWEST_CASES = 10
ROOM = 1.05
"""The warning begins this much above the oddest training case."""
FAR = 2.0
"""The stop begins this much above the warning."""


def fit_reference(figures: NDArray[np.float64]) -> Reference:
    """Fit a reference to the figures of training cases (cases, figures).

    Both limits come from training cases alone: each is scored by a reference fitted to all others. Raises
    DataError for too few cases.
    """
    if len(figures) < FEWEST_CASES:
        raise DataError(
            f"{len(figures)} cases are too few to describe what a network was trained on: {FEWEST_CASES} are needed"
        )
    left_out = [_fit(np.delete(figures, i, axis=0), warn=0.0, stop=0.0).score(case) for i, case in enumerate(figures)]
    warn = ROOM * max(left_out)
    return _fit(figures, warn=round(warn, 3), stop=round(FAR * warn, 3))


def _fit(figures: NDArray[np.float64], *, warn: float, stop: float) -> Reference:
    mean, deviation = figures.mean(axis=0), figures.std(axis=0) + 1e-6
    precision = LedoitWolf().fit((figures - mean) / deviation).precision_
    return Reference(
        names=feature_names(CHANNELS),
        mean=_rounded(mean),
        deviation=_rounded(deviation),
        precision=tuple(_rounded(row) for row in precision),
        warn=warn,
        stop=stop,
        cases=len(figures),
        frame_version=frame.VERSION,
    )


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{v:.6g}") for v in values)
