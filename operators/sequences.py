"""Walks over sequences without making anything of what is in them, and counts it.

pydicom makes a Dataset of every item, eighty times as large as the eight bytes that an empty one takes, and calls
itself for every level of nesting: some MB of items would fill the memory, some hundred levels the stack. Sources: PS3.5
sections 7.1.2, 7.5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from pydicom.datadict import dictionary_has_tag, dictionary_VR

MOST_ELEMENTS = 1_000_000
"""Elements, items and delimiters that an object may hold in all: 6,000 frames of enhanced MR with 150 each. As pydicom
keeps them they take 350 to 760 MB."""
MOST_DEPTH = 64
"""How deep sequences may be nested: reports have ten levels, and pydicom needs four calls of the thousand for each."""
UNDEFINED_LENGTH = 0xFFFFFFFF
LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose length has 32 bits (PS3.5 table 7.1-1)."""
_UNTOLD = frozenset({b"UN", None})
"""VRs that do not tell whether there are items; None: implicit VR."""
_PIXELS = 0x7FE0
_ITEM_GROUP = 0xFFFE
_SEQUENCE, _ITEM, _FRAGMENTS, _BYTES, _END = range(5)
"""What can stand in a dataset or a sequence; the items of fragments hold bytes."""


class TooMuch(ValueError):
    """An object holds more than is taken of one; says what, and nothing of the object."""


class CutOff(ValueError):
    """A length leads beyond the bytes that are there."""


@dataclass(slots=True)
class Budget:
    """How much an object may hold, and how much of it was found."""

    most: int = MOST_ELEMENTS
    depth: int = MOST_DEPTH
    spent: int = 0

    def spend(self, count: int) -> None:
        """Count; raises TooMuch beyond `most`."""
        self.spent += count
        if self.spent > self.most:
            raise TooMuch(f"it holds more than {self.most:,} elements and items")


def has_items(tag: int, vr: bytes | None, length: int) -> bool:
    """Say whether an element's value is a sequence's; `vr` is None in implicit VR."""
    if length == UNDEFINED_LENGTH:
        return (vr == b"SQ" or vr in _UNTOLD) and tag >> 16 != _PIXELS
    return vr == b"SQ" or (vr in _UNTOLD and _is_sequence(tag))


@lru_cache(4_096)
def _is_sequence(tag: int) -> bool:
    return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"


def end_of_sequence(content: bytes, at: int, length: int, budget: Budget, *, implicit: bool, little: bool) -> int:
    """Return where a sequence ends whose first item is at `at`: where its delimiter stands, if `length` is undefined.

    What has a length and is no dataset inside is stepped over. Raises CutOff where its end is not among the bytes that
    are there, ValueError where it can have none, TooMuch where the budget does not allow what is in it.
    """
    form = _Form("<" if little else ">", implicit)
    is_undefined = length == UNDEFINED_LENGTH
    # What is open: its kind, what nothing in it reaches beyond, and whether that is its own end.
    opened = [(_SEQUENCE, len(content) if is_undefined else at + length, not is_undefined)]
    left, deepest = budget.most - budget.spent, 2 * budget.depth
    count = 0
    while opened and count <= left:
        kind, limit, has_end = opened[-1]
        if has_end and at == limit:
            opened.pop()
            continue
        count += 1
        if len(opened) > deepest:
            raise TooMuch(f"its sequences are nested more than {budget.depth} deep")
        try:
            at, length, inner = _next(content, at, kind, has_end, form)
            ends = at + (0 if length == UNDEFINED_LENGTH else length)
            if ends > limit:
                raise CutOff("a length leads beyond what holds it")
        except (ValueError, struct.error) as error:
            while opened and not opened[-1][2]:
                opened.pop()
            if not opened:
                raise error if isinstance(error, ValueError) else CutOff("it ends within an element") from error
            at = opened.pop()[1]
            continue
        if inner == _END:
            opened.pop()
        elif inner == _BYTES:
            at = ends
        else:
            opened.append((inner, limit, False) if length == UNDEFINED_LENGTH else (inner, ends, True))
    budget.spend(count)
    return at - 8 if is_undefined else at


class _Form:
    """How elements are written: byte order, and whether in implicit VR."""

    __slots__ = ("implicit", "long_length", "short_length", "tag_and_length")

    def __init__(self, order: str, implicit: bool) -> None:
        self.implicit = implicit
        self.tag_and_length = struct.Struct(f"{order}HHL").unpack_from
        self.long_length = struct.Struct(f"{order}L").unpack_from
        self.short_length = struct.Struct(f"{order}H").unpack_from


def _next(content: bytes, at: int, kind: int, has_end: bool, form: _Form) -> tuple[int, int, int]:
    """Return where the value of what stands at `at` begins, its length, and what it is; raises ValueError."""
    group, element, length = form.tag_and_length(content, at)
    if group != _ITEM_GROUP:
        if kind != _ITEM:
            raise ValueError("something else than an item")
        return _value(content, at, group << 16 | element, length, form)
    if element == 0xE000 and kind != _ITEM:
        if kind == _FRAGMENTS and length == UNDEFINED_LENGTH:
            raise ValueError("a fragment without a length")
        return at + 8, length, _ITEM if kind == _SEQUENCE else _BYTES
    if has_end or element != (0xE00D if kind == _ITEM else 0xE0DD):
        raise ValueError("an item, or an end, where none can be")
    return at + 8, 0, _END


def _value(content: bytes, at: int, tag: int, length: int, form: _Form) -> tuple[int, int, int]:
    """Do as `_next` for an element of a dataset; `length` is what it is in implicit VR."""
    vr: bytes | None = None
    named = content[at + 4 : at + 6]
    if form.implicit or not (named.isalpha() and named.isupper()):
        at += 8  # some writers change to implicit VR within sequences
    elif named in LONG:
        vr, (length,), at = named, form.long_length(content, at + 8), at + 12
    else:
        vr, (length,), at = named, form.short_length(content, at + 6), at + 8
    if has_items(tag, vr, length):
        return at, length, _SEQUENCE
    return at, length, _FRAGMENTS if length == UNDEFINED_LENGTH else _BYTES
