"""What of the audit trail its collector has not had yet, in order, whoever moves the trail away meanwhile.

Each file of the trail is held by a link of ours from when it is first seen until all of it was sent: one that is moved,
compressed or removed is still sent to its end before the one that took its place is begun. AuditTrail adds nothing to a
file that is no longer the trail, so such a file has an end.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from app.files import write_whole

LOGGER = logging.getLogger(__name__)
SENT = ".sent"
"""Ends the name of the file that says how far the trail was sent: the inode of one of its files, bytes, and a checksum
of the last of them."""
HELD = ".unsent-"
"""Between the trail's name and a number: a link that holds a file of it."""
_SEEN_BYTES = 1024


class Unsent:
    """The lines that are still to be sent."""

    def __init__(self, trail: Path) -> None:
        self._trail = trail
        self._mark = trail.with_name(trail.name + SENT)

    def look(self) -> bool:
        """Hold what is the trail now, and say whether anything is to be sent; raises OSError where it cannot be read.

        A file that comes and goes between two looks is not held.
        """
        with suppress(FileNotFoundError):
            self._hold()
        return any(_size(file) > self._sent(file) for file in self._files())

    def lines(self) -> Iterator[tuple[bytes, str]]:
        """Give each whole line that was not sent, and the mark to `keep` behind it."""
        files = self._files()
        for number, file in enumerate(files):
            yield from self._lines_of(file)
            if number < len(files) - 1:
                # Only now: without another, its inode might become that of a new file, which would pass for sent.
                file.unlink()

    def keep(self, mark: str) -> None:
        """Remember how far all was sent."""
        write_whole(self._mark, mark)

    def _hold(self) -> None:
        inode, held = self._trail.stat().st_ino, self._held()
        if inode in {file.stat().st_ino for file in held}:
            return
        number = int(held[-1].name.rpartition("-")[2]) + 1 if held else 1
        with suppress(PermissionError, FileExistsError):  # some file systems have no links
            self._trail.with_name(f"{self._trail.name}{HELD}{number:06}").hardlink_to(self._trail)

    def _held(self) -> list[Path]:
        return sorted(self._trail.parent.glob(f"{self._trail.name}{HELD}*"))

    def _files(self) -> list[Path]:
        return self._held() or [file for file in [self._trail] if file.exists()]

    def _sent(self, file: Path) -> int:
        """Return how much of a file was sent, in bytes; nothing where it is another one, or was cut since."""
        with suppress(OSError, ValueError):
            inode, at, *seen = self._mark.read_text(encoding="ascii").split()
            with file.open("rb") as opened:
                if int(inode) != os.fstat(opened.fileno()).st_ino:
                    return 0
                # An earlier version's mark did not say what was there.
                if not seen or seen == [_seen(opened, int(at))]:
                    return min(int(at), os.fstat(opened.fileno()).st_size)
            LOGGER.warning("the audit trail was cut: what was not sent before is lost to the collector")
            self._mark.unlink()
        return 0

    def _lines_of(self, file: Path) -> Iterator[tuple[bytes, str]]:
        at = self._sent(file)
        with file.open("rb") as opened:
            size, inode = _end(opened), os.fstat(opened.fileno()).st_ino
            opened.seek(at)
            while at < size and (line := opened.readline()).endswith(b"\n"):
                at += len(line)
                yield line[:-1], f"{inode} {at} {_seen(opened, at)}"


def _seen(opened: BinaryIO, at: int) -> str:
    """Tell the bytes before a place from others: each message has its own time."""
    begin = max(0, at - _SEEN_BYTES)
    return f"{zlib.crc32(os.pread(opened.fileno(), at - begin, begin)):08x}"


def _size(file: Path) -> int:
    with file.open("rb") as opened:
        return _end(opened)


def _end(opened: BinaryIO) -> int:
    """Return the size of a file when nobody is adding to it."""
    fcntl.flock(opened, fcntl.LOCK_SH)
    try:
        return os.fstat(opened.fileno()).st_size
    finally:
        fcntl.flock(opened, fcntl.LOCK_UN)
