"""The nouns of the analysis, used the same way everywhere.

Patient coordinates are DICOM's: LPS (left, posterior, superior), in mm. Arrays are indexed
(slice, row, column). No repr shows a header, because headers hold the patient's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.segments import CORE_PARTS, Segment

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class Contrast(StrEnum):
    """The four sequences the analysis knows."""

    T1 = "T1"
    T1C = "T1C"
    T2 = "T2"
    FLAIR = "FLAIR"


REQUIRED = (Contrast.T1C, Contrast.FLAIR)
"""Without these two there is no segmentation."""


@dataclass(frozen=True, eq=False)
class Instance:
    """One stored SOP instance, or one frame of it: where its file is, and its header without pixel data."""

    path: Path
    header: Dataset = field(repr=False)
    """Of a frame of enhanced MR: as a single-frame object would have it, functional groups resolved."""
    frames: tuple[int, ...] | None = None
    """Of a multi-frame object, the frames that are meant, counted from 0; None for all of it."""
    pixels_at: int | None = None
    """Where in the file the values of uncompressed little-endian pixel data begin; None where they are encoded."""
    elements: int = 0
    """How many its header holds, items of sequences included."""


@dataclass(frozen=True, eq=False)
class Series:
    """The instances that one acquisition, echo and stack of a DICOM series holds."""

    uid: str
    number: int | None
    description: str
    modality: str
    instances: tuple[Instance, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.instances:
            raise ValueError(f"series {self.uid} has no instances")

    @property
    def header(self) -> Dataset:
        """Header of the first instance."""
        return self.instances[0].header


@dataclass(frozen=True, eq=False)
class Study:
    """What arrived under one Study Instance UID."""

    uid: str
    series: tuple[Series, ...]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a series was taken for, and why; `contrast` is None for one that is not used."""

    series: Series
    contrast: Contrast | None
    reason: str
    kind: str = ""
    """A contrast's name, used or not, or what else the series is."""
    confidence: float = 1.0
    """How far `kind` can be trusted, 0 to 1."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The series chosen for each contrast, and the verdict on every series of the study."""

    chosen: Mapping[Contrast, Verdict]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, eq=False)
class SourceVolume:
    """One series as a regular volume on its own grid."""

    series: Series
    volume: hd.Volume
    """float32, rescaled, index order (slice, row, column); its affine maps indices to LPS mm."""
    headers: tuple[Dataset, ...] = field(repr=False)
    """Header of each plane, in the volume's slice order."""
    notes: tuple[str, ...] = ()
    """What was done to make a volume of the series, for a reader."""


Volumes = Mapping[Contrast, SourceVolume]


@dataclass(frozen=True)
class Alignment:
    """How one sequence was brought to T1C, and whether that can be trusted."""

    shift_mm: float
    """How far the middle of the head moved."""
    turn_degrees: float
    metric_before: float
    metric_after: float
    """Negative mutual information: lower is more alike."""
    overlap: float
    """Share of T1C's brain that the sequence covers, 0 to 1."""
    fault: str = ""
    """Why it cannot be trusted; empty where it can."""


class Outcome(StrEnum):
    """What a quality check comes to."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    WARN = "warn"
    STOP = "stop"


@dataclass(frozen=True)
class Check:
    """One quality check of a study: what was looked at, what was found, and what that means for the result."""

    name: str
    """Coded reason for machines, such as "coverage" or "registration"."""
    outcome: Outcome
    reason: str
    """One sentence for a reader, with figures and units."""
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, eq=False)
class Stack:
    """The study on T1C's grid, axial, in display order, registered and cleaned.

    Slices run from feet to head, rows from front to back, columns from the patient's right to left: T1C's own
    voxels, only permuted and flipped, so nothing of T1C is interpolated.
    """

    geometry: hd.VolumeGeometry
    images: Mapping[Contrast, FloatArray]
    brain: BoolArray
    to_source: Mapping[Contrast, NDArray[np.float64]]
    """4 x 4 matrix a contrast: from T1C's patient coordinates to where the same tissue lies in that series' own."""
    notes: tuple[str, ...] = ()
    """What preprocessing saw and a reader should know."""
    alignments: Mapping[Contrast, Alignment] = field(default_factory=dict)
    """Of every sequence but T1C; a T1 or T2 whose alignment failed is here and not among the images."""
    stripped: bool = False
    """Whether T1C, or FLAIR alone, came without skull."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock time of each step of preprocessing."""

    def __post_init__(self) -> None:
        shape = self.geometry.spatial_shape
        for name, array in (*self.images.items(), ("brain mask", self.brain)):
            if array.shape != shape:
                raise ValueError(f"{name} {array.shape} is not on the stack's grid {shape}")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm."""
        z, r, c = self.geometry.spacing
        return z, r, c


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Which part of the tumour each voxel belongs to, on any grid: 0 is none, n the n-th of the legend."""

    array: NDArray[np.uint8]
    legend: tuple[Segment, ...]
    read_as: str
    """How the network's channels were read: results depend on it as on the network."""

    def __post_init__(self) -> None:
        if self.array.max(initial=0) > len(self.legend):
            raise ValueError(f"label {self.array.max()} is not among the {len(self.legend)} of the legend")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The parts, and ahead of them the tumour's core where it is neither one part nor all of them."""
        core = [part for part in self.legend if part in CORE_PARTS]
        return (Segment.CORE, *self.legend) if 1 < len(core) < len(self.legend) else self.legend

    @cached_property
    def found(self) -> tuple[Segment, ...]:
        """Those of `segments` that have a voxel."""
        return tuple(segment for segment in self.segments if self.mask_of(segment).any())

    def parts_of(self, segment: Segment) -> tuple[Segment, ...]:
        """List the parts that a segment is the union of; a part is itself."""
        if segment is Segment.WHOLE:
            return self.legend
        return tuple(part for part in self.legend if part in (CORE_PARTS if segment is Segment.CORE else (segment,)))

    def mask_of(self, segment: Segment) -> BoolArray:
        """Where a part is, or a union of parts."""
        return np.isin(self.array, [self.legend.index(part) + 1 for part in self.parts_of(segment)])


@dataclass(frozen=True, eq=False)
class TumourMap:
    """The probability of tumour at each voxel of the stack's grid, and its parts where the network tells them apart."""

    geometry: hd.VolumeGeometry
    probability: FloatArray
    model: str
    model_version: str
    labels: LabelMap | None = None
    """None of a network that outlines the whole alone."""

    def __post_init__(self) -> None:
        if self.probability.shape != self.geometry.spatial_shape:
            raise ValueError(f"probability {self.probability.shape} is not on its grid {self.geometry.spatial_shape}")
        if self.labels is not None and not np.array_equal(self.labels.array > 0, self.mask):
            raise ValueError("the parts together are not the whole tumour")

    @cached_property
    def mask(self) -> BoolArray:
        """Where tumour is more likely than not."""
        return self.probability > 0.5


class MarkerName(StrEnum):
    """The molecular markers the node can speak of."""

    IDH = "idh"
    CODEL_1P19Q = "1p19q"
    MGMT = "mgmt"
    PROLIFERATION = "proliferation"


class MarkerValue(StrEnum):
    """What may be said of a marker."""

    ALTERED = "altered"
    """IDH mutant, 1p/19q co-deleted, MGMT methylated, proliferation high."""
    UNALTERED = "unaltered"
    INDETERMINATE = "indeterminate"
    NOT_ASSESSED = "not assessed"


@dataclass(frozen=True)
class Marker:
    """What is said of one marker; without a probability it is not assessed and `reason` says why."""

    name: MarkerName
    value: MarkerValue
    reason: str = ""
    probability: float | None = None
    model: str = ""
    """What answered, or would have: of a marker that is not assessed, empty where no model is installed."""
    model_version: str = ""
    open_between: tuple[float, float] | None = None
    """Probabilities between which the model gives no answer; none are known of a model that does not say."""
    coverage: float | None = None
    """Share of patients whose true answer the model's rule does not rule out, 0 to 1; None where nobody measured it."""
    moved_by: tuple[tuple[str, float], ...] = ()
    """What the model read, in groups, each with the factor by which it multiplies the odds of the alteration, the
    strongest first; empty where the model does not tell."""

    def __post_init__(self) -> None:
        if (self.value is MarkerValue.NOT_ASSESSED) != (self.probability is None):
            raise ValueError(f"{self.name}: a probability belongs to an assessed marker, and only to one")
        if self.probability is None and not self.reason:
            raise ValueError(f"{self.name} is not assessed and no reason is given")


@dataclass(frozen=True)
class Earlier:
    """What this node measured at an earlier examination of the same patient."""

    examined_on: date
    study_uid: str
    tumour_ml: float
    """0 where no tumour was found."""
    long_axis_mm: float | None
    short_axis_mm: float | None
    tracking_uid: str | None
    """Of the lesion; it stays the same from examination to examination. None where there was none."""
    model: str
    model_version: str
    report_uid: str
    """SOP Instance UID of the report that says so."""
    parts_ml: Mapping[Segment, float] = field(default_factory=dict)
    """Volume of each part that was told apart; 0 of one that was looked for and not found."""


@dataclass(frozen=True)
class Predecessor:
    """A document that this node made of the same study before: of other images, or by another version or settings."""

    series_number: int
    """Tells the kinds of document apart."""
    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    made: str
    """Content Date and Time, YYYYMMDDHHMMSS.FFFFFF."""
    tracking_uid: str | None
    """Of the lesion, where the document is a report that has one."""
    made_at: datetime | None = None
    """The same moment as `made`, with the offset from UTC that the document gives."""
    replaces: frozenset[str] = frozenset()
    """SOP Instance UIDs of the documents that it names as its own predecessors."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Where a marker's network looked, on the slices that spoke the most for its answer (Grad-CAM)."""

    name: MarkerName
    altered: bool
    """The network's own answer, and whose map this is."""
    probability: float
    """Of the alteration, as the network has it, not calibrated."""
    slices: tuple[int, ...]
    """The stack's slices, strongest first."""
    heat: FloatArray
    """(slices, rows, columns) on the stack's grid, zero outside the brain; 1 is the highest of the study within it."""
    worth: str
    """How the network did on patients it never saw."""
    model: str
    model_version: str
    read: tuple[str, ...]
    """The sequences that it was shown."""
    cell_mm: float
    """How far apart its map's cells look: nothing finer is told by it."""
    near: float | None = None
    """Of patients it never saw: mean share of the map in the brain that lay in the outline or within 10 mm of it."""


@dataclass(frozen=True)
class Interval:
    """Where a measure of an outline drawn by hand would lie, given the one measured on the network's."""

    low: float
    high: float
    level: float
    """Share of patients, none of them seen in training, in which it does; 0 to 1."""


@dataclass(frozen=True, eq=False)
class Diameter:
    """A straight line across the lesion in one slice of the stack."""

    millimetres: float
    start: tuple[float, float]
    end: tuple[float, float]
    """End points as (row, column) on the stack's slice."""
    interval_mm: Interval | None = None
    """None where it is not known how far the network's measures lie from a person's."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What was measured of the tumour; an empty tumour has volume 0 and no diameters."""

    tumour_mm3: float
    slice_index: int | None = None
    """The stack's slice on which the diameters lie: the one with the longest."""
    long_axis: Diameter | None = None
    short_axis: Diameter | None = None
    """Longest line perpendicular to the long axis on the same slice."""
    tumour_interval_mm3: Interval | None = None
    """As `Diameter.interval_mm`."""
    parts: int = 0
    """How many regions the tumour has that do not touch each other in space."""
    reaches_edge: bool = False
    """Whether it reaches the first or last plane of T1C, or the border of its images: all measures are lower bounds."""
    segments: Mapping[Segment, Findings] = field(default_factory=dict)
    """The same of each part that the network tells apart, found or not; nobody has measured how far to trust these."""
