"""The bytes that go with every instance, made without a Dataset in between: a file's head, and the answer.

pydicom and pynetdicom make the same bytes; through their Datasets that took half of an instance's processor time.
"""

from __future__ import annotations

import struct

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

PREAMBLE = bytes(128) + b"DICM"
NO_DATASET = 0x0101
STORE_RESPONSE = 0x8001
LAST_OF_COMMAND = b"\x03"
"""Message control header: a command, its last fragment (PS3.8 section E.2)."""


def file_head(sop_class: str, instance: str, transfer_syntax: str) -> bytes:
    """Return preamble and File Meta Information (PS3.10 section 7.1); the UIDs are known to be valid."""
    elements = struct.pack("<HH2sxxLxB", 2, 1, b"OB", 2, 1)
    for element, text in (
        (2, sop_class),
        (3, instance),
        (0x10, transfer_syntax),
        (0x12, PYNETDICOM_IMPLEMENTATION_UID),
    ):
        elements += _explicit(element, b"UI", _padded(text, b"\0"))
    elements += _explicit(0x13, b"SH", _padded(PYNETDICOM_IMPLEMENTATION_VERSION, b" "))
    return PREAMBLE + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(elements)) + elements


def store_answer(sop_class: str, instance: str, message_id: int, status: int) -> bytes:
    """Return a C-STORE-RSP's command set (PS3.7 table 9.3-2), which is implicit VR little endian."""
    elements = _implicit(0x0002, _padded(sop_class, b"\0"))
    for element, number in ((0x0100, STORE_RESPONSE), (0x0120, message_id), (0x0800, NO_DATASET), (0x0900, status)):
        elements += _implicit(element, struct.pack("<H", number))
    elements += _implicit(0x1000, _padded(instance, b"\0"))
    return _implicit(0x0000, struct.pack("<L", len(elements))) + elements


def _explicit(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _implicit(element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, element, len(value)) + value


def _padded(text: str, filler: bytes) -> bytes:
    value = text.encode("ascii")
    return value + filler * (len(value) % 2)
