"""Read the pixels of single slices: decoded, rescaled, dark to bright.

Uncompressed values are taken from where reading the headers found them, so that no file is parsed twice; encoded ones
go through a decoder. The result equals what `highdicom.get_volume_from_series` makes of the same files, value for
value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from operators.decoder import Decoder
from operators.decoding import Stored
from operators.domain import FloatArray, Instance, Series
from operators.errors import PixelDataRefused
from operators.pixel_limits import PixelLimits

HERE = Decoder()


def read_planes(series: Series, places: Sequence[int], decoder: Decoder = HERE) -> FloatArray:
    """Read some of a series' slices, counted in the order of its instances: (places, rows, columns), rescaled.

    Raises as `read_instances` does.
    """
    return read_instances([series.instances[place] for place in places], decoder)


def read_instances(instances: Sequence[Instance], decoder: Decoder = HERE) -> FloatArray:
    """Read single-frame instances of one matrix: float32 (instances, rows, columns), rescaled.

    Raises PixelDataRefused where they are more than the limits allow or not what their headers say, and
    UnreadableInstance or what pydicom raises where pixel data cannot be had.
    """
    rows, columns = int(instances[0].header.Rows), int(instances[0].header.Columns)
    _refuse_oversize(instances[0].path.name, rows, columns, len(instances), decoder.limits)
    planes = np.empty((len(instances), rows, columns), np.float32)
    for place, (instance, values) in enumerate(zip(instances, _stored(instances, decoder), strict=True)):
        planes[place] = rescaled(values, instance.header)
    return planes


def _refuse_oversize(name: str, rows: int, columns: int, slices: int, limits: PixelLimits) -> None:
    if not (1 <= rows <= limits.side and 1 <= columns <= limits.side):
        raise PixelDataRefused(
            f"{name}: its header says {rows} x {columns} pixels; 1 to {limits.side} a side are read "
            "(setting node.pixels.side)"
        )
    megabytes = rows * columns * slices * 4 / 1_000_000
    if megabytes > limits.series_mb:
        raise PixelDataRefused(
            f"{name} is one of {slices} slices of {rows} x {columns} pixels, {megabytes:.0f} MB of memory; at most "
            f"{limits.series_mb} MB are read (setting node.pixels.series_mb)"
        )


def _stored(instances: Sequence[Instance], decoder: Decoder) -> Iterator[Stored]:
    """Read stored values (rows, columns) of each instance."""
    for encoded, run in groupby(instances, lambda instance: instance.pixels_at is None):
        some = list(run)
        if encoded:
            header = some[0].header
            size = int(header.Rows) * int(header.Columns) * -(-int(header.BitsAllocated) // 8)
            yield from decoder.decode([(instance.path, _frame(instance)) for instance in some], size)
        else:
            yield from map(_plain, some)


def _plain(instance: Instance) -> Stored:
    """Read uncompressed values; the bits beyond Bits Stored are dropped."""
    if instance.pixels_at is None:
        raise ValueError("its values are encoded")
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
