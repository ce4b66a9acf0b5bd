"""Ways from a model's score to a probability, compared on patients on whom none of them was fitted.

Temperature divides the log odds by one number; Platt's logistic function may shift them too; isotonic regression asks
only that the probability does not fall as the score rises. Every patient is judged by each, fitted on the patients of
the other folds, dealt anew several times.

Sources: C. Guo et al., ICML 2017 (temperature); J. Platt, Advances in Large Margin Classifiers, 1999; B. Zadrozny and
C. Elkan, KDD 2002 (isotonic).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedKFold

from models.markers.calibration import LIMIT
from models.markers.figure_fit import platt
from models.markers.metrics import DRAWS, LEVEL, Estimate, calibration_error, resamples, wide_calibration_error

Floats = NDArray[np.float64]
Answers = NDArray[np.bool_]
Calibrator = Callable[[Floats], Floats]
SHIPPED = "Platt"
LOG_TEMPERATURES = (-4.0, 4.0)


def by_temperature(scores: Floats, altered: Answers) -> Calibrator:
    """Fit the temperature of least log loss."""

    def loss(log_temperature: float) -> float:
        return float(log_losses(altered, expit(scores / np.exp(log_temperature))).mean())

    temperature = float(np.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x))
    return lambda new: np.asarray(expit(new / temperature))


def by_platt(scores: Floats, altered: Answers) -> Calibrator:
    """Fit the logistic function that ships."""
    slope, intercept = platt(scores, altered)
    return lambda new: np.asarray(expit(slope * new + intercept))


def by_isotonic(scores: Floats, altered: Answers) -> Calibrator:
    """Fit the rising step function of least squares; held off 0 and 1, which it gives after a handful of patients."""
    model = IsotonicRegression(y_min=LIMIT, y_max=1.0 - LIMIT, out_of_bounds="clip").fit(scores, altered)
    return lambda new: np.asarray(model.predict(new))


CALIBRATORS: Mapping[str, Callable[[Floats, Answers], Calibrator]] = MappingProxyType(
    {"temperature": by_temperature, SHIPPED: by_platt, "isotonic": by_isotonic}
)


def log_losses(altered: Answers, probabilities: Floats) -> Floats:
    """Return each patient's log loss, of probabilities held off 0 and 1."""
    right = np.where(altered, probabilities, 1.0 - probabilities)
    return np.asarray(-np.log(np.clip(right, LIMIT, 1.0)))


def briers(altered: Answers, probabilities: Floats) -> Floats:
    """Return each patient's squared error."""
    return np.asarray((probabilities - altered) ** 2)


LOSSES: Mapping[str, Callable[[Answers, Floats], Floats]] = MappingProxyType({"brier": briers, "log_loss": log_losses})
ERRORS: Mapping[str, Callable[[NDArray[np.int64], Floats], float]] = MappingProxyType(
    {
        "ece": calibration_error,
        "ece_10": lambda labels, found: calibration_error(labels, found, 10),
        "ece_10_wide": wide_calibration_error,
    }
)


@dataclass(frozen=True)
class Judged:
    """How one way does, each figure a mean over the deals; intervals by bootstrap over patients."""

    figures: Mapping[str, Estimate]
    """By name: ece (five bins of equal numbers), ece_10, ece_10_wide (of equal width), brier, log_loss."""
    against_shipped: Mapping[str, Estimate]
    """Brier and log loss less the shipped way's on the same patients; below 0 is better."""
    by_chance: Mapping[str, Estimate]
    """The calibration errors, mean and middle 95 %, of as many patients whose true frequencies were what was said."""

    @property
    def clearly_better(self) -> bool:
        """Whether both losses lie below the shipped way's with their whole interval."""
        return all(self.against_shipped[name].high < 0 for name in LOSSES)

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        return {
            **{name: figure.content() for name, figure in self.figures.items()},
            "less_shipped": {name: figure.content() for name, figure in self.against_shipped.items()},
            "by_chance": {name: figure.content() for name, figure in self.by_chance.items()},
            "clearly_better": self.clearly_better,
        }


def compare_calibrators(
    scores: Floats, altered: Answers, folds: int = 5, deals: int = 5, draws: int = DRAWS
) -> dict[str, Judged]:
    """Judge every way on patients whom neither it nor, by their scores, the model had seen."""
    found = {name: _nested(scores, altered, fit, folds, deals) for name, fit in CALIBRATORS.items()}
    rows = resamples(altered.astype(np.int64), draws, seed=0)
    losses = {
        name: {loss: _mean_loss(altered, told, of) for loss, of in LOSSES.items()} for name, told in found.items()
    }
    return {
        name: Judged(
            {
                **{error: _error(altered, told, of, rows) for error, of in ERRORS.items()},
                **{loss: _mean(losses[name][loss], rows) for loss in LOSSES},
            },
            {loss: _mean(losses[name][loss] - losses[SHIPPED][loss], rows) for loss in LOSSES},
            {error: _of_truth(told, of, draws) for error, of in ERRORS.items()},
        )
        for name, told in found.items()
    }


def _nested(
    scores: Floats, altered: Answers, fit: Callable[[Floats, Answers], Calibrator], folds: int, deals: int
) -> Floats:
    """Return probabilities (deals, patients), each by what the other folds' patients taught."""
    told = np.zeros((deals, len(scores)))
    for deal in range(deals):
        for train, test in StratifiedKFold(folds, shuffle=True, random_state=deal).split(scores, altered):
            told[deal, test] = fit(scores[train], altered[train])(scores[test])
    return told


def _mean_loss(altered: Answers, told: Floats, loss: Callable[[Answers, Floats], Floats]) -> Floats:
    """Return each patient's loss, averaged over the deals: a patient is drawn with all of them."""
    return np.asarray(np.mean([loss(altered, deal) for deal in told], axis=0))


def _mean(losses: Floats, rows: list[NDArray[np.int64]]) -> Estimate:
    return _estimate(float(losses.mean()), [float(losses[row].mean()) for row in rows])


def _error(
    altered: Answers, told: Floats, error: Callable[[NDArray[np.int64], Floats], float], rows: list[NDArray[np.int64]]
) -> Estimate:
    labels = altered.astype(np.int64)
    value = float(np.mean([error(labels, deal) for deal in told]))
    return _estimate(value, [float(np.mean([error(labels[row], deal[row]) for deal in told])) for row in rows])


def _of_truth(told: Floats, error: Callable[[NDArray[np.int64], Floats], float], draws: int) -> Estimate:
    """Measure the error of probabilities that are true, on patients drawn from them."""
    rng = np.random.default_rng(0)
    chances = [told[draw % len(told)] for draw in range(draws)]
    drawn = [error((rng.random(len(chance)) < chance).astype(np.int64), chance) for chance in chances]
    return _estimate(float(np.mean(drawn)), drawn)


def _estimate(value: float, drawn: list[float]) -> Estimate:
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(drawn, (tail, 100.0 - tail))
    return Estimate(value, float(low), float(high))
