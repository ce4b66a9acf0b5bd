"""Choose post-processing and calibrate confidence, on what each fold's network said of patients it never saw.

The Dice that is reported for the choice is nested: each fold's patients are judged with the settings that the other
folds would have chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression

from models.refine import FloatArray, Refinement, average_flips, expected_dice, lesions
from models.training.metrics import dice

LOWS, HIGHS, SMALLEST_ML = (0.3, 0.4, 0.5), (0.5, 0.6, 0.7, 0.8, 0.9), (0.0, 0.1, 0.3, 0.5, 1.0)
PAYS = 0.001
"""Mean Dice that a choice must gain over leaving probabilities as they are."""


@dataclass(frozen=True, eq=False)
class Held:
    """One patient as a network saw them that never learnt from them."""

    name: str
    fold: int
    maps: FloatArray
    """(2, slices, rows, columns): plain and mirrored, on the grid of the truth."""
    truth: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]

    def probability(self, *, flips: bool) -> FloatArray:
        """Give what the node would have."""
        return average_flips(self.maps[0], self.maps[1]) if flips else self.maps[0]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what it is worth."""

    refinement: Refinement
    plain: float
    """Mean Dice with probabilities as they are."""
    nested: float
    """Mean Dice of patients judged with what the other folds chose."""
    correlation: float
    """Spearman's, of nested confidence and Dice."""
    calibration_error: float
    """Mean absolute difference of nested confidence and Dice."""
    warned: int
    warned_rightly: int
    """Of those, how many lie below the limit indeed."""
    below: int
    """How many patients lie below the limit."""
    parts: Mapping[str, float]
    """What each part of the choice adds to the mean Dice beside the others; on the patients it was chosen on."""


def choose(held: Sequence[Held], doubtful: float = 0.7) -> Choice:
    """Choose by mean Dice over patients; between equals, the simpler comes first."""
    options = [
        Refinement(flips=flips, low=low, high=high, smallest_ml=ml)
        for flips, low, high, ml in product((False, True), LOWS[::-1], HIGHS, SMALLEST_ML)
    ]
    scores = np.array([_scores(case, options) for case in held])
    folds = np.array([case.fold for case in held])
    best = _best(scores)
    nested, confidences = np.zeros(len(held)), np.zeros(len(held))
    for fold in np.unique(folds):
        others = folds != fold
        picked = _best(scores[others]) if others.any() else best
        calibrated = calibrate([c for c in held if c.fold != fold] or held, options[picked], doubtful)
        for i in np.flatnonzero(folds == fold):
            nested[i] = scores[i, picked]
            expected, _ = judged(held[int(i)], options[picked])
            confidences[i] = np.interp(expected, calibrated.expected, calibrated.observed)
    warned = confidences < doubtful
    return Choice(
        calibrate(held, options[best], doubtful),
        float(scores[:, 0].mean()), float(nested.mean()),
        float(spearmanr(confidences, nested).statistic), float(np.abs(confidences - nested).mean()),
        int(warned.sum()), int((nested[warned] < doubtful).sum()), int((nested < doubtful).sum()),
        _parts(options, scores.mean(axis=0), best),
    )  # fmt: skip


def _parts(options: Sequence[Refinement], means: NDArray[np.float64], best: int) -> dict[str, float]:
    """Tell what the chosen option loses in mean Dice without each of its parts."""
    without: dict[str, dict[str, float]] = {
        "mirror images": {"flips": False}, "hysteresis": {"low": 0.5, "high": 0.5}, "dropping": {"smallest_ml": 0.0},
    }  # fmt: skip
    others = {part: options[best].model_copy(update=none) for part, none in without.items()}
    return {part: float(means[best] - means[options.index(other)]) for part, other in others.items()}


def _best(scores: NDArray[np.float64]) -> int:
    """Pick the option of the greatest mean; the first, which changes nothing, unless another pays."""
    means = scores.mean(axis=0)
    best = int(means.argmax())
    return best if means[best] >= means[0] + PAYS else 0


def _scores(case: Held, options: Sequence[Refinement]) -> list[float]:
    """Dice with each option; regions are numbered once for all options that share them."""
    regions = {}
    for flips, low in {(o.flips, o.low) for o in options}:
        labels, peaks, millilitres = lesions(case.probability(flips=flips), low, case.spacing_mm)
        size = np.bincount(labels.ravel(), minlength=len(peaks) + 1)[1:]
        shared = np.bincount(labels[case.truth], minlength=len(peaks) + 1)[1:]
        regions[flips, low] = peaks, millilitres, size, shared
    found = []
    for option in options:
        peaks, millilitres, size, shared = regions[option.flips, option.low]
        kept = option.keeps(peaks, millilitres)
        total = int(size[kept].sum()) + int(case.truth.sum())
        found.append(2.0 * int(shared[kept].sum()) / total if total else 1.0)
    return found


@lru_cache(maxsize=4096)
def judged(case: Held, option: Refinement) -> tuple[float, float]:
    """Give the expected and the observed Dice of a patient, post-processed."""
    probability = case.probability(flips=option.flips)
    mask = option.mask(probability, case.spacing_mm)
    return expected_dice(probability, mask), dice(mask, case.truth)


def calibrate(held: Sequence[Held], option: Refinement, doubtful: float) -> Refinement:
    """Fit the observed Dice as a rising function of the expected one; the choice itself stays `option`'s."""
    expected, observed = np.array([judged(case, option) for case in held]).T
    fit = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(expected, observed)
    return option.model_copy(
        update={
            "expected": tuple(float(round(x, 4)) for x in fit.X_thresholds_),
            "observed": tuple(float(round(y, 4)) for y in fit.y_thresholds_),
            "doubtful": doubtful,
            "patients": len(held),
        }
    )
