"""Read a folder's headers and sort them into series that each hold one kind of image.

A DICOM series may mix what must not become one volume: echoes, b-values, stacks, orientations, magnitude and phase,
time points. Pixel data are not read here, but a file that lost its end is found by arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pydicom
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from operators.domain import Instance, Series, Study
from operators.errors import StudyRejected, UnreadableInstance
from operators.headers import b_value, number
from operators.stage import Job, StageOperator

# Its warnings on odd values quote them, and so the patient.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

SAME_DIRECTION = 5e-3
"""Two orientations whose direction cosines differ by less are one."""
UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA = ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010))
ITEM, ITEMS_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
Key = Callable[[Dataset], Hashable]
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
            header = dcmread(file, stop_before_pixels=True)
            if header.get("SOPInstanceUID") is None:
                if "DirectoryRecordSequence" in header:
                    return None
                raise _fault(path, "has no SOP Instance UID")
            _check_complete(path, header, file)
    except InvalidDicomError as error:
        if path.suffix.lower() != ".dcm":
            return None
        raise _fault(path, "is not complete") from error
    except OSError as error:
        raise UnreadableInstance(f"{path.name} cannot be read from disk: {error.strerror}") from error
    except (EOFError, ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise _fault(path, "is damaged") from error
    return Instance(path, header)


def _fault(path: Path, fault: str) -> UnreadableInstance:
    return UnreadableInstance(f"{path.name} {fault}; send it again")


def _check_complete(path: Path, header: Dataset, file: BinaryIO) -> None:
    """Raise UnreadableInstance where an image's pixel data are missing or cut off; `file` stands at them."""
    syntax = header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    if not header.SOPClassUID.keyword.endswith("ImageStorage") or syntax == DeflatedExplicitVRLittleEndian:
        return
    order: ByteOrder = "big" if syntax == ExplicitVRBigEndian else "little"
    start, end = file.tell(), file.seek(0, 2)
    file.seek(start)
    tag = _tag(file.read(4), order)
    if tag not in PIXEL_DATA:
        raise _fault(path, "is cut off before its pixel data")
    field = file.read(4 if syntax == ImplicitVRLittleEndian else 8)
    length = int.from_bytes(field[-4:], order)
    if length == UNDEFINED_LENGTH:
        if not _fragments_end(file, end):
            raise _fault(path, "is cut off within its pixel data")
    elif file.tell() + length > end or length < _native_bytes(header):
        raise _fault(path, "is cut off within its pixel data")


def _tag(raw: bytes, order: ByteOrder) -> tuple[int, int]:
    return int.from_bytes(raw[:2], order), int.from_bytes(raw[2:4], order)


def _fragments_end(file: BinaryIO, end: int) -> bool:
    """Step over the fragments of encapsulated pixel data; True if their end is there."""
    while file.tell() + 8 <= end:
        item = file.read(8)
        if _tag(item, "little") == ITEMS_END:
            return True
        if _tag(item, "little") != ITEM:
            return False
        file.seek(int.from_bytes(item[4:], "little"), 1)
    return False


def _native_bytes(header: Dataset) -> int:
    """Bytes that uncompressed pixel data of this header must have."""
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    if header.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two colour samples are shared by two pixels
    return int(header.Rows) * int(header.Columns) * frames * samples * int(header.BitsAllocated) // 8


def study_of(instances: Iterable[Instance]) -> Study:
    """Sort instances of one study into series; an instance that comes twice counts once."""
    unique: dict[str, Instance] = {}
    for instance in instances:
        unique.setdefault(str(instance.header.SOPInstanceUID), instance)
    if not unique:
        raise StudyRejected("no DICOM images were found")
    studies = {str(i.header.get("StudyInstanceUID", "")) for i in unique.values()}
    if len(studies) > 1:
        raise StudyRejected(f"{len(studies)} studies lie in one folder; give each a folder of its own")
    by_series = defaultdict(list)
    for instance in unique.values():
        by_series[str(instance.header.get("SeriesInstanceUID", ""))].append(instance)
    parts = [part for members in by_series.values() for part in split(members)]
    return Study(studies.pop(), tuple(sorted(map(_series, parts), key=lambda s: (s.number is None, s.number, s.uid))))


def split(instances: Sequence[Instance]) -> list[list[Instance]]:
    """Divide one DICOM series into sets that may each become one volume, in order of instance number."""
    ordered = sorted(instances, key=lambda i: (number(i.header, "InstanceNumber") or 0, i.path.name))
    orientations: list[tuple[float, ...]] = []
    parts = _divide([ordered], lambda header: _orientation(header, orientations))
    for key in (_matrix, _echo, b_value, _stack):
        parts = _divide(parts, key)
    for key in (_image_type, _time_point, _acquisition):
        parts = [piece for part in parts for piece in (_divide([part], key) if _repeats(part) else [part])]
    return parts


def _divide(parts: Iterable[Sequence[Instance]], key: Key) -> list[list[Instance]]:
    divided: list[list[Instance]] = []
    for part in parts:
        groups: dict[Hashable, list[Instance]] = defaultdict(list)
        for instance in part:
            groups[key(instance.header)].append(instance)
        divided.extend(groups.values())
    return divided


def _repeats(part: Sequence[Instance]) -> bool:
    """Say whether two instances lie at one place: only then do the weaker marks tell kinds of image apart."""
    places = [tuple(map(float, p)) for i in part if (p := i.header.get("ImagePositionPatient"))]
    return len(set(places)) < len(places)


def _orientation(header: Dataset, known: list[tuple[float, ...]]) -> int:
    """Number of the orientation among those known so far; -1 where there is none."""
    cosines = header.get("ImageOrientationPatient")
    if cosines is None or len(cosines) != 6:
        return -1
    direction = tuple(map(float, cosines))
    for place, other in enumerate(known):
        if np.allclose(direction, other, rtol=0, atol=SAME_DIRECTION):
            return place
    known.append(direction)
    return len(known) - 1


def _matrix(header: Dataset) -> Hashable:
    spacing = header.get("PixelSpacing") or ()
    return header.get("Rows"), header.get("Columns"), tuple(round(float(s), 3) for s in spacing)


def _echo(header: Dataset) -> Hashable:
    echo_time = number(header, "EchoTime")
    return number(header, "EchoNumbers"), None if echo_time is None else round(echo_time, 1)


def _stack(header: Dataset) -> Hashable:
    return str(header.get("StackID", ""))


def _image_type(header: Dataset) -> Hashable:
    return tuple(header.get("ImageType") or ())


def _time_point(header: Dataset) -> Hashable:
    return number(header, "TemporalPositionIdentifier")


def _acquisition(header: Dataset) -> Hashable:
    return number(header, "AcquisitionNumber")


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
