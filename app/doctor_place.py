"""What doctor looks at on the machine itself: folders, disk, journal, ports, the process that decodes images."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from app.config import Settings
from app.errors import NodeError
from app.tls_health import Finding
from operators.decoder import ChildDecoder
from operators.errors import PipelineError

LEAST_INODES = 10_000
"""With fewer free, a full study may not find room for its files, whatever the free space."""


@dataclass(frozen=True)
class Check:
    """One thing looked at: its state, and the remedy where it is not well."""

    subject: str
    ok: bool
    found: str
    remedy: str = ""
    warns: bool = False
    """Not well, but the node works: no reason for another exit status."""


def attempt(subject: str, look: Callable[[], str], remedy: str) -> Check:
    """Make a check of what returns what it found, or raises."""
    try:
        return Check(subject, True, look())
    except (NodeError, PipelineError, OSError, sqlite3.Error) as error:
        return Check(subject, False, str(error), _remedies(error) or remedy)


def told(subject: str, seen: Finding) -> Check:
    """Make a check of what was seen of TLS files."""
    return Check(subject, not seen.remedy, seen.found, seen.remedy, warns=bool(seen.remedy) and not seen.grave)


def _remedies(error: Exception) -> str:
    """Return the remedy where the system's own error tells it."""
    known = {
        errno.EROFS: "the file system is read-only: `dmesg` tells why; repair it and mount it for writing",
        errno.ENOSPC: "the disk is full: make room or move node.data_dir",
        errno.EDQUOT: "this user's quota is used up: raise it or move node.data_dir",
    }
    return known.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def look_at_place(settings: Settings) -> Iterator[Check]:
    """Look at what the node takes of its machine."""
    yield _data_folder(settings)
    yield from _privacy(settings)
    yield _journal(settings)
    yield from _disk(settings)
    yield try_port("port", settings.receiver.host, settings.receiver.port, "node.receiver.port")
    if settings.operation.port:
        yield try_port("monitoring port", settings.operation.host, settings.operation.port, "node.operation.port")
    yield _codecs(settings)


def _data_folder(settings: Settings) -> Check:
    def look() -> str:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        owns = (settings.inbox_dir, settings.work_dir, settings.outbox_dir, settings.archive_dir)
        for folder in (settings.data_dir, *owns):
            if folder.is_dir():
                probe = folder / ".doctor"
                probe.write_bytes(b"")
                probe.unlink()
        return f"{settings.data_dir} can be written"

    return attempt(
        "data folder", look, "give this user the folder (chown, chmod 700), or set node.data_dir to one it may write"
    )


def _privacy(settings: Settings) -> Iterator[Check]:
    """Warn of a data folder that others can enter; the node makes its own with mode 0700."""
    try:
        mode = settings.data_dir.stat().st_mode & 0o777
    except OSError:
        return
    if mode & 0o077:
        yield Check(
            "data folder", False, f"{settings.data_dir} has mode {mode:04o}: others can look into it",
            f"chmod 700 {settings.data_dir}", warns=True,
        )  # fmt: skip


def _journal(settings: Settings) -> Check:
    path = settings.journal_path

    def look() -> str:
        if not path.exists():
            return "none yet"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as file:
            (answer,) = file.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise NodeError(f"{path} is damaged")
        return f"{path.name} is whole"

    return attempt(
        "journal", look,
        f"stop the node and move {path} away: studies in the inbox are analysed again, with the same UIDs for results",
    )  # fmt: skip


def _disk(settings: Settings) -> Iterator[Check]:
    here = settings.data_dir if settings.data_dir.exists() else Path()
    free, needed = shutil.disk_usage(here).free // 1_000_000, settings.receiver.free_space_watermark_mb
    yield Check(
        "disk", free > needed, f"{free} MB free, {needed} MB kept in reserve", "make room or move node.data_dir"
    )
    volume = os.statvfs(here)
    # Some file systems count none.
    if volume.f_files and volume.f_favail < LEAST_INODES:
        yield Check("disk", False, f"{volume.f_favail} more files can be made", "remove files or move node.data_dir")


def try_port(subject: str, host: str, port: int, setting: str) -> Check:
    """See whether a port can be had."""

    def look() -> str:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except PermissionError as error:
                raise NodeError(f"this user may not listen on port {port}, below 1024") from error
        return f"{host}:{port} is free"

    return attempt(subject, look, f"is a node running already? Else choose another {setting} than {port}, from 1024 on")


def _codecs(settings: Settings) -> Check:
    def look() -> str:
        decoder = ChildDecoder(settings.pixels)
        try:
            decoder.try_out()
        finally:
            decoder.stop()
        return f"compressed images are decoded within {settings.pixels.decode_mb} MB"

    return attempt("image decoder", look, "pip install -r requirements.txt; raise node.pixels.decode_mb")
