"""Throws broken datasets and PDUs at the node's readers and at a receiver that listens.

Anything but a clear refusal is a failure, and told by its number: the same number makes the same input again.
"""

from __future__ import annotations

import logging
import socket
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.store import Refused, read_identity
from operators.errors import PipelineError
from operators.load_study import read_instance, study_of
from tests.torture.mutations import LENGTHS, case, deep, seeds

SECRETS = ("Secret", "PID-SECRET")


@dataclass
class Found:
    """What came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    crashes: dict[str, int] = field(default_factory=dict)
    """The first number that ended in each kind of error that is no refusal."""
    leaks: list[int] = field(default_factory=list)
    """Numbers whose refusal quotes the patient."""


def fuzz_datasets(numbers: Iterable[int], folder: Path, told: Callable[[], None] = lambda: None) -> Found:
    """Let the receiver's and the pipeline's reader read the broken file of each number."""
    whole, found, path = seeds(), Found(), folder / "case.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            data = case(number, whole)
            _try(found, number, "receiver", lambda data=data: read_identity(data))
            path.write_bytes(data)
            _try(found, number, "pipeline", lambda: _load(path))
            told()
        for depth in (100, 1_000, 50_000):
            path.write_bytes(deep(depth))
            _try(found, -depth, "receiver", lambda: read_identity(path.read_bytes()))
            _try(found, -depth, "pipeline", lambda: _load(path))
    return found


def _load(path: Path) -> None:
    instance = read_instance(path)
    if instance is not None:
        study_of([instance])


def _try(found: Found, number: int, reader: str, read: Callable[[], object]) -> None:
    try:
        read()
    except (Refused, PipelineError) as refusal:
        found.counts[f"{reader}: refused"] += 1
        if any(secret in str(refusal) for secret in SECRETS):
            found.leaks.append(number)
    except Exception as error:  # noqa: BLE001 - what is looked for
        found.counts[f"{reader}: crashed"] += 1
        found.crashes.setdefault(f"{reader}: {type(error).__name__}", number)
    else:
        found.counts[f"{reader}: read"] += 1


def request(called: bytes, calling: bytes) -> bytes:
    """Make a whole A-ASSOCIATE-RQ for C-ECHO (PS3.8 section 9.3.2)."""
    application = item(0x10, b"1.2.840.10008.3.1.1.1")
    syntaxes = item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2")
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4"))
    body = struct.pack(">HH", 1, 0) + called.ljust(16) + calling.ljust(16) + bytes(32)
    body += application + item(0x20, b"\x01\0\0\0" + syntaxes) + user
    return struct.pack(">BBL", 1, 0, len(body)) + body


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def pdu(number: int, whole: bytes) -> bytes:
    """Make the broken bytes of a number: a mutated request, several PDUs, or noise."""
    random = np.random.default_rng(number)
    kind = int(random.integers(5))
    if kind == 0:
        return random.bytes(int(random.integers(1, 400)))
    data = bytearray(whole)
    for _ in range(int(random.integers(1, 8))):
        at = int(random.integers(len(data)))
        if kind == 1:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 2 and at + 2 <= len(data):
            data[at : at + 2] = struct.pack(">H", LENGTHS[int(random.integers(len(LENGTHS)))] & 0xFFFF)
        elif kind == 3:
            data[2:6] = struct.pack(">L", LENGTHS[int(random.integers(len(LENGTHS)))])
    if kind == 4:  # a good request, and then what no peer sends
        tail = struct.pack(">BBL", int(random.integers(256)), 0, int(random.integers(64)))
        return bytes(whole) + tail + random.bytes(int(random.integers(64)))
    return bytes(data)


def fuzz_receiver(numbers: Iterable[int], port: int, whole: bytes, told: Callable[[], None] = lambda: None) -> int:
    """Send the broken bytes of each number on a connection of its own; returns how many connections were taken."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    taken = 0
    for number in numbers:
        # A connection that is cut while we write is one good answer.
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as connection:
            taken += 1
            connection.sendall(pdu(number, whole))
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            while connection.recv(4096):
                pass
        told()
    return taken
