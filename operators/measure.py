"""Measure the tumour: volume, the two diameters of the RANO criteria, and how far each can be trusted.

Parts that the network tells apart are measured as the whole is, each on its own. What lies inside the enhancing part
and does not enhance is no part of it: the short axis does not cross it. How far the figures of parts can be trusted
nobody has measured, so they have no interval.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from models.diameters import Line, diameters
from models.refine import Spread
from operators.domain import BoolArray, Contrast, Diameter, Findings, Interval, SourceVolume, Stack, TumourMap
from operators.stage import Job, StageOperator, needed
from operators.write_planes import own_shape, stack_to_planes

CONFIDENCE_CHECK = "segmentation"
"""The check whose value is the Dice that the network expects of its outline."""
ON_THE_BORDER = 0.75
"""How far, in voxels, a place may be from the outermost one and lie on it: planes that were put straight were shifted
by parts of a voxel."""
_TOUCHING = np.ones((3, 3, 3), bool)


def measure(
    stack: Stack,
    tumour: TumourMap,
    spread: Spread | None = None,
    confidence: float | None = None,
    t1c: SourceVolume | None = None,
) -> Findings:
    """Measure volume and diameters on the stack's grid; parts of a tumour apart on a slice are measured apart.

    With `spread` and `confidence`, the Dice that the outline is expected to have, each measure has its interval. What
    reaches the edge is told by the images of `t1c`, whose volume is wider where it was put straight; without, by the
    stack's grid.
    """
    segments = {}
    if tumour.labels is not None:
        segments = {s: _measured(stack, tumour.labels.mask_of(s), t1c) for s in tumour.labels.segments}
    whole = _measured(stack, tumour.mask, t1c, spread, confidence)
    return replace(whole, segments=segments)


def _reaches_edge(mask: BoolArray, stack: Stack, t1c: SourceVolume | None) -> bool:
    """Say whether part of a mask lies on the first or last plane, or on the border of an image."""
    to_own, shape = np.eye(4), mask.shape
    if t1c is not None:
        to_own, shape = stack_to_planes(stack, t1c, Contrast.T1C), own_shape(t1c, Contrast.T1C)
    places = np.argwhere(mask) @ to_own[:3, :3].T + to_own[:3, 3]
    return bool(((places < ON_THE_BORDER) | (places > np.array(shape) - 1 - ON_THE_BORDER)).any())


def _measured(
    stack: Stack,
    mask: BoolArray,
    t1c: SourceVolume | None,
    spread: Spread | None = None,
    confidence: float | None = None,
) -> Findings:
    found = diameters(mask, stack.spacing_mm[1:])
    if found is None:
        return Findings(0.0)
    index, long_axis, short_axis = found
    cubic_mm = int(np.count_nonzero(mask)) * float(np.prod(stack.spacing_mm))
    _, parts = ndimage.label(mask, _TOUCHING)

    def around(value: float, quantile: str) -> Interval | None:
        if spread is None or confidence is None:
            return None
        low, high = spread.around(value, getattr(spread, quantile), confidence)
        return Interval(low, high, spread.level)

    def diameter(line: Line, quantile: str) -> Diameter:
        return Diameter(line.millimetres, line.start, line.end, around(line.millimetres, quantile))

    return Findings(
        cubic_mm,
        index,
        diameter(long_axis, "long_axis"),
        diameter(short_axis, "short_axis"),
        around(cubic_mm, "volume"),
        int(parts),
        _reaches_edge(mask, stack, t1c),
    )


class MeasureOperator(StageOperator):
    """Stack and tumour to findings."""

    def __init__(self, fragment: Any, *args: Any, spread: Spread | None = None, **kwargs: Any) -> None:
        self._spread = spread
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.findings`."""
        expected = next((check.value for check in job.checks if check.name == CONFIDENCE_CHECK), None)
        t1c = needed(job.volumes)[Contrast.T1C]
        job.findings = measure(needed(job.stack), needed(job.tumour), self._spread, expected, t1c)
