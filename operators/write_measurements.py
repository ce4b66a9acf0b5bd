"""Write the diameters as lines on the image that they were measured on: a Comprehensive 3D SR of TID 1500.

Beside the report, because viewers take lines into their list of measurements only from a report in which every group
has coordinates, under the title of the default measurement report. The tracking identifier names the tool whose lines
these are to viewers on Cornerstone; to every other reader it is a name like any.

There is a group of lines for the whole tumour and, where the network tells it apart and it was found, one for the
enhancing part, whose diameters are those that the RANO criteria follow in a tumour that enhances. Of other parts the
report has the figures: more lines on one image would be in each other's way.

Lines are two-dimensional coordinates on one image that was acquired. Where T1C's planes are not the stack's axial
ones, the diameters cross many images and lie in none: no viewer could show them on an image, and the report's figures
remain. Then no object is written, and a note says why.

Sources: PS3.16 TID 1501 and 320; PS3.3 C.18.6 (the first pixel's corner is 0\\0, its centre .5\\.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom import Dataset

from models.segments import Segment
from operators import codes
from operators.domain import Contrast, Diameter, Findings, Predecessor, SourceVolume, Stack, TumourMap
from operators.report_identity import time_of
from operators.results import Origin, anonymous, finish, origin_of, save
from operators.revision import as_previous_version, replaced_by
from operators.segment_table import SEGMENTS
from operators.stage import Job, StageOperator, needed
from operators.statements import volume_figure
from operators.write_parts import identify, in_english, observer, separate, text_item
from operators.write_planes import frame_numbers, own_shape, stack_to_planes

SERIES_NUMBER = 9005
TRACKING_IDENTIFIER = "Cornerstone3DTools@^0.1.0:Bidirectional"
DRAWN = (Segment.WHOLE, Segment.ENHANCING)
IN_PLANE = 1e-2
"""How far, in slices, end points may lie off one plane: what decimal strings of headers may cost."""
NOT_ON_AN_IMAGE = (
    "The diameters are not stored as lines on an image: T1C's slices are not axial, and the lines lie in none of them."
)
Line = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageLines:
    """The diameters on one image of T1C."""

    header: Dataset
    frame: int | None
    """Frame number, counted from 1, where the image is a frame of a multi-frame object."""
    long_axis: Line
    """(2, 2): end points as (column, row), from the corner of the first pixel."""
    short_axis: Line


def lines_on_image(stack: Stack, source: SourceVolume, findings: Findings) -> ImageLines | None:
    """Find the image that both diameters lie in, and their place on it; None where there is none.

    A tumour without both diameters has no lines either.
    """
    if findings.slice_index is None or findings.long_axis is None or findings.short_axis is None:
        return None
    to_planes = stack_to_planes(stack, source, Contrast.T1C)
    points = np.concatenate([_ends(findings.slice_index, a) for a in (findings.long_axis, findings.short_axis)])
    landed = points @ to_planes[:3, :3].T + to_planes[:3, 3]
    planes, rows, columns = own_shape(source, Contrast.T1C)
    plane = round(float(landed[0, 0]))
    if np.abs(landed[:, 0] - plane).max() > IN_PLANE or not 0 <= plane < planes:
        return None
    lines = landed[:, :0:-1] + 0.5  # (row, column) of centres to (column, row) from the corner
    if (lines < 0).any() or (lines > (columns, rows)).any():
        return None
    header = source.headers[plane]
    return ImageLines(header, frame_numbers(source).get(id(header)), lines[:2], lines[2:])


def _ends(slice_index: int, axis: Diameter) -> Line:
    return np.array([(slice_index, *axis.start), (slice_index, *axis.end)], float)


def measurement_group(
    lines: ImageLines, findings: Findings, tumour: TumourMap, origin: Origin, segment: Segment = Segment.WHOLE
) -> Any:
    """Make the group of one segment: both diameters, each inferred from its line on the image (TID 1501)."""
    purpose = ("tracking", "diameters") if segment is Segment.WHOLE else ("tracking", "diameters", segment)
    frames = None if lines.frame is None else [lines.frame]
    image = sr.SourceImageForRegion(lines.header.SOPClassUID, lines.header.SOPInstanceUID, frames)
    group = sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(uid=origin.uid(*purpose), identifier=TRACKING_IDENTIFIER),
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_type=SEGMENTS[segment].code,
        finding_sites=[sr.FindingSite(anatomic_location=codes.BRAIN)],
        algorithm_id=identify(tumour.model, tumour.model_version),
        measurements=[
            sr.Measurement(
                name,
                round(needed(axis).millimetres, 1),
                codes.MILLIMETRE,
                referenced_coordinates=[
                    sr.CoordinatesForMeasurement(sr.GraphicTypeValues.POLYLINE, line, image),
                ],
            )
            for name, axis, line in (
                (codes.LONG_AXIS, findings.long_axis, lines.long_axis),
                (codes.SHORT_AXIS, findings.short_axis, lines.short_axis),
            )
        ],
    )
    group[0].ContentSequence.append(text_item(codes.COMMENT, label_of(findings, segment)))
    return group


def label_of(findings: Findings, segment: Segment = Segment.WHOLE) -> str:
    """Return what a viewer writes beside the lines."""
    bound = "at least " if findings.reaches_edge else ""
    return f"{SEGMENTS[segment].label} {bound}{volume_figure(findings.tumour_mm3)} ml (automatic, research)"


def build_measurements(
    measured: Mapping[Segment, tuple[ImageLines, Findings]],
    tumour: TumourMap,
    origin: Origin,
    predecessors: Sequence[Predecessor] = (),
) -> sr.Comprehensive3DSR:
    """Make the object of one segment's lines at least; its evidence is the images that they lie on."""
    images = {str(lines.header.SOPInstanceUID): lines.header for lines, _ in measured.values()}
    header = next(iter(images.values()))
    own_uid = origin.uid("instance", "measurements")
    content = sr.MeasurementReport(
        observer(origin),
        codes.BRAIN_MRI,
        [measurement_group(lines, found, tumour, origin, s) for s, (lines, found) in measured.items()],
        title=codes.MEASUREMENTS_TITLE,
        language_of_content_item_and_descendants=in_english(),
    )
    separate(content[0])
    result = sr.Comprehensive3DSR(
        evidence=[anonymous(image) for image in images.values()],
        content=content,
        series_instance_uid=origin.uid("series", "measurements"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=own_uid,
        instance_number=1,
        is_complete=True,
        previous_versions=as_previous_version(replaced_by(own_uid, SERIES_NUMBER, predecessors)),
        series_description="AI diameters on T1C (research)",
        contributing_equipment=[hd.ContributingEquipment(**origin.equipment)],
        **origin.device,
        **origin.stamps,
    )
    finish(result, header, origin)
    return result


def write_measurements(job: Job, version: str, made_at: datetime) -> None:
    """Write a job's diameters into its output folder and list them in its results, or note why there are none."""
    stack, tumour, volumes = needed(job.stack), needed(job.tumour), needed(job.volumes)
    findings = needed(job.findings)
    if findings.long_axis is None or findings.short_axis is None:
        return
    measured: dict[Segment, tuple[ImageLines, Findings]] = {}
    for segment, found in {Segment.WHOLE: findings, **findings.segments}.items():
        if segment in DRAWN:
            lines = lines_on_image(stack, volumes[Contrast.T1C], found)
            if lines is not None:
                measured[segment] = lines, found
    if Segment.WHOLE not in measured:
        job.notes = (*job.notes, NOT_ON_AN_IMAGE)
        return
    origin = origin_of(volumes, tumour, version, made_at, job.depends_on).also(job.engine)
    built = build_measurements(measured, tumour, origin, job.predecessors)
    job.results["measurements SR"] = save(built, job.output_folder / "measurements.dcm")


class WriteMeasurementsOperator(StageOperator):
    """Diameters to lines on T1C; ahead of the report, whose notes say where there are none."""

    def __init__(self, fragment: Any, *args: Any, version: str, clock: Callable[[], datetime], **kwargs: Any) -> None:
        self._version, self._clock = version, clock
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add "measurements SR" to `job.results`, or a note to the job."""
        write_measurements(job, self._version, time_of(job, self._version, self._clock))
