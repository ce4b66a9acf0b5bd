"""From a model's score to what may be said: a calibrated probability, and a verdict that may abstain.

The probability is a logistic function of the score (Platt). The verdict is conformal: a class is thinkable when the
score is not stranger than most held-out patients of that class had, and something is said only where exactly one class
is thinkable, and is the likelier one. So of each class at least `coverage` of future patients like those keep their
true class thinkable.

Sources: J. Platt, Advances in Large Margin Classifiers, 1999; V. Vovk, "Conditional validity of inductive conformal
predictors", ACML 2012 (label-conditional validity).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

LIMIT = 0.005
"""Probabilities are held this far from 0 and 1 before they become scores: a forest can say exactly 1."""


EVEN = 0.5
"""A probability at which either answer is as likely."""


class CalibrationError(ValueError):
    """The calibration's file is not what is expected; the message says what is wrong."""


class Verdict(StrEnum):
    """What may be said of a marker."""

    ALTERED = "altered"
    UNALTERED = "unaltered"
    INDETERMINATE = "indeterminate"


class Calibration(BaseModel):
    """How one marker's score is read; fitted on patients that the model had not seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    slope: float = Field(gt=0)
    intercept: float
    coverage: float = Field(gt=0.5, lt=1, description="share of each class whose own class stays thinkable")
    altered: tuple[float, ...] = Field(min_length=1, description="scores that held-out altered patients had")
    unaltered: tuple[float, ...] = Field(min_length=1, description="scores that held-out unaltered patients had")
    auc: float = Field(ge=0, le=1)
    auc_interval: tuple[float, float]
    """95 %, bootstrap by patient."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a calibration; raises CalibrationError with one line where the file is not of the expected form."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise CalibrationError(f"{path.name} is not a marker's calibration; train the marker anew") from error

    @property
    def beats_chance(self) -> bool:
        """Whether the whole interval of the AUC lies above one half."""
        return self.auc_interval[0] > 0.5

    @property
    def worth(self) -> str:
        """How the model did on patients it never saw, for a reader."""
        return f"AUC {self.auc:.2f}, {self.auc_interval[0]:.2f} to {self.auc_interval[1]:.2f}"

    @property
    def withheld(self) -> str:
        """Why nothing is said whatever the score, or nothing."""
        told = f"no model tells it better than chance on patients it never saw ({self.worth})"
        return "" if self.beats_chance else told

    def probability(self, score: float) -> float:
        """Give the calibrated probability that the marker is altered."""
        return float(1.0 / (1.0 + np.exp(-(self.slope * score + self.intercept))))

    def verdict(self, score: float) -> Verdict:
        """Say which class alone is thinkable; where both are, or neither, or it is the less likely, say neither."""
        as_altered = rank(self.altered, score, low_is_strange=True) > 1.0 - self.coverage
        as_unaltered = rank(self.unaltered, score, low_is_strange=False) > 1.0 - self.coverage
        if as_altered == as_unaltered:
            return Verdict.INDETERMINATE
        # Of a rare class few scores rule the common one out, and still most patients who have them are of the common.
        likelier = Verdict.ALTERED if self.probability(score) >= EVEN else Verdict.UNALTERED
        lone = Verdict.ALTERED if as_altered else Verdict.UNALTERED
        return lone if lone is likelier else Verdict.INDETERMINATE

    def open_between(self) -> tuple[float, float]:
        """Give the probabilities of alteration between which nothing is said; 0 or 1 where there is no end."""
        lowest = self._last_thinkable(sorted(self.altered))
        highest = -self._last_thinkable(sorted(-score for score in self.unaltered))
        low, high = (self.probability(score) for score in sorted((lowest, highest)))
        return min(low, EVEN), max(high, EVEN)

    def _last_thinkable(self, scores: Sequence[float]) -> float:
        """Return the strangest score at which a class is still thinkable; `scores` are the class's, strangest first."""
        strange_enough = (k for k in range(len(scores)) if (k + 1) / (len(scores) + 1) > 1.0 - self.coverage)
        held = next(strange_enough, len(scores))
        return scores[held - 1] if held else -float("inf")


def rank(known: Sequence[float], score: float, *, low_is_strange: bool) -> float:
    """Give the conformal p-value: the share of a class's scores, the new one included, at least as strange as it."""
    scores = np.asarray(known)
    stranger = scores <= score if low_is_strange else scores >= score
    return (int(stranger.sum()) + 1) / (len(scores) + 1)


def to_score(probability: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a model's probability into its log odds."""
    held = np.clip(np.asarray(probability, float), LIMIT, 1.0 - LIMIT)
    odds: NDArray[np.float64] = np.log(held / (1.0 - held))
    return odds
