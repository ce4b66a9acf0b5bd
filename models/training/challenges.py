"""What other hospitals send, made of the cases at hand: how far a network holds where its training images end.

Each challenge changes what the network sees of a case (slices, channels, size, size), zero outside the brain, T1C
first. They are simulations, and no substitute for patients of other hospitals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models import frame

FloatArray = NDArray[np.float32]
T1C, FLAIR = 0, 1


def as_it_is(view: FloatArray) -> FloatArray:
    """Change nothing."""
    return view


def skull_stripped(view: FloatArray) -> FloatArray:
    """Draw the mask in by its own margin, as in studies that came without skull."""
    pixels = round(frame.MASK_MARGIN_MM / frame.FRAME_PIXEL_MM)
    disc = np.hypot(*np.mgrid[-pixels : pixels + 1, -pixels : pixels + 1]) <= pixels
    inside = ndimage.binary_erosion(_brain(view)[:, 0], disc[None])
    stripped: FloatArray = view * inside[:, None]
    return stripped


def without_t1c(view: FloatArray) -> FloatArray:
    """Leave T1C out."""
    alone = view.copy()
    alone[:, T1C] = 0.0
    return alone


def coarse(view: FloatArray) -> FloatArray:
    """Halve the resolution in the slice: pixels of 2 mm."""
    small = (view[..., ::2, ::2] + view[..., 1::2, ::2] + view[..., ::2, 1::2] + view[..., 1::2, 1::2]) / 4
    large: FloatArray = ndimage.zoom(small, (1, 1, 2, 2), order=1, grid_mode=True, mode="nearest").astype(np.float32)
    return large * _brain(view)


def noisy(view: FloatArray) -> FloatArray:
    """Add noise of .3 of the brain's deviation, more than thin slices of 1 mm have."""
    noise = np.random.default_rng(0).normal(0.0, 0.3, view.shape).astype(np.float32)
    grainy: FloatArray = view + noise * _brain(view)
    return grainy


def other_contrast(view: FloatArray) -> FloatArray:
    """Bend FLAIR's grey levels, as another echo time does: the bright half is compressed."""
    bent = view.copy()
    bright = np.maximum(bent[:, FLAIR], 0.0)
    bent[:, FLAIR] = np.minimum(bent[:, FLAIR], 0.0) + bright**0.8
    return bent


def _brain(view: FloatArray) -> NDArray[np.bool_]:
    """Where something is seen: (slices, 1, size, size)."""
    seen: NDArray[np.bool_] = np.any(view != 0.0, axis=1, keepdims=True)
    return seen


CHALLENGES: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "as it is": as_it_is, "skull stripped": skull_stripped, "without T1C": without_t1c,
    "pixels of 2 mm": coarse, "noise": noisy, "other contrast": other_contrast,
}  # fmt: skip
