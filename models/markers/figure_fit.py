"""Fit a figure model to a marker, and say on patients it never saw what it is worth.

Two kinds of model compete, a logistic regression and a forest; each fold chooses between them on its own training
patients, so the held-out AUC pays for the choice. What ships is what the repeats choose on all patients, averaged; the
kinds' scores are of different scales, so it is calibrated by the held-out scores of its own kinds. A patient teaches
twice where it can, by the hand-drawn outline and by the one that a segmentation network found which never saw the
patient; it is judged by the latter, as a study in the node is.

Source: thesis sections 3.4 and 5.4 (five folds by patient); D. Krstajic et al., J. Cheminform. 2014 (nested, repeated).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.markers.calibration import Calibration, to_score
from models.markers.figure_model import Ensemble, ensemble_score
from models.training.data import DataError

Floats = NDArray[np.float64]
FLATTEST = 1e-3
"""Least slope of a calibration."""


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient's figures; `found` is by the network's outline, `drawn` by hand."""

    name: str
    site: str
    altered: bool
    drawn: Floats
    found: Floats | None = None

    @property
    def judged_by(self) -> Floats:
        """What the model is shown when this patient judges it."""
        return self.drawn if self.found is None else self.found


def _logistic(strength: float) -> Callable[[], Any]:
    return lambda: make_pipeline(
        SimpleImputer(strategy="median"),
        StandardScaler(),
        LogisticRegression(C=strength, class_weight="balanced", max_iter=5000),
    )


def _forest() -> Any:
    return make_pipeline(
        SimpleImputer(strategy="median"),
        ExtraTreesClassifier(
            300, min_samples_leaf=3, max_features=0.3, class_weight="balanced", random_state=0, n_jobs=1
        ),
    )


CANDIDATES: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "logistic regression, C .01": _logistic(0.01),
        "logistic regression, C .1": _logistic(0.1),
        "extremely randomised trees": _forest,
    }
)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What models said of patients that they never saw; scores are log odds."""

    scores: Floats
    """(patients,) of the candidates that the folds chose, averaged over the repeats."""
    chosen: Mapping[str, int]
    """How often each candidate was chosen, over folds and repeats."""
    of_each: Mapping[str, Floats]
    """By candidate (repeats, patients), chosen or not."""

    def averaged(self, weights: Mapping[str, int]) -> Floats:
        """Return the scores (repeats, patients) of a mean of candidates, as `ensemble` makes one."""
        told = [self.of_each[name] for name in weights]
        return np.asarray(np.average(told, axis=0, weights=list(weights.values())))


def held_out(
    patients: Sequence[Patient], folds: int = 5, repeats: int = 5, advance: Callable[[], None] = lambda: None
) -> HeldOut:
    """Judge by nested, repeated cross-validation; `advance` is called after each fold.

    Raises DataError where a class has too few patients for that.
    """
    labels = labels_of(patients)
    refuse_few(labels, folds)
    of_each = {name: np.zeros((repeats, len(patients))) for name in CANDIDATES}
    scores, chosen = np.zeros((repeats, len(patients))), dict.fromkeys(CANDIDATES, 0)
    for repeat in range(repeats):
        for train, test in StratifiedKFold(folds, shuffle=True, random_state=repeat).split(labels, labels):
            teachers, judges = [patients[i] for i in train], [patients[i] for i in test]
            for name, told in of_each.items():
                told[repeat, test] = score(fit(teachers, name), judges)
            best = choose(teachers, repeat)
            chosen[best] += 1
            scores[repeat, test] = of_each[best][repeat, test]
            advance()
    return HeldOut(scores.mean(axis=0), chosen, of_each)


def choose(patients: Sequence[Patient], seed: int = 0, folds: int = 5) -> str:
    """Name the candidate of the greatest AUC over inner folds; the first, simplest one between equals."""
    labels = labels_of(patients)
    aucs = {}
    for name in CANDIDATES:
        scores = np.zeros(len(patients))
        dealer = StratifiedKFold(min(folds, int(np.bincount(labels).min())), shuffle=True, random_state=seed)
        for train, test in dealer.split(labels, labels):
            scores[test] = score(fit([patients[i] for i in train], name), [patients[i] for i in test])
        aucs[name] = float(roc_auc_score(labels, scores))
    return max(aucs, key=lambda name: aucs[name])


def ensemble(patients: Sequence[Patient], repeats: int = 5) -> tuple[dict[str, int], Ensemble]:
    """Fit to all patients what each repeat chooses on all of them.

    Returns how often each candidate was chosen, of those that were, and the members with that weight.
    """
    chosen = Counter(choose(patients, repeat) for repeat in range(repeats))
    weights = {name: chosen[name] for name in CANDIDATES if chosen[name]}
    return weights, [(float(weight), fit(patients, name)) for name, weight in weights.items()]


def fit(patients: Sequence[Patient], name: str) -> Any:
    """Fit a candidate to both outlines of every patient; each patient weighs the same."""
    rows, labels = [], []
    for patient in patients:
        # Drawn twice where nothing was found, so that nobody counts for half.
        rows += [patient.drawn, patient.judged_by]
        labels += [int(patient.altered)] * 2
    return CANDIDATES[name]().fit(np.array(rows), np.array(labels))


def calibrate(
    scores: Floats, altered: NDArray[np.bool_], coverage: float, auc: float, auc_interval: tuple[float, float]
) -> Calibration:
    """Fit the logistic function and keep the scores of either class."""
    slope, intercept = platt(scores, altered)
    return Calibration(
        slope=slope, intercept=intercept, coverage=coverage,
        altered=tuple(round(float(s), 4) for s in sorted(scores[altered])),
        unaltered=tuple(round(float(s), 4) for s in sorted(scores[~altered])),
        auc=auc, auc_interval=auc_interval,
    )  # fmt: skip


def platt(scores: Floats, altered: NDArray[np.bool_]) -> tuple[float, float]:
    """Fit slope and intercept of the logistic function from score to probability, with Platt's softened labels."""
    ones, zeros = int(altered.sum()), int((~altered).sum())
    high, low = (ones + 1) / (ones + 2), 1 / (zeros + 2)
    weights = np.where(altered, high, low)
    # A label of .9 is a patient who counts .9 for and .1 against.
    rows, labels = np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores))
    model = LogisticRegression(C=1e4, max_iter=1000).fit(rows, labels, np.concatenate([weights, 1.0 - weights]))
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope < FLATTEST:  # the score tells nothing, or the contrary of what it should: the prior is left
        return FLATTEST, float(to_score(weights.mean()))
    return slope, intercept


def nested_calibration(
    scores: Floats, altered: NDArray[np.bool_], coverage: float, folds: int = 5
) -> tuple[Floats, list[str]]:
    """Calibrate each patient by the others: probabilities, and verdicts, as they would be for new patients."""
    probabilities, verdicts = np.zeros(len(scores)), [""] * len(scores)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(scores, altered):
        calibration = calibrate(scores[train], altered[train], coverage, 0.5, (0.0, 1.0))
        for i in test:
            probabilities[i] = calibration.probability(float(scores[i]))
            verdicts[i] = calibration.verdict(float(scores[i])).value
    return probabilities, verdicts


def score(model: Any, patients: Sequence[Patient]) -> Floats:
    """Ask a fitted candidate: log odds of each patient."""
    return ensemble_score([(1.0, model)], np.array([p.judged_by for p in patients]))


def labels_of(patients: Sequence[Patient]) -> NDArray[np.int64]:
    """Return 1 for each patient whose marker is altered, 0 for the others."""
    return np.array([int(p.altered) for p in patients])


def refuse_few(labels: NDArray[np.int64], folds: int) -> None:
    """Raise DataError where a class has too few patients for nested folds."""
    fewest = int(np.bincount(labels, minlength=2).min())
    if fewest < folds or fewest - -(-fewest // folds) < 2:  # two must be left to choose between candidates with
        raise DataError(f"{fewest} patients of one class are too few for {folds} folds")
