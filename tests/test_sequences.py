"""The end of a sequence is found without its items being made, however they are laid out."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

from app.store import Refused, read_identity
from operators.sequences import MOST_DEPTH, MOST_ELEMENTS
from tests.support_dicom import small_mr, with_meta
from tests.torture.mutations import deep, many_elements, many_items, written

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
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_of_items_takes_neither_memory_nor_time(bomb):
    begun = time.process_time()
    assert peak_of(with_sequence(b"SQ", BOMBS[bomb])) < 3_000_000
    assert time.process_time() - begun < 10.0, "with pydicom's Datasets more than twice that"


@pytest.mark.parametrize("form", ["open", "closed", "defined"])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("depth", [MOST_DEPTH + 1, 1_000, 50_000])
def test_sequences_nested_too_deep_are_refused(form, early, depth):
    with pytest.raises(Refused, match=r"^its sequences are nested more than 64 deep$"):
        read_identity(deep(depth, form, early=early))


@pytest.mark.parametrize("form", ["closed", "defined"])
def test_sequences_as_deep_as_may_be_are_read_in_any_form(form):
    file = deep(MOST_DEPTH, form)
    assert read_identity(file).study == "1.2.3"
    assert read_identity(_implicit(file)).study == "1.2.3"


@pytest.mark.parametrize("form", ["closed", "defined"])
def test_depth_is_seen_in_implicit_vr_too(form):
    with pytest.raises(Refused, match="nested more than 64 deep"):
        read_identity(_implicit(deep(MOST_DEPTH + 1, form)))


def _implicit(file):
    """The same, as pydicom writes it in implicit VR."""
    return written(dcmread(io.BytesIO(file)), ImplicitVRLittleEndian)


MANY = {"elements": many_elements, "items": many_items}


@pytest.mark.parametrize("what", MANY)
def test_an_object_of_too_many_is_refused_and_not_looked_at_behind_the_bound(what):
    file = MANY[what](MOST_ELEMENTS + 1_000)
    with pytest.raises(Refused, match=r"^it holds more than 1,000,000 elements and items$"):
        read_identity(file[:-4_000] + b"\xff" * 1_000)


def test_items_of_all_sequences_count_together():
    half = MOST_ELEMENTS // 2
    file = with_sequence(b"SQ", ITEM * half + END)
    assert read_identity(file)
    at = file.rindex(PIXELS)
    other = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 8 * half) + ITEM * half
    with pytest.raises(Refused, match="more than 1,000,000 elements"):
        read_identity(file[:at] + other + file[at:])


def test_elements_in_implicit_vr_count_too():
    file = written(small_mr(), ImplicitVRLittleEndian)
    at = file.rindex(PIXELS)
    many = b"".join(struct.pack("<HHL", 0x1000 + 2 * (i >> 16), i & 0xFFFF, 0) for i in range(MOST_ELEMENTS))
    with pytest.raises(Refused, match="more than 1,000,000 elements"):
        read_identity(file[:at] + many + file[at:])


OPAQUE = [
    (b"no item at all", "a sequence that is none"),
    (OPEN_ITEM + b"\x08\0\0\1SQ\0\0\xff\xff\xff\xff", "one that is open where its length ends"),
    (struct.pack("<HHL", 0xFFFE, 0xE000, 4_000) + bytes(12), "an item that is longer than its sequence"),
    (struct.pack("<HHL", 0xFFFE, 0xE000, 12) + b"no elements.", "an item of bytes"),
    (END, "a delimiter where none is due"),
]


@pytest.mark.parametrize(("value", "why"), OPAQUE)
def test_what_has_a_length_is_stepped_over_whatever_it_holds(value, why):
    """As before sequences were looked into: some writers are careless, and nobody need read it."""
    head = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, len(value))
    file = written(small_mr(), ExplicitVRLittleEndian)
    at = file.rindex(PIXELS)
    assert read_identity(file[:at] + head + value + file[at:]), why
    item = OPEN_ITEM + struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, len(value)) + value + ITEM_END
    assert read_identity(with_sequence(b"SQ", item + END)), why


def test_an_icon_of_fragments_is_passed_over():
    fragments = ITEM + struct.pack("<HHL", 0xFFFE, 0xE000, 16) + OPEN_ITEM * 2 + END
    icon = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + fragments
    assert read_identity(with_sequence(b"SQ", OPEN_ITEM + icon + ITEM_END + END))


def peak_of(file):
    """Memory that `read_identity` takes at most, in bytes."""
    tracemalloc.start()
    try:
        read_identity(file)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
