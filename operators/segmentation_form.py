"""In which form a segmentation is written and sent; light, as settings are read where little may be imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Form = Literal["binary", "labelmap"]

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
"""Label Map Segmentation Storage (PS3.4 B.5), newer than pydicom's list."""
LABELMAP_TWINS: Mapping[str, str] = {
    "SEG T1C": "SEG T1C labelmap",
    "SEG FLAIR": "SEG FLAIR labelmap",
    "SR": "SR labelmap",
}
"""By a result that is, or refers to, a BINARY segmentation: the one that a labelmap destination gets in its place."""
