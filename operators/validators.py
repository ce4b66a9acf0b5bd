"""What judges a result object: dciodvfy, DCMTK's dsrdump, Part 3's tables, and whether it can be read back.

A complaint never quotes a value from the object: that might be the patient's identity.
"""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import highdicom as hd
import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import SegmentationStorage

from operators import steady_writer  # noqa: F401 - for its effect
from operators.attribute_check import attribute_faults, kind_of
from operators.segmentation_form import LABEL_MAP_STORAGE

SECONDS = 120.0
"""What a program may take for one object; dciodvfy takes a tenth of a second for a large one."""
PDF_TAIL = 1024
"""Bytes at the end of a PDF among which its end mark has to be (ISO 32000-1, annex H.3)."""
DCMTK_CANNOT_SAY = "The VR checker does not support this Specific Character Set"
"""A warning of what the program cannot check, not of the object."""
READING_ERRORS = (
    ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, LookupError, OSError, EOFError,
    AssertionError, struct.error,
)  # fmt: skip
"""What the libraries raise at objects that they cannot read."""


class Ruling(StrEnum):
    """What a validator comes to."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_INSTALLED = "not installed"
    NOT_JUDGED = "not judged"
    """The validator does not know this kind of object."""


@dataclass(frozen=True)
class Judgement:
    """One validator's word on one object, or on the set of all."""

    subject: str
    """The object's file, relative to the folder; or what else was judged."""
    kind: str
    validator: str
    ruling: Ruling
    complaints: tuple[str, ...] = ()
    """Why it failed, or what else there is to say; without any value from the object."""


@dataclass(frozen=True)
class ResultObject:
    """One result object as it lies in the folder."""

    path: Path
    name: str
    """Its file relative to the folder."""
    kind: str
    dataset: Dataset


Said = tuple[Ruling, tuple[str, ...]]


def ruling_on(complaints: list[str]) -> Said:
    """Pass what nobody complains of."""
    return (Ruling.FAILED if complaints else Ruling.PASSED), tuple(complaints)


def by_dciodvfy(result: ResultObject) -> Said:
    """Let dicom3tools judge: an error fails, a warning does not."""
    return _with_known_classes(result, _dciodvfy)


def _dciodvfy(path: Path) -> Said:
    told = _run("dciodvfy", "-new", str(path))
    if told is None:
        return Ruling.NOT_INSTALLED, ("apt-get install dicom3tools",)
    lines = (told.stdout + told.stderr).splitlines()
    errors = [_without_value(line) for line in lines if line.startswith("Error")]
    if any("Information Object Not found" in error for error in errors):
        return Ruling.NOT_JUDGED, ("dciodvfy does not know this kind of object",)
    if told.returncode != 0 and not errors:
        errors.append(f"dciodvfy ended with status {told.returncode}")
    return ruling_on(errors)


def by_dsrdump(result: ResultObject) -> Said:
    """Let DCMTK read a document's content: an error fails, and so does a warning."""
    return _with_known_classes(result, _dsrdump)


def _dsrdump(path: Path) -> Said:
    told = _run("dsrdump", str(path))
    if told is None:
        return Ruling.NOT_INSTALLED, ("apt-get install dcmtk",)
    lines = (line for line in told.stderr.splitlines() if line.startswith(("F:", "E:", "W:")))
    complaints = [_without_value(line) for line in lines if DCMTK_CANNOT_SAY not in line]
    if told.returncode != 0 and not complaints:
        complaints.append(f"dsrdump ended with status {told.returncode}")
    return ruling_on(complaints)


def _with_known_classes(result: ResultObject, judge: Callable[[Path], Said]) -> Said:
    """Have an object judged; of label maps that it refers to, as of the segmentations that programs know.

    Those from before label maps take the reference for one to an unknown image, and DCMTK's reads no further.
    """
    if not any(r.get("ReferencedSOPClassUID") == LABEL_MAP_STORAGE for r in references(result.dataset)):
        return judge(result.path)
    shown = deepcopy(result.dataset)
    for reference in references(shown):
        if reference.get("ReferencedSOPClassUID") == LABEL_MAP_STORAGE:
            reference.ReferencedSOPClassUID = SegmentationStorage
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shown.dcm"
        shown.save_as(path, enforce_file_format=True)
        ruling, complaints = judge(path)
    return ruling, (*complaints, "label maps that it refers to were shown to the program as segmentations")


def references(*items: Dataset) -> Iterator[Dataset]:
    """Find every item in or below some that refers to a SOP instance."""
    for item in items:
        if "ReferencedSOPInstanceUID" in item:
            yield item
        for element in item:
            if element.VR == "SQ":
                yield from references(*(element.value or ()))


def by_tables(result: ResultObject) -> Said:
    """Look for attributes of Type 1 and 2."""
    if kind_of(result.dataset) is None:
        return Ruling.NOT_JUDGED, ("the tables do not have this kind of object",)
    return ruling_on(attribute_faults(result.dataset))


def by_reading(result: ResultObject) -> Said:
    """Read the object as a receiver would, and write it again: nothing may be lost."""
    try:
        complaints = _read_back(result.dataset) + READERS.get(result.kind, _nothing)(result)
    except READING_ERRORS as error:
        # Its text may quote a value.
        complaints = [f"cannot be read: {type(error).__name__}"]
    return ruling_on(complaints)


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run a program to its end; None where it is not installed."""
    path = shutil.which(program)
    if path is None:
        return None
    command = [path, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -1, "", f"E: {program} did not end within {SECONDS:.0f} s")


def _without_value(line: str) -> str:
    """Cut a complaint before what it quotes."""
    return line.removeprefix("Error - ").split(" = ", maxsplit=1)[0].strip()


def _read_back(dataset: Dataset) -> list[str]:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return [] if pydicom.dcmread(buffer) == dataset else ["is another object once it was written again"]


def _nothing(_: ResultObject) -> list[str]:
    return []


def _read_segmentation(result: ResultObject) -> list[str]:
    """Compare the voxels of each segment as pydicom unpacks and as highdicom assigns them."""
    dataset = result.dataset
    seg = hd.seg.segread(result.path)
    frames = np.asarray(dataset.pixel_array).reshape(-1, dataset.Rows, dataset.Columns)
    if len(frames) != int(dataset.NumberOfFrames):
        return [f"holds {len(frames)} frames and says {int(dataset.NumberOfFrames)}"]
    if dataset.SegmentationType == "BINARY" and not dataset.file_meta.TransferSyntaxUID.is_compressed:
        packed = pack_bits(frames.astype(np.uint8), pad=True)
        if packed != bytes(dataset.PixelData):
            return ["its bits are others once they were unpacked and packed"]
    counts = _voxels_by_segment(dataset, frames)
    unknown = sorted(set(counts) - {int(n) for n in seg.segment_numbers} - {0})
    if unknown:
        return [f"frames name segment {unknown[0]}, which is not described"]
    if dataset.SegmentationType == "BINARY" and dataset.get("SegmentsOverlap") == "NO" and _overlap(dataset, frames):
        return ["says that its segments do not overlap, and they do"]
    if np.count_nonzero(seg.get_stored_frames()) != sum(count for segment, count in counts.items() if segment):
        return ["highdicom and pydicom do not read the same voxels"]
    return []


def _overlap(dataset: Dataset, frames: np.ndarray) -> bool:
    """Say whether any voxel of a place is in two frames."""
    seen: dict[tuple[float, ...], np.ndarray] = {}
    for groups, frame in zip(dataset.PerFrameFunctionalGroupsSequence, frames, strict=True):
        place = tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient))
        if place in seen and np.any(seen[place] & (frame > 0)):
            return True
        seen[place] = seen.get(place, False) | (frame > 0)
    return False


def _voxels_by_segment(dataset: Dataset, frames: np.ndarray) -> dict[int, int]:
    """Count voxels by segment number."""
    if dataset.SegmentationType == "LABELMAP":
        values, counts = np.unique(frames, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    found: dict[int, int] = {}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for groups, frame in zip(dataset.PerFrameFunctionalGroupsSequence, frames, strict=True):
        holder = groups if "SegmentIdentificationSequence" in groups else shared
        number = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        found[number] = found.get(number, 0) + int(np.count_nonzero(frame))
    return found


def _read_report(result: ResultObject) -> list[str]:
    """Read a report's content; one of TID 1500 has a measurement group at least."""
    content = hd.sr.srread(result.path).content
    if not isinstance(content, hd.sr.MeasurementReport):
        return []
    groups = (
        content.get_volumetric_roi_measurement_groups(),
        content.get_planar_roi_measurement_groups(),
        content.get_image_measurement_groups(),
    )
    return [] if any(groups) else ["a TID 1500 report without any measurement group"]


def _read_pdf(result: ResultObject) -> list[str]:
    """Look at a document's two ends: no library here opens its pages."""
    document = bytes(result.dataset.EncapsulatedDocument)
    length = int(result.dataset.get("EncapsulatedDocumentLength") or len(document))
    complaints = []
    if not document.startswith(b"%PDF-"):
        complaints.append("the document does not begin with %PDF-")
    if b"%%EOF" not in document[max(0, length - PDF_TAIL) : length]:
        complaints.append("the document does not end with %%EOF")
    if len(document) - length not in (0, 1):
        complaints.append("the document is not as long as its length says")
    return complaints


def _read_picture(result: ResultObject) -> list[str]:
    """Decode a picture: its pixels fill its rows and columns."""
    dataset = result.dataset
    pixels = np.asarray(dataset.pixel_array)
    wanted = (int(dataset.Rows), int(dataset.Columns))
    return (
        [] if wanted in (pixels.shape[:2], pixels.shape[-2:], pixels.shape[1:3]) else ["its pixels are of another size"]
    )


READERS: Mapping[str, Callable[[ResultObject], list[str]]] = {
    "SEG": _read_segmentation,
    "SR": _read_report,
    "PDF": _read_pdf,
    "SC": _read_picture,
}
"""By kind of object; every other is only read and written."""
