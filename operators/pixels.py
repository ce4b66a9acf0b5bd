"""Read the pixels of single slices, decoded and rescaled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import dcmread
from pydicom.pixels.processing import apply_rescale

from operators.domain import FloatArray, Series


def read_planes(series: Series, places: Sequence[int]) -> FloatArray:
    """Read some of a series' slices, counted in the order of its instances: (places, rows, columns), rescaled.

    Raises what pydicom raises where pixel data cannot be decoded.
    """
    planes = [dcmread(series.instances[place].path) for place in places]
    return np.stack([np.asarray(apply_rescale(ds.pixel_array, ds), np.float32) for ds in planes])
