"""Write the pictures as Secondary Captures, so that the PACS shows them where the study is read.

RGB, uncompressed: the one form that every viewer shows. No patient identity is in their pixels.

Sources: PS3.3 A.8.1 (Secondary Capture Image IOD), C.8.6.1 and C.7.6.1.1.1 (orientation), C.7.6.1 (source images).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from operators import codes
from operators.domain import Contrast, SourceVolume, Stack, Volumes
from operators.report_identity import time_of
from operators.results import Origin, anonymous, finish, models_of, origin_of, save
from operators.slice_picture import key_slice
from operators.stage import Job, StageOperator, needed

KEY_IMAGE, ATTENTION = "key image", "attention"
SERIES_NUMBERS = {KEY_IMAGE: 9006, ATTENTION: 9008}
DESCRIPTIONS = {
    KEY_IMAGE: "AI key images (research)",
    ATTENTION: "AI attention maps, not the reported answer (research)",
}
"""Of the series: what explains another answer than the reported one does not lie beside what illustrates that."""
ORIENTATION = ("L", "P")
"""Rows of the picture run to the patient's left, columns to the back (PS3.3 C.7.6.1.1.1)."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture to be written, and what is told of it."""

    series: str
    """Which of the series of pictures it belongs to."""
    kind: str
    """Its name among the job's results."""
    number: int
    """Instance Number in its series."""
    description: str
    slices: tuple[int, ...]
    """The stack's slices that it shows."""


def drawn_of(job: Job) -> Iterator[Drawn]:
    """List a job's pictures: the key image, and where each marker's network looked."""
    first = key_slice(needed(job.stack), needed(job.findings))
    yield Drawn(KEY_IMAGE, KEY_IMAGE, 1, "T1C and FLAIR with the outline of the tumour and its diameters", (first,))
    for number, found in enumerate(job.attention, 1):
        told = (
            f"Grad-CAM of {found.model} {found.model_version} within the brain, on T1C with the outline of the tumour"
        )
        told += "; this network does not make the reported answer"
        yield Drawn(ATTENTION, f"{ATTENTION} {found.name}", number, told, found.slices)


def build_capture(
    picture: Picture, drawn: Drawn, volumes: Volumes, shown: Sequence[Dataset], origin: Origin
) -> hd.sc.SCImage:
    """Make the object of a picture (rows, columns, 3); `shown` are headers of the images that it was drawn on."""
    header = volumes[Contrast.T1C].headers[0]
    capture = hd.sc.SCImage.from_ref_dataset(
        anonymous(header),
        np.ascontiguousarray(picture),
        hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        series_instance_uid=origin.uid("series", drawn.series),
        series_number=SERIES_NUMBERS[drawn.series],
        sop_instance_uid=origin.uid("instance", drawn.kind),
        instance_number=drawn.number,
        patient_orientation=ORIENTATION,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=[hd.ContributingEquipment(**origin.equipment)],
        series_description=DESCRIPTIONS[drawn.series],
        **origin.device,
        **origin.stamps,
    )
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.BurnedInAnnotation = "NO"
    capture.DerivationDescription = drawn.description
    capture.BodyPartExamined = "BRAIN"
    capture.DateOfSecondaryCapture = capture.ContentDate
    capture.TimeOfSecondaryCapture = capture.ContentTime
    if shown:
        capture.SourceImageSequence = [_source(header) for header in shown]
    finish(capture, header, origin)
    return capture


def _source(shown: Dataset) -> Dataset:
    """Name the image that the picture was drawn on."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = shown.SOPClassUID, shown.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(codes.SOURCE_IMAGE)]
    return item


def plane_of(stack: Stack, index: int, t1c: SourceVolume) -> Dataset | None:
    """Return the header of the T1C plane that is a slice of the stack; None where its planes were cut otherwise."""
    to_planes = t1c.volume.inverse_affine @ stack.geometry.affine
    # A plane holds the whole slice only where moving along rows and columns does not leave it.
    if np.abs(to_planes[0, 1:3]).max() > 1e-3:
        return None
    plane = round(float(to_planes[0, 0] * index + to_planes[0, 3]))
    return t1c.headers[plane] if 0 <= plane < len(t1c.headers) else None


def write_captures(job: Job, version: str, made_at: datetime) -> None:
    """Write a job's pictures as DICOM beside their PNG and list them in its results."""
    stack, volumes = needed(job.stack), needed(job.volumes)
    origin = origin_of(volumes, needed(job.tumour), version, made_at, job.depends_on).also(
        job.engine, *models_of((*job.markers, *job.attention))
    )
    for drawn in list(drawn_of(job)):
        planes = (plane_of(stack, index, volumes[Contrast.T1C]) for index in drawn.slices)
        shown = list({str(plane.SOPInstanceUID): plane for plane in planes if plane is not None}.values())
        png = job.results[drawn.kind]
        capture = build_capture(_read(png), drawn, volumes, shown, origin)
        job.results[f"{drawn.kind} SC"] = save(capture, png.with_suffix(".dcm"))


def _read(path: Path) -> Picture:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


class WriteCaptureOperator(StageOperator):
    """The pictures, drawn, to Secondary Captures."""

    def __init__(self, fragment: Any, *args: Any, version: str, clock: Callable[[], datetime], **kwargs: Any) -> None:
        self._version, self._clock = version, clock
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add "key image SC", and one of each other picture, to `job.results`."""
        write_captures(job, self._version, time_of(job, self._version, self._clock))
