"""From a slice-wise network's probabilities to one lesion in space, and how far that can be trusted.

The network sees one slice at a time; a reader sees the lesion in 3-D. What is sure of itself is kept together with
what is less sure but touches it (hysteresis), and what is too small to be a lesion goes. How sure the network is of
the whole is told as the Dice that it should expect, calibrated on patients that it never saw.

All settings were chosen on held-out patients (models.nasbranet refine) and are read from models/inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy import ndimage

from models.json_file import first_fault

REFINEMENT = Path(__file__).parent / "inputs" / "nasbranet.refinement.json"
"""What ships beside the network."""

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Segmenter = Callable[[FloatArray], FloatArray]
"""Maps slices (N, C, H, W) to probabilities (N, H, W)."""
LEAST_DOUBT = 0.03
"""No outline is expected to be better than this of a Dice of 1: two people's are not either."""
_TOUCHING = np.ones((3, 3, 3), bool)


class RefinementError(ValueError):
    """The settings' file is not what is expected; the message says what is wrong."""


class Spread(BaseModel):
    """How far measures on the network's outline lie from those on one drawn by hand: split-conformal quantiles.

    The score of a patient is |log(drawn / found)| / (1 - expected Dice), so a doubtful outline has a wide interval.
    Source: J. Lei et al., "Distribution-free predictive inference for regression", JASA 2018 (locally weighted).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    level: float = Field(gt=0, lt=1, description="share of patients whose drawn measure lies in the interval")
    volume: float = Field(ge=0, description="quantile of the score of the volume")
    long_axis: float = Field(ge=0, description="of the longest diameter")
    short_axis: float = Field(ge=0, description="of the diameter at a right angle to it")
    patients: int = Field(ge=1, description="held-out patients that this was measured on")

    @staticmethod
    def doubt(expected_dice: float) -> float:
        """Scale of an error in log units."""
        return max(1.0 - expected_dice, LEAST_DOUBT)

    def around(self, value: float, quantile: float, expected_dice: float) -> tuple[float, float]:
        """Give the interval of a measure; `quantile` is this object's own for it."""
        factor = math.exp(quantile * self.doubt(expected_dice))
        return value / factor, value * factor


class Refinement(BaseModel):
    """How probabilities become a lesion; the defaults leave them as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    flips: bool = Field(default=False, description="average with what is found in the mirror image")
    low: float = Field(default=0.5, gt=0, lt=1, description="probability from which a voxel may belong to a lesion")
    high: float = Field(default=0.5, gt=0, lt=1, description="probability that a lesion must reach somewhere")
    smallest_ml: float = Field(default=0.0, ge=0, description="lesions of less volume are dropped, in ml")
    expected: tuple[float, ...] = Field(default=(), description="rising expected Dice values, knots of the calibration")
    observed: tuple[float, ...] = Field(default=(), description="the Dice that held-out patients had there")
    doubtful: float = Field(default=0.7, description="calibrated Dice below which a reader is warned")
    patients: int = Field(default=0, description="held-out patients that all this was chosen on")
    spread: Spread | None = Field(default=None, description="how far measures can be trusted, where that is known")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low, {self.low}, is above high, {self.high}")
        if len(self.expected) != len(self.observed) or list(self.expected) != sorted(self.expected):
            raise ValueError("the calibration needs as many observed as expected values, the latter rising")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read settings; raises RefinementError with one line where the file is not of the expected form."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise RefinementError(f"{path.name}: {first_fault(error)}") from error

    def probabilities(self, segment: Segmenter, images: FloatArray) -> FloatArray:
        """Ask the network about slices (N, C, H, W), of the mirror image too where that pays."""
        found = segment(images)
        return average_flips(found, segment(mirrored(images))[..., ::-1]) if self.flips else found

    def mask(self, probability: FloatArray, spacing_mm: tuple[float, float, float]) -> BoolArray:
        """Give the lesions (slices, rows, columns); `spacing_mm` is their (slice, row, column) spacing."""
        labels, peaks, millilitres = lesions(probability, self.low, spacing_mm)
        kept = self.keeps(peaks, millilitres)
        found: BoolArray = np.concatenate([[False], kept])[labels]
        return found

    def keeps(self, peaks: NDArray[np.float64], millilitres: NDArray[np.float64]) -> BoolArray:
        """Say which lesions stay, by the greatest probability and the volume of each."""
        kept: BoolArray = (peaks > self.high) & (millilitres >= self.smallest_ml)
        return kept

    def apply(self, probability: FloatArray, spacing_mm: tuple[float, float, float]) -> FloatArray:
        """Move the probabilities to the side of one half on which `mask` has them."""
        mask = self.mask(probability, spacing_mm)
        just_above = np.float32(np.nextafter(np.float32(0.5), np.float32(1.0)))
        moved: FloatArray = np.where(mask, np.maximum(probability, just_above), np.minimum(probability, 0.5))
        return moved.astype(np.float32)

    def confidence(self, probability: FloatArray, mask: BoolArray) -> float:
        """Give the Dice that this segmentation should have, calibrated on held-out patients.

        It is 1 where none is found, which says nothing: no patient without a tumour was there to calibrate it on.
        """
        value = expected_dice(probability, mask)
        if not self.expected or not mask.any():
            return value
        return float(np.interp(value, self.expected, self.observed))


def lesions(
    probability: FloatArray, low: float, spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Number the connected regions above `low` (0 is none); with each one's greatest probability and volume in ml."""
    labels: NDArray[np.int32]
    labels, count = ndimage.label(probability > low, _TOUCHING)
    peaks = np.asarray(ndimage.maximum(probability, labels, np.arange(1, count + 1)), float)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(float)
    millilitres: NDArray[np.float64] = voxels * float(np.prod(spacing_mm)) / 1000.0
    return labels, peaks, millilitres


def mirrored(images: FloatArray) -> FloatArray:
    """Turn slices left to right."""
    return np.ascontiguousarray(images[..., ::-1])


def average_flips(plain: FloatArray, back: FloatArray) -> FloatArray:
    """Average what was found in the image and in its mirror image."""
    mean: FloatArray = ((plain + back) / 2).astype(np.float32)
    return mean


def expected_dice(probability: FloatArray, mask: BoolArray) -> float:
    """Give the Dice that a mask should have if each probability were true: 2 E|A and T| / (|A| + E|T|)."""
    total = float(mask.sum()) + float(probability.sum(dtype=np.float64))
    return 2.0 * float(probability[mask].sum(dtype=np.float64)) / total if mask.any() else 1.0


def refinement_of(network: str, inputs: Path | None = None) -> Path:
    """Say where a network's own settings lie, by its name, in models/inputs or another folder; there may be none."""
    return (inputs or REFINEMENT.parent) / f"{network}.refinement.json"


def load_refinement(path: Path) -> Refinement:
    """Read `path`, or where there is no such file leave probabilities as they are."""
    return Refinement.load(path) if path.is_file() else Refinement()
