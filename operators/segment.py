"""Find the glioma on T1C and FLAIR with the slice-wise network.

A network may tell parts of the tumour apart (models.segments): the whole is their union, and lives or goes as one.

Source: thesis chapter 4 (NASBraNet). The frame is models.frame's, as in training; what the slices say is
refined to lesions in space by models.refine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models import frame
from models.engine import Model
from models.refine import Refinement
from models.segments import Channels, SegmentsError, whole_tumour
from operators.domain import BoolArray, Check, FloatArray, LabelMap, Outcome, Stack, TumourMap
from operators.errors import AnalysisFailed
from operators.network_view import NetworkView
from operators.settings_digest import digest_of
from operators.stage import Job, StageOperator, needed


def segment(
    stack: Stack, view: NetworkView, model: Model, refinement: Refinement, channels: Channels | None = None
) -> tuple[TumourMap, Check]:
    """Map each voxel of the stack to the probability of tumour, and say how far the whole can be trusted.

    The probability is zero outside the network's field of view, and above one half in what is kept as lesion. With
    `channels`, what is kept is divided into its parts. Raises AnalysisFailed where the network answers otherwise.
    """
    _, rows, columns = stack.brain.shape
    framed = refinement.probabilities(model.run_slices, view.images)
    probability = frame.from_frame(_whole(framed, model, channels), view.placement, rows, columns)
    refined = refinement.apply(probability, stack.spacing_mm)
    labels = None if channels is None else divide(framed, refined > 0.5, view.placement, channels)
    tumour = TumourMap(stack.geometry, refined, model.name, model.version, labels)
    if not tumour.mask.any():
        return tumour, _nothing_found(float(probability.max()), refinement)
    return tumour, _confidence(refinement.confidence(probability, tumour.mask), refinement)


def _whole(framed: FloatArray, model: Model, channels: Channels | None) -> FloatArray:
    try:
        return whole_tumour(framed, channels)
    except SegmentsError as error:
        raise AnalysisFailed(f"model {model.name}: {error}") from error


def divide(framed: FloatArray, mask: BoolArray, placement: frame.Placement, channels: Channels) -> LabelMap:
    """Give each voxel of the tumour to the part that claims it the most.

    `framed` is (slices, channels, rows, columns) on the network's frame, `mask` what was kept, on the stack's grid.
    """
    labels, strongest = np.zeros(mask.shape, np.uint8), np.full(mask.shape, -1.0, np.float32)
    for place, label in channels.parts():
        probability = frame.from_frame(framed[:, place], placement, *mask.shape[1:])
        claimed = channels.claim(place, probability)
        wins = mask & (claimed > strongest)
        labels[wins], strongest[wins] = label, claimed[wins]
    return LabelMap(labels, channels.legend, str(channels))


def _confidence(dice: float, refinement: Refinement) -> Check:
    """Warn the reader of a segmentation that the network itself is not sure of."""
    if dice >= refinement.doubtful:
        reason = f"the network expects its outline to overlap the lesion's by a Dice of {dice:.2f}"
        return Check("segmentation", Outcome.PASS, reason, dice, refinement.doubtful)
    reason = (
        f"the network is not sure of its outline: it expects a Dice of {dice:.2f}, and is sure from "
        f"{refinement.doubtful:.2f}; check the contour before using volume and diameters"
    )
    return Check("segmentation", Outcome.WARN, reason, dice, refinement.doubtful)


def _nothing_found(highest: float, refinement: Refinement) -> Check:
    """Warn the reader of a study without a tumour: no patient without one was there to calibrate that on."""
    reason = (
        "no tumour was found, but something smaller than one that is kept, which is from "
        f"{refinement.smallest_ml:.2f} ml: look for a small lesion in the images"
        if highest > refinement.high
        else "no tumour was found, and how sure that is cannot be told: the network learnt from patients with a glioma "
        f"alone; its highest probability is {highest:.2f}; look for a lesion in the images"
    )
    return Check("segmentation", Outcome.WARN, reason)


class SegmentOperator(StageOperator):
    """Stack and network view to tumour map."""

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        model: Model,
        refinement: Refinement,
        channels: Channels | None = None,
        **kwargs: Any,
    ) -> None:
        """`channels` says what the network's channels stand for, where it has several."""
        self._model, self._refinement, self._channels = model, refinement, channels
        self._digest = digest_of("refinement", refinement)
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.tumour` and `job.engine`, and to the checks how sure the network is."""
        stack, view = needed(job.stack), needed(job.view)
        job.tumour, check = segment(stack, view, self._model, self._refinement, self._channels)
        job.checks = (*job.checks, check)
        job.engine = self._model.engine
        job.depends_on = (*job.depends_on, self._digest)
