"""Judge a segmenter on whole patients: 3-D Dice on the slices' own grid, as a reader would see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from models import frame
from models.training.data import FIELD, Prepared
from models.training.metrics import dice

Segmenter = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps (slices, channels, size, size) to tumour probabilities (slices, size, size)."""


def network_view(prepared: Prepared) -> NDArray[np.float32]:
    """Cut the prepared field to the frame and strip it: exactly what the node feeds the network."""
    rim = (FIELD - frame.FRAME_SIZE) // 2
    inner = slice(rim, rim + frame.FRAME_SIZE)
    images = prepared.images[..., inner, inner].astype(np.float32)
    return images * prepared.brain[:, None, inner, inner]


def patient_dice(segmenter: Segmenter, prepared: Prepared) -> float:
    """Dice over all of a patient's slices."""
    _, truth = prepared.case.read()
    probability = segmenter(network_view(prepared))
    found = frame.from_frame(probability, prepared.placement, *truth.shape[1:]) > 0.5
    return dice(found, truth)


def judge(segmenter: Segmenter, cases: Iterable[Prepared]) -> dict[str, float]:
    """Dice of each case by name."""
    return {prepared.case.name: patient_dice(segmenter, prepared) for prepared in cases}
