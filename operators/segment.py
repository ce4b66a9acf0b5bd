"""Find the glioma on T1C and FLAIR with the slice-wise network.

Source: thesis chapter 4 (NASBraNet). The frame is models.frame's, as in training; what the slices say is
refined to lesions in space by models.refine.
"""

from __future__ import annotations

from typing import Any

from models import frame
from models.engine import Model
from models.refine import Refinement
from operators.domain import Check, Outcome, Stack, TumourMap
from operators.network_view import NetworkView
from operators.stage import Job, StageOperator, needed


def segment(stack: Stack, view: NetworkView, model: Model, refinement: Refinement) -> tuple[TumourMap, Check]:
    """Map each voxel of the stack to the probability of tumour, and say how far the whole can be trusted.

    The probability is zero outside the network's field of view, and above one half in what is kept as lesion.
    """
    _, rows, columns = stack.brain.shape
    framed = refinement.probabilities(model.run_slices, view.images)
    probability = frame.from_frame(framed, view.placement, rows, columns)
    refined = refinement.apply(probability, stack.spacing_mm)
    tumour = TumourMap(stack.geometry, refined, model.name, model.version)
    return tumour, _confidence(refinement.confidence(probability, tumour.mask), refinement)


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


class SegmentOperator(StageOperator):
    """Stack and network view to tumour map."""

    def __init__(self, fragment: Any, *args: Any, model: Model, refinement: Refinement, **kwargs: Any) -> None:
        self._model, self._refinement = model, refinement
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.tumour` and `job.engine`, and to the checks how sure the network is."""
        job.tumour, check = segment(needed(job.stack), needed(job.view), self._model, self._refinement)
        job.checks = (*job.checks, check)
        job.engine = self._model.engine
