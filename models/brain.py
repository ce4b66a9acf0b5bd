"""Outline the brain of a head image, and tell an image whose skull was taken away before it came.

deepbet's networks and steps; the networks run on OpenVINO, which takes a third of torch's time. Arrays are axial
stacks (slices, rows, columns) in display order, as in models.frame.

Source: L. Fisch et al., "deepbet", Comput. Biol. Med. 2024; its weights are those of its wheel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    import torch
    from deepbet import BrainExtraction

MASK_MARGIN_MM = 3.0
"""The brain mask grows by this much in-plane, so that a tumour at the cortex is not cut."""
SMALLEST_BRAIN_ML = 150.0
"""Less than this in view is no study of a brain, or no brain at all."""
SLAB_MM, HEAD_MM = 90.0, 150.0
"""A stack of less height is a part of a head, and is filled up with background to a head's height: deepbet stretches
whatever it is given to a cube, and eats into the brain of a slab that it was never shown the like of."""
FEWEST_SECTIONS = 2
"""Along each axis: deepbet interpolates between them."""
LIKE_A_BRAIN = 0.90
"""Dice with deepbet's mask from which all that is not background counts as a stripped brain; heads stay far below."""
PART_OF_BODY = 0.01
"""What stands out of the background apart from the largest body, and has this share of its voxels, belongs to it."""
EMPTY_EDGE = 0.98
"""Share of a stripped image's outer rows and columns that hold the one background value."""

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
_ONE_AT_A_TIME = Lock()


class BrainNotFound(ValueError):
    """No brain could be outlined in the image."""


@dataclass(frozen=True, eq=False)
class Outline:
    """A brain mask, and whether the image came without skull."""

    mask: BoolArray
    stripped: bool

    @property
    def margin_mm(self) -> float:
        """How far beyond the mask a network is shown the image, in-plane."""
        return margin_mm(stripped=self.stripped)


def margin_mm(*, stripped: bool) -> float:
    """How far beyond the brain's mask a network is shown the image, in-plane."""
    # Around a brain that came without skull there is nothing but background, which no network has seen.
    return 0.0 if stripped else MASK_MARGIN_MM


def outline_brain(stack: FloatArray, spacing_mm: tuple[float, float, float]) -> Outline:
    """Outline the brain of one head image; of a stripped image, the brain is what is there.

    `spacing_mm` is the stack's (slice, row, column) spacing. Raises BrainNotFound where there is none.
    """
    if min(stack.shape) < FEWEST_SECTIONS:
        raise BrainNotFound(f"no brain can be outlined in an image of {' x '.join(map(str, stack.shape))} voxels")
    found = _of_slab(stack, spacing_mm[0]) if len(stack) * spacing_mm[0] < SLAB_MM else _deepbet(stack)
    region = stripped_brain(stack, found)
    mask = found if region is None else region
    volume_ml = float(mask.sum() * np.prod(spacing_mm)) / 1000.0
    if volume_ml < SMALLEST_BRAIN_ML:
        raise BrainNotFound(f"only {volume_ml:.0f} ml of brain were found in the image")
    return Outline(mask, stripped=region is not None)


def stripped_brain(stack: FloatArray, mask: BoolArray) -> BoolArray | None:
    """Give what is there of an image whose skull was taken away, `mask` being its brain as seen; None with skull."""
    region = region_in_view(stack)
    return region if region is not None and dice(region, mask) > LIKE_A_BRAIN else None


def brain_mask(stack: FloatArray, spacing_mm: tuple[float, float, float]) -> BoolArray:
    """Give `outline_brain`'s mask alone."""
    return outline_brain(stack, spacing_mm).mask


def warm_up() -> None:
    """Convert and compile the networks, which takes some seconds, before the first image needs them."""
    _extractor()


def region_in_view(stack: FloatArray) -> BoolArray | None:
    """Give the body that stands out of an exactly constant background, filled; None where there is no such.

    A stripped brain is such a body, but so is a whole head whose background was cleared.
    """
    edge = np.concatenate([stack[:, [0, -1], :].ravel(), stack[:, :, [0, -1]].ravel()])
    background = np.median(edge)
    if (edge == background).mean() < EMPTY_EDGE:
        return None
    labels, count = ndimage.label(stack != background)
    if not count:
        return None
    # An empty slice parts a brain in two, and specks beside it are none of it.
    sizes = np.bincount(labels.ravel())[1:]
    body = np.isin(labels, 1 + np.flatnonzero(sizes >= PART_OF_BODY * sizes.max()))
    filled: BoolArray = np.stack([ndimage.binary_fill_holes(section) for section in body])
    return filled


def dice(one: BoolArray, other: BoolArray) -> float:
    """Overlap of two masks on one grid; 1 where both are empty."""
    both = int(one.sum()) + int(other.sum())
    return 2.0 * float((one & other).sum()) / both if both else 1.0


def _of_slab(stack: FloatArray, slice_mm: float) -> BoolArray:
    """Run deepbet on a part of a head, in the middle of a head's height of background."""
    lacking = round(HEAD_MM / slice_mm) - len(stack)
    below = lacking // 2
    whole = np.pad(stack, ((below, lacking - below), (0, 0), (0, 0)), constant_values=stack.min())
    return _deepbet(whole)[below : below + len(stack)]


def _deepbet(stack: FloatArray) -> BoolArray:
    """Run deepbet: a rough look at the whole image, then the mask of the part that holds the brain."""
    # deepbet's canonical frame is (right to left reversed, back to front, feet to head); it needs no spacing.
    canonical = np.ascontiguousarray(stack.transpose(2, 1, 0)[::-1, ::-1, :], np.float32)
    with _ONE_AT_A_TIME:  # the extractor keeps its bounding box between the two steps
        try:
            found = _extractor().postprocess(_extractor().run_model(canonical) > 0.5)
        except (AssertionError, IndexError, ValueError) as error:  # how deepbet says that nothing is left
            raise BrainNotFound("no brain was found in the image") from error
    return np.ascontiguousarray(found[::-1, ::-1, :].transpose(2, 1, 0) > 0)


@lru_cache(maxsize=1)
def _extractor() -> BrainExtraction:
    """Load deepbet, and put its two networks on OpenVINO."""
    from deepbet import BrainExtraction

    extractor = BrainExtraction(no_gpu=True)
    extractor.bbox_model = _on_openvino(extractor.bbox_model, 128)
    extractor.model = _on_openvino(extractor.model, 256)
    return extractor


def _on_openvino(network: torch.nn.Module, side: int) -> torch.nn.Module:
    """Compile a network for cubes of this side; what comes back is called like the one that went in."""
    import openvino as ov
    import torch

    from models.engine_openvino import core

    # Half the cores: registration runs beside it. Single precision, or masks would depend on the machine.
    settings = {"INFERENCE_NUM_THREADS": max(1, (os.cpu_count() or 2) // 2), "INFERENCE_PRECISION_HINT": "f32"}
    converted = ov.convert_model(network, input=[1, 1, side, side, side])
    request = core().compile_model(converted, "CPU", settings).create_infer_request()

    class Compiled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.device_marker = torch.nn.Parameter(torch.zeros(0))  # deepbet asks a parameter for its device

        def forward(self, cube: torch.Tensor) -> torch.Tensor:
            # deepbet is done with the answer, which is the request's own memory, before it asks again.
            return torch.from_numpy(request.infer([cube.numpy()], share_inputs=True, share_outputs=True)[0])

    return Compiled()
