"""Read a folder's headers and sort them into series that each hold one kind of image.

Pixel data are not read here, but a file that lost its end is found by arithmetic. Enhanced multi-frame MR is taken
apart into frames, so that later stages know one kind of slice only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import BinaryIO, Literal

import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from operators.domain import Instance, Series, Study
from operators.errors import MixedPatients, PixelDataRefused, StudyRejected, UnreadableInstance
from operators.frames import ENHANCED_MR, single_frames
from operators.headers import DAMAGED, number
from operators.reading import PIXEL_DATA, read_header
from operators.sequences import UNDEFINED_LENGTH, TooMuch
from operators.series_split import split
from operators.stage import Job, StageOperator

# Its warnings on odd values quote them, and so the patient.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

ITEM, ITEMS_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
LARGE_PRIVATE_BYTES = 65_536
"""Private elements longer than this are not kept: vendors store whole protocols in every slice."""
MOST_HELD = 4_000_000
"""Elements that a study's headers may hold in all: 15,000 slices of 260 each. They take 1.5 GB, 3 GB at the most."""
MOST_FRAGMENTS = 200_000
"""Encapsulated pixel data in more pieces are refused: an object of 10,000 frames has 20 for each."""
ByteOrder = Literal["little", "big"]


def load_study(folder: Path) -> Study:
    """Read every DICOM file under a folder; files of other kinds are passed over.

    Raises StudyRejected where there is nothing or more than one study, UnreadableInstance where a file is cut off.
    """
    if not folder.is_dir():
        raise StudyRejected("the study folder does not exist")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return study_of(found for path in files if (found := read_instance(path)) is not None)


def read_instance(path: Path) -> Instance | None:
    """Read one file's header and check that its pixel data are all there; None if it is not a DICOM instance."""
    try:
        with path.open("rb") as file:
            header, elements = read_header(path, file)
            if header.get("SOPInstanceUID") is None:
                if _is_directory(header):
                    return None
                raise _fault(path, "has no SOP Instance UID")
            pixels_at = _find_pixels(path, header, file)
        _read_geometry(header)
        elements += _referred_to(header)
    except TooMuch as error:
        raise UnreadableInstance(f"{path.name} is not read: {error}") from error
    except InvalidDicomError as error:
        if path.suffix.lower() != ".dcm":
            return None
        raise _fault(path, "is not complete") from error
    except OSError as error:
        if error.errno is None:  # pydicom's own, of a sequence without end
            raise _fault(path, "is damaged") from error
        raise UnreadableInstance(f"{path.name} cannot be read from disk: {error.strerror}") from error
    except DAMAGED as error:
        raise _fault(path, "is damaged") from error
    _drop_large_private(header)
    return Instance(path, header, pixels_at=pixels_at, elements=elements)


def _is_directory(header: Dataset) -> bool:
    # Its records themselves may be many, and are passed over then.
    named = header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    return named or "DirectoryRecordSequence" in header


def _referred_to(header: Dataset) -> int:
    """Say what the headers of an enhanced object's frames come to: they refer to the object's, a fourth of its size."""
    if header.get("SOPClassUID") not in ENHANCED_MR or "PerFrameFunctionalGroupsSequence" not in header:
        return 0
    return len(header.PerFrameFunctionalGroupsSequence) * len(header) // 4


def _read_geometry(header: Dataset) -> None:
    """Raise one of DAMAGED where an image's place in space is no numbers."""
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        tuple(map(float, header.get(keyword) or ()))


def _fault(path: Path, fault: str) -> UnreadableInstance:
    return UnreadableInstance(f"{path.name} {fault}; send it again")


def _drop_large_private(header: Dataset) -> None:
    for tag in [e.tag for e in header.values() if e.tag.is_private and len(e.value or b"") > LARGE_PRIVATE_BYTES]:
        del header[tag]


def _find_pixels(path: Path, header: Dataset, file: BinaryIO) -> int | None:
    """Say where an image's plain little-endian values begin, if it has such; `file` stands at its pixel data.

    Raises UnreadableInstance where the pixel data are missing or cut off.
    """
    deflated = header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if not header.SOPClassUID.keyword.endswith("ImageStorage") or deflated:
        return None
    implicit, little = header.original_encoding
    order: ByteOrder = "little" if little else "big"
    start, end = file.tell(), file.seek(0, 2)
    file.seek(start)
    tag = _tag(file.read(4), order)
    if tag not in PIXEL_DATA:
        raise _fault(path, "is cut off before its pixel data")
    field = file.read(4 if implicit else 8)
    length = int.from_bytes(field[-4:], order)
    values_at = file.tell()
    if length == UNDEFINED_LENGTH:
        _step_over_fragments(path, file, end)
        return None
    if values_at + length > end or length < _native_bytes(header):
        raise _fault(path, "is cut off within its pixel data")
    plain = little and tag == PIXEL_DATA[-1] and header.BitsAllocated in {8, 16, 32} and header.SamplesPerPixel == 1
    return values_at if plain else None


def _tag(raw: bytes, order: ByteOrder) -> tuple[int, int]:
    return int.from_bytes(raw[:2], order), int.from_bytes(raw[2:4], order)


def _step_over_fragments(path: Path, file: BinaryIO, end: int) -> None:
    """Step over the fragments of encapsulated pixel data; raises where their end is not there, or far too late."""
    for _ in range(MOST_FRAGMENTS):
        item = file.read(8)
        if len(item) == 8 and _tag(item, "little") == ITEMS_END:
            return
        if file.tell() >= end or _tag(item, "little") != ITEM:
            raise _fault(path, "is cut off within its pixel data")
        file.seek(int.from_bytes(item[4:], "little"), 1)
    raise PixelDataRefused(f"{path.name} has more than {MOST_FRAGMENTS} fragments of pixel data; send it again")


def _native_bytes(header: Dataset) -> int:
    """Bytes that uncompressed pixel data of this header must have."""
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    if header.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two colour samples are shared by two pixels
    return int(header.Rows) * int(header.Columns) * frames * samples * int(header.BitsAllocated) // 8


def study_of(instances: Iterable[Instance]) -> Study:
    """Sort instances of one study into series; an instance that comes twice counts once."""
    unique: dict[str, Instance] = {}
    held = 0
    for instance in instances:
        held += instance.elements
        if held > MOST_HELD:
            raise StudyRejected(
                f"its headers hold more than {MOST_HELD:,} elements; divide the study, and send it again"
            )
        unique.setdefault(str(instance.header.SOPInstanceUID), instance)
    if not unique:
        raise StudyRejected("no DICOM images were found")
    try:
        return _sorted(unique)
    except DAMAGED as error:
        # The error's own text quotes the value.
        raise StudyRejected("a header holds values that cannot be read; send the study again") from error


def _sorted(unique: Mapping[str, Instance]) -> Study:
    studies = {str(i.header.get("StudyInstanceUID", "")) for i in unique.values()}
    if len(studies) > 1:
        raise StudyRejected(f"{len(studies)} studies lie in one folder; give each a folder of its own")
    _refuse_mixed_patients(i.header for i in unique.values())
    by_series = defaultdict(list)
    for instance in unique.values():
        by_series[str(instance.header.get("SeriesInstanceUID", ""))].extend(_frames(instance))
    parts = [part for members in by_series.values() for part in split(members)]
    return Study(studies.pop(), tuple(sorted(map(_series, parts), key=lambda s: (s.number is None, s.number, s.uid))))


def _refuse_mixed_patients(headers: Iterable[Dataset]) -> None:
    """Raise MixedPatients where two patients share a Study Instance UID; an empty value agrees with any."""
    seen: dict[str, set[frozenset[str]]] = defaultdict(set)
    for header in headers:
        for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
            # Padding, capitals, separators and further parts of a name differ between devices for one patient.
            text = str(header.get(keyword) or "").split("=")[0].upper()
            seen[keyword].add(frozenset(re.split(r"[\s^,]+", text)) - {""})
    if any(not (one <= other or other <= one) for held in seen.values() for one, other in combinations(held, 2)):
        raise MixedPatients("images of more than one patient share this study's UID; correct them and send them again")


def _frames(instance: Instance) -> list[Instance]:
    try:
        return single_frames(instance)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _fault(instance.path, "is damaged") from error


def _series(part: Sequence[Instance]) -> Series:
    header = part[0].header
    series_number = number(header, "SeriesNumber")
    return Series(
        uid=str(header.get("SeriesInstanceUID", "")),
        number=None if series_number is None else int(series_number),
        description=str(header.get("SeriesDescription") or ""),
        modality=str(header.get("Modality") or ""),
        instances=tuple(part),
    )


class LoadStudyOperator(StageOperator):
    """Adds the study to the job."""

    def process(self, job: Job) -> None:
        """Read the job's folder."""
        job.study = load_study(job.study_folder)
