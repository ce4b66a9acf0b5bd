"""The end of a sequence is found without its items being made, however they are laid out."""

from __future__ import annotations

import struct
import time
import tracemalloc

import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

from app.store import Refused, read_identity
from tests.support_dicom import small_mr, with_meta
from tests.torture.mutations import written

PIXELS = struct.pack("<HH", 0x7FE0, 0x0010)
ITEM, ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE000, 0), struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
OPEN_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def nested(depth, undefined_items):
    """A sequence in a sequence, each of undefined length, with values between them that look like delimiters."""
    ds = Dataset()
    ds.CodeValue = "T-A0100"
    ds.add_new(0x00420011, "OB", END + ITEM_END)
    ds.is_undefined_length_sequence_item = undefined_items
    if depth:
        ds.ConceptCodeSequence = Sequence([nested(depth - 1, undefined_items) for _ in range(2)])
        ds["ConceptCodeSequence"].is_undefined_length = True
    return ds


@pytest.mark.parametrize("undefined_items", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_sequences_are_passed_over_and_what_lies_behind_is_read(syntax, undefined_items):
    ds = small_mr()
    ds.RequestAttributesSequence = Sequence([nested(4, undefined_items), Dataset(), nested(0, undefined_items)])
    ds["RequestAttributesSequence"].is_undefined_length = True
    ds.ProcedureCodeSequence = Sequence([nested(1, undefined_items)])  # before the study's UID
    ds["ProcedureCodeSequence"].is_undefined_length = True
    identity = read_identity(written(with_meta(ds, syntax), syntax))
    assert (identity.instance, identity.study) == (ds.SOPInstanceUID, ds.StudyInstanceUID)


def with_sequence(vr, items):
    """A file with a sequence of undefined length, as these bytes, before its pixel data."""
    file = written(small_mr(), ExplicitVRLittleEndian)
    at = file.rindex(PIXELS)
    return file[:at] + struct.pack("<HH2sHL", 0x0040, 0x0275, vr, 0, 0xFFFFFFFF) + items + file[at:]


IMPLICIT = OPEN_ITEM + struct.pack("<HHL", 0x0008, 0x0100, 4) + b"T-A0" + ITEM_END
READ = [
    (b"UN", IMPLICIT + END, "items of a UN are in implicit VR (PS3.5 section 6.2.2)"),
    (b"SQ", IMPLICIT + END, "some writers do so in any sequence"),
    (b"SQ", END, "no item"),
]


@pytest.mark.parametrize(("vr", "items", "why"), READ)
def test_it_is_as_lenient_as_pydicom(vr, items, why):
    assert read_identity(with_sequence(vr, items)), why


BROKEN = [ITEM, OPEN_ITEM, OPEN_ITEM + END, ITEM_END, PIXELS + bytes(8), ITEM[:6], OPEN_ITEM + b"\x08\0\0\1SQ\0\0"]


@pytest.mark.parametrize("items", BROKEN)
def test_a_sequence_without_an_end_is_refused(items):
    with pytest.raises(Refused):
        read_identity(with_sequence(b"SQ", items))


def test_encapsulated_pixels_are_passed_over_and_not_copied():
    ds = small_mr()
    ds.PixelData = encapsulate([bytes(8_000_000), bytes(8_000_000)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    file = written(with_meta(ds, JPEGLosslessSV1), JPEGLosslessSV1)
    assert peak_of(file) < 2_000_000


BOMBS = {
    "empty items": ITEM * 200_000 + END,
    "open items": (OPEN_ITEM + ITEM_END) * 100_000 + END,
    "deep": (OPEN_ITEM + struct.pack("<HH2sHL", 8, 0x0104, b"SQ", 0, 0xFFFFFFFF)) * 50_000
    + (END + ITEM_END) * 50_000
    + END,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_of_items_takes_neither_memory_nor_time(bomb):
    begun = time.process_time()
    assert peak_of(with_sequence(b"SQ", BOMBS[bomb])) < 3_000_000
    assert time.process_time() - begun < 10.0, "with pydicom's Datasets more than twice that"


def peak_of(file):
    """Memory that `read_identity` takes at most, in bytes."""
    tracemalloc.start()
    try:
        read_identity(file)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
