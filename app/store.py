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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import uid
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from app.files import INCOMING, fill_synced, instance_name, private_folder, study_key, sync_folder
from app.sequences import end_of_sequence
from app.skim import skim
from app.slots import AT_ONCE, Slots, sealed

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
        "The disk is at its watermark, full, or failing; send again later.",
    ),
    MISMATCH: ("Error: Dataset does not match SOP Class", "SOP class or SOP instance UID is not the request's."),
    COERCED: ("Warning: Coercion of Data Elements", "Held before with other content; the first to come is kept."),
    CANNOT_UNDERSTAND: (
        "Error: Cannot understand",
        "Unreadable, truncated, without pixel data or a valid UID; or a fault of the node, which is in its log.",
    ),
}
"""Every status that a C-STORE is answered with (PS3.4 table B.2-1): its meaning there, and when."""

_IDENTITY = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
UID = re.compile(r"[0-9.]{1,64}")
_PIXELS = 0x7FE0
"""The group of Pixel Data and of its floating-point forms (PS3.3 section C.7.6.24)."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAY_BE_SEQUENCE = frozenset({"SQ", "UN", None})
"""None: implicit VR."""
_BIG_ENDIAN = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.2\0"
_HEAD_BYTES = 1_024
"""Within so many bytes the File Meta Information names the transfer syntax; it has but short UIDs before that."""
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
"""What pydicom raises at bytes that are no dataset; sequences a thousand deep end in a RecursionError."""

_TELL_SECONDS = 0.1
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""What a file system without hard links answers."""


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
    an image without pixels: cut between two elements, what is left reads as a whole dataset.
    """
    quick = skim(content, _IDENTITY)
    if quick is not None and all(UID.fullmatch(quick[0].get(tag, "")) for tag in _IDENTITY):
        values, has_pixels = [quick[0][tag] for tag in _IDENTITY], quick[1]
    else:
        values, has_pixels = _read_thoroughly(content)
    if "Image Storage" in uid.UID(values[0]).name and not has_pixels:
        raise Refused(CANNOT_UNDERSTAND, "truncated: an image without Pixel Data (7FE0,0010)")
    return Identity(values[0], values[1], values[2])


def _read_thoroughly(content: bytes) -> tuple[list[str], bool]:
    """Return the values of `_IDENTITY`, and whether there are pixels; raises as `read_identity`."""
    stream = io.BytesIO(content)
    has_pixels = False
    little = content.find(_BIG_ENDIAN, 0, _HEAD_BYTES) < 0

    def within(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal has_pixels
        has_pixels |= tag.group == _PIXELS
        if length != _UNDEFINED_LENGTH and stream.tell() + length > len(content):
            raise Refused(CANNOT_UNDERSTAND, f"truncated: ({tag.group:04X},{tag.element:04X}) ends beyond the dataset")
        if length == _UNDEFINED_LENGTH and vr in _MAY_BE_SEQUENCE and tag.group != _PIXELS:
            # pydicom is left with an empty one.
            stream.seek(end_of_sequence(content, stream.tell(), implicit=vr is None, little=little))
        return False

    try:
        # Encapsulated pixels are passed over, not copied.
        header = read_partial(stream, stop_when=within, defer_size=1_048_576, specific_tags=list(_IDENTITY))
        values = [str(header.get(tag).value) if tag in header else "" for tag in _IDENTITY]
    except UNREADABLE as error:
        # The error's own text may quote the dataset.
        raise Refused(CANNOT_UNDERSTAND, f"not a readable dataset ({type(error).__name__})") from error
    for tag, value in zip(_IDENTITY, values, strict=True):
        if not UID.fullmatch(value):
            raise Refused(CANNOT_UNDERSTAND, f"no valid UID in ({tag >> 16:04X},{tag & 0xFFFF:04X})")
    return values, has_pixels


class Store:
    """Where received instances are kept."""

    def __init__(self, inbox_dir: Path, watermark_mb: int) -> None:
        self._inbox = private_folder(inbox_dir)
        self._slots = Slots(inbox_dir / INCOMING)
        self._watermark = watermark_mb * 1_000_000
        self._settling, self._moving = threading.Lock(), threading.Lock()
        self._told = -_TELL_SECONDS
        self._unsettled: list[tuple[Path, Path]] = []
        """Slots whose instance has a name in its study's folder that is not synced yet, with the folder."""

    def sweep(self) -> None:
        """File what an earlier process had whole in its slots when it ended, and remove the rest; raises OSError."""
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
            self._link(slot, target)
            # Named before or now: the name may not be synced yet.
            self._unsettled.append((slot, target.parent))
        self.settle()
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
            fill_synced(slot, sealed(content))
            linked = self._link(slot, target)
        except OSError:
            slot.unlink(missing_ok=True)
            raise
        if not linked:
            slot.unlink(missing_ok=True)
            return self._kept_before(target, content)
        self._unsettled.append((slot, target.parent))
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
            for folder in {self._inbox, *(folder for _, folder in begun)} if begun else ():
                with suppress(FileNotFoundError):  # removed meanwhile, with what was in it
                    sync_folder(folder)
            for slot, _ in begun:
                slot.unlink(missing_ok=True)
            del self._unsettled[: len(begun)]
        except OSError as error:
            LOGGER.error("names of instances cannot be synced; they wait in their slots: %s", error.strerror)
        finally:
            self._settling.release()

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

    def _kept_before(self, target: Path, content: bytes) -> int:
        # Whoever put it there may not yet have synced its name.
        sync_folder(target.parent)
        sync_folder(self._inbox)
        return SUCCESS if _dataset(target.read_bytes()) == _dataset(content) else COERCED


def _dataset(content: bytes) -> bytes:
    # The file meta group's length is its first element: 12 bytes, behind the preamble and "DICM".
    (length,) = struct.unpack_from("<L", content, 140)
    return content[144 + length :]
