"""How far a study's network input lies from what the network was trained on.

A study is summed up in a few figures of its framed, normalised slices: how intensities are spread, how sharp the
image is, what lies at the brain's rim, how alike its two halves and its two channels are. Their Mahalanobis distance
from the training cases, with a shrunk covariance, is the score.

Sources: K. Lee et al., NeurIPS 2018 (Mahalanobis distance for out-of-distribution detection); O. Ledoit and M. Wolf,
J. Multivariate Anal. 2004 (shrinkage).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
RIM_PIXELS = 8
"""How deep the brain's rim is taken to be, in frame pixels (1 mm)."""
RIBBON_PIXELS, DEEP_PIXELS = 14, 24
"""Between rim and the first: mostly cortex; deeper than the second: mostly white matter."""
SMALLEST_SHARE = 0.5
"""Slices with less brain than this share of the widest are passed over: they vary most and say least."""
MOST_SLICES = 20
"""Of thin slices so many are looked at, evenly spread: enough for figures over a whole brain."""


class NoveltyError(ValueError):
    """A reference file cannot be read; the message says which."""


def feature_names(channels: tuple[str, ...]) -> tuple[str, ...]:
    """Name the figures that `features` gives, in its order."""
    per_channel = (*(f"quantile {q:g}" for q in QUANTILES), "edges", "detail", "rim", "ribbon", "symmetry", "front")
    single = tuple(f"{c} {name}" for c in channels for name in per_channel)
    return (*single, "likeness of channels", "likeness of their detail", "length to width", "taper")


def features(view: FloatArray) -> NDArray[np.float64]:
    """Sum up a study as the network sees it: (slices, 2, size, size), zero outside the brain.

    Raises ValueError where there is no brain in view.
    """
    inside: BoolArray = np.any(view, axis=1)
    area = np.count_nonzero(inside, axis=(1, 2))
    if not area.any():
        raise ValueError("there is no brain in view")
    chosen = np.flatnonzero(area >= SMALLEST_SHARE * area.max())
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), MOST_SLICES)).round().astype(int)]
    brain, channels = inside[chosen], np.moveaxis(view[chosen], 1, 0)
    depth = np.stack([ndimage.distance_transform_edt(section) for section in brain])
    detail = [c - ndimage.gaussian_filter(c, (0.0, 1.0, 1.0)) for c in channels]
    single = [_of_channel(c, d, brain, depth) for c, d in zip(channels, detail, strict=True)]
    core = depth > 2
    pair = [likeness(channels[0][core], channels[1][core]), likeness(detail[0][core], detail[1][core])]
    return np.array([*np.concatenate(single), *pair, *_shape(brain)])


def _of_channel(image: FloatArray, detail: FloatArray, brain: BoolArray, depth: NDArray[np.float64]) -> list[float]:
    values, core = image[brain], depth > 2
    spread = float(values.std()) + 1e-6
    slope = np.hypot(*np.gradient(image, axis=(1, 2)))
    rim, within = brain & (depth <= RIM_PIXELS), depth > RIM_PIXELS
    ribbon, deep = within & (depth <= RIBBON_PIXELS), depth > DEEP_PIXELS
    mirrored = _mirror(image, brain)
    both = core & (mirrored != 0)
    middle = _middle_row(brain)
    front = np.arange(image.shape[1])[None, :, None] < middle[:, None, None]
    return [
        *(float(q) for q in np.quantile(values, QUANTILES)),
        float(slope[core].mean()) / spread,
        float(detail[core].std()) / spread,
        _gap(image, rim, within) / spread,
        _gap(image, ribbon, deep) / spread,
        likeness(image[both], mirrored[both]),
        _gap(image, brain & front, brain & ~front) / spread,
    ]


def _gap(image: FloatArray, one: BoolArray, other: BoolArray) -> float:
    """Difference of means; 0 where either is empty."""
    return float(image[one].mean() - image[other].mean()) if one.any() and other.any() else 0.0


def likeness(one: FloatArray, other: FloatArray) -> float:
    """Correlation of two sets of values; 0 where either is constant."""
    if len(one) < 2 or not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _mirror(image: FloatArray, brain: BoolArray) -> FloatArray:
    """Flip every slice left to right about the middle of its brain."""
    out = np.zeros_like(image)
    for target, source, section in zip(out, image, brain, strict=True):
        columns = np.flatnonzero(section.any(axis=0))
        low, high = columns[0], columns[-1] + 1
        target[:, low:high] = source[:, low:high][:, ::-1]
    return out


def _middle_row(brain: BoolArray) -> NDArray[np.float64]:
    rows = [np.flatnonzero(section.any(axis=1)) for section in brain]
    return np.array([(r[0] + r[-1]) / 2 for r in rows])


def _shape(brain: BoolArray) -> tuple[float, float]:
    """Length to width of the widest section, and how much wider it is behind than in front."""
    section = brain[int(brain.sum(axis=(1, 2)).argmax())]
    rows = np.flatnonzero(section.any(axis=1))
    width = section[rows[0] : rows[-1] + 1].sum(axis=1).astype(float)
    quarter = len(width) // 4
    front, back = width[quarter], width[-1 - quarter]
    return len(width) / width.max(), float(np.log((back + 1) / (front + 1)))


@dataclass(frozen=True)
class Reference:
    """What a network was trained on, in figures."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    """Inverse covariance of the figures after each is centred and divided by its deviation."""
    warn: float
    """Scores above are farther out than hardly any training case seen from the others."""
    stop: float
    """Scores above are of no study that the network can be trusted with."""
    cases: int
    frame_version: int

    def score(self, figures: NDArray[np.float64]) -> float:
        """Give the Mahalanobis distance of one study's figures, over the square root of their number."""
        z = (figures - np.array(self.mean)) / np.array(self.deviation)
        return float(np.sqrt(z @ np.array(self.precision) @ z / len(z)))

    def oddest(self, figures: NDArray[np.float64], count: int = 2) -> list[str]:
        """Name the figures farthest from the training cases' mean, farthest first."""
        z = np.abs((figures - np.array(self.mean)) / np.array(self.deviation))
        return [self.names[i] for i in np.argsort(z)[::-1][:count]]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def load_reference(path: Path) -> Reference:
    """Read a reference; raises NoveltyError where the file is not one."""
    try:
        return TypeAdapter(Reference).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise NoveltyError(f"{path} does not describe a network's input; make it anew") from error
