"""What associations that are open have begun to bring, on disk: a receiver that is killed cannot write it in the trail.

A small file for each association that brings anything, gone when its end is written down. What is left of it at the
next start is of an association that never ended; the instances it brought lie in the inbox, and are counted there. Not
synced, as each association would wait for that: a process's end loses nothing, a power cut the latest.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from app.audit import AuditTrail, Party, Transfer
from app.files import private_folder, study_key
from app.log import Seldom
from app.store import UNREADABLE

LOGGER = logging.getLogger(__name__)

OPEN = "audit.open"
"""Under the data folder."""
UNENDED = "the receiver ended before the association did; what came of the study since it began is counted"
_CLOCK_STEP_NS = 20_000_000
"""Files are dated in steps of some ms, so by a little less than the clock says."""


@dataclass
class Note:
    """The studies of an association that were noted."""

    path: Path
    studies: set[str] = field(default_factory=set)


class OpenOnes:
    """The notes of a process."""

    def __init__(self, data_dir: Path) -> None:
        """Raises OSError where the folder cannot be made."""
        self._folder = private_folder(data_dir / OPEN)
        self._told = Seldom()

    def begin(self) -> Note:
        """Begin to note what an association brings; on disk once it brings something."""
        return Note(self._folder / uuid.uuid4().hex)

    def expect(self, note: Note, peer: Party, study: str) -> None:
        """Note that an instance of a study is about to be kept; on a disk that fails that is told, and no more."""
        if study in note.studies:
            return
        note.studies.add(study)
        since = time.time_ns() - _CLOCK_STEP_NS
        line = json.dumps({"title": peer.ae_title, "address": peer.address, "study": study, "since": since})
        try:
            with note.path.open("a", encoding="ascii") as file:
                file.write(f"{line}\n")
        except OSError as error:
            if self._told.is_due():
                LOGGER.error("what an open association brings cannot be noted: %s", error.strerror)

    def forget(self, note: Note) -> None:
        """Let go of a note: what it says is in the trail."""
        if note.studies:
            with suppress(OSError):
                note.path.unlink(missing_ok=True)


def tell_unended(data_dir: Path, inbox_dir: Path, trail: AuditTrail) -> None:
    """Write down what earlier receivers were brought and could not write down; none of them is left by now."""
    folder = data_dir / OPEN
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            for peer, study, since in _noted(path):
                if kept := _came(inbox_dir / study_key(study), since):
                    trail.received(peer, [Transfer(study, kept)], UNENDED)
            path.unlink()
        except OSError as error:
            LOGGER.error("what an association that never ended brought cannot be told: %s", error.strerror)


def _noted(path: Path) -> Iterator[tuple[Party, str, int]]:
    """Read a note; a line that a crash cut short is passed over."""
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            yield Party(str(said["title"]), str(said["address"])), str(said["study"]), int(said["since"])


def _came(folder: Path, since_ns: int) -> Counter[str]:
    """Count the instances of a study that were written since, by SOP class."""
    kept: Counter[str] = Counter()
    for path in folder.glob("*.dcm"):
        if path.stat().st_mtime_ns >= since_ns:
            try:
                kept[str(read_file_meta_info(path).MediaStorageSOPClassUID)] += 1
            except UNREADABLE:
                kept["unknown"] += 1
    return kept
