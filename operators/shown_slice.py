"""Which slice pictures show, and which image of the source that slice is."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset

from operators.domain import Findings, SourceVolume, Stack


def key_slice(stack: Stack, findings: Findings) -> int:
    """Return the slice with the longest diameter; without a tumour, the one that shows most brain."""
    if findings.slice_index is not None:
        return findings.slice_index
    return int(stack.brain.sum(axis=(1, 2)).argmax())


def plane_of(stack: Stack, index: int, t1c: SourceVolume) -> Dataset | None:
    """Return the header of the T1C plane that is a slice of the stack; None where its planes were cut otherwise."""
    to_planes = t1c.volume.inverse_affine @ stack.geometry.affine
    # A plane holds the whole slice only where moving along rows and columns does not leave it.
    if np.abs(to_planes[0, 1:3]).max() > 1e-3:
        return None
    plane = round(float(to_planes[0, 0] * index + to_planes[0, 3]))
    return t1c.headers[plane] if 0 <= plane < len(t1c.headers) else None
