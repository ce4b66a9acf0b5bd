"""Where received instances are kept, and what of their bytes is looked at first: the UIDs, and whether all is there."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import shutil
import struct
import threading
import time
import zlib
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom import uid
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from app.files import INCOMING, QUIET_SECONDS, fill_synced, instance_name, private_folder, study_key, sync_folder
from app.skim import skim
from app.slots import AT_ONCE, Slots, sealed
from operators.sequences import UNDEFINED_LENGTH, Budget, TooMuch, end_of_sequence, has_items

LOGGER = logging.getLogger(__name__)

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
COERCED = 0xB000
CANNOT_UNDERSTAND = 0xC000
STATUSES = {
    SUCCESS: ("Success", "The dataset, as it came, is on disk; or it was already."),
    OUT_OF_RESOURCES: (
        "Refused: Out of Resources",
        "The disk is at its watermark, full, or failing, or memory is short; send again later.",
    ),
    MISMATCH: ("Error: Dataset does not match SOP Class", "SOP class or SOP instance UID is not the request's."),
    COERCED: ("Warning: Coercion of Data Elements", "Held before with other content; the first to come is kept."),
    CANNOT_UNDERSTAND: (
        "Error: Cannot understand",
        "Unreadable, truncated, of too many elements or nested too deep, without pixel data or a valid UID; or a fault "
        "of the node, which is in its log.",
    ),
}
"""Every status that a C-STORE is answered with (PS3.4 table B.2-1): its meaning there, and when."""

_IDENTITY = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
UID = re.compile(r"[0-9.]{1,64}")
_PIXELS = 0x7FE0
"""The group of Pixel Data and of its floating-point forms (PS3.3 section C.7.6.24)."""
_BIG_ENDIAN = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.2\0"
_HEAD_BYTES = 1_024
"""Within so many bytes the File Meta Information names the transfer syntax; it has but short UIDs before that."""
_META_LENGTH = 140
"""Where the length of the File Meta Information stands: behind preamble, prefix and the header of (0002,0000)."""
UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    RuntimeError,
    OverflowError,
)
"""What pydicom raises at bytes that are no dataset; sequences some hundred deep end in a RecursionError."""
NOT_UNDERSTOOD = (*UNREADABLE, LookupError)
"""What reading a file, a command set or an answer raises where it is none; OSError is of the file alone."""

_TELL_SECONDS = 0.1
_MARK_SECONDS = QUIET_SECONDS / 60
"""A folder that changed so lately needs no fresh mark: marks cost a sync, and a whole study may come again."""
_TRIES = 10
"""How often a folder is looked for that retention hides and brings back; once is rare enough."""
_COMPARED_BYTES = 1_048_576
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""What a file system without hard links answers."""


_Filed = tuple[Path, Path]
"""An instance's slot, and its name in its study's folder."""


class Refused(Exception):
    """An instance is not taken; carries the C-STORE status and a reason without dataset content."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Identity:
    """The UIDs by which an instance is filed."""

    sop_class: str
    instance: str
    study: str


def read_identity(content: bytes) -> Identity:
    """Walk a DICOM file in memory to its end and return its UIDs; raises Refused where it is broken or lacks one.

    Element values are skipped, not decoded; a length that leads beyond the end means a truncated dataset, and so does
    an image without pixels: cut between two elements, what is left reads as a whole dataset. What would cost whoever
    reads it later, elements by the million and sequences nested without end, is refused.
    """
    try:
        quick = skim(content, _IDENTITY)
    except TooMuch as error:
        raise Refused(CANNOT_UNDERSTAND, str(error)) from error
    if quick is not None and all(UID.fullmatch(quick[0].get(tag, "")) for tag in _IDENTITY):
        values, has_pixels = [quick[0][tag] for tag in _IDENTITY], quick[1]
    else:
        values, has_pixels = _read_thoroughly(content)
    if not has_pixels and _is_of_images(values[0]):
        raise Refused(CANNOT_UNDERSTAND, "truncated: an image without Pixel Data (7FE0,0010)")
    return Identity(values[0], values[1], values[2])


@lru_cache(64)
def _is_of_images(sop_class: str) -> bool:
    return "Image Storage" in uid.UID(sop_class).name


def _read_thoroughly(content: bytes) -> tuple[list[str], bool]:
    """Return the values of `_IDENTITY`, and whether there are pixels; raises as `read_identity`."""
    stream = io.BytesIO(content)
    has_pixels, budget = False, Budget()
    little = content.find(_BIG_ENDIAN, 0, _HEAD_BYTES) < 0

    def within(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal has_pixels
        has_pixels |= tag.group == _PIXELS
        budget.spend(1)
        at = stream.tell()
        if length != UNDEFINED_LENGTH and at + length > len(content):
            raise Refused(CANNOT_UNDERSTAND, f"truncated: ({tag.group:04X},{tag.element:04X}) ends beyond the dataset")
        if has_items(tag, vr.encode() if vr else None, length):
            end = end_of_sequence(content, at, length, budget, implicit=vr is None, little=little)
            # pydicom steps over one that has a length, and is left with an empty one else.
            stream.seek(end if length == UNDEFINED_LENGTH else at)
        return False

    try:
        # Encapsulated pixels are passed over, not copied.
        header = read_partial(stream, stop_when=within, defer_size=_COMPARED_BYTES, specific_tags=list(_IDENTITY))
        values = [str(header.get(tag).value) if tag in header else "" for tag in _IDENTITY]
    except TooMuch as error:
        raise Refused(CANNOT_UNDERSTAND, str(error)) from error
    except UNREADABLE as error:
        # The error's own text may quote the dataset.
        raise Refused(CANNOT_UNDERSTAND, f"not a readable dataset ({type(error).__name__})") from error
    for tag, value in zip(_IDENTITY, values, strict=True):
        if not UID.fullmatch(value):
            raise Refused(CANNOT_UNDERSTAND, f"no valid UID in ({tag >> 16:04X},{tag & 0xFFFF:04X})")
    return values, has_pixels


class Store:
    """Where received instances are kept; each process of a receiver has one, on the same folder.

    A name is given by the kernel, to one of those that want it; slots and what is not settled are a process's own.
    """

    def __init__(self, inbox_dir: Path, watermark_mb: int, moving: AbstractContextManager[Any] | None = None) -> None:
        """`moving` keeps processes apart where the file system has no hard links; without it there is but this one."""
        self._inbox = private_folder(inbox_dir)
        self._slots = Slots(inbox_dir / INCOMING)
        self._watermark = watermark_mb * 1_000_000
        self._settling = threading.Lock()
        self._moving: AbstractContextManager[Any] = threading.Lock() if moving is None else moving
        self._told = -_TELL_SECONDS
        self._unsettled: list[_Filed] = []
        """Slots whose instance has a name in its study's folder that is not synced yet, with that name."""
        self.is_behind = False
        """Names could not be synced; `settle` is to be called again."""

    def sweep(self) -> None:
        """File what an earlier process had whole in its slots when it ended, and remove the rest; raises OSError.

        Once, before any process of this receiver keeps anything, and when none of an earlier one is left.
        """
        for slot, content in self._slots.left():
            if content is None:
                slot.unlink(missing_ok=True)
                continue
            try:
                target = self._target(read_identity(content))
            except Refused as refused:
                # It was taken once, so it is not thrown away.
                LOGGER.error("an instance that is whole cannot be filed, and stays in %s: %s", slot.name, refused)
                continue
            try:
                self._link(slot, target)
            except OSError as error:
                LOGGER.error("an instance waits in its slot %s for its name: %s", slot.name, error.strerror)
            # Named before, now or later: the name may not be synced yet.
            self._unsettled.append((slot, target))
        self.settle()
        self.prepare()

    def prepare(self) -> None:
        """Make slots ahead, so that the first instance does not wait for them."""
        self._slots.fill()

    def keep(self, identity: Identity, content: bytes) -> int:
        """Put an instance on disk for good and return its C-STORE status; raises OSError or Refused if it cannot.

        The first to come stays: a running job may be reading it. When the same instance comes again with the same
        dataset, that is Success. With another dataset the standard's only true answer is the warning B000 (PS3.4
        table B.2-1): the instance is held, but not with these elements. Success would claim that they are kept,
        and a failure would make the peer send them for ever.
        """
        if shutil.disk_usage(self._inbox).free < self._watermark:
            raise Refused(OUT_OF_RESOURCES, "less free disk space than the watermark")
        target = self._target(identity)
        slot = self._slots.take()
        try:
            fill_synced(slot, *sealed(content))
            for _ in range(_TRIES):
                if self._link(slot, target):
                    break
                if (status := self._kept_before(target, content)) is not None:
                    slot.unlink(missing_ok=True)
                    return status
            else:
                raise OSError(errno.EAGAIN, "its study's folder does not stay in its place")
        except OSError:
            slot.unlink(missing_ok=True)
            raise
        self._unsettled.append((slot, target))
        if len(self._unsettled) >= AT_ONCE:
            self.settle(wait=False)
        return SUCCESS

    def settle(self, *, wait: bool = True) -> None:
        """Sync the names that instances got, and let go of their slots; where another does so now, `wait` for it.

        A disk that fails is told in the log; the slots stay, and are tried again with the next ones.
        """
        if not self._settling.acquire(blocking=wait):
            return
        try:
            begun = list(self._unsettled)
            left = begun
            for _ in range(_TRIES):
                left = self._sync_names(left)
                if not left:
                    break
            if begun:
                sync_folder(self._inbox)
            for slot, _ in set(begun) - set(left):
                slot.unlink(missing_ok=True)
            self._unsettled[: len(begun)] = left
            self.is_behind = bool(left)
        except OSError as error:
            self.is_behind = True
            LOGGER.error("names of instances cannot be synced; they wait in their slots: %s", error.strerror)
        finally:
            self._settling.release()

    def _sync_names(self, filed: list[_Filed]) -> list[_Filed]:
        """Sync the study folders; return those instances that had no name in there, and name them anew.

        Retention may have hidden the folder, a moment before it sees that more came, or a moment before the name was
        given. What a peer was told is kept is in its slot until its name is found, and found synced.
        """
        missing: list[_Filed] = []
        for folder in {target.parent for _, target in filed}:
            here = [one for one in filed if one[1].parent == folder]
            names = _synced_names(folder)
            # Without hard links there is no slot any more; such a name was synced when it was given.
            missing += [(slot, target) for slot, target in here if target.name not in names and slot.exists()]
        for slot, target in missing:
            self._link(slot, target)
        return missing

    def _target(self, identity: Identity) -> Path:
        return self._inbox / study_key(identity.study) / instance_name(identity.instance)

    def _link(self, slot: Path, target: Path) -> bool:
        """Give what is in a slot its name in its study's folder; False where there is one of that name."""
        try:
            try:
                os.link(slot, target)
            except FileNotFoundError:
                target.parent.mkdir(mode=0o700, exist_ok=True)
                os.link(slot, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._move(slot, target)
        self._tell(slot.parent)
        return True

    def _tell(self, incoming: Path) -> None:
        """Move the time that the inbox's reader watches, but not for every instance: `settle` moves it in the end."""
        now = time.monotonic()
        if now - self._told > _TELL_SECONDS:
            self._told = now
            with suppress(OSError):
                os.utime(incoming)

    def _move(self, slot: Path, target: Path) -> bool:
        """Do as `_link` on a file system without hard links: two syncs more for each instance."""
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with self._moving:
            if target.exists():
                return False
            slot.replace(target)
        sync_folder(target.parent)
        sync_folder(self._inbox)
        return True

    def _kept_before(self, target: Path, content: bytes) -> int | None:
        """Return the status of an instance that is there already; None where its folder was taken away meanwhile.

        Its folder is dated anew, as by an instance that is added: retention leaves it alone then. Retention hides a
        folder by a rename and looks at its date behind that; here the date is set, and the file looked for behind that.
        So one of the two sees the other.
        """
        folder = target.parent
        try:
            if time.time() - folder.stat().st_mtime > _MARK_SECONDS:
                os.utime(folder)
            same = _holds(target, content)
            # Whoever put it there may not yet have synced its name.
            sync_folder(folder)
        except FileNotFoundError:
            return None
        sync_folder(self._inbox)
        return SUCCESS if same else COERCED


def _synced_names(folder: Path) -> set[str]:
    """Sync a folder and return the names that are safe in it; none where it is not, or no longer, in its place."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return set()
    try:
        names = {entry.name for entry in os.scandir(handle)}
        os.fsync(handle)
        in_place = os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return set()
    finally:
        os.close(handle)
    return names if in_place else set()


def _holds(path: Path, content: bytes) -> bool:
    """Say whether a file has the dataset of `content`; read by and by, as a second one in memory is not counted."""
    with path.open("rb") as file:
        behind = _dataset_start(file.read(_META_LENGTH + 4))
        at = _dataset_start(content)
        if os.fstat(file.fileno()).st_size - behind != len(content) - at:
            return False
        file.seek(behind)
        while at < len(content):
            if file.read(_COMPARED_BYTES) != content[at : at + _COMPARED_BYTES]:
                return False
            at += _COMPARED_BYTES
    return True


def _dataset_start(head: bytes) -> int:
    # The file meta group's length is its first element: 12 bytes, behind the preamble and "DICM".
    (length,) = struct.unpack_from("<L", head, _META_LENGTH)
    return int(_META_LENGTH + 4 + length)
