"""Overlap by patient, with an interval over patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Dice of two masks over a patient's whole volume; 1 where both are empty (thesis equation 4-12)."""
    total = int(found.sum()) + int(truth.sum())
    return 2.0 * int((found & truth).sum()) / total if total else 1.0


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean and its 95 % interval by bootstrap over patients (10,000 resamples, percentile)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, (mean, mean)
    drawn = bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(seed))
    return mean, (float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))
