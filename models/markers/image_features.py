"""What a tumour looks like, in figures a person can name: where it lies, how large and ragged it is, how it shines.

They are read from the network's own view of a study (models.frame), so that training and node mean the same by them.
None depends on the distance between slices, which public training data do not record.

Sources: M. Smits and M. van den Bent, "Imaging Correlates of Adult Glioma Genotypes", Radiology 2017 (place, edge and
enhancement by IDH and 1p/19q); S. Patel et al., Clin. Cancer Res. 2017 (FLAIR dark within a bright rim).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import kurtosis, skew

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

CHANNELS = ("T1C", "FLAIR")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BRIGHT_T1C = 2.0
"""Deviations of the brain above its mean: what lies above on T1C counts as enhancing."""
DARK_T1C, DARK_FLAIR = -1.0, 0.0
"""Below the first on T1C lies fluid or necrosis; below the second on FLAIR what is no oedema."""
EDGE_PIXELS = 3
"""Depth of the tumour's edge, in frame pixels (1 mm)."""
RIM_PIXELS = (1, 4)
"""The rim around the tumour lies between these distances from it, in frame pixels."""
HISTOGRAM = np.arange(-5.0, 5.01, 0.25)


class NoTumour(ValueError):
    """There is no tumour to describe."""


class _Parts(NamedTuple):
    """The tumour, its edge and core, and the brain around it."""

    mask: BoolArray
    edge: BoolArray
    core: BoolArray
    rim: BoolArray


def feature_names() -> tuple[str, ...]:
    """Name the figures that `describe` gives, in its order."""
    place = ("height", "front to back", "off midline", "other side's share", "tall", "long", "wide")
    single = (
        "mean", "deviation", *(f"quantile {q:g}" for q in QUANTILES), "skewness", "kurtosis", "against rim",
        "core against edge", "edge steepness", "roughness", "spots", "entropy",
    )  # fmt: skip
    shape = ("share of brain", "raggedness")
    pair = ("enhancing share", "enhancing share of brain", "dark share on T1C", "dark share on FLAIR", "likeness")
    return (*place, *shape, *(f"{c} {name}" for c in CHANNELS for name in single), *pair)


def describe(view: FloatArray, tumour: BoolArray) -> NDArray[np.float64]:
    """Describe the tumour (slices, H, W) of a study as the network sees it (slices, 2, H, W), zero outside the brain.

    Raises NoTumour where none of it lies in the brain.
    """
    brain: BoolArray = np.any(view, axis=1)
    inside = tumour & brain
    if not inside.any():
        raise NoTumour("no tumour lies in the brain")
    chosen = inside.any(axis=(1, 2))
    images, mask, around = np.moveaxis(view[chosen], 1, 0), inside[chosen], brain[chosen]
    parts = _parts(mask, around)
    single = [_of_channel(image, parts) for image in images]
    figures = [_place(inside, brain), _shape(mask, brain), *single, _pair(images, mask, brain)]
    return np.concatenate(figures)


def _place(mask: BoolArray, brain: BoolArray) -> list[float]:
    """Place and extent along (height, front to back, right to left), as shares of the brain's."""
    found, whole = np.nonzero(mask), np.nonzero(brain)
    low = [int(axis.min()) for axis in whole]
    size = [int(np.ptp(axis)) + 1 for axis in whole]
    height, depth, across = ((f.mean() - start) / s for f, start, s in zip(found, low, size, strict=True))
    right = float(np.mean(found[2] < low[2] + size[2] / 2))
    extents = [(int(np.ptp(f)) + 1) / s for f, s in zip(found, size, strict=True)]
    return [float(height), float(depth), abs(float(across) - 0.5), min(right, 1.0 - right), *extents]


def _shape(mask: BoolArray, brain: BoolArray) -> list[float]:
    """Share of the brain, and outline over that of a disc of equal area, averaged by area."""
    area = mask.sum(axis=(1, 2)).astype(float)
    outline = np.array([np.count_nonzero(m & ~ndimage.binary_erosion(m)) for m in mask], float)
    ragged = outline / (2.0 * np.sqrt(np.pi * area))
    return [float(area.sum() / brain.sum()), float(np.average(ragged, weights=area))]


def _parts(mask: BoolArray, brain: BoolArray) -> _Parts:
    far = np.stack([ndimage.distance_transform_edt(~m) for m in mask])
    deep = np.stack([ndimage.distance_transform_edt(m) for m in mask])
    rim = brain & (far > RIM_PIXELS[0]) & (far <= RIM_PIXELS[1])
    return _Parts(mask, mask & (deep <= EDGE_PIXELS), deep > EDGE_PIXELS, rim)


def _of_channel(image: FloatArray, parts: _Parts) -> list[float]:
    mask, edge, core, rim = parts
    values = image[mask].astype(float)
    slope = np.stack([ndimage.gaussian_gradient_magnitude(section, 1.0) for section in image])
    spots = np.stack([ndimage.gaussian_laplace(section, 2.0) for section in image])
    counts = np.histogram(values, HISTOGRAM)[0] / len(values)
    used = counts[counts > 0]
    flat = values.std() < 1e-6
    return [
        float(values.mean()),
        float(values.std()),
        *(float(q) for q in np.quantile(values, QUANTILES)),
        0.0 if flat else float(skew(values)),
        0.0 if flat else float(kurtosis(values, fisher=False)),
        _gap(image, mask, rim),
        _gap(image, core, edge),
        float(slope[edge].mean()),
        float(slope[mask].mean()),
        float(spots[mask].std()),
        float(-(used * np.log(used)).sum()),
    ]


def _pair(images: FloatArray, mask: BoolArray, brain: BoolArray) -> list[float]:
    t1c, flair = (image[mask] for image in images)
    enhancing = t1c > BRIGHT_T1C
    alike = np.corrcoef(t1c, flair)[0, 1] if len(t1c) > 1 and t1c.std() and flair.std() else 0.0
    return [
        float(enhancing.mean()),
        float(enhancing.sum() / brain.sum()),
        float((t1c < DARK_T1C).mean()),
        float((flair < DARK_FLAIR).mean()),
        float(alike),
    ]


def _gap(image: FloatArray, one: BoolArray, other: BoolArray) -> float:
    """Difference of means; 0 where either is empty."""
    return float(image[one].mean() - image[other].mean()) if one.any() and other.any() else 0.0
