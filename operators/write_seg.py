"""Write the tumour as DICOM segmentations: one on T1C's grid, one on FLAIR's.

Each is BINARY, Explicit VR little endian, with every plane of its source series in it, empty ones too: viewers
lay frames on slices by number or by position, and only a whole grid comes out right both ways. Planes are those of
the series as it came: of a stack that was put straight, the tilted ones; of enhanced MR, the frames that were read.

T1C's voxels are only put back in place. FLAIR lies between T1C's slices, as tilted planes lie between straight ones,
and thresholding what is interpolated between two slices loses or doubles a slice's edge; so the distance to the
tumour's surface is interpolated instead, and its level chosen to keep the volume.

Sources: PS3.3 A.51 and C.8.20; S. Raya and J. Udupa, "Shape-based interpolation", IEEE TMI 1990.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.uid import MRImageStorage
from scipy import ndimage

from operators import codes
from operators.domain import BoolArray, Contrast, SourceVolume, Stack, TumourMap
from operators.errors import AnalysisFailed
from operators.results import PRODUCT, Origin, anonymous, earlier_input, finish, origin_of, save
from operators.series_geometry import layout
from operators.stage import Job, StageOperator, needed
from operators.write_planes import Matrix, frame_numbers, own_shape, stack_to_planes

SEGMENT_LABEL = "Whole tumour"
SEGMENT_RGB = (255, 210, 0)
"""Yellow: seen on grey images by every kind of colour vision."""
SERIES_NUMBERS = {Contrast.T1C: 9001, Contrast.FLAIR: 9002}
"""Far above any scanner's own."""
GEOMETRY_TOLERANCE = 1e-3
"""Directions as cosines, offsets in voxels: what decimal strings of headers may cost."""
STAND_IN_ROOT = "2.25.1"
"""Of UIDs that name planes while the library lays out the object; none is written."""
INEXACT_COSINES = 5e-5
"""Directions that are farther from being unit vectors at right angles are not repeated in results."""
MARGIN_VOXELS = 3
"""Kept around the tumour when distances are computed."""


def segment_on_source(stack: Stack, tumour: TumourMap, source: SourceVolume, contrast: Contrast) -> BoolArray:
    """Bring the tumour to a source series' own grid (planes, rows, columns).

    Raises AnalysisFailed where the series' grid and its headers, or the stack and T1C, do not belong together.
    """
    shape = own_shape(source, contrast)
    if contrast is Contrast.T1C and shape == source.volume.spatial_shape:
        return _put_back(stack.geometry.with_array(tumour.mask.astype(np.uint8)), source)
    return resample_mask(tumour.mask, stack_to_planes(stack, source, contrast), stack.spacing_mm, shape)


def _put_back(mask: hd.Volume, source: SourceVolume) -> BoolArray:
    """Permute and flip a mask on the stack's grid back to T1C's own."""
    try:
        matched = mask.match_geometry(source.volume.get_geometry(), tol=GEOMETRY_TOLERANCE)
    except RuntimeError as error:
        raise AnalysisFailed("the stack is not a permutation of T1C's voxels") from error
    if int(matched.array.sum()) != int(mask.array.sum()):
        raise AnalysisFailed("part of the tumour lies outside T1C's grid")
    return np.asarray(matched.array, bool)


def resample_mask(
    mask: BoolArray, to_target: Matrix, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]
) -> BoolArray:
    """Resample a mask to another grid of `shape`, keeping the volume of what that grid covers.

    `to_target` (4 x 4) maps the mask's indices to the target's.
    """
    out = np.zeros(shape, bool)
    voxels = np.argwhere(mask)
    if not len(voxels):
        return out
    landed = voxels @ to_target[:3, :3].T + to_target[:3, 3]
    covered = np.all((landed > -0.5) & (landed < np.array(shape) - 0.5), axis=1)
    if not covered.any():
        return out
    wanted = max(1, round(int(covered.sum()) * abs(float(np.linalg.det(to_target[:3, :3])))))
    distance, corner = _signed_distance(mask, voxels, spacing_mm)
    to_mask = np.linalg.inv(to_target)
    depth = ndimage.affine_transform(
        distance, to_mask[:3, :3], to_mask[:3, 3] - corner, shape, np.float32, order=1, mode="constant", cval=-np.inf
    )
    near = depth[np.isfinite(depth)]
    level = np.partition(near, -wanted)[-wanted] if wanted < len(near) else 0.0
    return np.asarray(depth >= level, bool)


def _signed_distance(
    mask: BoolArray, voxels: NDArray[np.int64], spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compute the distance in mm to the mask's surface around it, positive inside, and where that box begins."""
    corner = voxels.min(axis=0) - MARGIN_VOXELS
    box = np.zeros(voxels.max(axis=0) - corner + 1 + MARGIN_VOXELS, bool)
    box[tuple((voxels - corner).T)] = True
    inside, outside = (ndimage.distance_transform_edt(part, spacing_mm) for part in (box, ~box))
    return (inside - outside).astype(np.float32), corner


def describe_segment(tumour: TumourMap, origin: Origin, tracking_uid: str | None = None) -> hd.seg.SegmentDescription:
    """Describe the one segment; its tracking UID is the same on every grid (PS3.3 C.8.20.4).

    `tracking_uid` is the one that the lesion had at an earlier examination.
    """
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=SEGMENT_LABEL,
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


def build_seg(
    mask: BoolArray,
    source: SourceVolume,
    contrast: Contrast,
    tumour: TumourMap,
    origin: Origin,
    tracking_uid: str | None = None,
) -> hd.seg.Segmentation:
    """Make the segmentation object of a mask (planes, rows, columns) on a source series' own grid."""
    seg = hd.seg.Segmentation(
        source_images=[_stand_in(source, place) for place in range(len(source.headers))],
        pixel_array=mask.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[describe_segment(tumour, origin, tracking_uid)],
        series_instance_uid=origin.uid("series", "SEG", contrast),
        series_number=SERIES_NUMBERS[contrast],
        sop_instance_uid=origin.uid("instance", "SEG", contrast),
        instance_number=1,
        content_label="WHOLE_TUMOUR",
        content_description=f"Whole tumour on {contrast}, automatic",
        content_creator_name=f"{PRODUCT}^",
        omit_empty_frames=False,
        contributing_equipment=[hd.ContributingEquipment(**origin.equipment)],
        series_description=f"AI whole tumour on {contrast} (research)",
        **origin.device,
        **origin.stamps,
    )
    seg.BodyPartExamined = "BRAIN"
    _name_dimensions(seg, origin.uid("dimensions", contrast))
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


def known_tracking_uid(job: Job) -> str | None:
    """Return the tracking UID that the lesion has had: at an earlier examination, or in a result that is replaced."""
    if job.earlier and job.earlier.tracking_uid:
        return job.earlier.tracking_uid
    return next((p.tracking_uid for p in job.predecessors if p.tracking_uid), None)


def write_segs(job: Job, version: str, made_at: datetime) -> None:
    """Write a job's segmentations into its output folder and list them in its results."""
    stack, tumour, volumes = needed(job.stack), needed(job.tumour), needed(job.volumes)
    origin = origin_of(volumes, tumour, version, made_at).also(job.engine, *earlier_input(job.earlier))
    known = known_tracking_uid(job)
    for contrast in SERIES_NUMBERS:
        mask = segment_on_source(stack, tumour, volumes[contrast], contrast)
        seg = build_seg(mask, volumes[contrast], contrast, tumour, origin, known)
        job.results[f"SEG {contrast}"] = save(seg, job.output_folder / f"seg_{contrast.lower()}.dcm")


class WriteSegOperator(StageOperator):
    """Stack, tumour and volumes to a segmentation on T1C and one on FLAIR."""

    def __init__(self, fragment: Any, *args: Any, version: str, clock: Callable[[], datetime], **kwargs: Any) -> None:
        self._version, self._clock = version, clock
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add "SEG T1C" and "SEG FLAIR" to `job.results`."""
        write_segs(job, self._version, self._clock())
