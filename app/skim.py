"""A quick walk over the plainest kind of dataset; what is in any way special is left to the thorough reader.

Explicit VR little endian, elements in order, every length defined and within the file: most MR images as they come.
The thorough reader (`app.store.read_identity`) takes ten times as long, and is the one that refuses what is broken.
"""

from __future__ import annotations

import struct
from collections.abc import Container

from operators.sequences import LONG, Budget, end_of_sequence

_ELEMENT = struct.Struct("<HH2sH")
_LONG_LENGTH = struct.Struct("<L")
_SHORT = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
"""VRs whose length has 16 bits (PS3.5 table 7.1-2)."""
_META_LENGTH = 140
"""Where the length of the File Meta Information stands: behind preamble, prefix and the header of (0002,0000)."""
_PLAIN = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
_PIXELS = 0x7FE0
"""The group of Pixel Data and of its floating-point forms (PS3.3 section C.7.6.24)."""


def skim(content: bytes, wanted: Container[int]) -> tuple[dict[int, str], bool] | None:
    """Return the wanted UIDs by their tags, and whether there are pixels; None where a thorough reader must look.

    Raises TooMuch where more is in it than an object may hold.
    """
    if content[128:132] != b"DICM" or len(content) < _META_LENGTH + 4:
        return None
    end, at = len(content), _META_LENGTH + 4 + _LONG_LENGTH.unpack_from(content, _META_LENGTH)[0]
    if content.find(_PLAIN, _META_LENGTH, at) < 0:
        return None
    found: dict[int, str] = {}
    tag, has_pixels, element, last, budget = 0, False, _ELEMENT.unpack_from, end - 12, Budget()
    count = 0
    while at <= last:
        count += 1
        if count > budget.most:
            break
        group, number, vr, length = element(content, at)
        if vr in _SHORT:
            at += 8
        elif vr in LONG:
            (length,) = _LONG_LENGTH.unpack_from(content, at + 8)
            at += 12
        else:
            return None
        before, tag = tag, group << 16 | number
        if tag <= before:
            return None
        if group == _PIXELS:
            has_pixels = True
        if tag in wanted:
            found[tag] = content[at : at + length].rstrip(b"\0 ").decode("latin-1")
        if vr == b"SQ" and at + length <= end:
            end_of_sequence(content, at, length, budget, implicit=False, little=True)
        # An undefined length is the greatest there is, and so ends beyond the file.
        at += length
    budget.spend(count)
    # Not so where an element ends beyond the file, or is too short to be looked at.
    return (found, has_pixels) if at == end else None
