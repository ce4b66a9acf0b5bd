"""Files that survive a power cut, and where studies lie: what receiver, inbox and outbox share.

    inbox/<study key>/<instance name>.dcm     whole instances only; the receiver writes elsewhere and links
    inbox/.incoming/                          slots: what is being received, or has its second name not yet synced
    work/<job id>/input, output               a job's own instances (hard links), and its results until committed
    outbox/<job id>/                          results that are owed
    archive/<study key>/<job id>/             every result

Names are hashes of UIDs, never the peer's own words: a UID that is a path leads nowhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

PART = ".part"
"""Ends the name of what is not yet whole; start-up removes it."""
INCOMING = ".incoming"
QUIET_SECONDS = 3_600.0
"""A study's folder that changed more lately is left alone by retention, whatever the journal says."""
SUMMARY = "summary.json"
"""What a job came to, in the archive beside its results."""


def study_key(study_uid: str) -> str:
    """Return the folder name of a study: 32 hexadecimal digits."""
    return _digest(study_uid)


def instance_name(instance_uid: str) -> str:
    """Return the file name of a SOP instance."""
    return f"{_digest(instance_uid)}.dcm"


def revision_id(study_uid: str, names: Iterable[str]) -> str:
    """Return the job id of a study's revision: the same study and instances give the same job."""
    return _digest("\n".join([study_uid, *sorted(names)]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def private_folder(path: Path) -> Path:
    """Make a folder that only the node's user can enter, and parents of that kind; return it. Its name survives."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)  # raises where it is a file
    for made in missing:
        sync_folder(made.parent)
    return path


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fill_synced(path: Path, *parts: bytes | memoryview) -> None:
    """Write parts, one behind the other, into an empty file that is there, and make its content survive a power cut."""
    # A file object would look at it once more, and give the interpreter's lock away for that.
    handle = os.open(path, os.O_WRONLY)
    try:
        left = [memoryview(part) for part in parts]
        while left:
            written = os.writev(handle, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write a small file, in ASCII: whoever reads it meets what was there or all of this."""
    part = path.with_name(f"{path.name}{PART}")
    part.write_text(text, encoding="ascii")
    part.replace(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system cannot, copy it."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def publish_folder(files: Iterable[Path], target: Path) -> None:
    """Make `target` hold exactly `files`, all at once: no reader or crash ever meets a part of it.

    A folder left there by an earlier attempt is replaced.
    """
    part = target.with_name(f".{target.name}{PART}")
    shutil.rmtree(part, ignore_errors=True)
    private_folder(part)
    for file in files:
        link_or_copy(file, part / file.name)
        _sync_file(part / file.name)
    sync_folder(part)
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)
    sync_folder(target.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_parts(folder: Path) -> None:
    """Remove what a crash left half-made in a folder."""
    for left in folder.glob(f".*{PART}"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
