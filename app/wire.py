"""The bytes that go with every instance, without a Dataset in between: the request, a file's head, and the answer.

pydicom and pynetdicom read and make the same bytes; through their Datasets that took half of an instance's processor
time.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from app.capped_socket import P_DATA

PREAMBLE = bytes(128) + b"DICM"
NO_DATASET = 0x0101
STORE_RESPONSE = 0x8001
LAST_OF_COMMAND = b"\x03"
"""Message control header: a command, its last fragment (PS3.8 section E.2)."""
_DATA_HEADER = struct.Struct(">BxLLB")
"""Of a P-DATA-TF with one presentation data value: type and length, the value's length and context (PS3.8 9.3.5)."""

_PLAIN_STORE = re.compile(
    rb"\0\0\0\0\x04\0\0\0(?P<group_length>.{4})"
    rb"\0\0\x02\0(?P<class_length>.)\0\0\0(?P<sop_class>[0-9.]{1,64}\0?)"
    rb"\0\0\0\x01\x02\0\0\0\x01\0"  # Command Field: C-STORE-RQ
    rb"\0\0\x10\x01\x02\0\0\0(?P<message>..)"
    rb"\0\0\0\x07\x02\0\0\0[\0-\x02]\0"  # Priority
    rb"\0\0\0\x08\x02\0\0\0(?!\x01\x01)(?:..)"  # a dataset follows
    rb"\0\0\0\x10(?P<instance_length>.)\0\0\0(?P<instance>[0-9.]{1,64}\0?)"
    rb"(?:\0\0\x30\x10(?P<title_length>[\x02-\x10])\0\0\0(?P<title>[ -\[\]-~]{2,16})"
    rb"\0\0\x31\x10\x02\0\0\0..)?",
    re.DOTALL,
)
"""A C-STORE-RQ's command set (PS3.7 table 9.3-1), with the originator of a C-MOVE or without."""


class StoreRequest(NamedTuple):
    """What a C-STORE-RQ asks for."""

    sop_class: str
    instance: str
    message_id: int


def store_request(command: bytes) -> StoreRequest | None:
    """Read a command set; None where it is not, byte for byte, a C-STORE-RQ as the standard has it."""
    found = _PLAIN_STORE.fullmatch(command)
    if found is None:
        return None
    group_length, class_length, sop_class, message, instance_length, instance, title_length, title = found.groups()
    if (
        int.from_bytes(group_length, "little") != len(command) - 12
        or class_length[0] != len(sop_class)
        or instance_length[0] != len(instance)
        or len(sop_class) % 2
        or len(instance) % 2
        or (title is not None and (title_length[0] != len(title) or len(title) % 2))
    ):
        return None
    return StoreRequest(_uid(sop_class), _uid(instance), int.from_bytes(message, "little"))


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


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0").decode("ascii")


def store_answer(sop_class: str, instance: str, message_id: int, status: int) -> bytes:
    """Return a C-STORE-RSP's command set (PS3.7 table 9.3-2), which is implicit VR little endian."""
    elements = _implicit(0x0002, _padded(sop_class, b"\0"))
    for element, number in ((0x0100, STORE_RESPONSE), (0x0120, message_id), (0x0800, NO_DATASET), (0x0900, status)):
        elements += _implicit(element, struct.pack("<H", number))
    elements += _implicit(0x1000, _padded(instance, b"\0"))
    return _implicit(0x0000, struct.pack("<L", len(elements))) + elements


def store_answer_pdu(context: int, request: StoreRequest, status: int) -> bytes:
    """Return the P-DATA-TF with which a C-STORE is answered."""
    said = LAST_OF_COMMAND + store_answer(*request, status)
    return _DATA_HEADER.pack(P_DATA, len(said) + 5, len(said) + 1, context) + said


def _explicit(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _implicit(element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, element, len(value)) + value


def _padded(text: str, filler: bytes) -> bytes:
    value = text.encode("ascii")
    return value + filler * (len(value) % 2)
