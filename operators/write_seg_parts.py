"""What all segmentations share: the lesion and its parts as segments, and an object with every plane of its source.

Every plane is there, empty ones too: viewers lay frames on slices by number or by position, and only a whole grid
comes out right both ways. Planes are those of the series as it came: of a stack that was put straight, the tilted
ones; of enhanced MR, the frames that were read.

Sources: PS3.3 A.51 and C.8.20.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.uid import MRImageStorage

from models.segments import Segment
from operators import codes
from operators.domain import Contrast, SourceVolume, TumourMap
from operators.results import PRODUCT, Origin, anonymous, finish, part_uid
from operators.segment_table import SEGMENTS
from operators.series_geometry import layout
from operators.write_parts import private_scheme
from operators.write_planes import frame_numbers

SEGMENT_LABEL, SEGMENT_RGB = SEGMENTS[Segment.WHOLE].label, SEGMENTS[Segment.WHOLE].rgb
STAND_IN_ROOT = "2.25.1"
"""Of UIDs that name planes while the library lays out the object; none is written."""
INEXACT_COSINES = 5e-5
"""Directions that are farther from being unit vectors at right angles are not repeated in results."""


def lesion_uid(origin: Origin, tracking_uid: str | None = None) -> str:
    """Return the lesion's tracking UID; `tracking_uid` is the one that it had at an earlier examination."""
    return tracking_uid or origin.uid("tracking", SEGMENT_LABEL)


def describe_segment(
    tumour: TumourMap,
    origin: Origin,
    tracking_uid: str | None = None,
    segment: Segment = Segment.WHOLE,
    number: int = 1,
    *,
    remark: str = "",
) -> hd.seg.SegmentDescription:
    """Describe one segment; its tracking UID is the same on every grid and in every form (PS3.3 C.8.20.4).

    `tracking_uid` is the one that the lesion had at an earlier examination, `remark` is added to the label.
    """
    row, lesion = SEGMENTS[segment], lesion_uid(origin, tracking_uid)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=row.label + remark,
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=row.code,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=tumour.model, family=codes.ARTIFICIAL_INTELLIGENCE, version=tumour.model_version, source=PRODUCT
        ),
        tracking_uid=lesion if segment is Segment.WHOLE else part_uid(lesion, segment),
        tracking_id=row.label,
        anatomic_regions=[codes.BRAIN],
        display_color=hd.color.CIELabColor.from_rgb(*row.rgb),
    )


def describe_segments(
    tumour: TumourMap, origin: Origin, tracking_uid: str | None, segments: Iterable[Segment]
) -> list[hd.seg.SegmentDescription]:
    """Describe segments, numbered from 1 in their order."""
    return [describe_segment(tumour, origin, tracking_uid, s, number) for number, s in enumerate(segments, 1)]


def described_as(contrast: Contrast, *, several: bool) -> dict[str, str]:
    """Return constructor arguments that say what an object on a series outlines: the whole, or `several` segments."""
    told, label = ("tumour and its parts", "TUMOUR_PARTS") if several else ("whole tumour", "WHOLE_TUMOUR")
    return {
        "series_description": f"AI {told} on {contrast} (research)",
        "content_label": label,
        "content_description": f"{told.capitalize()} on {contrast}, automatic",
    }


def build_object(
    pixels: NDArray[Any],
    source: SourceVolume,
    segments: Sequence[hd.seg.SegmentDescription],
    origin: Origin,
    purpose: Sequence[str],
    **described: Any,
) -> hd.seg.Segmentation:
    """Make the segmentation object of pixels on a source series' own grid.

    Pixels are (planes, rows, columns), of several segments that may overlap (planes, rows, columns, segments).
    Its UIDs derive from `purpose`, which no other object may have; `described` is the rest that the library asks for.
    """
    seg = hd.seg.Segmentation(
        source_images=[_stand_in(source, place) for place in range(len(source.headers))],
        pixel_array=pixels,
        segment_descriptions=segments,
        series_instance_uid=origin.uid("series", *purpose),
        sop_instance_uid=origin.uid("instance", *purpose),
        instance_number=1,
        content_creator_name=f"{PRODUCT}^",
        omit_empty_frames=False,
        contributing_equipment=[hd.ContributingEquipment(**origin.equipment)],
        **described,
        **origin.device,
        **origin.stamps,
    )
    seg.BodyPartExamined = "BRAIN"
    if any(d.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == codes.PRIVATE_SCHEME for d in segments):
        seg.CodingSchemeIdentificationSequence = [private_scheme()]
    _name_dimensions(seg, origin.uid("dimensions", *purpose))
    _name_sources(seg, source)
    finish(seg, source.headers[0], origin)
    return seg


def _name_dimensions(seg: hd.seg.Segmentation, uid: str) -> None:
    """Replace the library's random UID of the dimension organisation."""
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid


def _stand_in(source: SourceVolume, place: int) -> Dataset:
    """Make of one plane a single-frame image of one direction and a UID of its own, as the library wants them.

    Frames of one object share its UID, and scanners repeat the direction with rounding noise.
    """
    first = source.headers[0]
    image = anonymous(source.headers[place])
    replaced = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": f"{STAND_IN_ROOT}.{place}",
        "ImageOrientationPatient": _directions(first),
        "PixelSpacing": first.PixelSpacing,
        "SliceThickness": first.get("SliceThickness") or float(source.volume.spacing[0]),
    }
    for keyword, value in replaced.items():
        # A new element: setting the value would change the source's own.
        image[keyword] = DataElement(keyword, dictionary_VR(keyword), value)
    return image


def _directions(header: Dataset) -> Sequence[Any]:
    """Return a plane's directions as its header has them, or exact ones where it has too few decimals to be valid."""
    where = layout([header])
    exact = np.concatenate([where.along_row, where.along_column])
    if np.abs(np.array(header.ImageOrientationPatient, float) - exact).max() < INEXACT_COSINES:
        return list(header.ImageOrientationPatient)
    return [f"{cosine:.10f}" for cosine in exact]


def _name_sources(seg: hd.seg.Segmentation, source: SourceVolume) -> None:
    """Replace the stand-ins by the objects, and the frames of them, that the planes came from."""
    frames = frame_numbers(source)
    groups = (group.get("DerivationImageSequence", ()) for group in seg.PerFrameFunctionalGroupsSequence)
    # Once each: frames of several segments on one plane share the item.
    found = {id(r): r for derivations in groups for d in derivations for r in d.SourceImageSequence}
    for reference in found.values():
        header = _refer(reference, source)
        if id(header) in frames:
            reference.ReferencedFrameNumber = frames[id(header)]
    for holder, keyword in (
        (seg, "SourceImageSequence"),
        (seg.ReferencedSeriesSequence[0], "ReferencedInstanceSequence"),
    ):
        references = {str(_refer(r, source).SOPInstanceUID): r for r in deepcopy(list(holder[keyword].value))}
        holder[keyword].value = list(references.values())


def _refer(reference: Dataset, source: SourceVolume) -> Dataset:
    """Let a reference to a stand-in name the object it stands for; return that one's header."""
    header = source.headers[int(reference.ReferencedSOPInstanceUID.rsplit(".", 1)[1])]
    reference.ReferencedSOPClassUID = header.SOPClassUID
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return header
