"""Write the same segmentations, and the report on them, once more: LABELMAP in place of BINARY.

The voxels, their grid and the lesion's tracking UID are those of the BINARY objects; a PACS gets the one form or the
other, as its destination says.

The standard wants an item of Segment Sequence for every pixel value, so for the background too, and Pixel Padding
Value to say which that is; it leaves the items' order open, as segment numbers need not begin at 1. The library puts
the background first. Viewers that count items instead of reading their numbers then give the tumour the background's
colour: OHIF 3.13 paints it black. So here the background comes last.

Sources: PS3.3 C.8.20.2 and C.8.20.2.4 (Supplement 243).
"""

from __future__ import annotations

import highdicom as hd
import numpy as np

from operators.domain import BoolArray, Contrast, SourceVolume, TumourMap
from operators.results import Origin
from operators.write_seg_parts import build_object, describe_segment

SERIES_NUMBERS = {Contrast.T1C: 9011, Contrast.FLAIR: 9012, "SR": 9013}
"""Ten above those of the objects that they stand in for."""


def build_labelmap(
    mask: BoolArray,
    source: SourceVolume,
    contrast: Contrast,
    tumour: TumourMap,
    origin: Origin,
    tracking_uid: str | None = None,
) -> hd.seg.Segmentation:
    """Make the label map of a mask (planes, rows, columns): 1 is tumour, 0 background; 8 bits a voxel."""
    seg = build_object(
        mask.astype(np.uint8),
        source,
        describe_segment(tumour, origin, tracking_uid),
        origin,
        ("SEG", contrast, "labelmap"),
        segmentation_type=hd.seg.SegmentationTypeValues.LABELMAP,
        series_number=SERIES_NUMBERS[contrast],
        series_description=f"AI whole tumour on {contrast} (research)",
        content_label="WHOLE_TUMOUR",
        content_description=f"Whole tumour on {contrast}, automatic",
    )
    seg.SegmentSequence = sorted(
        seg.SegmentSequence, key=lambda segment: segment.SegmentNumber == seg.PixelPaddingValue
    )
    return seg
