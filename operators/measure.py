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
from operators.domain import BoolArray, Diameter, Findings, Interval, Stack, TumourMap
from operators.stage import Job, StageOperator, needed

CONFIDENCE_CHECK = "segmentation"
"""The check whose value is the Dice that the network expects of its outline."""
_TOUCHING = np.ones((3, 3, 3), bool)


def measure(stack: Stack, tumour: TumourMap, spread: Spread | None = None, confidence: float | None = None) -> Findings:
    """Measure volume and diameters on the stack's grid; parts of a tumour apart on a slice are measured apart.

    With `spread` and `confidence`, the Dice that the outline is expected to have, each measure has its interval.
    """
    segments = {}
    if tumour.labels is not None:
        segments = {s: _measured(stack, tumour.labels.mask_of(s)) for s in tumour.labels.segments}
    whole = _measured(stack, tumour.mask, spread, confidence)
    return replace(whole, segments=segments)


def _measured(stack: Stack, mask: BoolArray, spread: Spread | None = None, confidence: float | None = None) -> Findings:
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
    )


class MeasureOperator(StageOperator):
    """Stack and tumour to findings."""

    def __init__(self, fragment: Any, *args: Any, spread: Spread | None = None, **kwargs: Any) -> None:
        self._spread = spread
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.findings`."""
        expected = next((check.value for check in job.checks if check.name == CONFIDENCE_CHECK), None)
        job.findings = measure(needed(job.stack), needed(job.tumour), self._spread, expected)
