"""Find the glioma on T1C and FLAIR with the slice-wise network.

Source: thesis chapter 4 (NASBraNet). The frame is models.frame's, as in training.
"""

from __future__ import annotations

from typing import Any

from models import frame
from models.engine import Model
from operators.domain import Stack, TumourMap
from operators.network_view import NetworkView
from operators.stage import Job, StageOperator, needed


def segment(stack: Stack, view: NetworkView, model: Model) -> TumourMap:
    """Map each voxel of the stack to the probability of tumour; zero outside the network's field of view."""
    _, rows, columns = stack.brain.shape
    probability = frame.from_frame(model.run_slices(view.images), view.placement, rows, columns)
    return TumourMap(stack.geometry, probability, model.name, model.version)


class SegmentOperator(StageOperator):
    """Stack and network view to tumour map."""

    def __init__(self, fragment: Any, *args: Any, model: Model, **kwargs: Any) -> None:
        self._model = model
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.tumour` and `job.engine`."""
        job.tumour = segment(needed(job.stack), needed(job.view), self._model)
        job.engine = self._model.engine
        job.view = None  # tens of MB that no later stage needs
