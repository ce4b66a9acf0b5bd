"""Finds the end of a sequence of undefined length without making anything of what is in it.

pydicom makes a Dataset of every item, eighty times as large as the eight bytes that an empty one takes: some MB of
those would fill the memory. Sources: PS3.5 sections 7.1.2, 7.5.
"""

from __future__ import annotations

import struct

from app.skim import LONG

_ITEM_GROUP = 0xFFFE
"""Of Item (E000), Item Delimitation Item (E00D) and Sequence Delimitation Item (E0DD)."""
_UNDEFINED_LENGTH = 0xFFFFFFFF


def end_of_sequence(content: bytes, at: int, *, implicit: bool, little: bool) -> int:
    """Return where the delimiter stands of the sequence whose first item is at `at`.

    Encapsulated pixel data look the same from here. Raises ValueError or struct.error where there is no such end.
    """
    order = "<" if little else ">"
    tag_and_length = struct.Struct(f"{order}HHL").unpack_from
    in_item = [False]  # one entry for each sequence that is open: whether an item of undefined length is open in it
    while in_item:
        group, element, length = tag_and_length(content, at)
        if group == _ITEM_GROUP:
            at += 8
            match element, in_item[-1]:
                case (0xE000, False) if length == _UNDEFINED_LENGTH:
                    in_item[-1] = True
                case (0xE000, False):
                    at += length
                case (0xE00D, True):
                    in_item[-1] = False
                case (0xE0DD, False):
                    del in_item[-1]
                case _:
                    raise ValueError("an item, or an end, where none can be")
        elif in_item[-1]:
            at, length = _value(content, at, length, implicit, order)
            if length == _UNDEFINED_LENGTH:
                in_item.append(False)
            else:
                at += length
        else:
            raise ValueError("a sequence with something else than items")
    return at - 8


def _value(content: bytes, at: int, length: int, implicit: bool, order: str) -> tuple[int, int]:
    """Return where the value of the element at `at` begins, and its length; `length` is what it is in implicit VR."""
    vr = content[at + 4 : at + 6]
    if implicit or not (vr.isalpha() and vr.isupper()):
        return at + 8, length  # some writers change to implicit VR within sequences
    if vr in LONG:
        return at + 12, struct.unpack_from(f"{order}L", content, at + 8)[0]
    return at + 8, struct.unpack_from(f"{order}H", content, at + 6)[0]
