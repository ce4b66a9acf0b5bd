"""How well a marker is told: figures by patient, each with its interval, and whether they beat chance.

Intervals are percentiles of a bootstrap over patients; a resample in which a class is missing is drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

from models.markers.outcomes import Outcome, OutcomeError

DRAWS = 2000
LEVEL = 0.95
CALIBRATION_BINS = 5
"""With under a hundred patients more bins would hold too few of them to say a frequency."""
MANY_BINS = 10
"""As often in the literature; told beside, since the error depends on the bins."""

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class OneClass(ValueError):
    """Patients of one class only: what tells the classes apart cannot be measured."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        return {"value": self.value, "interval": [self.low, self.high]}

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Performance:
    """All figures of one model on its held-out patients."""

    patients: int
    positives: int
    threshold: float
    """Probabilities from here on count as positive."""
    figures: Mapping[str, Estimate]
    """By name: accuracy, sensitivity, specificity, auc, kappa, ece, ece_10, ece_10_wide."""

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval of the AUC lies above one half."""
        return self.figures["auc"].low > 0.5

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        figures = {name: estimate.content() for name, estimate in self.figures.items()}
        return {
            "patients": self.patients, "positives": self.positives, "threshold": self.threshold,
            **figures, "beats_chance": self.beats_chance,
        }  # fmt: skip


def measure(
    labels: Sequence[int], probabilities: Sequence[float], threshold: float = 0.5, draws: int = DRAWS, seed: int = 0
) -> Performance:
    """Measure patients' probabilities of the positive class against their labels, 1 or 0.

    Raises `OneClass` where a class has no patient.
    """
    truth, found = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    _need_both(truth)
    rows = resamples(truth, draws, seed)
    figures = {name: _estimate(figure, truth, found, rows) for name, figure in _figures(threshold).items()}
    return Performance(len(truth), int(truth.sum()), threshold, figures)


def measure_what_can_be(
    labels: Sequence[int], probabilities: Sequence[float], threshold: float = 0.5, draws: int = DRAWS, seed: int = 0
) -> dict[str, Estimate | None]:
    """Measure as `measure` does; where a class has no patient, what needs both classes, or that one, is None."""
    truth, found = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    if 0 < truth.sum() < len(truth):
        return dict(measure(labels, probabilities, threshold, draws, seed).figures)
    measurable = {"accuracy", "ece", "sensitivity" if truth.any() else "specificity"} if len(truth) else set()
    rows = np.random.default_rng(seed).integers(max(1, len(truth)), size=(draws, len(truth)))
    return {
        name: _estimate(figure, truth, found, rows) if name in measurable else None
        for name, figure in _figures(threshold).items()
    }


def attention_shares(patients: Sequence[Mapping[str, float]], draws: int = DRAWS, seed: int = 0) -> dict[str, Estimate]:
    """Average where patients' class maps lie, by the shares' names; nothing where no patient has one."""
    if not patients:
        return {}
    rows = np.random.default_rng(seed).integers(len(patients), size=(draws, len(patients)))
    tail = 50.0 * (1.0 - LEVEL)
    found = {}
    for name in patients[0]:
        values = np.array([patient[name] for patient in patients])
        low, high = np.percentile(values[rows].mean(axis=1), (tail, 100.0 - tail))
        found[name] = Estimate(float(values.mean()), float(low), float(high))
    return found


@dataclass(frozen=True)
class Paired:
    """Two models on the same patients, none of whom either had seen."""

    patients: int
    one: float
    """AUC of the first."""
    other: float
    difference: Estimate
    """First minus second; the interval by bootstrap over the common patients."""

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        return {
            "patients": self.patients, "auc": self.one, "other_auc": self.other,
            "difference": self.difference.content(),
        }  # fmt: skip


def paired(one: Outcome, other: Outcome, draws: int = DRAWS, seed: int = 0) -> Paired:
    """Compare the AUC of two models over the patients whom both judged.

    Raises `OutcomeError` where they are of two markers or label a patient differently, `OneClass` where the common
    patients are of one class.
    """
    if one.marker != other.marker:
        raise OutcomeError(f"one model tells {one.marker}, the other {other.marker}")
    theirs = {p.patient: p for p in other.patients}
    common = [(p, theirs[p.patient]) for p in one.patients if p.patient in theirs]
    if any(p.label != q.label for p, q in common):
        raise OutcomeError("the two models were judged by different labels")
    truth = np.array([p.label for p, _ in common], np.int64)
    first, second = (np.array([pair[i].probability for pair in common]) for i in (0, 1))
    drawn = [auc(truth[row], first[row]) - auc(truth[row], second[row]) for row in resamples(truth, draws, seed)]
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(drawn, (tail, 100.0 - tail))
    areas = auc(truth, first), auc(truth, second)
    return Paired(len(truth), *areas, Estimate(areas[0] - areas[1], float(low), float(high)))


def resamples(labels: Labels, draws: int, seed: int) -> list[NDArray[np.int64]]:
    """Draw patients' indices with replacement, `draws` times, always of both classes."""
    _need_both(labels)
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.int64]] = []
    while len(rows) < draws:
        row = rng.integers(len(labels), size=len(labels))
        if 0 < labels[row].sum() < len(labels):
            rows.append(row)
    return rows


def auc(labels: Labels, probabilities: Floats) -> float:
    """Chance that a positive patient has a higher probability than a negative one; ties count half.

    Counted directly: scikit-learn's checks of its input would take most of a bootstrap's time.
    """
    positive, negative = probabilities[labels == 1], np.sort(probabilities[labels == 0])
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    return float((below + not_above).sum() / (2 * len(positive) * len(negative)))


def kappa(labels: Labels, answers: Labels) -> float:
    """Cohen's kappa: agreement beyond chance; 0 where both say the same of everyone."""
    agreed, p, q = float((labels == answers).mean()), float(labels.mean()), float(answers.mean())
    expected = p * q + (1.0 - p) * (1.0 - q)
    return (agreed - expected) / (1.0 - expected) if expected < 1.0 else 0.0


def calibration_error(labels: Labels, probabilities: Floats, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error over bins of about equal numbers of patients; equal probabilities stay together.

    Biased upwards where bins are small, and more so in a resample: its interval tends to lie above it.
    """
    number = bin_numbers(probabilities, bins)
    gaps = np.bincount(number, labels - probabilities)
    return float(np.abs(gaps).sum() / len(labels))


def bin_numbers(probabilities: Floats, bins: int = CALIBRATION_BINS) -> NDArray[np.int64]:
    """Return the bin of each probability; the bins' edges are quantiles."""
    edges = np.quantile(probabilities, np.arange(1, bins) / bins)
    return np.searchsorted(edges, probabilities, side="left").astype(np.int64)


def wide_calibration_error(labels: Labels, probabilities: Floats, bins: int = MANY_BINS) -> float:
    """Expected calibration error over bins of equal width of the probability, however many patients each holds.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    number = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(number, labels - probabilities)).sum() / len(labels))


def by_site(outcome: Outcome, threshold: float = 0.5) -> dict[str, dict[str, Any]]:
    """Break an outcome down by site, in the order of names; what needs both classes is None where one is missing."""
    found = {}
    for site in sorted({p.site for p in outcome.patients}):
        here = [p for p in outcome.patients if p.site == site]
        truth = np.array([p.label for p in here], np.int64)
        probabilities = np.array([p.probability for p in here])
        answers = probabilities >= threshold
        both = 0 < truth.sum() < len(truth)
        matrix = confusion_matrix(truth, answers, labels=[0, 1])
        found[site or "unknown"] = {
            "patients": len(here), "positives": int(truth.sum()), "accuracy": float((answers == truth).mean()),
            "confusion": {"tn": int(matrix[0, 0]), "fp": int(matrix[0, 1]),
                          "fn": int(matrix[1, 0]), "tp": int(matrix[1, 1])},
            "auc": float(roc_auc_score(truth, probabilities)) if both else None,
            "kappa": float(cohen_kappa_score(truth, answers)) if both else None,
        }  # fmt: skip
    return found


_Figure = Callable[[Labels, Floats], float]


def _estimate(figure: _Figure, truth: Labels, found: Floats, rows: Iterable[NDArray[np.int64]]) -> Estimate:
    """Reckon a figure, and its interval from resamples given as rows of indices."""
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile([figure(truth[row], found[row]) for row in rows], (tail, 100.0 - tail))
    return Estimate(figure(truth, found), float(low), float(high))


def _figures(threshold: float) -> dict[str, _Figure]:
    """Return the figures by name, as functions of labels and probabilities."""

    def answers(probabilities: Floats) -> Labels:
        return (probabilities >= threshold).astype(np.int64)

    return {
        "accuracy": lambda truth, found: float((answers(found) == truth).mean()),
        "sensitivity": lambda truth, found: float(answers(found[truth == 1]).mean()),
        "specificity": lambda truth, found: 1.0 - float(answers(found[truth == 0]).mean()),
        "auc": auc,
        "kappa": lambda truth, found: kappa(truth, answers(found)),
        "ece": calibration_error,
        "ece_10": lambda truth, found: calibration_error(truth, found, MANY_BINS),
        "ece_10_wide": wide_calibration_error,
    }


def _need_both(labels: Labels) -> None:
    if not 0 < labels.sum() < len(labels):
        raise OneClass(f"{len(labels)} patients of one class only")
