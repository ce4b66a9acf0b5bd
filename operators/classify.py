"""Predict molecular markers, and abstain rather than guess.

A marker is "not assessed", with its reason, where no model for it is installed, where its model was no better than
chance on patients it never saw, and where the images or the outline are doubtful. It is "indeterminate" where the
model's own calibration leaves both answers open. What is said is a suggestion: tissue decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models import frame
from models.markers.calibration import Verdict
from models.markers.figure_model import FigureModel, doubt, is_child
from models.markers.image_features import NoTumour, describe
from models.markers.slice_network import SliceNetwork
from operators.attention import asked_for, look
from operators.domain import BoolArray, Check, FloatArray, Marker, MarkerName, MarkerValue, Outcome, TumourMap
from operators.network_view import NetworkView
from operators.patient import age_years, childhood, sex
from operators.settings_digest import digest_of
from operators.stage import Job, StageOperator, needed

OUTLINE_CHECK, IMAGES_CHECK = DECISIVE_CHECKS = ("segmentation", "input")
"""Checks whose warning takes the ground from under every marker: a wrong outline, or images unlike the training's."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a classifier sees of a study."""

    images: FloatArray
    """(slices, 2, rows, columns): T1C and FLAIR as the segmenting network sees them."""
    tumour: BoolArray
    """(slices, rows, columns), on the same frame."""
    age_years: float | None

    @cached_property
    def figures(self) -> NDArray[np.float64]:
        """The tumour in figures, reckoned once for all markers; raises NoTumour where none lies in the brain."""
        return describe(self.images, self.tumour)


class MarkerClassifier(Protocol):
    """What a marker model must offer."""

    def __call__(self, evidence: Evidence) -> Marker:
        """Predict one marker; answers "not assessed" with a reason rather than raising on a poor input."""
        ...

    @property
    def model(self) -> str:
        """What it is called."""
        ...

    @property
    def version(self) -> str:
        """Of the model's file."""
        ...

    @property
    def settings(self) -> object:
        """What its answers depend on beside the model's own version; its repr tells all of it."""
        ...


class FigureClassifier:
    """Answers one marker by a model of named figures."""

    def __init__(self, name: MarkerName, model: FigureModel) -> None:
        self._name, self._model = name, model

    @property
    def model(self) -> str:
        """What it is called."""
        return self._model.name

    @property
    def version(self) -> str:
        """Of the model's file."""
        return self._model.version

    @property
    def settings(self) -> object:
        """How scores are read: the file is another than the model's."""
        return self._model.calibration

    def __call__(self, evidence: Evidence) -> Marker:
        """Say which answer alone is thinkable and the likelier, if one is."""
        known = self._model.calibration
        if known.withheld:
            return not_assessed(self._name, known.withheld, self)
        try:
            score = self._model.score(evidence.figures, evidence.age_years)
            moved = self._model.influences(evidence.figures, evidence.age_years)
        except NoTumour:
            return not_assessed(self._name, "no tumour lies within the brain", self)
        verdict = known.verdict(score)
        said = "the images do not decide it" if verdict is Verdict.INDETERMINATE else "suggested by the images"
        age = "" if evidence.age_years is not None else "; the patient's age is not known"
        missed = f"of patients of either kind about {1.0 - known.coverage:.0%} have their true answer ruled out"
        return Marker(
            self._name,
            MarkerValue(verdict),
            f"{said}; {missed} ({known.worth} on patients never seen){age}",
            known.probability(score),
            self.model,
            self.version,
            known.open_between(),
            known.coverage,
            tuple(sorted(moved.items(), key=lambda group: -abs(math.log(group[1])))),
        )


def classify(evidence: Evidence, doubt: str, classifiers: Mapping[MarkerName, MarkerClassifier]) -> tuple[Marker, ...]:
    """Say of every marker what its model says, or why nothing is said; `doubt` is why none may speak, or empty."""
    if not evidence.tumour.any():
        return tuple(not_assessed(name, "no tumour was found", classifiers.get(name)) for name in MarkerName)
    return tuple(_answer(name, evidence, doubt, classifiers.get(name)) for name in MarkerName)


def doubt_of(checks: Sequence[Check], age: float | None, child: str = "") -> str:
    """Say why no marker should be read from this study of a patient of an age in years, or nothing.

    `child` is why the patient must be taken for a child whatever the age is taken for.
    """
    if child:
        return child
    failed = {check.name for check in checks if check.outcome is not Outcome.PASS}
    young = age is not None and is_child(age)
    return doubt(child=young, images=IMAGES_CHECK in failed, outline=OUTLINE_CHECK in failed)


def not_assessed(name: MarkerName, reason: str, classifier: MarkerClassifier | None = None) -> Marker:
    """State that nothing is said of a marker, and why; and by which model, where there is one that keeps silent."""
    model, version = ("", "") if classifier is None else (classifier.model, classifier.version)
    return Marker(name, MarkerValue.NOT_ASSESSED, reason, model=model, model_version=version)


def evidence_of(view: NetworkView, tumour: TumourMap, age: float | None) -> Evidence:
    """Bring the tumour to the frame on which the network saw the study."""
    framed = frame.to_frame(tumour.mask, view.placement, linear=False) > 0.5
    return Evidence(view.images, framed, age)


def _answer(name: MarkerName, evidence: Evidence, doubt: str, classifier: MarkerClassifier | None) -> Marker:
    if classifier is None:
        return not_assessed(name, "no model for this marker is installed")
    return not_assessed(name, doubt, classifier) if doubt else classifier(evidence)


class ClassifyOperator(StageOperator):
    """Network view, tumour and age to markers."""

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        classifiers: Mapping[MarkerName, MarkerClassifier],
        networks: Mapping[MarkerName, SliceNetwork],
        **kwargs: Any,
    ) -> None:
        self._classifiers, self._networks = dict(classifiers), dict(networks)
        abouts = [(name, network.about) for name, network in sorted(networks.items())]
        self._digest = digest_of("markers", [(n, c.settings) for n, c in sorted(classifiers.items())], abouts)
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.markers`, and `job.attention` of those that are assessed and have a network."""
        study, view = needed(job.study), needed(job.view)
        age = age_years(study)
        evidence = evidence_of(view, needed(job.tumour), age)
        reason = doubt_of(job.checks, age, childhood(study))
        job.markers = classify(evidence, reason, self._classifiers)
        job.depends_on = (*job.depends_on, self._digest)
        networks, patient = asked_for(self._networks, job.markers), (sex(study), evidence.age_years)
        job.attention, notes = look(networks, needed(job.stack), view, evidence.tumour, patient)
        job.notes += notes
        # A result that says why there is no map is another than one that came with it.
        job.depends_on += notes
        job.view = None  # tens of MB that no later stage needs
