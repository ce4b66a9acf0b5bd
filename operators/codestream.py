"""What the head of a compressed frame claims of its image, read before any decoder takes memory for it.

Sources: ITU-T T.81 section B.2 (JPEG), T.87 annex C (JPEG-LS), T.800 section A.5.1 (JPEG 2000), T.801 annex I (its
boxes), PS3.5 annex G (RLE).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
"""JPEG markers that stand alone."""
_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame: SOF0 to SOF15, and JPEG-LS's SOF55."""
_SCAN, _END = 0xDA, 0xD9
_RLE_HEAD = 64


@dataclass(frozen=True)
class Claim:
    """An image's size as its compressed form has it."""

    rows: int
    columns: int
    samples: int
    bits: int
    """Of a sample."""

    @property
    def form(self) -> tuple[int, int, int, int]:
        """Rows, columns, samples, and bytes of a sample: what memory is taken by."""
        return self.rows, self.columns, self.samples, -(-self.bits // 8)

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} pixels of {self.samples} x {self.bits} bits"


def contradiction(frame: bytes, syntax: UID, header: Claim) -> str:
    """Say how a compressed frame contradicts its DICOM header; empty where it does not.

    It may have fewer bytes a sample than Bits Allocated, never more. Raises ValueError where it has no head.
    """
    if syntax == RLELossless:
        return _rle_contradiction(frame, header)
    claim = _jpeg2000(frame) if syntax in JPEG2000TransferSyntaxes else _jpeg(frame)
    *size, width = claim.form
    *wanted, most = header.form
    return "" if size == wanted and width <= most else f"it holds {claim}, its header says {header}"


def _rle_contradiction(frame: bytes, header: Claim) -> str:
    """Hold the table of segments to the header: a segment for each byte of a sample, one behind the other."""
    if len(frame) < _RLE_HEAD:
        raise ValueError("no RLE header")
    count, *table = struct.unpack_from("<16L", frame)
    segments = header.samples * header.form[-1]
    if count != segments:
        return f"it holds {count} RLE segments, its header says {header}"
    starts = [*table[:count], len(frame)]
    if starts[0] != _RLE_HEAD or any(later < one for one, later in pairwise(starts)):
        return "its RLE segments do not lie one behind the other"
    return ""


def _jpeg(frame: bytes) -> Claim:
    """Read the frame header of JPEG or JPEG-LS."""
    if frame[:2] != b"\xff\xd8":
        raise ValueError("no JPEG start")
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        elif marker in {_SCAN, _END}:
            break
        elif marker in _FRAME:
            bits, rows, columns, samples = _unpacked(">BHHB", frame, at + 4)
            return Claim(rows, columns, samples, bits)
        else:
            (length,) = _unpacked(">H", frame, at + 2)
            at += 2 + max(length, 2)
    raise ValueError("no JPEG frame header")


def _jpeg2000(frame: bytes) -> Claim:
    """Read the SIZ marker of a JPEG 2000 codestream, which some devices wrap in the boxes of a JP2 file."""
    at = _codestream_at(frame)
    if frame[at : at + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("no JPEG 2000 codestream")
    # Behind SOC, SIZ, its length and capabilities.
    right, low, left, top = _unpacked(">4L", frame, at + 8)
    samples, depth = _unpacked(">HB", frame, at + 40)
    return Claim(low - top, right - left, samples, (depth & 0x7F) + 1)


def _codestream_at(frame: bytes) -> int:
    if frame[4:8] != b"jP  ":
        return 0
    at = 0
    while at + 8 <= len(frame):
        if frame[at + 4 : at + 8] == b"jp2c":
            return at + 8
        (length,) = _unpacked(">L", frame, at)
        at += max(length, 8)
    raise ValueError("no JPEG 2000 codestream")


def _unpacked(form: str, frame: bytes, at: int) -> tuple[int, ...]:
    if at + struct.calcsize(form) > len(frame):
        raise ValueError("a compressed frame that ends within its head")
    return struct.unpack_from(form, frame, at)
