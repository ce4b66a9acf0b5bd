"""A marker model that reads named figures of the image and the patient's age; scikit-learn, kept by skops.

It is one classifier or a weighted mean, in log odds, of a few, and calibrated by held-out scores of the same kinds.

It ships for a marker where it does better than the networks on held-out patients: the marker's card tells.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import skops.io
from numpy.typing import NDArray

from models.markers.calibration import Calibration, CalibrationError, to_score
from models.markers.image_features import feature_names
from models.markers.influence import influences

MODEL, CALIBRATION = "model.skops", "calibration.json"
TRUSTED = ("numpy.dtype", "sklearn.tree._tree.Tree")
"""Types beyond those that skops builds unasked: what a forest is kept as."""
INPUTS = (*feature_names(), "age")
"""What the model reads, in order: figures of the tumour, and age in years (not a number where it is not known)."""
AGES = (1.0, 110.0)
"""Ages in years outside of these are taken for not known."""
ADULT_YEARS = 18.0
"""Children's gliomas are others (WHO CNS 2021 has families of their own for them), and no model has seen any."""
ADULTS_ALONE = "the models learnt from adults alone"

Ensemble = Sequence[tuple[float, Any]]
"""Classifiers, each with its weight."""


class FigureModelError(ValueError):
    """A model cannot be loaded; the message says which and what to do."""


class FigureModel:
    """One marker's model with its calibration."""

    def __init__(self, marker: str, folder: Path) -> None:
        """Load `folder`'s model.skops and calibration.json; raises FigureModelError where they cannot be used."""
        path = folder / MODEL
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of another scikit-learn version: it may answer otherwise
                self.members = _members(skops.io.load(path, trusted=list(TRUSTED)))
            self.calibration = Calibration.load(folder / CALIBRATION)
        except (OSError, ValueError, TypeError, KeyError, BadZipFile, CalibrationError, UserWarning) as error:
            raise FigureModelError(f"the model of marker {marker} cannot be read: {path}; train it anew") from error
        self.marker = marker
        self.name = f"{marker} figures"
        self.version = hashlib.sha256(path.read_bytes()).hexdigest()[:12]

    def score(self, figures: NDArray[np.float64], age_years: float | None) -> float:
        """Give the log odds that the marker is altered, not yet calibrated, from `describe`'s figures of the tumour."""
        return float(ensemble_score(self.members, with_age(figures, age_years)[None])[0])

    def influences(self, figures: NDArray[np.float64], age_years: float | None) -> dict[str, float]:
        """Give the factor by which each group of figures multiplies the calibrated odds that the marker is altered.

        Against a patient of whom that group is not known (models.markers.influence); empty where a classifier of
        somebody's own cannot be asked about figures that are not known.
        """
        try:
            gains = influences(lambda rows: ensemble_score(self.members, rows), with_age(figures, age_years))
        except ValueError:
            return {}
        return {group: float(np.exp(self.calibration.slope * gain)) for group, gain in gains.items()}


def is_child(age_years: float) -> bool:
    """Say whether an age is a child's; a negative one is nobody's."""
    return 0.0 <= age_years < ADULT_YEARS


def doubt(*, child: bool, images: bool, outline: bool) -> str:
    """Say why no marker should be read, or nothing: of a child, of doubtful images, by a doubtful outline."""
    if child:
        return ADULTS_ALONE
    reasons = {"the images may be unlike those of training": images, "the outline is doubtful": outline}
    return " and ".join(reason for reason, holds in reasons.items() if holds)


def with_age(figures: NDArray[np.float64], age_years: float | None) -> NDArray[np.float64]:
    """Append age to a tumour's figures."""
    known = age_years is not None and AGES[0] <= age_years <= AGES[1]
    return np.append(figures, age_years if known and age_years is not None else np.nan)


def ensemble_score(members: Ensemble, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the log odds that fitted classifiers of labels 0 and 1 give of rows of figures."""
    odds = [to_score(model.predict_proba(rows)[:, 1]) for _, model in members]
    return np.asarray(np.average(odds, axis=0, weights=[weight for weight, _ in members]))


def _members(kept: Any) -> Ensemble:
    """Read what a file holds: members, or a lone classifier; raises ValueError or TypeError where it is neither."""
    members = [(float(weight), model) for weight, model in kept] if isinstance(kept, list) else [(1.0, kept)]
    if not members or not all(weight > 0 and hasattr(model, "predict_proba") for weight, model in members):
        raise ValueError("no classifiers with their weights")
    return members
