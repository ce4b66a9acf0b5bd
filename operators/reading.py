"""Reads headers in bounded memory: what nobody asks for is passed over, not made.

Sequences are what can cost eighty times their bytes. Of those the analysis reads the functional groups of multi-frame
objects, and small ones; all others are as if they were not there.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset, read_file_meta_info, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from operators.errors import PixelDataRefused
from operators.sequences import MOST_ELEMENTS, UNDEFINED_LENGTH, Budget, CutOff, end_of_sequence, has_items

PIXEL_DATA = ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010))
LARGE_SEQUENCE = 1_000
"""Elements and items beyond which a sequence other than functional groups is passed over."""
MOST_INFLATED_BYTES = 512_000_000
"""A deflated file that holds more is refused: it is inflated as a whole, and in memory."""
DEFLATE_RATIO = 1032
"""Deflate makes a file smaller by this at the most (zlib's technical details)."""
_FUNCTIONAL_GROUPS = frozenset({0x52009229, 0x52009230})
_STUDY_UID = 0x0020000D
_LOOKED_AHEAD = 65_536
"""Bytes of a sequence that are looked at first; eight times as many where its end is not among them."""


def read_header(path: Path, file: BinaryIO) -> tuple[Dataset, int]:
    """Read what stands before the pixel data, where `file` stands then; returns it, and how many elements it holds.

    Raises TooMuch where the object holds more than one may, PixelDataRefused where it inflates to too much; else
    InvalidDicomError, OSError or one of DAMAGED.
    """
    passing = _Passing(Budget())
    header = _read(path, file, passing)
    for tag in passing.passed:
        header.pop(tag, None)
    return header, passing.held + _look_into(header, passing.budget)


def read_study_uid(path: Path) -> str:
    """Return a file's Study Instance UID, "" without one, reading nothing else; raises as `read_header`.

    Whatever lies before it is passed over, however deep: that it is too deep is said when the study is analysed.
    """
    passing = _Passing(Budget(depth=MOST_ELEMENTS), wanted=_STUDY_UID)
    with path.open("rb") as file:
        header = _read(path, file, passing, [_STUDY_UID])
    return str(header.get("StudyInstanceUID", ""))


class _Passing:
    """Told by pydicom of each element that it is to read: lets it step over sequences, and end where it may."""

    def __init__(self, budget: Budget, wanted: int | None = None) -> None:
        """Reading ends behind the one that is `wanted`, if it is there, or else before pixel data."""
        self.budget, self._wanted, self._is_found = budget, wanted, False
        self.stream, self.little = cast("BinaryIO", None), True
        self.held = 0
        """Elements and items that were read, without those in sequences that have a length."""
        self.passed: list[BaseTag] = []

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Say whether to read no further."""
        if self._is_found or (tag.group, tag.element) in PIXEL_DATA:
            return True
        self._is_found = tag == self._wanted
        self.budget.spend(1)
        self.held += 1
        if length == UNDEFINED_LENGTH and has_items(tag, vr.encode() if vr else None, length):
            begins, before = self.stream.tell(), self.budget.spent
            ends = begins + self._length(begins, implicit=vr is None)
            inside = self.budget.spent - before
            if self._wanted is None and _is_kept(tag, inside):
                self.held += inside
                self.stream.seek(begins)
            else:
                # pydicom is left with an empty one.
                self.passed.append(tag)
                self.stream.seek(ends)
        return False

    def _length(self, begins: int, *, implicit: bool) -> int:
        size = _LOOKED_AHEAD
        while True:
            self.stream.seek(begins)
            content = self.stream.read(size)
            try:
                return end_of_sequence(content, 0, UNDEFINED_LENGTH, self.budget, implicit=implicit, little=self.little)
            except CutOff:
                if len(content) < size:
                    raise
            size *= 8


def _is_kept(tag: BaseTag, inside: int) -> bool:
    return tag in _FUNCTIONAL_GROUPS or (inside <= LARGE_SEQUENCE and not tag.is_private)


def _look_into(header: Dataset, budget: Budget) -> int:
    """Drop sequences, still in bytes, that are not kept; returns how many elements and items the others hold."""
    held = 0
    for tag, element in list(header.items()):
        if not isinstance(element, RawDataElement) or not element.value:
            continue
        vr = element.VR.encode() if element.VR else None
        if has_items(tag, vr, len(element.value)):
            before, form = budget.spent, {"implicit": element.is_implicit_VR, "little": element.is_little_endian}
            end_of_sequence(element.value, 0, len(element.value), budget, **form)
            if _is_kept(tag, inside := budget.spent - before):
                held += inside
            else:
                del header[tag]
    return held


def _read(path: Path, file: BinaryIO, passing: _Passing, tags: Sequence[int] | None = None) -> Dataset:
    meta = read_file_meta_info(path)
    syntax, specific = meta.get("TransferSyntaxUID"), list(tags) if tags else None
    passing.stream, passing.little = file, syntax != ExplicitVRBigEndian
    if syntax != DeflatedExplicitVRLittleEndian:
        return read_partial(file, stop_when=passing, specific_tags=specific)
    # Behind preamble, "DICM" and the element that tells how long the rest of the meta information is.
    starts = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    _refuse_deflate_bomb(path, file, starts)
    file.seek(starts)
    passing.stream = BytesIO(zlib.decompress(file.read(), -zlib.MAX_WBITS))
    header = read_dataset(passing.stream, False, True, stop_when=passing, specific_tags=specific)
    header.file_meta = meta
    return header


def _refuse_deflate_bomb(path: Path, file: BinaryIO, starts: int) -> None:
    """Raise PixelDataRefused where what is deflated holds more than may be inflated; it begins at `starts`.

    Raises one of DAMAGED where it does not begin where the file's head says.
    """
    if file.seek(0, 2) * DEFLATE_RATIO > MOST_INFLATED_BYTES:
        file.seek(starts)
        if _inflates_beyond(file, MOST_INFLATED_BYTES):
            raise PixelDataRefused(
                f"{path.name} inflates to more than {MOST_INFLATED_BYTES // 1_000_000} MB; send it uncompressed"
            )


def _inflates_beyond(file: BinaryIO, most: int) -> bool:
    """Inflate, a megabyte at a time and keeping none, to see whether more than `most` bytes come."""
    inflate, found = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while data := file.read(65_536):
        while data and found <= most:
            found += len(inflate.decompress(data, 1_000_000))
            data = inflate.unconsumed_tail
    return found > most
