"""What broken and hostile peers say: whole conversations, made from a number, and then broken in many ways.

The same number makes the same bytes again. A conversation is an association request, some messages and a release, as
PS3.8 section 9.3 and PS3.7 chapters 9 and 10 lay them out; what breaks it may be a bit, a length, an order, or noise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from tests.torture.mutations import HEAD, LENGTHS, UIDS, case, image

VERIFICATION, COMMITMENT, FIND = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1", "1.2.840.10008.5.1.4.1.2.2.1"
CONTEXTS = {1: VERIFICATION, 3: MRImageStorage, 5: MRImageStorage, 7: COMMITMENT, 9: FIND}
"""Presentation contexts that are asked for; 5 in implicit VR."""
INSTANCE = str(image(None).SOPInstanceUID)
"""Of the datasets, before they are broken."""
COMMANDS = (0x0001, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x0FFF, 0x8001, 0x8030, 7)
ASSOCIATE, DATA, RELEASE, ABORT = 1, 4, 5, 7
Ending = Literal["shut", "reset", "silent"]


@dataclass(frozen=True)
class Script:
    """What one connection sends."""

    opening: bytes
    """Sent first; then the peer waits for an answer, unless it is impatient."""
    chunks: Sequence[bytes] = field(default=())
    patient: bool = True
    ending: Ending = "shut"


def script(number: int, titles: tuple[bytes, bytes], whole: Sequence[bytes]) -> Script:
    """Make the conversation of a number; `titles` are called and calling AE title, `whole` sound datasets' files."""
    random = np.random.default_rng([number % 2**32, 8])
    if random.random() < 0.05:
        return Script(random.bytes(int(random.integers(1, 600))), patient=False)
    pdus = [request(*titles), *_messages(random, number, whole), pdu(RELEASE, bytes(4))]
    for _ in range(int(random.choice([0, 1, 2, 3], p=[0.1, 0.5, 0.3, 0.1]))):
        pdus = BREAKS[int(random.integers(len(BREAKS)))](pdus, random)
    if not pdus:
        return Script(b"")
    ending: Ending = "silent" if random.random() < 0.002 else "reset" if random.random() < 0.1 else "shut"
    return Script(pdus[0], _cut_up(b"".join(pdus[1:]), random), random.random() < 0.9, ending)


def request(called: bytes, calling: bytes) -> bytes:
    """Make a whole A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""
    contexts = b""
    for number, abstract in CONTEXTS.items():
        syntax = ImplicitVRLittleEndian if number == 5 else ExplicitVRLittleEndian
        syntaxes = item(0x30, abstract.encode()) + item(0x40, syntax.encode())
        contexts += item(0x20, struct.pack(">B3x", number) + syntaxes)
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4"))
    body = struct.pack(">HH", 1, 0) + called.ljust(16) + calling.ljust(16) + bytes(32)
    return pdu(ASSOCIATE, body + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user)


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(content)) + content


def part(context: int, control: int, content: bytes) -> bytes:
    """Make a presentation data value: control bit 0 says command, bit 1 says last (PS3.8 section E.2)."""
    return struct.pack(">LBB", len(content) + 2, context, control) + content


def command(**elements: int | str) -> bytes:
    """Make a command set of the elements of PS3.7 annex E, named by their numbers: e0100=0x0001."""
    body = b""
    for name, value in sorted(elements.items()):
        content = struct.pack("<H", value) if isinstance(value, int) else value.encode("latin-1")
        content += b"\0" * (len(content) % 2)
        body += struct.pack("<HHL", 0, int(name[1:], 16), len(content)) + content
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _messages(random: np.random.Generator, number: int, whole: Sequence[bytes]) -> list[bytes]:
    made: list[bytes] = []
    for _ in range(int(random.integers(0, 4))):
        made += KINDS[int(random.integers(len(KINDS)))](random, number, whole)
    return made


def _echo(random: np.random.Generator, number: int, whole: Sequence[bytes]) -> list[bytes]:
    said = command(e0002=VERIFICATION, e0100=0x0030, e0110=int(random.integers(65536)), e0800=0x0101)
    return [pdu(DATA, part(1, 3, said))]


def _store(random: np.random.Generator, number: int, whole: Sequence[bytes]) -> list[bytes]:
    """Store a dataset, in fragments; most are broken, some come under an instance UID of their own."""
    number %= 2**32
    sound = whole[number % len(whole)]
    dataset = (sound if random.random() < 0.2 else case(number, whole))[_head_of(sound) :]
    instance = INSTANCE[:-3] + f"{number % 1000:03}" if random.random() < 0.5 else INSTANCE
    dataset = dataset.replace(INSTANCE.encode(), instance.encode())
    if random.random() < 0.2:
        instance = UIDS[number % len(UIDS)]
    context = int(random.choice([3, 5]))
    said = command(e0002=MRImageStorage, e0100=1, e0110=number % 65536, e0700=2, e0800=1, e1000=instance)
    made, at = [pdu(DATA, part(context, 3, said))], 0
    while at < len(dataset) or at == 0:
        size = int(random.integers(1, 4000))
        last = at + size >= len(dataset)
        made.append(pdu(DATA, part(context, 2 if last else 0, dataset[at : at + size])))
        at += size
    return made


def _head_of(file: bytes) -> int:
    """Return where a file's dataset begins: behind the File Meta Information, which is not sent."""
    return int(HEAD + 12 + struct.unpack_from("<L", file, HEAD + 8)[0])


def _event(random: np.random.Generator, number: int, whole: Sequence[bytes]) -> list[bytes]:
    """Report a storage commitment that nobody asked for."""
    said = command(
        e0002=COMMITMENT, e0100=0x0100, e0110=1, e0800=1, e1000="1.2.840.10008.1.20.1.1", e1002=int(random.integers(4))
    )
    return [pdu(DATA, part(7, 3, said)), pdu(DATA, part(7, 2, random.bytes(int(random.integers(200)))))]


def _anything(random: np.random.Generator, number: int, whole: Sequence[bytes]) -> list[bytes]:
    """Ask for what the receiver does not serve, under any context, with elements missing."""
    field_ = COMMANDS[int(random.integers(len(COMMANDS)))]
    elements: dict[str, int | str] = {"e0100": field_, "e0110": 1, "e0120": 1, "e0800": int(random.choice([1, 0x0101]))}
    elements["e0002"], elements["e1000"] = str(random.choice(list(CONTEXTS.values()))), "1.2.3"
    for name in [name for name in elements if random.random() < 0.2]:
        del elements[name]
    context = int(random.choice([*CONTEXTS, 0, 2, 255]))
    return [pdu(DATA, part(context, int(random.integers(4)), command(**elements)))]


def _many_parts(random: np.random.Generator, number: int, whole: Sequence[bytes]) -> list[bytes]:
    """One PDU of many parts, some of them empty."""
    return [pdu(DATA, b"".join(part(1, int(random.integers(4)), b"") for _ in range(int(random.integers(1, 60)))))]


KINDS = (_echo, _store, _store, _store, _event, _anything, _many_parts)
Break = Callable[[list[bytes], np.random.Generator], list[bytes]]


def _flip(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    return _changed(pdus, random, lambda data, at: data.__setitem__(at, data[at] ^ 1 << int(random.integers(8))))


def _lie_in_header(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    length = struct.pack(">L", LENGTHS[int(random.integers(len(LENGTHS)))])
    return _changed(pdus, random, lambda data, at: data.__setitem__(slice(2, 6), length))


def _lie_within(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    value = LENGTHS[int(random.integers(len(LENGTHS)))]
    length = struct.pack(">L", value) if random.random() < 0.5 else struct.pack(">H", value & 0xFFFF)
    return _changed(pdus, random, lambda data, at: data.__setitem__(slice(at, at + len(length)), length))


def _change_kind(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    return _changed(pdus, random, lambda data, at: data.__setitem__(0, int(random.integers(10))))


def _shorten(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    return _changed(pdus, random, lambda data, at: data.__delitem__(slice(at, None)))


def _changed(pdus: list[bytes], random: np.random.Generator, change: Callable[[bytearray, int], None]) -> list[bytes]:
    """Change one PDU at one place."""
    chosen = int(random.integers(len(pdus))) if pdus else 0
    if not pdus or not pdus[chosen]:
        return pdus
    data = bytearray(pdus[chosen])
    change(data, int(random.integers(len(data))))
    return [*pdus[:chosen], bytes(data), *pdus[chosen + 1 :]]


def _drop(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    chosen = int(random.integers(len(pdus) + 1))
    return pdus[:chosen] + pdus[chosen + 1 :]


def _twice(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    chosen = int(random.integers(len(pdus) + 1))
    return pdus[:chosen] + pdus[chosen : chosen + 1] * int(random.integers(2, 20)) + pdus[chosen + 1 :]


def _shuffle(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    return [pdus[i] for i in random.permutation(len(pdus))]


def _put_in(pdus: list[bytes], random: np.random.Generator) -> list[bytes]:
    """Put in what does not belong there: an abort, another request, an answer, an unknown PDU, noise."""
    kind = int(random.choice([ABORT, ASSOCIATE, 2, 3, 6, 8, 255]))
    other = pdu(kind, bytes(4)) if random.random() < 0.7 else random.bytes(int(random.integers(1, 80)))
    at = int(random.integers(len(pdus) + 1))
    return [*pdus[:at], other, *pdus[at:]]


BREAKS: Sequence[Break] = (
    _flip, _flip, _lie_in_header, _lie_within, _lie_within, _change_kind, _shorten, _drop, _twice, _shuffle, _put_in,
)  # fmt: skip


def _cut_up(data: bytes, random: np.random.Generator) -> list[bytes]:
    """Cut a stream where no PDU ends."""
    cuts = sorted(int(random.integers(len(data) + 1)) for _ in range(int(random.integers(0, 3))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]
