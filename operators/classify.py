"""Predict molecular markers; one that has no trained model says so instead of guessing.

A classifier takes the stack and the tumour and answers one Marker. This version ships none, so every marker
is "not assessed" with its reason; the places where results, report and schema carry a marker are real.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from operators.domain import Marker, MarkerName, MarkerValue, Stack, TumourMap
from operators.stage import Job, StageOperator, needed


class MarkerClassifier(Protocol):
    """What a marker model must offer."""

    def __call__(self, stack: Stack, tumour: TumourMap) -> Marker:
        """Predict one marker; answers "not assessed" with a reason rather than raising on a poor input."""
        ...


def classify(stack: Stack, tumour: TumourMap, classifiers: Mapping[MarkerName, MarkerClassifier]) -> tuple[Marker, ...]:
    """Say of every marker what its model says, or why nothing is said."""
    if not tumour.mask.any():
        return tuple(not_assessed(name, "no tumour was found") for name in MarkerName)
    return tuple(
        classifiers[name](stack, tumour)
        if name in classifiers
        else not_assessed(name, "no model for this marker is installed")
        for name in MarkerName
    )


def not_assessed(name: MarkerName, reason: str) -> Marker:
    """State that nothing is said of a marker, and why."""
    return Marker(name, MarkerValue.NOT_ASSESSED, reason)


class ClassifyOperator(StageOperator):
    """Stack and tumour to markers."""

    def __init__(
        self, fragment: Any, *args: Any, classifiers: Mapping[MarkerName, MarkerClassifier], **kwargs: Any
    ) -> None:
        self._classifiers = dict(classifiers)
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.markers`."""
        job.markers = classify(needed(job.stack), needed(job.tumour), self._classifiers)
