"""A case of a data folder as the node would see it: its outline of the tumour, and how far that can be trusted.

The same network, engine, post-processing and reference of training images that the node opens by the network's name,
and the steps of operators.segment and operators.classify. What takes long is kept beside the prepared case, so a
command that was broken off goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import frame, novelty
from models.engine import Model
from models.markers.image_features import NoTumour, describe, feature_names
from models.refine import REFINEMENT, load_refinement, refinement_of
from models.segments import load_channels, whole_tumour
from models.training import data
from models.training.judge import framed_tumour, network_view

FIGURES_VERSION = 1
"""Counts up when figures are reckoned otherwise; kept ones are made anew then."""
FOUND_VERSION = 1
"""The same of outlines that a network found."""

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sight:
    """What there is to read a marker from."""

    view: FloatArray
    """(slices, 2, H, W): T1C and FLAIR on the frame."""
    tumour: BoolArray
    """(slices, H, W), on the frame."""
    outline_doubtful: bool
    images_doubtful: bool


class Finder:
    """The segmenting network and all that belongs to it."""

    def __init__(self, weights: Path, cache: Path) -> None:
        """Open what lies beside `weights` (ONNX), and in models/inputs under the name of their folder."""
        self._weights, self._cache, self._name = weights, cache, weights.parent.name
        inputs = REFINEMENT.parent
        self._refinement = load_refinement(refinement_of(self._name, inputs))
        reference = inputs / f"{self._name}.json"
        self._reference = novelty.load_reference(reference) if reference.is_file() else None
        self._channels = load_channels(weights.parent)

    @cached_property
    def model(self) -> Model:
        """The network, opened when it is first asked for."""
        model = Model(self._name, self._weights)
        if self._channels is not None:
            self._channels.check_network(model.answer_shape)
        return model

    def see(self, prepared: data.Prepared, *, drawn: bool = False) -> Sight:
        """Look at a case, with the tumour that was `drawn` by hand in place of the one that the network finds."""
        view = network_view(prepared)
        unlike = self._reference is None or self._reference.score(novelty.features(view)) > self._reference.warn
        if drawn:
            return Sight(view, framed_tumour(prepared), outline_doubtful=False, images_doubtful=unlike)
        tumour, dice = self._found(prepared, view)
        return Sight(view, tumour, outline_doubtful=dice < self._refinement.doubtful, images_doubtful=unlike)

    def _found(self, prepared: data.Prepared, view: FloatArray) -> tuple[BoolArray, float]:
        """Outline a tumour, by way of the slices' own grid as the node does; with the Dice that it should have."""

        def make() -> dict[str, Any]:
            placement = prepared.placement
            framed = whole_tumour(self._refinement.probabilities(self.model.run_slices, view), self._channels)
            rows, columns = prepared.case.read()[1].shape[1:]
            probability = frame.from_frame(framed, placement, rows, columns)
            mask = self._refinement.mask(probability, prepared.spacing_mm)
            tumour = frame.to_frame(mask, placement, linear=False) > 0.5
            return {"tumour": tumour, "dice": np.array(self._refinement.confidence(probability, mask))}

        settings = self._refinement.model_dump_json() + prepared.case.spacing_key
        key = f"{FOUND_VERSION} {self.model.version} {self.model.engine} {self._channels} {settings}"
        found = data.kept(self._cache, f"{prepared.case.name}-found", [view], key, make)
        return found["tumour"], float(found["dice"])


def described(case: data.Case, view: FloatArray, tumour: BoolArray, cache: Path) -> NDArray[np.float64] | None:
    """Describe a tumour in figures, or read what was kept of it; None where none lies in the brain."""

    def make() -> dict[str, Any]:
        try:
            return {"figures": describe(view, tumour)}
        except NoTumour:
            return {"figures": np.zeros(0)}

    key = f"{FIGURES_VERSION} {' '.join(feature_names())}"
    found: NDArray[np.float64] = data.kept(cache, f"{case.name}-figures", [view, tumour], key, make)["figures"]
    return found if found.size else None
