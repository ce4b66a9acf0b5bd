"""Names that survive a power cut before anything is written under them: so an instance costs one sync, not two.

A slot is an empty file whose name is synced in its folder, dozens at a time. An instance is written into one, and
synced: from then on it cannot be lost, and Success may be answered. It gets its name in its study's folder at once, as
a second link, but that name is synced together with many others; only then does the slot's name go. Whatever a power
cut leaves, an instance that was answered has one of its two names, or both.

Content is sealed: the preamble, whose 128 bytes are the implementation's own (PS3.10 section 7.1), says how long the
rest is and gives its checksum. So a start after a power cut can tell a whole instance in a slot from half a one.
"""

from __future__ import annotations

import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from app.files import PART, private_folder, sync_folder

AT_ONCE = 128
"""Slots that are made with one sync; and instances whose names are synced together."""
PREAMBLE_BYTES = 128
_SEAL = struct.Struct("<8sQL")
_MAGIC = b"GLIOMA/1"


def sealed(content: bytes) -> tuple[bytes, memoryview]:
    """Return a DICOM file in two parts: a preamble that says what the rest must be, and the rest, not copied."""
    rest = memoryview(content)[PREAMBLE_BYTES:]
    seal = _SEAL.pack(_MAGIC, len(rest), zlib.crc32(rest))
    return seal.ljust(PREAMBLE_BYTES, b"\0"), rest


def is_whole(content: bytes) -> bool:
    """Say whether a file is what was sealed."""
    if len(content) < PREAMBLE_BYTES:
        return False
    magic, length, checksum = _SEAL.unpack_from(content)
    rest = memoryview(content)[PREAMBLE_BYTES:]
    return bool(magic == _MAGIC and length == len(rest) and checksum == zlib.crc32(rest))


def beside(work: Callable[[], None]) -> None:
    """Do something in a thread of its own."""
    threading.Thread(target=work, name="slots", daemon=True).start()


class Slots:
    """The slots of one folder; for any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)
        self._guard, self._making = threading.Lock(), threading.Lock()
        self._free: list[Path] = []

    def take(self) -> Path:
        """Return an empty file whose name survives; raises OSError where there is none and none can be made."""
        while True:
            with self._guard:
                slot = self._free.pop() if self._free else None
                plenty = len(self._free) >= AT_ONCE // 2
            if slot is None:
                self._make_more(needed=True)
                continue
            if not plenty and not self._making.locked():
                # Half of them are left meanwhile; a file system may take half a millisecond to make one.
                beside(self.fill)
            return slot

    def fill(self) -> None:
        """Make slots ahead, where they can be made."""
        self._make_more(needed=False)

    def _make_more(self, *, needed: bool) -> None:
        """Make slots, unless another thread does so now; where one is `needed`, wait for it."""
        if not self._making.acquire(blocking=needed):
            return
        try:
            if len(self._free) < AT_ONCE // 2 or not self._free:
                made = self._make()
                with self._guard:
                    self._free += made
        except OSError:
            if needed:
                raise
        finally:
            self._making.release()

    def _make(self) -> list[Path]:
        made = [self._folder / f"{uuid.uuid4().hex}{PART}" for _ in range(AT_ONCE)]
        try:
            for slot in made:
                slot.touch(mode=0o600, exist_ok=False)
            sync_folder(self._folder)
        except OSError:
            for slot in made:
                slot.unlink(missing_ok=True)
            raise
        return made

    def left(self) -> Iterator[tuple[Path, bytes | None]]:
        """Go through what an earlier process left: each file with its content, or None where that is not whole.

        Call it before the first `take`.
        """
        for slot in self._folder.glob(f"*{PART}"):
            content = slot.read_bytes()
            yield slot, content if is_whole(content) else None
