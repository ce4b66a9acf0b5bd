"""Look at a few slices of a series: what headers cannot decide, the image often can.

Two questions: which contrast a lone series has (is CSF dark or bright, is grey matter brighter than white, how
bright is fat), and which of two T1 series is brighter where contrast agent goes (vessels, mucosa, dura). The answer
is None wherever the slices do not look like a head, cannot be decoded, or lie between two answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from operators.decoder import Decoder
from operators.decoding import UNDECODABLE
from operators.domain import BoolArray, FloatArray, Series
from operators.errors import UnreadableInstance
from operators.pixels import HERE, read_planes
from operators.series_geometry import slice_count

SLICES = 5
MIDDLE = (0.35, 0.65)
"""Slices are taken from this part of the stack: ventricles in axial ones, the head's widest in any plane."""
SIDE = 128
"""Slices are thinned to at most about twice this many pixels a side."""
LEAST_SIDE = 72
HEAD_SHARE = (0.15, 0.85)
"""A head fills this part of its slice."""
LOOK_POINTS = 3.0
"""An image alone never says more than this, in natural log-odds."""
AGENT_ALONE = 2.0
SURE_ALONE, SURE_OF_TWO = 1.7, 2.0
"""Weaker log-odds than these are no answer."""
BRIGHT_FLUID, NOTHING_DARK, HARDLY_DARK = 1.55, 0.7, 0.6
"""Bounds of the 95th and the 5th percentile of the inside of a T2; between the last two nothing is said."""
# Logistic regressions fitted by `python -m tests.benchmarks.series_look --weights`; figures: docs/series.md.
FLAIR_OR_T1 = np.array([0.15, -1.59, -0.37, 17.03, 0.27, 4.36, 5.32, -1.08, -2.66, 1.02, 9.76, 0.92, 0.47, -0.48])
T1C_OR_T1 = np.array([0.32, -0.35, 0.64, 3.69, -4.68, 0.44, 4.28, 0.26, 4.02, -3.43, -2.99, -0.86, 0.63, 0.41])
"""Weights of the features' logarithms; the last number is the start."""
BRIGHTER = [0, 1, 2, 7, 8, 9, 12]
"""Features by which two T1 are compared: the darkest, the brightest and the scalp."""
T1C_OF_TWO = np.array([0.93, -1.53, 4.95, -0.52, 7.66, -7.56, 1.52])


@dataclass(frozen=True, eq=False)
class Look:
    """What a few slices show, in units of the median brightness deep in the head."""

    features: NDArray[np.float64]
    """Percentiles 1, 5, 10, 25, 75, 90, 95, 99 of the inside; 50 and 90 of the scalp; 50 of the cortex; the inside's
    standard deviation; how far the brightest hundredth stands out, in interquartile ranges."""

    @property
    def logs(self) -> NDArray[np.float64]:
        """Logarithms of the features, as the weights want them."""
        logs: NDArray[np.float64] = np.log(np.maximum(self.features, 0.01))
        return logs


def is_t2(look: Look) -> bool:
    """Say whether CSF is bright and nothing inside the head is as dark as CSF is elsewhere."""
    return bool(look.features[6] > BRIGHT_FLUID and look.features[1] > NOTHING_DARK)


def contrast_points(look: Look) -> dict[str, float]:
    """Points for T1, T2 or FLAIR; empty where the image lies between."""
    if is_t2(look):
        return {"T2": LOOK_POINTS}
    if look.features[6] > BRIGHT_FLUID and look.features[1] > HARDLY_DARK:
        return {}
    odds = float(look.logs @ FLAIR_OR_T1[:-1] + FLAIR_OR_T1[-1])
    if abs(odds) < SURE_ALONE:
        return {}
    return {"FLAIR" if odds > 0 else "T1": min(abs(odds), LOOK_POINTS)}


def agent_points(look: Look) -> float:
    """Log-odds that a lone T1 was taken after contrast agent; 0 where the image does not tell."""
    odds = float(look.logs @ T1C_OR_T1[:-1] + T1C_OR_T1[-1])
    return float(np.clip(odds, -AGENT_ALONE, AGENT_ALONE)) if abs(odds) >= SURE_ALONE else 0.0


def pair_points(one: Look, other: Look) -> float:
    """Log-odds that `one` of two T1 was taken after contrast agent and `other` before; 0 where they do not tell."""
    odds = float((one.logs - other.logs)[BRIGHTER] @ T1C_OF_TWO)
    return float(np.clip(odds, -LOOK_POINTS, LOOK_POINTS)) if abs(odds) >= SURE_OF_TWO else 0.0


def look_at(series: Series, decoder: Decoder = HERE) -> Look | None:
    """Look at a few middle slices; None where they cannot be had or show no head.

    Raises PixelDataRefused where they are more than the limits allow or not what their headers say.
    """
    count = slice_count(series)
    first, last = (int(part * (count - 1)) for part in MIDDLE)
    try:
        planes = read_planes(series, np.unique(np.linspace(first, last, SLICES).astype(int)).tolist(), decoder)
    except (UnreadableInstance, *UNDECODABLE):
        return None
    return look(planes)


def look(planes: FloatArray) -> Look | None:
    """Describe slices (n, rows, columns) of a head; None where they do not look like one."""
    if planes.ndim != 3 or min(planes.shape[1:]) < LEAST_SIDE or not np.isfinite(planes).all():
        return None
    step = max(1, min(planes.shape[1:]) // SIDE)
    smooth = ndimage.uniform_filter(planes, (0, step, step))[:, ::step, ::step]
    depths = [depth for depth in map(_depth, smooth) if depth is not None]
    if len(depths) < len(planes):
        return None
    return _describe(smooth, np.stack(depths))


def _depth(plane: FloatArray) -> FloatArray | None:
    """How deep in the head each pixel lies, as part of the head's radius; None where no head is seen."""
    bright = float(np.percentile(plane, 98))
    head = plane > 0.15 * bright
    labels, found = ndimage.label(ndimage.binary_opening(head, iterations=1))
    if not found:
        return None
    largest: BoolArray = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    head = ndimage.binary_fill_holes(ndimage.binary_closing(largest, iterations=2))
    share = float(head.mean())
    if not HEAD_SHARE[0] < share < HEAD_SHARE[1] or _ragged(head) or float(plane[~head].mean()) > 0.2 * bright:
        return None
    inside = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]
    return np.asarray(inside / np.sqrt(head.sum() / np.pi), np.float32)


def _ragged(head: BoolArray) -> bool:
    """Say whether an outline is too long for its area to be a head's."""
    rim = head & ~ndimage.binary_erosion(head, border_value=1)
    return bool(rim.sum() > 2.2 * 2 * np.sqrt(np.pi * head.sum()))


def _describe(planes: FloatArray, depth: FloatArray) -> Look | None:
    deep, cortex, scalp = depth > 0.3, (depth > 0.2) & (depth < 0.3), (depth > 0.02) & (depth < 0.12)
    inside = planes[deep]
    middle = float(np.median(inside)) if inside.size else 0.0
    if middle <= 0 or inside.std() < 0.02 * middle:
        return None
    low = np.percentile(inside, (1, 5, 10, 25, 75, 90, 95, 99)) / middle
    tail = (low[7] - 1) / max(low[4] - low[3], 1e-3)
    rim = np.percentile(planes[scalp], (50, 90)) / middle
    features = np.concatenate([low, rim, [np.median(planes[cortex]) / middle, inside.std() / middle, tail]])
    return Look(features)
