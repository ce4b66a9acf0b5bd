"""Write the same segmentations, and the report on them, once more: LABELMAP in place of BINARY.

The voxels, their grid and the lesion's tracking UID are those of the BINARY objects; a PACS gets the one form or the
other, as its destination says. A voxel has one label only. So where the network tells parts apart, the parts are the
segments, and the whole and the core are none: the report says of which parts they are the union.

The standard wants an item of Segment Sequence for every pixel value, so for the background too, and Pixel Padding
Value to say which that is; it leaves the items' order open, as segment numbers need not begin at 1. The library puts
the background first. Viewers that count items instead of reading their numbers then give the tumour the background's
colour: OHIF 3.13 paints it black. So here the background comes last.

Sources: PS3.3 C.8.20.2 and C.8.20.2.4 (Supplement 243).
"""

from __future__ import annotations

import highdicom as hd
import numpy as np

from models.segments import Segment
from operators.domain import BoolArray, Contrast, LabelMap, SourceVolume, TumourMap
from operators.results import Origin
from operators.write_seg_parts import build_object, describe_segments, described_as

SERIES_NUMBERS = {Contrast.T1C: 9011, Contrast.FLAIR: 9012, "SR": 9013}
"""Ten above those of the objects that they stand in for."""


def build_labelmap(
    mask: BoolArray,
    source: SourceVolume,
    contrast: Contrast,
    tumour: TumourMap,
    origin: Origin,
    tracking_uid: str | None = None,
    parts: LabelMap | None = None,
) -> hd.seg.Segmentation:
    """Make the label map of a mask (planes, rows, columns): 1 is tumour, 0 background; 8 bits a voxel.

    `parts` divides the same mask: those that have a voxel are numbered from 1.
    """
    found, pixels = [], mask.astype(np.uint8)
    if parts is not None:
        found = [part for part in parts.found if part in parts.legend]
        for number, part in enumerate(found, 1):
            pixels[parts.mask_of(part)] = number
    seg = build_object(
        pixels,
        source,
        describe_segments(tumour, origin, tracking_uid, found or [Segment.WHOLE]),
        origin,
        ("SEG", contrast, "labelmap"),
        segmentation_type=hd.seg.SegmentationTypeValues.LABELMAP,
        series_number=SERIES_NUMBERS[contrast],
        **described_as(contrast, several=bool(found)),
    )
    seg.SegmentSequence = sorted(
        seg.SegmentSequence, key=lambda segment: segment.SegmentNumber == seg.PixelPaddingValue
    )
    return seg
