"""How much of a network's class map lies on the tumour: the check of the thesis's section 3.4.4 as numbers.

A network that decides by something else than the tumour (the skull, the resolution, the scanner) shows it here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor

from models import frame
from models.markers.batch import SliceBatch
from models.markers.cells import Cells
from models.markers.prediction import Prediction, class_maps

AROUND_MM = 10.0
"""What lies this close to the outline in the slice counts as around the tumour: oedema beyond the drawn border."""


@dataclass(frozen=True)
class Attention:
    """Where a class map lies, summed over a patient's slices; each from 0 to 1."""

    inside: float
    """Share of the map inside the outline."""
    around: float
    """Share inside the outline or within `AROUND_MM` of it."""
    covered: float
    """Share of the brain shown that is inside or around: what a map that knows nothing would reach."""


def attention_of(prediction: Prediction, batch: SliceBatch, answer: int, cells: Cells) -> Attention | None:
    """Measure the map of class number `answer` over all slices; None where nothing speaks for that class."""
    pixels = batch.mask.shape[-1]
    drawn = cells.draw(class_maps(prediction)[:, answer].float().cpu().numpy(), pixels, pixels)
    maps = torch.from_numpy(drawn)[:, None]
    shown = (batch.images != 0.0) & batch.present[:, :, None, None]
    brain = shown.any(dim=1, keepdim=True).float().cpu()
    weight, mask = maps * brain, batch.mask.cpu()
    total = float(weight.sum())
    if total <= 0.0:
        return None
    around = _grown(mask)
    return Attention(
        inside=float((weight * mask).sum()) / total,
        around=float((weight * around).sum()) / total,
        covered=float((brain * around).sum() / brain.sum()),
    )


def _grown(mask: Tensor) -> Tensor:
    """Grow (B, 1, P, P) by `AROUND_MM` in each slice."""
    pixel_mm = frame.FRAME_PIXEL_MM * frame.FRAME_SIZE / mask.shape[-1]
    grown = [ndimage.distance_transform_edt(1.0 - plane[0].numpy()) * pixel_mm <= AROUND_MM for plane in mask]
    # Without tumour there is no distance to it: scipy then measures to nothing.
    there = mask.flatten(1).any(dim=1)[:, None, None, None]
    return torch.stack([torch.from_numpy(plane) for plane in grown])[:, None].float() * there
