"""Make a regular volume of each chosen series: pixel data are read here, and geometry is checked.

A stack that leans against its slices' normal, as under a gantry tilt, is put straight: every slice is shifted in its
own plane. A slice that was sent twice counts once. What is no volume is refused, and the sender learns which slice
to send again; T1 and T2, which the analysis can do without, are then left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import highdicom as hd
import numpy as np
from scipy import ndimage

from operators.decoder import Decoder
from operators.decoding import UNDECODABLE
from operators.domain import REQUIRED, Contrast, FloatArray, Instance, Selection, Series, SourceVolume
from operators.errors import BrokenGeometry, PixelDataRefused, StudyRejected, UnreadableInstance
from operators.pixels import HERE, read_instances
from operators.series_geometry import SAME_PLACE_MM, Layout, geometry_fault, layout, lean
from operators.stage import Job, StageOperator, needed

STRAIGHT_PIXELS = 0.25
"""From its first slice to its last a stack may lean by this and still count as straight."""


def build_volumes(selection: Selection) -> Mapping[Contrast, SourceVolume]:
    """Read the chosen series, without a T1 or T2 that is no volume.

    Raises BrokenGeometry or UnreadableInstance naming contrast and series where T1C or FLAIR is none, and
    PixelDataRefused whatever the contrast: a study that holds such a file is not reported on.
    """
    return read_volumes(selection)[0]


def read_volumes(
    selection: Selection, decoder: Decoder = HERE
) -> tuple[dict[Contrast, SourceVolume], dict[Contrast, str]]:
    """Read the chosen series as `build_volumes` does, and say why a T1 or T2 is left out."""
    volumes, faults = {}, {}
    for contrast, verdict in selection.chosen.items():
        try:
            volumes[contrast] = build_volume(contrast, verdict.series, decoder)
        except StudyRejected as error:
            if contrast in REQUIRED or isinstance(error, PixelDataRefused):
                raise
            faults[contrast] = str(error)
    return volumes, faults


def build_volume(contrast: Contrast, series: Series, decoder: Decoder = HERE) -> SourceVolume:
    """Read one series as a volume.

    Raises BrokenGeometry, UnreadableInstance or PixelDataRefused naming contrast and series.
    """
    label = f"{contrast} (series {'without number' if series.number is None else series.number})"
    if fault := geometry_fault(series):
        raise BrokenGeometry(f"{label}: {fault}")
    where = layout([i.header for i in series.instances])
    order = np.argsort(-where.heights, kind="stable")
    instances = [series.instances[i] for i in order]
    try:
        planes = read_instances(instances, decoder)
    except PixelDataRefused as error:
        raise PixelDataRefused(f"{label}: {error}") from error
    except (UnreadableInstance, *UNDECODABLE) as error:
        syntax = instances[0].header.file_meta.get("TransferSyntaxUID")
        name = syntax.name if syntax is not None else "an unnamed transfer syntax"
        raise UnreadableInstance(
            f"{label}: its pixel data ({name}) cannot be decoded; send it again, uncompressed"
        ) from error
    instances, planes, dropped = _without_doubles(label, instances, planes)
    notes = [f"{dropped} slices of {label} came twice and were read once"] if dropped else []
    volume, tilt = _volume(layout([i.header for i in instances]), instances, planes)
    if tilt:
        notes.append(f"{label} was taken with its slices tilted by {tilt:.1f} degrees and put straight")
    return SourceVolume(series, volume, tuple(i.header for i in instances), tuple(notes))


def _without_doubles(
    label: str, instances: list[Instance], planes: FloatArray
) -> tuple[list[Instance], FloatArray, int]:
    """Keep one of slices that lie at one place and look alike; `instances` are in spatial order."""
    heights = layout([i.header for i in instances]).heights
    doubles = 1 + np.flatnonzero(-np.diff(heights) <= SAME_PLACE_MM)
    if not len(doubles):
        return instances, planes, 0
    for double in doubles:
        if not np.array_equal(planes[double], planes[double - 1]):
            raise BrokenGeometry(
                f"{label}: two different slices lie at {heights[double]:.1f} mm; send them as series of their own"
            )
    kept = np.setdiff1d(np.arange(len(instances)), doubles)
    return [instances[i] for i in kept], planes[kept], len(doubles)


def _volume(where: Layout, instances: list[Instance], planes: FloatArray) -> tuple[hd.Volume, float]:
    """Make the volume of slices in spatial order; return by how many degrees it leaned."""
    slope, _ = lean(where)
    extent = float(np.ptp(where.heights))
    position, tilt = where.positions[0], 0.0
    if np.abs(slope * extent / where.pixel_mm).max() > STRAIGHT_PIXELS:
        planes, position = _straightened(where, planes)
        tilt = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    volume = hd.Volume.from_attributes(
        array=planes,
        frame_of_reference_uid=instances[0].header.FrameOfReferenceUID,
        image_position=position.tolist(),
        image_orientation=[*where.along_row, *where.along_column],
        pixel_spacing=where.pixel_mm,
        spacing_between_slices=extent / (len(planes) - 1),
        coordinate_system="PATIENT",
    )
    return volume, tilt


def _straightened(where: Layout, planes: FloatArray) -> tuple[FloatArray, np.ndarray]:
    """Shift every slice in its own plane so that the stack runs along its normal.

    Returns the slices, widened so that none is cut, and the position of the first one's first pixel.
    """
    axes = np.stack([where.along_column, where.along_row])
    # (slices, 2) in pixels; the rounding of positions is no reason for another row or column.
    shifts = ((where.positions - where.positions[0]) @ axes.T / where.pixel_mm).round(2)
    low = np.floor(shifts.min(axis=0)).astype(int)
    size = np.array(planes.shape[1:]) + np.ceil(shifts.max(axis=0)).astype(int) - low
    straight = np.empty((len(planes), *size), np.float32)
    beyond = float(planes.min())
    for place, (plane, shift) in enumerate(zip(planes, shifts, strict=True)):
        straight[place] = ndimage.affine_transform(
            plane, [1.0, 1.0], low - shift, tuple(size), np.float32, order=1, mode="constant", cval=beyond
        )
    return straight, where.positions[0] + (low * where.pixel_mm) @ axes


class BuildVolumesOperator(StageOperator):
    """Adds the volumes to the job, and to its notes what was done to make them."""

    def __init__(self, *args: object, decoder: Decoder = HERE, **kwargs: object) -> None:
        self._decoder = decoder
        super().__init__(*args, **kwargs)

    def process(self, job: Job) -> None:
        """Read the chosen series; one that is left out is no longer chosen."""
        selection = needed(job.selection)
        job.volumes, faults = read_volumes(selection, self._decoder)
        job.selection = _without(selection, faults)
        job.notes += tuple(f"{fault}; analysed without {contrast}" for contrast, fault in faults.items())
        job.notes += tuple(note for volume in job.volumes.values() for note in volume.notes)


def _without(selection: Selection, faults: Mapping[Contrast, str]) -> Selection:
    """Take back the choice of series that turned out to be no volumes; their verdicts say why."""
    why = {id(selection.chosen[c].series): fault for c, fault in faults.items()}
    verdicts = [
        replace(v, contrast=None, reason=f"{v.reason}; not used: {why[id(v.series)]}") if id(v.series) in why else v
        for v in selection.verdicts
    ]
    return Selection({c: v for c, v in selection.chosen.items() if c not in faults}, tuple(verdicts))
