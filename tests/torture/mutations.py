"""Broken DICOM of many kinds, made from whole files by a seeded generator: the number of a failure makes it again."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from operators import steady_writer  # noqa: F401 - for its effect

HEAD = 132
"""Preamble and "DICM"."""
COMPRESSED = (JPEGLSLossless, RLELossless, JPEG2000Lossless)
UNDEFINED = 0xFFFFFFFF
LENGTHS = (0, 1, 2, 3, 7, 0xFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
VRS = (b"UN", b"SQ", b"OB", b"OW", b"DS", b"IS", b"PN", b"UI", b"FL", b"AT", b"UT", b"XX", b"\0\0")
CHARSETS = (
    "ISO_IR 100",
    "ISO_IR 192",
    "GB18030",
    "ISO 2022 IR 87",
    "\\ISO 2022 IR 58",
    "NONSENSE",
    "\\\\\\",
    "ISO_IR 999",
)
UIDS = ("../../etc/passwd", "1.2." + "9" * 200, "", "1..2", "\x00", "1.2\\3.4", "$(reboot)", "0.0.0")
Mutation = Callable[[bytearray, np.random.Generator], bytearray]


def seeds() -> list[bytes]:
    """Whole files to begin from.

    Explicit, implicit, deflated; multi-frame, nested, of many items; with an executable before it; and, as the last
    ones, those of `compressed`.
    """
    made = []
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        for frames in (None, 3):
            made.append(written(image(frames), syntax))
    made.append(written(nested(image(None), 30), ExplicitVRLittleEndian))
    made += [deep(60, "closed"), deep(60, "defined", early=True), deep(200, "closed"), many_items(2_000, early=True)]
    made += [with_executable(made[0]), *compressed()]
    return made


def compressed() -> list[bytes]:
    """Whole files whose pixel data are encapsulated, of one frame and of several."""
    made = []
    for syntax in COMPRESSED:
        for frames in (None, 3):
            ds = image(frames, side=64)  # JPEG 2000's encoder makes none of 8 x 8
            written(ds, ExplicitVRLittleEndian)
            ds.compress(syntax, generate_instance_uid=False)
            made.append(written(ds, syntax))
    return made


def with_executable(whole: bytes) -> bytes:
    """Put the head of a program into a file's preamble: one file is both."""
    return b"MZ" + b"\x90" * 126 + whole[128:]


def image(frames: int | None, side: int = 8) -> Dataset:
    """A small MR image with text, sequences and private elements."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid(entropy_srcs=["fuzz"])
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    ds.PatientName, ds.PatientID, ds.Modality = "Secret^Person", "PID-SECRET", "MR"
    ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = "AX T1 +C", 4, 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.EchoTime, ds.RepetitionTime = [1, 1], 5, 10, 500
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = side
    if frames:
        ds.NumberOfFrames = frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "meaning"
    ds.AnatomicRegionSequence = [item]
    ds.add_new((0x0019, 0x0010), "LO", "MAKER")
    ds.add_new((0x0019, 0x1001), "OB", bytes(64))
    ds.PixelData = (np.arange(side**2 * (frames or 1), dtype=np.uint16) % 4096).tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def nested(ds: Dataset, depth: int) -> Dataset:
    """Give a dataset a sequence in a sequence, `depth` deep."""
    inner = Dataset()
    inner.CodeValue = "1"
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = [inner]
        inner = outer
    ds.ContentSequence = inner.ContentSequence
    return ds


def written(ds: Dataset, syntax: str) -> bytes:
    """Write a dataset as a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = syntax
    stream = BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def deep(depth: int, form: str = "open", *, early: bool = False) -> bytes:
    """A file of sequences, `depth` deep: a few bytes a level.

    They are "open" (of undefined length, without delimiters), "closed" (with them) or "defined" (with lengths), and lie
    before the pixel data, or `early`: before the study's UID.
    """
    tag = struct.pack("<HH", 0x0008, 0x1140) if early else struct.pack("<HH", 0x0040, 0xA730)
    if form == "defined":
        return with_bytes(_defined(tag, depth), early=early)
    level = tag + struct.pack("<2sHL", b"SQ", 0, UNDEFINED) + struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
    ends = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return with_bytes(level * depth + ends * (depth if form == "closed" else 0), early=early)


def _defined(tag: bytes, depth: int) -> bytes:
    """Sequences of defined length in one another: 20 bytes a level."""
    heads = [
        tag + struct.pack("<2sHL", b"SQ", 0, 20 * level + 8) + struct.pack("<HHL", 0xFFFE, 0xE000, 20 * level)
        for level in reversed(range(depth))
    ]
    return b"".join(heads)


def many_items(count: int, *, early: bool = False) -> bytes:
    """A file with a sequence of so many empty items: eight bytes each, and a Dataset of pydicom's."""
    tag = struct.pack("<HH", 0x0008, 0x1140) if early else struct.pack("<HH", 0x0040, 0xA730)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return with_bytes(tag + struct.pack("<2sHL", b"SQ", 0, UNDEFINED) + items, early=early)


def many_elements(count: int) -> bytes:
    """A file of so many empty elements, in order, between the image's own and its pixel data."""
    return with_bytes(
        b"".join(struct.pack("<HH2sH", 0x1000 + 2 * (i >> 16), i & 0xFFFF, b"LO", 0) for i in range(count))
    )


def with_bytes(elements: bytes, *, early: bool = False) -> bytes:
    """A file with these elements before its pixel data, or before the study's UID."""
    whole = written(image(None), ExplicitVRLittleEndian)
    before = struct.pack("<HH2s", 0x0010, 0x0010, b"PN") if early else struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW")
    at = whole.index(before)
    return whole[:at] + elements + whole[at:]


def flip_bits(data: bytearray, random: np.random.Generator) -> bytearray:
    for at in random.integers(HEAD, len(data), random.integers(1, 12)):
        data[at] ^= 1 << int(random.integers(8))
    return data


def overwrite(data: bytearray, random: np.random.Generator) -> bytearray:
    at, size = int(random.integers(HEAD, len(data))), int(random.integers(1, 16))
    data[at : at + size] = random.bytes(size)
    return data


def cut(data: bytearray, random: np.random.Generator) -> bytearray:
    return data[: int(random.integers(0, len(data)))]


def drop(data: bytearray, random: np.random.Generator) -> bytearray:
    at, size = int(random.integers(HEAD, len(data))), int(random.integers(1, 64))
    del data[at : at + size]
    return data


def repeat(data: bytearray, random: np.random.Generator) -> bytearray:
    at, size = int(random.integers(HEAD, len(data))), int(random.integers(1, 128))
    data[at:at] = data[at : at + size] * int(random.integers(1, 20))
    return data


def lie_about_length(data: bytearray, random: np.random.Generator) -> bytearray:
    at = int(random.integers(HEAD, max(HEAD + 1, len(data) - 4)))
    data[at : at + 4] = struct.pack("<L", LENGTHS[int(random.integers(len(LENGTHS)))])
    return data


def change_vr(data: bytearray, random: np.random.Generator) -> bytearray:
    places = [i for vr in (b"UI", b"LO", b"US", b"DS", b"SQ", b"OW", b"PN") if (i := data.find(vr, HEAD)) > 0]
    if places:
        at = places[int(random.integers(len(places)))]
        data[at : at + 2] = VRS[int(random.integers(len(VRS)))]
    return data


def change_value(data: bytearray, random: np.random.Generator) -> bytearray:
    """Put a hostile value into an element, with a true length."""
    ds = pydicom.dcmread(BytesIO(bytes(data)), force=True)
    choice = int(random.integers(4))
    if choice == 0:
        ds.SpecificCharacterSet = CHARSETS[int(random.integers(len(CHARSETS)))]
    elif choice == 1:
        keyword = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")[int(random.integers(3))]
        ds[keyword]._value = UIDS[int(random.integers(len(UIDS)))]
    elif choice == 2:
        setattr(ds, ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")[int(random.integers(4))], 65535)
    else:
        ds.NumberOfFrames = int(random.choice([-1, 0, 2**31 - 1, 10**9]))
    stream = BytesIO()
    pydicom.dcmwrite(stream, ds)
    return bytearray(stream.getvalue())


MUTATIONS: Sequence[Mutation] = (
    flip_bits, overwrite, cut, drop, repeat, lie_about_length, change_vr, change_value,
)  # fmt: skip


def case(number: int, whole: Sequence[bytes]) -> bytes:
    """Make the broken file of a number: the same number makes the same file."""
    random = np.random.default_rng(number)
    data = bytearray(whole[number % len(whole)])
    for _ in range(int(random.integers(1, 4))):
        before = bytearray(data)
        try:
            data = MUTATIONS[int(random.integers(len(MUTATIONS)))](data, random)
        except Exception:  # noqa: BLE001 - the writer refuses what an earlier mutation broke
            data = before
        if len(data) <= HEAD:
            break
    return bytes(data)
