"""Parts that all segmentations share: the lesion as a segment, and an object that has every plane of its source.

Every plane is there, empty ones too: viewers lay frames on slices by number or by position, and only a whole grid
comes out right both ways. Planes are those of the series as it came: of a stack that was put straight, the tilted
ones; of enhanced MR, the frames that were read.

Sources: PS3.3 A.51 and C.8.20.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.uid import MRImageStorage

from operators import codes
from operators.domain import SourceVolume, TumourMap
from operators.results import PRODUCT, Origin, anonymous, finish
from operators.series_geometry import layout
from operators.write_planes import frame_numbers

SEGMENT_LABEL = "Whole tumour"
SEGMENT_RGB = (255, 210, 0)
"""Yellow: seen on grey images by every kind of colour vision."""
STAND_IN_ROOT = "2.25.1"
"""Of UIDs that name planes while the library lays out the object; none is written."""
INEXACT_COSINES = 5e-5
"""Directions that are farther from being unit vectors at right angles are not repeated in results."""


def describe_segment(
    tumour: TumourMap, origin: Origin, tracking_uid: str | None = None, label: str = SEGMENT_LABEL
) -> hd.seg.SegmentDescription:
    """Describe the one segment; its tracking UID is the same on every grid and in every form (PS3.3 C.8.20.4).

    `tracking_uid` is the one that the lesion had at an earlier examination.
    """
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=codes.NEOPLASM,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=tumour.model, family=codes.ARTIFICIAL_INTELLIGENCE, version=tumour.model_version, source=PRODUCT
        ),
        tracking_uid=tracking_uid or origin.uid("tracking", SEGMENT_LABEL),
        tracking_id=SEGMENT_LABEL,
        anatomic_regions=[codes.BRAIN],
        display_color=hd.color.CIELabColor.from_rgb(*SEGMENT_RGB),
    )


def build_object(
    pixels: NDArray[Any],
    source: SourceVolume,
    segment: hd.seg.SegmentDescription,
    origin: Origin,
    purpose: Sequence[str],
    **described: Any,
) -> hd.seg.Segmentation:
    """Make the segmentation object of pixels (planes, rows, columns) on a source series' own grid.

    Its UIDs derive from `purpose`, which no other object may have; `described` is the rest that the library asks for.
    """
    seg = hd.seg.Segmentation(
        source_images=[_stand_in(source, place) for place in range(len(source.headers))],
        pixel_array=pixels,
        segment_descriptions=[segment],
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
    for reference in (r for derivations in groups for d in derivations for r in d.SourceImageSequence):
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
