"""Check that an object holds the attributes that its kind must hold: Type 1 and Type 2 of PS3.3, at every depth.

The tables are Part 3's, as they ship with highdicom; only its data files are read. What they cannot say is left to
dciodvfy: values, whether the condition of a Type 1C or 2C is met, and which functional groups a kind of image needs.
A module that is not mandatory counts as used where an attribute is present that no mandatory module has.
Complaints name attributes, never values, so that no patient identity is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

CONTENT = "sr-document-content"
"""The module of content items: its macros go by value type, and its items hold items of the same form."""
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
ITEM_NEEDS: Mapping[str, tuple[str, ...]] = {
    "TEXT": ("TextValue",),
    "CODE": ("ConceptCodeSequence",),
    "NUM": ("MeasuredValueSequence",),
    "DATETIME": ("DateTime",),
    "DATE": ("Date",),
    "TIME": ("Time",),
    "UIDREF": ("UID",),
    "PNAME": ("PersonName",),
    "COMPOSITE": ("ReferencedSOPSequence",),
    "IMAGE": ("ReferencedSOPSequence",),
    "WAVEFORM": ("ReferencedSOPSequence",),
    "SCOORD": ("GraphicType", "GraphicData"),
    "SCOORD3D": ("GraphicType", "GraphicData", "ReferencedFrameOfReferenceUID"),
    "TCOORD": ("TemporalRangeType",),
    "CONTAINER": ("ContinuityOfContent",),
    "TABLE": ("TabulatedValuesSequence",),
}
"""What a content item holds by its value type (PS3.3 C.17.3.2)."""
MAY_BE_EMPTY = ("MeasuredValueSequence",)
"""Type 2 among them: a measurement that could not be made."""
MAY_BE_NAMELESS = ("IMAGE", "WAVEFORM", "COMPOSITE", "SCOORD", "SCOORD3D", "TCOORD", "CONTAINER")
"""Of the other value types, every item has a concept name (PS3.3 table C.17-5)."""


@dataclass
class Needs:
    """What one level of a kind of object may hold, and what it must."""

    types: dict[str, set[str]] = field(default_factory=dict)
    """By keyword: the Types that the modules give it; the lowest counts (PS3.5 section 7.4)."""
    below: dict[str, Needs] = field(default_factory=dict)
    """By the keyword of a sequence: what its items hold."""

    def add(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Add a module's rules."""
        for rule in rules:
            level = self
            for keyword in rule["path"]:
                level = level.below.setdefault(keyword, Needs())
            if tag_for_keyword(rule["keyword"]) is not None:  # overlays' have no tag of their own
                level.types.setdefault(rule["keyword"], set()).add(rule["type"])


@cache
def _table(name: str) -> Any:
    """Read one of the tables; the largest takes half a second, once."""
    spec = find_spec("highdicom")
    if spec is None or spec.origin is None:
        raise RuntimeError("highdicom, whose tables are needed, is not installed")
    return json.loads((Path(spec.origin).parent / "_standard" / f"{name}.json").read_text())


def kind_of(header: Dataset) -> str | None:
    """Name an object's kind as the tables do; None where they do not have it."""
    kind: str | None = _table("sop_class_iod_map").get(str(header.get("SOPClassUID", "")))
    return kind


def needs_of(header: Dataset) -> Needs | None:
    """Return what an object's kind must hold, but for content items; None for a kind without tables."""
    kind = kind_of(header)
    if kind is None:
        return None
    return _needs(tuple(m for m in _used(kind, header) if m != CONTENT))


def attribute_faults(header: Dataset) -> list[str]:
    """Say what is missing or empty though its kind of object needs it; nothing for a kind without tables."""
    kind = kind_of(header)
    if kind is None:
        return []
    modules = _used(kind, header)
    needs = _needs(tuple(m for m in modules if m != CONTENT))
    faults = list(_faults(header, needs, ""))
    if CONTENT in modules:
        faults += _item_faults(header, _item_needs(), "")
    return list(dict.fromkeys(faults))


def _used(kind: str, header: Dataset) -> list[str]:
    """List the modules of a kind: the mandatory ones, and others of which the object holds something."""
    listed = _table("iod_module_map")[kind]
    mandatory = [m["key"] for m in listed if m["usage"] == "M"]
    common = {keyword for key in mandatory for keyword in _top_level(key)}
    return mandatory + [
        m["key"] for m in listed if m["usage"] != "M" and any(k in header for k in _top_level(m["key"]) - common)
    ]


@cache
def _top_level(module: str) -> frozenset[str]:
    rules = _table("module_attribute_map")[module]
    return frozenset(r["keyword"] for r in rules if not r["path"] and tag_for_keyword(r["keyword"]) is not None)


@cache
def _needs(modules: tuple[str, ...]) -> Needs:
    needs = Needs()
    for module in modules:
        needs.add(_table("module_attribute_map")[module])
    for keyword in GROUPS:
        if keyword in needs.below:
            # The tables list every functional group there is as if all were needed.
            needs.below[keyword].types.clear()
    return needs


@cache
def _item_needs() -> Needs:
    """What the sequences of a content item hold; items themselves go by their value type."""
    needs = Needs()
    needs.add(
        rule
        for rule in _table("module_attribute_map")[CONTENT]
        if rule["path"] and rule["path"][0] != "ContentSequence"
    )
    return needs


def _faults(level: Dataset, needs: Needs, where: str) -> Iterator[str]:
    for keyword, types in needs.types.items():
        if keyword not in level:
            if types & {"1", "2"}:
                yield f"{where}{keyword} (Type {min(types & {'1', '2'})}) is missing"
        elif ("1" in types or types == {"1C"}) and level[keyword].is_empty:
            yield f"{where}{keyword} (Type {min(types)}) is empty"
    for keyword, inner in needs.below.items():
        for item, place in _items(level, keyword, where):
            yield from _faults(item, inner, place)


def _item_faults(item: Dataset, needs: Needs, where: str) -> Iterator[str]:
    """Check a content item and those below it; the document's root is one."""
    value_type = str(item.get("ValueType", ""))
    wanted = ["ValueType", *ITEM_NEEDS.get(value_type, ())]
    if where:
        wanted.append("RelationshipType")
    if value_type not in MAY_BE_NAMELESS or not where:
        wanted.append("ConceptNameCodeSequence")
    if "ReferencedContentItemIdentifier" in item:
        wanted = ["RelationshipType"]
    for keyword in wanted:
        if keyword not in item:
            yield f"{where}{keyword} (Type 1) is missing"
        elif item[keyword].is_empty and keyword not in MAY_BE_EMPTY:
            yield f"{where}{keyword} (Type 1) is empty"
    yield from _faults(item, needs, where)
    for child, place in _items(item, "ContentSequence", where):
        yield from _item_faults(child, needs, place)


def _items(level: Dataset, keyword: str, where: str) -> Sequence[tuple[Dataset, str]]:
    """List a sequence's items with the words that lead to them, counted from 1 as dciodvfy counts."""
    if keyword not in level or level[keyword].VR != "SQ":
        return []
    return [(item, f"{where}{keyword}[{n}].") for n, item in enumerate(level[keyword].value or (), 1)]
