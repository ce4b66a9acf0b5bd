"""Find the glioma on T1C and FLAIR with the slice-wise network.

Source: thesis chapter 4 (NASBraNet). The frame is models.frame's, as in training.
"""

from __future__ import annotations

from typing import Any

from models import frame
from models.engine import Model
from operators.domain import Contrast, Stack, TumourMap
from operators.errors import UnusableImage
from operators.stage import Job, StageOperator, needed

CHANNELS = (Contrast.T1C, Contrast.FLAIR)
"""Order of the network's input channels."""


def segment(stack: Stack, model: Model) -> TumourMap:
    """Map each voxel of the stack to the probability of tumour; zero outside the network's field of view."""
    if not stack.brain.any():
        raise UnusableImage("no brain is seen on T1C")
    _, rows, columns = stack.brain.shape
    placement = frame.place(stack.brain, stack.spacing_mm[1:])
    seen = frame.network_input([stack.images[c] for c in CHANNELS], stack.brain, placement)
    probability = frame.from_frame(model.run_slices(seen), placement, rows, columns)
    return TumourMap(stack.geometry, probability, model.name, model.version)


class SegmentOperator(StageOperator):
    """Stack to tumour map."""

    def __init__(self, fragment: Any, *args: Any, model: Model, **kwargs: Any) -> None:
        self._model = model
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.tumour`."""
        job.tumour = segment(needed(job.stack), self._model)
