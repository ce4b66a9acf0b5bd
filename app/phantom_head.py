"""The phantom's anatomy: a healthy head of known tissues.

The brain is the ICBM 152 2009a template that nilearn carries. It comes without a skull, so rim, skull, scalp,
face and eyes are grown around it from distances; vessels and mucosa are smooth random functions of place.
Coordinates are patient coordinates (LPS, mm), with the template's origin near the anterior commissure.

Source: V. Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies", NeuroImage 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import nilearn
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from operators.domain import BoolArray, FloatArray

Points = NDArray[np.floating]
"""Patient coordinates, shape (..., 3), LPS mm."""
Box = tuple[slice, slice, slice]

ENTIRE: Box = (slice(None), slice(None), slice(None))
BELOW_MM = 24
"""The template ends at the brain stem; the neck goes on this far below."""
WRAP_MM = 2
"""Grid of everything around the brain: no finer detail is needed there."""


@dataclass(frozen=True, eq=False)
class Waves:
    """A sum of plane waves: a random function of place with mean 0 and deviation 1, defined at every point."""

    vectors: NDArray[np.float32]
    """(waves, 3), radians per mm."""
    phases: NDArray[np.float32]

    def __call__(self, points: Points) -> FloatArray:
        """Value at each point: (..., 3) to (...)."""
        total = np.zeros(points.shape[:-1], np.float32)
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            total += np.cos(points.astype(np.float32) @ vector + phase)
        return total * np.float32(np.sqrt(2 / len(self.phases)))


def waves(seed: int, name: str, count: int, shortest_mm: float, longest_mm: float) -> Waves:
    """Draw a random function whose waves lie between two lengths; `name` keeps functions of one seed apart."""
    rng = np.random.default_rng([seed, *name.encode()])
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = np.exp(rng.uniform(np.log(shortest_mm), np.log(longest_mm), (count, 1)))
    phases = rng.uniform(0, 2 * np.pi, count)
    return Waves((direction * (2 * np.pi / length)).astype(np.float32), phases.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid along the patient's axes: index (i, j, k) lies at `origin + step * index`."""

    origin: NDArray[np.float64]
    step: float
    shape: tuple[int, int, int]

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 x 4, from index to patient coordinates."""
        matrix = np.diag([self.step, self.step, self.step, 1.0])
        matrix[:3, 3] = self.origin
        return matrix

    def points(self, box: Box = ENTIRE) -> NDArray[np.float32]:
        """Patient coordinates of a box of the grid, shape (i, j, k, 3)."""
        axes = [(o + self.step * np.arange(n))[s] for o, n, s in zip(self.origin, self.shape, box, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)

    def box(self, centre: Points, reach_mm: float) -> Box:
        """Slices of the grid that hold all within `reach_mm` of a point."""
        low = np.floor((np.asarray(centre) - reach_mm - self.origin) / self.step).astype(int)
        high = np.ceil((np.asarray(centre) + reach_mm - self.origin) / self.step).astype(int) + 1
        i, j, k = (slice(max(0, a), max(0, b)) for a, b in zip(low, high, strict=True))
        return i, j, k

    def evaluate(self, function: Waves, coarser: int = 3) -> FloatArray:
        """Values of a smooth function on this grid, computed on a coarser one and interpolated."""
        i, j, k = (-(-n // coarser) + 1 for n in self.shape)
        coarse = Grid(self.origin, self.step * coarser, (i, j, k))
        return coarse.resample(function(coarse.points()), self.affine, self.shape)

    def resample(self, values: FloatArray, affine: NDArray[np.float64], shape: tuple[int, int, int]) -> FloatArray:
        """Read a map of this grid linearly on another grid, whose indices `affine` maps to patient coordinates."""
        pull = np.linalg.inv(self.affine) @ affine
        transform = sitk.AffineTransform(3)  # its axes run the other way round than an array's
        transform.SetMatrix(pull[2::-1, 2::-1].ravel())
        transform.SetTranslation(pull[2::-1, 3])
        reference = sitk.Image([int(n) for n in shape[::-1]], sitk.sitkUInt8)
        found: FloatArray = sitk.GetArrayFromImage(sitk.Resample(sitk.GetImageFromArray(values), reference, transform))
        return found

    def sample(self, values: FloatArray, points: Points) -> FloatArray:
        """Value of a map of this grid at points anywhere, linearly; 0 outside."""
        index = np.moveaxis((points - self.origin) / self.step, -1, 0)
        found: FloatArray = ndimage.map_coordinates(values, index, order=1, output=np.float32)
        return found


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The healthy head: tissue fractions, 0 to 1, of the brain and of what is around it, each on its own grid."""

    brain_grid: Grid
    brain: Mapping[str, FloatArray] = field(repr=False)
    texture: FloatArray = field(repr=False)
    """What the template's T1 shows beyond its tissue classes, about -.1 to .1, on the brain's grid."""
    parenchyma: FloatArray = field(repr=False)
    """Where a glioma may grow: the brain with its sulci, without the ventricles; on the brain's grid."""
    wrap_grid: Grid
    wrap: Mapping[str, FloatArray] = field(repr=False)


@lru_cache(maxsize=2)
def anatomy(step: int) -> Anatomy:
    """Build the head with the brain on a grid of `step` mm, 1 or 2; kept for the next call."""
    origin = np.array([-98.0, -98.0, -72.0 - BELOW_MM])
    with ThreadPoolExecutor(2) as pool:
        t1, grey, white = pool.map(_template, ("t1", "gm", "wm"))
        brain = ndimage.gaussian_filter((t1 > 0.05).astype(np.float32), 0.6)
        wrap_grid, wrap_brain = _coarsen(brain, origin, WRAP_MM)
        wrap = pool.submit(_wrappings, wrap_grid, wrap_brain)
        if step > 1:
            t1, grey, white, brain = (_coarsen(v, origin, step)[1] for v in (t1, grey, white, brain))
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(brain > 0.01))
        t1, grey, white, brain = (v[box] for v in (t1, grey, white, brain))
        corner = origin + (step - 1) / 2 + [step * s.start for s in box]
        grid = Grid(corner, float(step), brain.shape)
        return _brain(grid, t1, grey * brain, white * brain, brain, (wrap_grid, wrap))


def _template(name: str) -> FloatArray:
    path = Path(nilearn.__file__).parent / f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    # The template's axes run right to left reversed and back to front; patient coordinates run left and back.
    values = nib.Nifti1Image.from_filename(path).get_fdata(dtype=np.float32)[::-1, ::-1, :] / 255
    return np.pad(values, ((0, 0), (0, 0), (BELOW_MM, 0)))


def _coarsen(values: FloatArray, origin: NDArray[np.float64], factor: int) -> tuple[Grid, FloatArray]:
    """Average blocks of a 1 mm map; the block's middle is the new voxel's place."""
    i, j, k = (n // factor for n in values.shape)
    blocks = values[: i * factor, : j * factor, : k * factor].reshape(i, factor, j, factor, k, factor)
    return Grid(origin + (factor - 1) / 2, float(factor), (i, j, k)), blocks.mean(axis=(1, 3, 5))


def _brain(
    grid: Grid,
    t1: FloatArray,
    grey: FloatArray,
    white: FloatArray,
    brain: FloatArray,
    around: tuple[Grid, Future[dict[str, FloatArray]]],
) -> Anatomy:
    fluid = np.clip(brain - grey - white, 0, 1)
    deep = _outside(brain <= 0.5, grid.step)
    ventricles = ndimage.gaussian_filter(((deep > 14) & (fluid > 0.5)).astype(np.float32), 1.0 / grid.step)
    # Two smooth functions vanish together along lines: those lines are the vessels, in the sulci only.
    artery, vein = (grid.evaluate(waves(1, name, 24, 16, 40)) for name in ("artery", "vein"))
    vessel = np.exp(-(artery**2 + vein**2) / 0.02) * np.clip(fluid * 2, 0, 1) * (deep < 14)
    plexus = 0.25 * ventricles * np.exp(-((grid.evaluate(waves(1, "plexus", 16, 10, 30)) / 0.2) ** 2))
    x, _, z = np.moveaxis(grid.points(), -1, 0)
    sinus = brain * _soft(abs(x) - 3.0) * _soft(deep - 4.0) * (z > 5)
    vessel = np.clip(np.maximum.reduce([vessel, plexus, sinus]), 0, 1).astype(np.float32)
    keep = 1 - vessel
    tissues = {"white": white * keep, "grey": grey * keep, "fluid": fluid * keep, "vessel": vessel * brain}
    texture = np.clip(t1 - (0.86 * white + 0.60 * grey + 0.30 * fluid), -0.12, 0.12) * brain * keep
    return Anatomy(grid, tissues, texture, np.clip(brain - ventricles, 0, 1), around[0], around[1].result())


def _soft(distance: FloatArray, width_mm: float = 0.8) -> FloatArray:
    """1 where distance is well below 0, 0 well above, smooth between."""
    smooth: FloatArray = (0.5 - 0.5 * np.tanh(distance / (2 * width_mm))).astype(np.float32)
    return smooth


def _outside(mask: BoolArray, step: float) -> FloatArray:
    """Distance to a mask in mm."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    signed: FloatArray = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, squaredDistance=False))
    return np.maximum(signed, 0) * np.float32(step)


def _envelopes(grid: Grid, brain: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Distance outside the brain's smooth hull, and depth beneath the skin, both in mm, 0 elsewhere."""
    near = _outside(brain > 0.5, WRAP_MM) <= 16
    hull = _outside(_outside(~near, WRAP_MM) > 16, WRAP_MM)
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    face = (x / 62) ** 2 + ((y + 42) / 56) ** 2 + ((z + 62) / 50) ** 2 < 1
    nose = (x / 14) ** 2 + ((y + 88) / 20) ** 2 + ((z + 56) / 22) ** 2 < 1
    neck = ((x / 60) ** 2 + ((y - 28) / 62) ** 2 < 1) & (z < -30)
    scalp = hull < 13 + 1.2 * grid.evaluate(waves(0, "scalp", 6, 60, 160))
    head = ndimage.gaussian_filter((scalp | face | nose | neck).astype(np.float32), 2) > 0.5
    return hull, _outside(~head, WRAP_MM)


def _wrappings(grid: Grid, brain: FloatArray) -> dict[str, FloatArray]:
    """Everything around the brain; with the brain, the fractions add up to 1 inside the head."""
    hull, depth = _envelopes(grid, brain)
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    noise = {name: grid.evaluate(waves(0, name, 14, 10, 40), 2) for name in ("marrow", "planes", "air", "mucosa")}
    head = np.clip(depth / WRAP_MM, 0, 1)
    around = head * (1 - brain)
    midline, tentorium = _soft(abs(x) - 3.5) * (z > -10), _soft(abs(z + 18) - 3.5) * (y > 45)
    sinus = around * _soft(hull - 6.0) * np.maximum(midline, tentorium) * (y > -55)
    rim = around * _soft(hull - 2.0) - np.minimum(sinus, around * _soft(hull - 2.0))
    skull = np.clip(around * _soft(hull - 8.5) - rim - sinus, 0, 1)
    soft = np.clip(around - rim - sinus - skull, 0, 1)
    marrow = skull * _soft(np.abs(hull - 5.2) - 1.2) * np.clip(0.6 + 0.4 * noise["marrow"], 0, 1)
    fat = soft * np.maximum(_soft(depth - 6.5), 0.8 * _soft(0.5 - noise["planes"], 0.15) * (z < -25))
    mouth = (np.abs(x) < 34) & (y < -40) & (z < -28)
    air = _soft(0.2 - noise["air"], 0.1) * mouth * (depth > 9)
    eye = np.zeros_like(head)
    for side in (-32, 32):
        away = np.sqrt((x - side) ** 2 + (y + 64) ** 2 + (z + 36) ** 2)
        eye = np.maximum(eye, _soft(away - 12) * (1 - brain))
        fat, air = np.maximum(fat, soft * _soft(away - 19)), air * (away > 19)
    mucosa = (soft - fat) * mouth * _soft(-noise["mucosa"], 0.2)
    tissues = {"fluid": rim, "vessel": sinus, "bone": skull - marrow, "marrow": marrow, "fat": fat, "mucosa": mucosa}
    tissues["muscle"] = soft - fat - mucosa
    return {name: t * (1 - eye) * (1 - air) for name, t in tissues.items()} | {"eye": eye}
