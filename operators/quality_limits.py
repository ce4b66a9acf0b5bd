"""Where the quality checks begin to warn and to stop: the section `quality` of app.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class QualityLimits:
    """Where checks begin to warn and to stop."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    cut_warn: float = 0.4
    """Brain on the topmost slice, as a share of its widest section: above, the vertex is missing."""
    extent_warn_mm: float = 90.0
    """Height of the brain in view, in mm: below, part of it is missing."""
    extent_stop_mm: float = 60.0
    """Height of the brain in view, in mm: below, too little is seen."""
    overlap_warn: float = 0.95
    """Share of T1C's brain that FLAIR covers: below, part of it is judged on T1C alone."""
    overlap_stop: float = 0.6
    """Share of T1C's brain that FLAIR covers: below, too little is seen by both."""
    spacing_warn_mm: float = 7.5
    """Distance between slices of T1C or FLAIR, in mm."""
    spacing_stop_mm: float = 12.0
    """Distance between slices of T1C or FLAIR, in mm."""
    pixel_warn_mm: float = 1.3
    """Side of a pixel of T1C or FLAIR, in mm."""
    pixel_stop_mm: float = 2.5
    """Side of a pixel of T1C or FLAIR, in mm."""
    signal_warn: float = 8.0
    """Signal to noise of T1C or FLAIR."""
    signal_stop: float = 3.0
    """Signal to noise of T1C or FLAIR."""
    saturated_warn: float = 0.01
    """Share of the head at the image's greatest value: above, it is clipped."""
    ghost_warn: float = 0.14
    """Mean of the air beside the head over the head's: above, there is ghosting, motion, or much noise."""
    moved_warn_mm: float = 25.0
    """Movement of the head between T1C and another sequence, in mm."""
    moved_warn_degrees: float = 20.0
    """Turn of the head between T1C and another sequence."""
    brain_warn_ml: tuple[float, float] = (900.0, 2000.0)
    """Brain in view, in ml: outside, the outline may be wrong, or the patient is a child."""
    brain_stop_ml: tuple[float, float] = (400.0, 2600.0)
    """Brain in view, in ml: outside, this is no outline of a brain."""
    alike_stop: float = 0.97
    """Correlation of T1C and FLAIR within the brain: above, they are one image sent twice."""
