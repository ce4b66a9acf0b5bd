"""Throws broken datasets at the node's readers, and broken conversations at a receiver that listens.

Anything but a clear refusal is a failure, and told by its number: the same number makes the same input again.
"""

from __future__ import annotations

import signal
import socket
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from app.inbox import OF_ONE_FOLDER, _reason
from app.store import CANNOT_UNDERSTAND, Refused, read_identity
from operators.decoding import decode_frames, prepare
from operators.errors import PipelineError
from operators.load_study import read_instance, study_of
from operators.native import Worker
from operators.pixel_limits import PixelLimits
from operators.reading import read_study_uid
from tests.torture.mutations import case, compressed, deep, many_elements, many_items, seeds
from tests.torture.peers import Script, script

SECRETS = ("Secret", "PID-SECRET")
PATIENCE_SECONDS = 30.0
"""A connection that the receiver has not ended by then is a failure: its own limits are shorter."""
READER_SECONDS = 10.0
"""Of the processor's time: a reader that takes more for one file hangs. Most take a few milliseconds."""
WARM_UP = 500
"""What is made once is made by then."""
GROWTH_MB = 40.0
"""Bound of what the readers' process may hold more after any number of files."""
STORE_ANSWER = struct.pack("<HHLH", 0, 0x0100, 2, 0x8001)
STATUS = struct.pack("<HHL", 0, 0x0900, 2)


@dataclass
class Found:
    """What came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    crashes: dict[str, int] = field(default_factory=dict)
    """The first number that ended in each kind of error that is no refusal."""
    leaks: list[int] = field(default_factory=list)
    """Numbers whose refusal quotes the patient."""
    grown_mb: float = 0.0
    """What this process holds more in the end than after the warm-up."""

    @property
    def faults(self) -> list[str]:
        """What must not be, in words."""
        told = [f"crash: {kind}, first at {number}" for kind, number in self.crashes.items()]
        if self.leaks:
            told.append(f"{len(self.leaks)} refusals quote the patient, first at {self.leaks[0]}")
        if self.grown_mb > GROWTH_MB:
            told.append(f"memory grew by {self.grown_mb:.0f} MB, more than {GROWTH_MB:.0f}")
        return told


class Hang(BaseException):
    """A reader that does not come to an end."""


def fuzz_datasets(numbers: Iterable[int], folder: Path, told: Callable[[], None] = lambda: None) -> Found:
    """Let receiver, inbox and pipeline read the broken file of each number, and decode what was compressed."""
    whole, found, path, process = seeds(), Found(), folder / "case.dcm", psutil.Process()
    plain = len(whole) - len(compressed())
    begun = process.memory_info().rss
    with warnings.catch_warnings(), _hangs_are_raised(), _decoder() as decode:
        warnings.simplefilter("ignore")
        for count, number in enumerate(numbers):
            if count == WARM_UP:
                begun = process.memory_info().rss
            data = case(number, whole)
            _try(found, number, "receiver", lambda data=data: read_identity(data))
            path.write_bytes(data)
            _try(found, number, "inbox", lambda: _study_uid(path))
            if _try(found, number, "pipeline", lambda: _load(path)) and number % len(whole) >= plain:
                _try(found, number, "decoder", lambda: decode(path))
            told()
        for number, content in _extremes():
            path.write_bytes(content)
            _try(found, number, "receiver", lambda content=content: read_identity(content))
            _try(found, number, "inbox", lambda: _study_uid(path))
            _try(found, number, "pipeline", lambda: _load(path))
    found.grown_mb = (process.memory_info().rss - begun) / 1e6
    return found


@contextmanager
def _hangs_are_raised() -> Iterator[None]:
    """Let SIGPROF, by which time of this process's own is counted, raise Hang."""

    def hang(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, hang)
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _decoder() -> Iterator[Callable[[Path], object]]:
    """Decode in a process as the node's: started once, and anew where a file takes it down."""
    limits = PixelLimits()
    worker = Worker(partial(prepare, limits.decode_mb), READER_SECONDS)
    try:
        yield lambda path: worker.run(decode_frames, [(path, 0)])
    finally:
        worker.stop()


def _extremes() -> Iterator[tuple[int, bytes]]:
    """Files at and far beyond what an object may hold, under numbers below 0."""
    for depth in (64, 100, 1_000, 50_000):
        for form in ("open", "closed", "defined"):
            for early in (False, True):
                yield -depth, deep(depth, form, early=early)
    yield -100_000, many_items(100_000)
    yield -100_001, many_items(100_000, early=True)
    # As few as not to hide, by what pydicom takes for them, whether memory grew.
    yield -100_002, many_elements(50_000)


def _study_uid(path: Path) -> None:
    """Read a study's UID as the inbox does, which passes over a folder that it cannot be read in."""
    try:
        read_study_uid(path)
    except OF_ONE_FOLDER as error:
        raise Refused(CANNOT_UNDERSTAND, _reason(error)) from error


def _load(path: Path) -> None:
    instance = read_instance(path)
    if instance is not None:
        study_of([instance])


def _try(found: Found, number: int, reader: str, read: Callable[[], object]) -> bool:
    """Count how it ended; True where it was read."""
    try:
        # Of the processor's time, so that a busy machine makes no hang.
        signal.setitimer(signal.ITIMER_PROF, READER_SECONDS)
        try:
            read()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    except (Refused, PipelineError) as refusal:
        found.counts[f"{reader}: refused"] += 1
        if any(secret in str(refusal) for secret in SECRETS):
            found.leaks.append(number)
    except (Exception, Hang) as error:  # noqa: BLE001 - what is looked for
        found.counts[f"{reader}: crashed"] += 1
        found.crashes.setdefault(f"{reader}: {type(error).__name__}", number)
    else:
        found.counts[f"{reader}: read"] += 1
        return True
    return False


def fuzz_receiver(
    numbers: Iterable[int], port: int, titles: tuple[bytes, bytes], told: Callable[[], None] = lambda: None
) -> Counter[str]:
    """Hold the conversation of each number on a connection of its own; returns what came of them."""
    whole, seen = seeds(), Counter[str]()
    for number in numbers:
        seen.update(_converse(script(number, titles, whole), port))
        told()
    return seen


def _converse(said: Script, port: int) -> list[str]:
    """Say it, and tell how the peer took it: its first PDU, and its answers to C-STORE by their status."""
    heard = bytearray()
    try:
        # A connection that is cut while we write is one good answer.
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection, suppress(ConnectionError):
            connection.sendall(said.opening)
            if said.patient:
                _hear(connection, heard, once=True)
            for chunk in said.chunks:
                connection.sendall(chunk)
            if said.ending == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return [_kind(heard), "reset by us"]
            if said.ending == "shut":
                connection.shutdown(socket.SHUT_WR)
            _hear(connection, heard)
    except TimeoutError:
        return ["no end"]
    except OSError:
        return [_kind(heard)]
    return [_kind(heard), *(f"C-STORE 0x{status:04X}" for status in _statuses(heard))]


def _hear(connection: socket.socket, heard: bytearray, *, once: bool = False) -> None:
    """Listen to the end, or `once`: to the first words, for a moment."""
    connection.settimeout(0.5 if once else PATIENCE_SECONDS)
    try:
        while some := connection.recv(65536):
            heard += some
            if once:
                return
    except TimeoutError:
        if not once:
            raise
    finally:
        connection.settimeout(PATIENCE_SECONDS)


def _kind(heard: bytes) -> str:
    return {2: "accepted", 3: "rejected", 7: "aborted"}.get(heard[0], "other") if heard else "cut off"


def _statuses(heard: bytes) -> list[int]:
    """Find the statuses of C-STORE-RSPs (0000,0900) in what was heard."""
    found, at = [], 0
    while (at := heard.find(STORE_ANSWER, at)) >= 0:
        at = heard.find(STATUS, at)
        if at < 0:
            break
        found.append(struct.unpack_from("<H", heard, at + len(STATUS))[0])
    return found
