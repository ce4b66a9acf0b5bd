"""A synthetic four-sequence MR study of a head with a glioma, whose truth is known exactly; for demo and tests.

Between sequences the patient moves; T1C is the pose of reference. What the images show and what the truth says
come from the same functions of patient coordinates (LPS, mm), so that any grid can be checked against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy import ndimage
from scipy.spatial.transform import Rotation

from app.phantom_files import slices_of, write_images
from app.phantom_head import Anatomy, Grid, Points, anatomy, waves
from app.phantom_headers import ORDER, Vendor, ct_header, mr_header, study_header, uid
from app.phantom_lesion import Lesion, make_lesion, paint
from models.segments import Segment
from operators.domain import Contrast, FloatArray

Matrix = NDArray[np.float64]

HEAD_CENTRE = np.array([0.0, 12.0, 6.0])
"""Middle of the field of view and of every rotation, LPS mm."""
BRIGHTNESS: Mapping[Contrast, float] = {Contrast.T1: 820, Contrast.T1C: 900, Contrast.T2: 1100, Contrast.FLAIR: 1000}
"""Stored value of signal 1."""


class Plane(StrEnum):
    """Which way the slices lie before they are tilted."""

    AXIAL = "axial"
    SAGITTAL = "sagittal"
    CORONAL = "coronal"


AXES: Mapping[Plane, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    Plane.AXIAL: ((1, 0, 0), (0, 1, 0)),
    Plane.SAGITTAL: ((0, 1, 0), (0, 0, -1)),
    Plane.CORONAL: ((1, 0, 0), (0, 0, -1)),
}
"""Directions of growing column index and of growing row index, LPS."""


@dataclass(frozen=True)
class Motion:
    """How the patient lies in one sequence, seen from T1C's pose; turns are about the head's centre."""

    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """About the left, posterior and superior axes."""

    @property
    def matrix(self) -> Matrix:
        """4 x 4: from T1C's patient coordinates to where the same tissue lies in this sequence's own."""
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler("xyz", self.turn_degrees, degrees=True).as_matrix()
        matrix[:3, 3] = HEAD_CENTRE + np.array(self.shift_mm) - matrix[:3, :3] @ HEAD_CENTRE
        return matrix


DEFAULT_MOTION: Mapping[Contrast, Motion] = MappingProxyType(
    {
        Contrast.T1: Motion((1.5, -1.0, 2.0), (1.5, -1.0, 2.0)),
        Contrast.T2: Motion((-1.0, 1.5, -1.0), (-1.0, 0.5, -1.5)),
        Contrast.FLAIR: Motion((-2.0, 1.0, -1.5), (2.0, 1.0, -2.5)),
    }
)


@dataclass(frozen=True, kw_only=True)
class PhantomOptions:
    """What the phantom is; equal options make identical files."""

    seed: int = 0
    vendor: Vendor = Vendor.SIEMENS
    contrasts: tuple[Contrast, ...] = ORDER
    plane: Plane = Plane.AXIAL
    tilt_degrees: tuple[float, float, float] = (10.0, 2.0, -3.0)
    """Turn of the slices about the left, posterior and superior axes."""
    slices: int = 26
    thickness_mm: float = 5.0
    spacing_mm: float = 5.5
    """Between slice centres; below 2 mm the headers tell of 3-D sequences."""
    rows: int = 256
    columns: int = 256
    pixel_mm: float = 0.9
    one_matrix: bool = False
    """Give all sequences the same matrix; otherwise T2's is finer and FLAIR's narrower."""
    motion: Mapping[Contrast, Motion] = field(default_factory=lambda: DEFAULT_MOTION)
    """A sequence that is not named lies as T1C does."""
    noise: float = 0.015
    """Deviation of the receiver's noise; white matter on T1 is about .7."""
    bias: float = 0.10
    """Relative deviation of the receive coils' slow drift."""
    lesion_centre_lps: tuple[float, float, float] = (-30.0, -14.0, 30.0)
    lesion_radius_mm: float = 23.0
    """Mean radius; 0 makes a healthy head."""
    age_years: int = 55
    transfer_syntax: str = ExplicitVRLittleEndian
    """UID: any uncompressed one, deflated too, RLE Lossless, JPEG-LS Lossless or JPEG 2000 Lossless."""
    rescale_per_slice: bool = False
    """Store each slice with a slope and an intercept of its own."""
    gantry_tilt_degrees: float = 0.0
    """Angle between the slices' normal and the line that they are stacked along, toward growing row index."""
    enhanced: bool = False
    """Store each series as one enhanced multi-frame object."""
    high_grade: bool = False
    """Give the lesion an enhancing rim, a necrotic centre and oedema around them."""

    @property
    def identity(self) -> str:
        """What the UIDs are hashed from; of options that came later, only what was asked for."""
        asked = {k: v for k, v in vars(self).items() if k not in LATER_OPTIONS or v != LATER_OPTIONS[k]}
        return repr({name: str(dict(v) if isinstance(v, Mapping) else v) for name, v in asked.items()})


LATER_OPTIONS: Mapping[str, object] = {"gantry_tilt_degrees": 0.0, "enhanced": False, "high_grade": False}
"""With their defaults: the UIDs of phantoms without them must stay."""


@dataclass(frozen=True, eq=False)
class SeriesGrid:
    """The grid of one sequence."""

    affine: Matrix
    """4 x 4, from index (slice, row, column) to the sequence's patient coordinates."""
    shape: tuple[int, int, int]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(slice, row, column) spacing in mm."""
        lengths: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return lengths


def series_grid(options: PhantomOptions, contrast: Contrast) -> SeriesGrid:
    """Place one sequence's slices about the head's centre."""
    rows, columns, pixel = options.rows, options.columns, options.pixel_mm
    if not options.one_matrix and contrast is Contrast.T2:
        rows, columns, pixel = rows * 5 // 4, columns * 5 // 4, pixel * 4 / 5
    if not options.one_matrix and contrast is Contrast.FLAIR:
        columns = columns * 13 // 16
    tilt = Rotation.from_euler("xyz", options.tilt_degrees, degrees=True).as_matrix()
    along_row, along_column = (tilt @ np.array(axis, float) for axis in AXES[options.plane])
    normal = np.cross(along_row, along_column)
    shape = (options.slices, rows, columns)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([normal * options.spacing_mm, along_column * pixel, along_row * pixel], axis=1)
    affine[:3, 0] += along_column * options.spacing_mm * np.tan(np.radians(options.gantry_tilt_degrees))
    affine[:3, 3] = HEAD_CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return SeriesGrid(affine, shape)


@dataclass(frozen=True, eq=False)
class PhantomTruth:
    """What is true of a phantom, whatever is made of its images."""

    options: PhantomOptions
    folder: Path
    study_uid: str
    lesion: Lesion | None = field(repr=False)
    head: Anatomy = field(repr=False)

    @property
    def motion(self) -> dict[Contrast, Matrix]:
        """4 x 4 a contrast: from T1C's patient coordinates to where the same tissue lies in that series' own."""
        return {c: self.options.motion.get(c, Motion()).matrix for c in self.options.contrasts}

    def grid(self, contrast: Contrast) -> SeriesGrid:
        """The grid of a sequence."""
        return series_grid(self.options, contrast)

    def series_uid(self, contrast: Contrast) -> str:
        """Series Instance UID of a sequence."""
        return uid(self.options.identity, "series", contrast)

    def is_lesion(self, points: Points, part: Segment | None = None) -> NDArray[np.bool_]:
        """Say for points (..., 3) of T1C's patient coordinates whether they lie in the lesion, or in a layer of it."""
        if self.lesion is None:
            return np.zeros(points.shape[:-1], bool)
        depth = self.lesion.depth(points)
        inside = depth > 0 if part is None else self.lesion.part_at(depth, part)
        inside[inside] = self.head.brain_grid.sample(self.head.parenchyma, points[inside]) > 0.5
        return inside

    def lesion_occupancy(
        self,
        affine: Matrix,
        shape: tuple[int, ...],
        contrast: Contrast = Contrast.T1C,
        samples: tuple[int, int, int] = (5, 3, 3),
        part: Segment | None = None,
    ) -> FloatArray:
        """Share of each voxel that is lesion, or a layer of it, 0 to 1, on any grid in the pose of one sequence.

        `affine` maps the grid's indices to that sequence's patient coordinates; voxels are as thick as the grid's
        spacing, so that the sum times the voxel's volume is the lesion's volume.
        """
        occupancy = np.zeros(shape, np.float32)
        if self.lesion is None:
            return occupancy
        to_head = np.linalg.inv(self.options.motion.get(contrast, Motion()).matrix) @ affine
        middle = np.linalg.inv(to_head) @ [*self.lesion.centre, 1.0]
        reach = self.lesion.reach_mm * np.linalg.norm(np.linalg.inv(to_head)[:3, :3], axis=1) + 1
        low, high = np.floor(middle[:3] - reach).astype(int), np.ceil(middle[:3] + reach).astype(int) + 1
        box = tuple(slice(max(0, a), max(0, min(n, b))) for a, b, n in zip(low, high, shape, strict=True))
        index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1)
        offsets = [(np.arange(n) + 0.5) / n - 0.5 for n in samples]
        for offset in product(*offsets):
            points = (index + offset) @ to_head[:3, :3].T + to_head[:3, 3]
            occupancy[box] += self.is_lesion(points.astype(np.float32), part)
        return occupancy / np.float32(np.prod(samples))

    @cached_property
    def _integral(self) -> tuple[float, NDArray[np.float64]]:
        """Volume in mm3 and centroid in T1C's coordinates, summed on a .75 mm grid."""
        if self.lesion is None:
            return 0.0, np.full(3, np.nan)
        step = 0.75
        n = int(np.ceil(2 * self.lesion.reach_mm / step))
        points = Grid(self.lesion.centre - step * (n - 1) / 2, step, (n, n, n)).points()
        inside = points[self.is_lesion(points)]
        return len(inside) * step**3, inside.mean(axis=0, dtype=np.float64)

    @property
    def lesion_mm3(self) -> float:
        """Volume of the lesion."""
        return self._integral[0]

    def lesion_centroid_lps(self, contrast: Contrast = Contrast.T1C) -> NDArray[np.float64]:
        """Centre of gravity of the lesion in one sequence's patient coordinates; NaN for a healthy head."""
        moved: NDArray[np.float64] = self.options.motion.get(contrast, Motion()).matrix @ [*self._integral[1], 1.0]
        return moved[:3]


def phantom_truth(folder: Path, options: PhantomOptions) -> PhantomTruth:
    """Say what is true of a phantom without writing it."""
    radius = options.lesion_radius_mm
    return PhantomTruth(
        options,
        folder,
        uid(options.identity, "study"),
        make_lesion(options.seed, options.lesion_centre_lps, radius, layered=options.high_grade)
        if radius > 0
        else None,
        anatomy(1 if options.pixel_mm < 1.8 else 2),
    )


def make_phantom(folder: Path, options: PhantomOptions | None = None) -> PhantomTruth:
    """Write a phantom study into a folder, one file a slice, and return its truth."""
    truth = phantom_truth(folder, options or PhantomOptions())
    folder.mkdir(parents=True, exist_ok=True)
    study = study_header(truth.options.identity, truth.options.age_years)
    with ThreadPoolExecutor(2) as pool:
        images = pool.map(lambda c: phantom_image(truth, c), truth.options.contrasts)
        for contrast, image in zip(truth.options.contrasts, images, strict=True):
            volumetric = truth.options.spacing_mm < 2
            header = mr_header(study, truth.options.identity, truth.options.vendor, contrast, volumetric=volumetric)
            write_series(truth, contrast, header, image)
    return truth


def make_ct(folder: Path, options: PhantomOptions | None = None) -> PhantomTruth:
    """Write a CT study of the phantom's head: a wrong study for tests."""
    truth = phantom_truth(folder, options or PhantomOptions(motion={}))
    folder.mkdir(parents=True, exist_ok=True)
    header = ct_header(study_header(truth.options.identity, truth.options.age_years), truth.options.identity)
    write_series(truth, Contrast.T1, header, phantom_image(truth, Contrast.T1) + 1024)
    return truth


def phantom_image(truth: PhantomTruth, contrast: Contrast) -> FloatArray:
    """Take the image of one sequence: float32, (slice, row, column), noise and bias included."""
    options, grid = truth.options, truth.grid(contrast)
    seed = [options.seed, ORDER.index(contrast)]
    brain, wrap = paint(truth.head, truth.lesion, contrast, options.seed)
    image = np.zeros(grid.shape, np.float32)
    count = max(1, round(options.thickness_mm))
    upright = series_grid(replace(options, gantry_tilt_degrees=0.0), contrast).affine[:3, 0]
    for place in (np.arange(count) + 0.5) / count - 0.5:
        shifted = grid.affine.copy()
        shifted[:3, 3] += upright * (place * options.thickness_mm / options.spacing_mm)
        to_head = np.linalg.inv(options.motion.get(contrast, Motion()).matrix) @ shifted
        for source, values in ((truth.head.brain_grid, brain), (truth.head.wrap_grid, wrap)):
            image += source.resample(values, to_head, grid.shape)
    image /= count
    drift = waves(options.seed, f"bias {contrast}", 4, 220, 500)
    coarse = drift(_points(grid, 8))
    image *= 1 + options.bias * _spread(coarse, grid.shape, 8)
    rng = np.random.default_rng(seed)
    real, imaginary = (rng.standard_normal(grid.shape, np.float32) * options.noise for _ in range(2))
    noisy: FloatArray = np.hypot(image + real, imaginary) * np.float32(BRIGHTNESS[contrast])
    return noisy


def _points(grid: SeriesGrid, every: int) -> FloatArray:
    """Patient coordinates of every n-th pixel of each slice, one pixel beyond the edge included."""
    slices, rows, columns = grid.shape
    axes = (np.arange(slices), np.arange(0, rows + every, every), np.arange(0, columns + every, every))
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return (index @ grid.affine[:3, :3].T + grid.affine[:3, 3]).astype(np.float32)


def _spread(coarse: FloatArray, shape: tuple[int, int, int], every: int) -> FloatArray:
    fine: FloatArray = ndimage.affine_transform(coarse, [1, 1 / every, 1 / every], output_shape=shape, order=1)
    return fine


def write_series(truth: PhantomTruth, contrast: Contrast, header: Dataset, image: FloatArray) -> None:
    """Write one sequence's files; the header gains what the grid decides."""
    options = truth.options
    header.SliceThickness = options.thickness_mm
    if header.Modality == "MR":
        header.SpacingBetweenSlices = options.spacing_mm
    images = slices_of(header, truth.grid(contrast).affine, image, rescale=options.rescale_per_slice)
    name = f"{header.SeriesNumber:02d}_{contrast}"
    write_images(truth.folder, name, images, options.transfer_syntax, enhanced=options.enhanced)
