"""How well a marker is told by models that learnt from fewer patients: whether more of them would help.

Each fold's training patients are thinned out at random, each class by itself; the held-out patients stay the same, so
that points differ by what was learnt and by nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold

from models.markers.figure_fit import Patient, choose, fit, labels_of, refuse_few, score
from models.markers.metrics import Estimate, measure

SHARES = (0.25, 0.5, 0.75, 1.0)
FEWEST = 2
"""Of a class: two must be left to choose between candidates with."""


@dataclass(frozen=True)
class Point:
    """What models said that learnt from a share of the training patients."""

    share: float
    learnt_from: float
    """Patients of one training, mean over folds and repeats."""
    auc: Estimate

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        return {"share": self.share, "learnt_from": self.learnt_from, "auc": self.auc.content()}


def learn_from_fewer(
    patients: Sequence[Patient],
    shares: Sequence[float] = SHARES,
    folds: int = 5,
    repeats: int = 5,
    advance: Callable[[], None] = lambda: None,
) -> list[Point]:
    """Judge each share by nested cross-validation, dealt anew `repeats` times; `advance` is called after each fold.

    Raises DataError where a class has too few patients for so many folds.
    """
    labels = labels_of(patients)
    refuse_few(labels, folds)
    scores = np.zeros((len(shares), repeats, len(patients)))
    learnt = np.zeros((len(shares), repeats, folds))
    for repeat in range(repeats):
        dealer = StratifiedKFold(folds, shuffle=True, random_state=repeat)
        for fold, (train, test) in enumerate(dealer.split(labels, labels)):
            for number, share in enumerate(shares):
                teachers = [patients[i] for i in thinned(train, labels, share, seed=(repeat, fold))]
                model = fit(teachers, choose(teachers, repeat))
                scores[number, repeat, test] = score(model, [patients[i] for i in test])
                learnt[number, repeat, fold] = len(teachers)
            advance()
    return [
        Point(share, float(counts.mean()), _auc(labels, told.mean(axis=0)))
        for share, counts, told in zip(shares, learnt, scores, strict=True)
    ]


def thinned(
    rows: NDArray[np.int64], labels: NDArray[np.int64], share: float, seed: tuple[int, ...]
) -> NDArray[np.int64]:
    """Keep a share of the rows of each class; a smaller share with the same seed is a part of a greater one."""
    rng = np.random.default_rng(seed)
    kept = []
    for wanted in (0, 1):
        own = rng.permutation(rows[labels[rows] == wanted])
        kept.append(own[: max(FEWEST, round(share * len(own)))])
    return np.sort(np.concatenate(kept))


def _auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Estimate:
    return measure(labels.tolist(), expit(scores).tolist()).figures["auc"]
