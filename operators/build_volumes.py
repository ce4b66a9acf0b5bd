"""Make a regular volume of each chosen series: pixel data are read here, and geometry is checked.

highdicom does the arithmetic from index to patient and refuses what is not a volume; what it refuses is looked at
before, so that the sender learns which slice to send again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from operators.domain import Contrast, Selection, Series, SourceVolume
from operators.errors import BrokenGeometry, UnreadableInstance
from operators.stage import Job, StageOperator, needed

FEWEST_SLICES = 3
"""With fewer there is nothing to register or to measure in three dimensions."""
SPACING_TOLERANCE = 0.02
"""Slice distances may differ by this part of their median."""
TYPES: Mapping[str, Any] = {
    "dtype": np.float32,
    "apply_real_world_transform": False,
    "rtol": SPACING_TOLERANCE,
    "perpendicular_tol": 2e-3,
}


def build_volumes(selection: Selection) -> Mapping[Contrast, SourceVolume]:
    """Read the chosen series; raises BrokenGeometry or UnreadableInstance naming contrast and series."""
    return {contrast: build_volume(contrast, verdict.series) for contrast, verdict in selection.chosen.items()}


def build_volume(contrast: Contrast, series: Series) -> SourceVolume:
    """Read one series, classic or multi-frame, as a volume."""
    label = f"{contrast} (series {'without number' if series.number is None else series.number})"
    if any(int(i.header.get("NumberOfFrames") or 1) > 1 for i in series.instances):
        return _from_multi_frame(label, series)
    check_slices(label, [i.header for i in series.instances])
    try:
        datasets = [dcmread(i.path) for i in series.instances]
        volume = hd.get_volume_from_series(datasets, orientation_tol=1e-3, **TYPES)
    except (ValueError, TypeError) as error:
        raise BrokenGeometry(f"{label}: its slices do not form a regular volume; send the series again") from error
    except (RuntimeError, AttributeError, NotImplementedError, OSError, KeyError) as error:
        raise UnreadableInstance(f"{label}: its pixel data cannot be decoded; send the series again") from error
    return SourceVolume(series, volume, _in_order(volume, series))


def _from_multi_frame(label: str, series: Series) -> SourceVolume:
    if len(series.instances) > 1:
        raise BrokenGeometry(f"{label}: {len(series.instances)} multi-frame objects where one volume was expected")
    try:
        image = hd.imread(series.instances[0].path)
        volume = image.get_volume(**TYPES)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BrokenGeometry(f"{label}: its frames do not form a regular volume; send the series again") from error
    if volume.spatial_shape[0] < FEWEST_SLICES:
        raise BrokenGeometry(f"{label}: {volume.spatial_shape[0]} slices are too few")
    return SourceVolume(series, volume, (series.header,) * volume.spatial_shape[0])


def check_slices(label: str, headers: Sequence[Dataset]) -> None:
    """Raise BrokenGeometry, naming the place, where slices are too few, doubled, missing or uneven."""
    if len(headers) < FEWEST_SLICES:
        raise BrokenGeometry(f"{label}: {len(headers)} slice{'s' * (len(headers) != 1)} cannot make a volume")
    for header in headers:
        if len(header.get("ImagePositionPatient") or ()) != 3 or len(header.get("ImageOrientationPatient") or ()) != 6:
            raise BrokenGeometry(f"{label}: a slice does not say where it lies (0020,0032 or 0020,0037 is missing)")
    along = np.sort(_heights(headers))
    steps = np.diff(along)
    usual = float(np.median(steps))
    if steps.min() < 0.1 * max(usual, 0.1):
        at = along[int(steps.argmin())]
        raise BrokenGeometry(f"{label}: two slices lie at {at:.1f} mm; send the series without doubles")
    if steps.max() > 1.5 * usual:
        low = int(steps.argmax())
        missing = round(float(steps[low]) / usual) - 1
        what = "a slice is" if missing <= 1 else f"{missing} slices are"
        between = f"between {along[low]:.1f} mm and {along[low + 1]:.1f} mm"
        raise BrokenGeometry(f"{label}: {what} missing {between}; send the series again")
    if np.abs(steps - usual).max() > SPACING_TOLERANCE * usual:
        raise BrokenGeometry(f"{label}: slices lie {steps.min():.2f} to {steps.max():.2f} mm apart, not evenly")


def _heights(headers: Sequence[Dataset]) -> NDArray[np.float64]:
    """Position of each slice along the normal of the first, in mm."""
    normal = np.cross(*np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3))
    return np.array([h.ImagePositionPatient for h in headers], float) @ normal


def _in_order(volume: hd.Volume, series: Series) -> tuple[Dataset, ...]:
    """Sort the headers as the volume's slices run."""
    to_index = np.linalg.inv(volume.affine)
    headers = [i.header for i in series.instances]
    positions = np.array([h.ImagePositionPatient for h in headers], float)
    order = np.argsort(positions @ to_index[0, :3])
    return tuple(headers[i] for i in order)


class BuildVolumesOperator(StageOperator):
    """Adds the volumes to the job."""

    def process(self, job: Job) -> None:
        """Read the chosen series."""
        job.volumes = build_volumes(needed(job.selection))
