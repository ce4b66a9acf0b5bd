"""Read the pixels of single slices: decoded, rescaled, dark to bright.

Uncompressed values are taken from where reading the headers found them, so that no file is parsed twice. The result
equals what `highdicom.get_volume_from_series` makes of the same files, value for value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from operators.domain import FloatArray, Instance, Series

Stored = NDArray[np.integer]


def read_planes(series: Series, places: Sequence[int]) -> FloatArray:
    """Read some of a series' slices, counted in the order of its instances: (places, rows, columns), rescaled.

    Raises what pydicom raises where pixel data cannot be decoded.
    """
    return read_instances([series.instances[place] for place in places])


def read_instances(instances: Sequence[Instance]) -> FloatArray:
    """Read single-frame instances of one matrix: float32 (instances, rows, columns), rescaled."""
    header = instances[0].header
    planes = np.empty((len(instances), int(header.Rows), int(header.Columns)), np.float32)
    for place, instance in enumerate(instances):
        planes[place] = rescaled(stored(instance), instance.header)
    return planes


def stored(instance: Instance) -> Stored:
    """Read an instance's stored values (rows, columns); the bits beyond Bits Stored are dropped."""
    if instance.pixels_at is None:
        return _decoded(instance)
    header = instance.header
    kind = "i" if header.PixelRepresentation else "u"
    values = np.dtype(f"<{kind}{int(header.BitsAllocated) // 8}")
    rows, columns = int(header.Rows), int(header.Columns)
    with instance.path.open("rb") as file:
        file.seek(instance.pixels_at + _frame(instance) * rows * columns * values.itemsize)
        found = np.frombuffer(file.read(rows * columns * values.itemsize), values).reshape(rows, columns)
    # They may hold an overlay or anything (PS3.5 section 8.1.1); shifting there and back keeps the sign.
    unused = int(header.BitsAllocated) - int(header.BitsStored)
    return (found << unused) >> unused if unused else found


def _decoded(instance: Instance) -> Stored:
    syntax = instance.header.file_meta.get("TransferSyntaxUID")
    source = dcmread(instance.path) if syntax == DeflatedExplicitVRLittleEndian else instance.path
    found: Stored = pixel_array(source, index=_frame(instance), raw=True)
    if found.ndim != 2:
        raise ValueError(f"a slice of {found.ndim} dimensions is no grey image")
    return found


def _frame(instance: Instance) -> int:
    return instance.frames[0] if instance.frames else 0


def rescaled(values: Stored, header: Dataset) -> FloatArray:
    """Apply a header's modality LUT or rescale, and turn an image that is stored inverted."""
    if "ModalityLUTSequence" in header:
        return np.asarray(apply_modality_lut(values, header), np.float32)
    slope, intercept = (float(header.get(k) or empty) for k, empty in (("RescaleSlope", 1.0), ("RescaleIntercept", 0)))
    if _is_inverted(header):
        lowest, highest = _range(header)
        slope, intercept = -slope, slope * (lowest + highest) + intercept
    result: NDArray[Any] = values
    if slope != 1.0:
        result = result * np.float32(slope)
    if intercept != 0.0:
        result = result + np.float32(intercept)
    return np.asarray(result, np.float32)


def _is_inverted(header: Dataset) -> bool:
    """Say whether high values are dark (PS3.3 C.7.6.3.1.2, C.11.6.1)."""
    if "PresentationLUTShape" in header:
        return bool(header.PresentationLUTShape == "INVERSE")
    return bool(header.PhotometricInterpretation == "MONOCHROME1")


def _range(header: Dataset) -> tuple[int, int]:
    """Lowest and highest value that may be stored."""
    bits = int(header.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.PixelRepresentation else (0, 2**bits - 1)
