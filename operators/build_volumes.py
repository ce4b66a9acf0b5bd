"""Make a regular volume of each chosen series: pixel data are read here, and geometry is checked.

highdicom does the arithmetic from index to patient and refuses what is not a volume; what it refuses is looked at
before, so that the sender learns which slice to send again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread

from operators.domain import Contrast, Selection, Series, SourceVolume
from operators.errors import BrokenGeometry, UnreadableInstance
from operators.series_geometry import FEWEST_SLICES, SPACING_TOLERANCE, geometry_fault
from operators.stage import Job, StageOperator, needed

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
    if fault := geometry_fault(series):
        raise BrokenGeometry(f"{label}: {fault}")
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
