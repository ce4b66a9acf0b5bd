"""Compressed images that claim, or come to, more than they should; made of sound ones."""

from __future__ import annotations

import struct
import threading
from contextlib import suppress
from pathlib import Path

import gdcm
import numpy as np
import psutil
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

COMPRESSED = (JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)


def recode(path: Path, syntax: UID, **options: object) -> None:
    """Rewrite a file in another transfer syntax: by pydicom, or by GDCM where pydicom has no encoder."""
    if syntax in {JPEGLosslessSV1, JPEGBaseline8Bit}:
        _recode_by_gdcm(path, syntax)
        return
    ds = dcmread(path)
    if UID(syntax).is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False, **options)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)


def _recode_by_gdcm(path: Path, syntax: UID) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    kind = gdcm.TransferSyntax.JPEGLosslessProcess14_1 if syntax == JPEGLosslessSV1 else None
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind or gdcm.TransferSyntax.JPEGBaselineProcess1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def compress(folder: Path, syntax: UID, files: str = "*.dcm") -> None:
    """Rewrite a folder's files; JPEG baseline holds eight bits."""
    for path in folder.glob(files):
        if syntax == JPEGBaseline8Bit:
            ds = dcmread(path)
            values = np.minimum(ds.pixel_array // 16, 255).astype(np.uint8)
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelData = 8, 8, 7, values.tobytes()
            ds["PixelData"].VR = "OB"
            ds.save_as(path)
        recode(path, syntax)


def frame_of(ds: Dataset) -> bytearray:
    """The one frame of a compressed image."""
    return bytearray(next(generate_frames(ds.PixelData, number_of_frames=1)))


def with_frame(path: Path, ds: Dataset, frame: bytes) -> None:
    ds.PixelData = encapsulate([bytes(frame)])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)


def claim(path: Path, rows: int, columns: int) -> None:
    """Let the codestream claim another size; the header stays."""
    ds = dcmread(path)
    frame = frame_of(ds)
    if ds.file_meta.TransferSyntaxUID == JPEG2000Lossless:
        at = frame.index(b"\xff\x51")
        struct.pack_into(">2L", frame, at + 6, columns, rows)
        struct.pack_into(">2L", frame, at + 22, columns, rows)  # one tile, as large
    elif ds.file_meta.TransferSyntaxUID == RLELossless:
        struct.pack_into("<L", frame, 0, 15)
    else:
        at = min(i for marker in (0xC0, 0xC1, 0xC3, 0xF7) if (i := frame.find(bytes((0xFF, marker)))) > 0)
        struct.pack_into(">HH", frame, at + 5, rows, columns)
    with_frame(path, ds, frame)


def lie(path: Path, rows: int, columns: int) -> None:
    """Let header and codestream agree on another size than the data have."""
    if dcmread(path).file_meta.TransferSyntaxUID != RLELossless:
        claim(path, rows, columns)
    ds = dcmread(path)
    ds.Rows, ds.Columns = rows, columns
    ds.save_as(path)


def rle_bomb(path: Path, megabytes: int) -> None:
    """An RLE segment that comes to far more than the image."""
    ds = dcmread(path)
    runs = b"\x81\x00" * (megabytes * 1_000_000 // 128)
    frame = struct.pack("<16L", 2, 64, 64 + len(runs), *[0] * 13) + runs + b"\x81\x00" * 32
    with_frame(path, ds, frame)


def jpeg2000_bomb(path: Path) -> None:
    """A codestream of 65,535 layers in precincts of one pixel: tables of gigabytes for an image of 64 x 64."""
    ds = dcmread(path)
    frame = frame_of(ds)
    at = frame.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", frame, at + 2)
    old = frame[at + 4 : at + 2 + length]
    levels = old[5]
    style = bytes([1, old[1]]) + struct.pack(">H", 65_535) + bytes(old[4:10]) + bytes([0x00] + [0x11] * levels)
    frame[at : at + 2 + length] = b"\xff\x52" + struct.pack(">H", len(style) + 2) + style
    with_frame(path, ds, frame)


def offset_table_bomb(path: Path, entries: int) -> None:
    """A Basic Offset Table of many entries, all 0, and no memory of its own on disk."""
    ds = dcmread(path)
    plain = ds.PixelData
    whole = path.read_bytes()
    at = whole.index(plain)
    (length,) = struct.unpack_from("<L", plain, 4)
    with path.open("wb") as file:
        file.write(whole[:at] + struct.pack("<HHL", 0xFFFE, 0xE000, entries * 4))
        file.seek(entries * 4, 1)
        file.write(whole[at + 8 + length :])


def fragment_bomb(path: Path, count: int) -> None:
    """As many fragments of no bytes."""
    ds = dcmread(path)
    whole = path.read_bytes()
    at = whole.index(ds.PixelData)
    path.write_bytes(whole[:at] + b"\xfe\xff\x00\xe0\0\0\0\0" * count + whole[at:])


class Peak:
    """The most memory that this process gained, and that any process it started held, within a block; in bytes."""

    def __init__(self) -> None:
        self._me, self._over = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._before = self.here = self.children = 0
        self._name = self._me.cmdline()

    def __enter__(self) -> Peak:
        self._before = self._me.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.here = max(self.here, self._me.memory_info().rss - self._before)
            for child in self._me.children(recursive=True):
                with suppress(psutil.Error):
                    # Between fork and exec it has this process's name, and its memory.
                    if child.cmdline() == self._name:
                        continue
                    self.children = max(self.children, child.memory_info().rss)
