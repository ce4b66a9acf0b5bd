"""The DICOM Conformance Statement (PS3.2), as Markdown: fixed prose around tables that the code itself gives.

What is accepted and proposed is read off the application entities that really listen and associate, settings off
their models, codes off their module. docs/conformance.md is what this prints; a test holds it to that.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydicom import uid
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.sr.coding import Code

from app import (
    __version__,
    commitment,
    commitment_report,
    entity,
    history_port,
    places,
    requestor,
    retrieve,
    sender,
    store,
    stow,
    tls,
)
from app.capped_socket import ANSWER_BYTES, ASSOCIATE_BYTES, SLOWEST_BYTES_PER_SECOND
from app.config import Settings
from app.conformance_objects import COMMON, CREATED, Attributes, CreatedObject
from app.refusals import FOR_GOOD
from operators import codes
from operators.domain import MarkerValue
from operators.results import PRODUCT, VERBATIM
from operators.segment_table import SEGMENTS
from operators.segmentation_form import LABEL_MAP_STORAGE
from operators.sequences import MOST_DEPTH, MOST_ELEMENTS
from operators.series_evidence import IMAGE_CLASSES
from operators.statements import MARKER_LABELS
from operators.write_seg_parts import SEGMENT_LABEL

VERIFICATION = uid.UID("1.2.840.10008.1.1")
TEMPLATE = "conformance.md.jinja"
ROOT = Path(__file__).resolve().parents[1]
SCHEMES = {
    codes.PRIVATE_SCHEME: "private, of this product",
    "DCM": "DICOM Controlled Terminology (PS3.16)",
    "LN": "LOINC",
    "NCIt": "National Cancer Institute Thesaurus",
    "RFC5646": "Tags for identifying languages",
    "SCT": "SNOMED CT",
    "UCUM": "Unified Code for Units of Measure",
    "UMLS": "Unified Medical Language System",
}
"""Coding scheme designators in use (PS3.16 table 8-1)."""
NEWER_NAMES: Mapping[str, str] = {LABEL_MAP_STORAGE: "Label Map Segmentation Storage"}
"""Of SOP classes that are created and too new for pydicom's dictionary."""
UNITS = {"seconds": "s", "mb": "MB", "days": "days", "bytes": "bytes", "mm": "mm", "ml": "ml", "degrees": "degrees"}
"""What the last word of a setting's name says of its unit."""
_FORMS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "array": "list",
    "null": "none",
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_GROUP = re.compile(r'Code\("([^"]+)", "([^"]+)", "[^"]+"\),?  # CID (\d+)')


def conformance_statement() -> str:
    """Return the statement; the same code gives the same text on every machine."""
    # Markdown is not HTML: only what is named so would be escaped.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=select_autoescape(),
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["num"] = "{:g}".format
    # Without validation: a deployment's environment must not change the defaults told.
    settings = Settings.model_construct()
    scp = entity.application_entity(settings.receiver)
    scu = requestor.Requestor(settings.sender.calling_ae_title, settings.sender.network_timeout_seconds)
    accepted = {uid.UID(str(c.abstract_syntax)): c.transfer_syntax for c in scp.supported_contexts}
    verification = accepted.pop(VERIFICATION)
    storage = sorted(accepted, key=lambda u: [int(part) for part in u.split(".")])
    classes = list(dict.fromkeys(created.sop_class for created in CREATED))
    return environment.get_template(TEMPLATE).render(
        product=PRODUCT,
        version=__version__,
        settings=settings,
        scp=scp,
        scu=scu,
        pdu_limit=ASSOCIATE_BYTES,
        slowest=SLOWEST_BYTES_PER_SECOND,
        answer_bytes=ANSWER_BYTES,
        most_elements=MOST_ELEMENTS,
        most_depth=MOST_DEPTH,
        requestor=requestor,
        history_port=history_port,
        retrieve=retrieve,
        spare_connections=places.SPARE_CONNECTIONS,
        spare_per_peer=places.SPARE_PER_PEER,
        tls_profile=tls.PROFILE,
        tls_ciphers=" ".join(tls.CIPHERS),
        most_contexts=sender.MAX_CONTEXTS,
        stow=stow,
        stow_objects=", ".join(str(int(status)) for status in sorted(stow.ABOUT_OBJECTS)),
        report_statuses=table(
            ("Status", "Meaning", "When"),
            ((f"0x{status:04X}", meaning, when) for status, (meaning, when) in commitment_report.STATUSES.items()),
        ),
        commitment_for_good=" and ".join(f"0x{status:04X}" for status in sorted(commitment.FOR_GOOD)),
        refusals=", ".join(f"0x{status:04X}" for status in FOR_GOOD),
        codes=codes,
        verbatim=", ".join(dictionary_description(k) for k in VERBATIM if k != "SpecificCharacterSet"),
        segment_label=SEGMENT_LABEL,
        segments=table(("Label", "Segmented Property Type", "Colour (sRGB)"), _segments()),
        code=write_code,
        storage_classes=storage,
        classes_created=table(("SOP class", "SOP class UID"), map(_named, classes)),
        classes_accepted=table(("SOP class", "SOP class UID"), map(_named, storage)),
        classes_analysed=table(
            ("SOP class", "SOP class UID"), (_named(u) for u in storage if u.keyword in IMAGE_CLASSES)
        ),
        transfer_syntaxes=table(("Transfer syntax", "UID"), map(_named, entity.TRANSFER_SYNTAXES)),
        verification_syntaxes=table(("Transfer syntax", "UID"), map(_named, verification)),
        statuses=table(
            ("Status", "Meaning", "When"),
            ((f"0x{status:04X}", meaning, when) for status, (meaning, when) in store.STATUSES.items()),
        ),
        proposed=table(("SOP class", "SOP class UID", "Transfer syntax", "UID"), _proposed()),
        created=table(
            ("Object", "SOP class", "IOD (PS3.3)", "Transfer syntax", "Series Number", "Series Description", "A study"),
            (
                (
                    o.title,
                    name_of(o.sop_class),
                    o.iod,
                    o.transfer_syntax.name,
                    o.series_number,
                    o.description,
                    o.how_many,
                )
                for o in CREATED
            ),
        ),
        common=_attributes(COMMON),
        attributes=[(group, _attributes(group_attributes)) for group, group_attributes in _by_kind()],
        markers=table(("Tracking identifier", "Concept", "Altered", "Unaltered"), _markers()),
        schemes=table(
            ("Designator", "Scheme"),
            ((designator, SCHEMES[designator]) for designator in sorted({c.scheme_designator for c, _ in all_codes()})),
        ),
        private_codes=table(
            ("Code value", "Code meaning"),
            ((c.value, c.meaning) for c, _ in all_codes() if c.scheme_designator == codes.PRIVATE_SCHEME),
        ),
        public_codes=table(
            ("Code value", "Scheme", "Code meaning", "Context group"),
            (
                (c.value, c.scheme_designator, c.meaning, group)
                for c, group in all_codes()
                if c.scheme_designator != codes.PRIVATE_SCHEME
            ),
        ),
        sections=[
            (s.name, s.about, table(("Setting", "Value", "Default", "Meaning"), s.rows)) for s in setting_sections()
        ],
    )


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Lay out a Markdown table."""
    lines = [list(headings)]
    lines += [["---"] * len(lines[0]), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def write_code(code: Code) -> str:
    """Write a code the way PS3.16 does."""
    return f'({code.value}, {code.scheme_designator}, "{code.meaning}")'


def _named(value: uid.UID) -> tuple[str, str]:
    return name_of(value), str(value)


def name_of(value: uid.UID) -> str:
    """Name a UID; pydicom's dictionary does not know the newest classes, of which the name is their UID."""
    return NEWER_NAMES.get(
        value, value.name if value.name != value else "(newer than this software's dictionary of names)"
    )


def _proposed() -> Iterator[tuple[str, ...]]:
    """Every presentation context for what the node creates: one transfer syntax each."""
    for sop_class, syntax in sender.contexts_for((o.sop_class, o.transfer_syntax) for o in CREATED):
        yield *_named(uid.UID(sop_class)), *_named(uid.UID(syntax))


def _segments() -> Iterator[tuple[str, ...]]:
    """What can be a segment."""
    for row in SEGMENTS.values():
        yield row.label, write_code(row.code), row.web_colour


def _markers() -> Iterator[tuple[str, ...]]:
    """What may be said of each marker."""
    for name, concept in codes.MARKER_CONCEPTS.items():
        values = (codes.marker_value(name, value) for value in (MarkerValue.ALTERED, MarkerValue.UNALTERED))
        yield MARKER_LABELS[name][0], *map(write_code, (concept, *values))


def _by_kind() -> Iterator[tuple[str, Attributes]]:
    """The attributes that each kind of object has beside the common ones, under its SOP class and titles."""
    kinds: dict[int, list[CreatedObject]] = {}
    for created in CREATED:
        kinds.setdefault(id(created.attributes), []).append(created)
    for kind in kinds.values():
        yield f"{name_of(kind[0].sop_class)}: {', '.join(o.title for o in kind)}", kind[0].attributes


def _attributes(attributes: Attributes) -> str:
    rows = []
    for keyword, holds in attributes.items():
        tag = tag_for_keyword(keyword) or 0
        number = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        rows.append((dictionary_description(keyword), number, dictionary_VR(keyword), holds))
    return table(("Attribute", "Tag", "VR", "Value"), rows)


def all_codes() -> list[tuple[Code, str]]:
    """Return every code of operators/codes.py, once, with the context group that its line there names, or nothing."""
    groups = {(value, scheme): f"CID {cid}" for value, scheme, cid in _GROUP.findall(inspect.getsource(codes))}
    found: dict[Code, None] = {}
    for value in vars(codes).values():
        for held in value.values() if isinstance(value, Mapping) else (value,):
            if isinstance(held, Code):
                found[held] = None
    return [(code, groups.get((code.value, code.scheme_designator), "")) for code in found]


@dataclass(frozen=True)
class Section:
    """One section of the settings."""

    name: str
    about: str
    rows: list[tuple[str, str, str, str]]
    """Name, what it may be, default, meaning."""


def setting_sections() -> list[Section]:
    """List every setting of app.yaml, read off the schema of `Settings`."""
    schema = Settings.model_json_schema()
    return list(_sections("node", schema, schema["$defs"]))


def _sections(name: str, node: Mapping[str, Any], shapes: Mapping[str, Any]) -> Iterator[Section]:
    below: list[tuple[str, Mapping[str, Any]]] = []
    rows = []
    for key, entry in node["properties"].items():
        if shape := _shape(entry, shapes):
            below.append((f"{name}.{key}", shape))
        else:
            rows.append(_setting(key, entry, key in node.get("required", ())))
            if shape := _shape(entry.get("items", {}), shapes):
                below.append((f"{name}.{key}[]", shape))
    if rows:
        yield Section(name, " ".join(node.get("description", "").split()), rows)
    for below_name, shape in below:
        yield from _sections(below_name, shape, shapes)


def _shape(entry: Mapping[str, Any], shapes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the section that an entry refers to, though it may be left out; None where it is a plain value."""
    kinds = [kind for kind in entry.get("anyOf", (entry,)) if "$ref" in kind]
    reference = kinds[0]["$ref"].rpartition("/")[2] if kinds else ""
    return shapes[reference] if reference and "properties" in shapes[reference] else None


def _setting(key: str, entry: Mapping[str, Any], required: bool) -> tuple[str, str, str, str]:
    default = "(to be given)" if required else f"`{_plain(entry.get('default'))}`"
    return f"`{key}`", _form(key, entry), default, entry.get("description", "")


def _plain(value: object) -> str:
    """Write a default as YAML would; a path into the installation as seen from there."""
    if isinstance(value, str):
        return value.removeprefix(f"{ROOT}/") or '""'
    return "none" if value is None else json.dumps(value)


def _form(key: str, entry: Mapping[str, Any]) -> str:
    kinds = " or ".join(_kind(kind) for kind in entry.get("anyOf", (entry,)))
    if "pattern" in entry:
        kinds += f" `{entry['pattern']}`"
    bounds = [f"{sign} {entry[bound]:g}" for bound, sign in _BOUNDS.items() if bound in entry]
    unit = UNITS.get(key.rpartition("_")[2], "")
    return ", ".join(filter(None, [f"{kinds} ({unit})" if unit else kinds, *bounds]))


def _kind(kind: Mapping[str, Any]) -> str:
    return " or ".join(map(str, kind["enum"])) if "enum" in kind else _FORMS[kind["type"]]
