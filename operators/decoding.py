"""Decode frames whose pixel data are encoded; what the decoder's process runs, so nothing heavy is imported here.

The frame's own head is held to the DICOM header first: a few bytes can claim an image of gigabytes.
"""

from __future__ import annotations

import logging
import os
import resource
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options, pixel_array
from pydicom.uid import UID

from operators.codestream import Claim, contradiction
from operators.errors import PixelDataRefused, UnreadableInstance
from operators.headers import DAMAGED
from operators.reading import read_header

Stored = NDArray[np.integer]
Frame = tuple[Path, int]
"""A file, and which of its frames, counted from 0."""

UNDECODABLE = (*DAMAGED, OSError, IndexError, MemoryError, InvalidDicomError)
"""What pydicom and its decoders raise where pixel data cannot be had."""
_LONG_HEAD = 12
"""Tag, VR and length of an encapsulated element (PS3.5 section 7.1.2)."""


@dataclass
class _Source:
    """An open file, and what is known of its image."""

    path: Path
    header: Dataset
    syntax: UID
    inflated: Dataset | None = None
    """The whole dataset, where it was deflated."""
    options: dict[str, Any] = field(default_factory=dict)
    fragments_at: int = 0


def decode_frames(frames: Sequence[Frame]) -> list[Stored]:
    """Decode frames, which may lie in one file or many: (rows, columns) each, stored values.

    Raises PixelDataRefused where a compressed image is not the one of its header, UnreadableInstance where it cannot
    be decoded.
    """
    found: list[Stored] = []
    source: _Source | None = None
    for path, place in frames:
        try:
            with path.open("rb") as file:
                if source is None or source.path != path:
                    source = _open(path, file)
                found.append(_decoded(source, file, place))
        except UNDECODABLE as error:
            # The error's own text may quote the header.
            raise UnreadableInstance(f"{path.name}: its pixel data cannot be decoded") from error
    return found


def _open(path: Path, file: BinaryIO) -> _Source:
    header, _ = read_header(path, file)
    source = _Source(path, header, header.file_meta.TransferSyntaxUID)
    if header.SamplesPerPixel != 1:
        raise ValueError("an image of colours is no grey image")
    if source.syntax.is_encapsulated:
        source.fragments_at = file.tell() + _LONG_HEAD
        source.options = as_pixel_options(header)
    elif source.syntax.is_deflated:
        source.inflated = dcmread(path)
    return source


def _decoded(source: _Source, file: BinaryIO, place: int) -> Stored:
    header = source.header
    if source.syntax.is_encapsulated:
        found: Stored = _decompressed(source, file, place)
    else:
        found = pixel_array(source.inflated or source.path, index=place, raw=True)
    if found.shape != (header.Rows, header.Columns):
        raise ValueError("the decoded image has another form than its header says")
    return found


def _decompressed(source: _Source, file: BinaryIO, place: int) -> Stored:
    options = source.options | {"number_of_frames": 1, "pixel_keyword": "PixelData", "raw": True}
    tables = options.pop("extended_offsets", None)
    file.seek(source.fragments_at)
    frame = get_frame(file, place, number_of_frames=source.options["number_of_frames"], extended_offsets=tables)
    header = source.header
    claim = Claim(header.Rows, header.Columns, header.SamplesPerPixel, header.BitsAllocated)
    if fault := contradiction(frame, source.syntax, claim):
        raise PixelDataRefused(f"{source.path.name} was not decoded: {fault}; send it again, uncompressed")
    found, _ = get_decoder(source.syntax).as_array(encapsulate([frame]), index=0, **options)
    return np.asarray(found)


def prepare(memory_mb: int) -> None:
    """Make this process one that decodes: its libraries loaded, its memory bounded, no word of its own to the log."""
    for codec in ("gdcm", "jpeg_ls", "openjpeg"):
        import_module(codec)
    # What libraries would say of a file may quote its header; why a frame was not decoded is in the answer.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    bound = held + memory_mb * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    # A dump of this process would hold a patient's images.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def ready() -> int:
    """Answer with the process's number: it has loaded its libraries."""
    return os.getpid()
