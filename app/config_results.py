"""Settings of what is written of a study."""

from __future__ import annotations

from app.config_base import Section
from operators.language import Language


class ReportConfig(Section):
    """The report page."""

    language: Language = "en"
    """Of its words: en (English) or zh (simplified Chinese)."""


class ResultsConfig(Section):
    """Results that are not written everywhere."""

    attention_maps: bool = True
    """Where a marker's network looked, as a picture beside the key image; docs/results.md. Without, no such network is
    opened."""
    probability_map: bool = False
    """The probability of tumour at each voxel of T1C, as a FRACTIONAL segmentation; docs/results.md."""
