"""Reads audit messages, and holds each to the schema of PS3.15 section A.5.1 as far as the node uses it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

_CODE = ({"csd-code", "codeSystemName", "originalText"}, {"displayName"}, "")
_FORM = {
    "AuditMessage": (
        set(),
        set(),
        "EventIdentification (ActiveParticipant )+AuditSourceIdentification (ParticipantObjectIdentification )*",
    ),
    "EventIdentification": (
        {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"},
        set(),
        "EventID (EventTypeCode )*(EventOutcomeDescription )?",
    ),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
        "(RoleIDCode )*",
    ),
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}, "(AuditSourceTypeCode )*"),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole"},
        "ParticipantObjectIDTypeCode (ParticipantObjectName |ParticipantObjectQuery )(ParticipantObjectDetail )*"
        "(ParticipantObjectDescription )*",
    ),
    "ParticipantObjectDescription": (set(), set(), "(SOPClass )*"),
    "ParticipantObjectDetail": ({"type", "value"}, set(), ""),
    "SOPClass": ({"NumberOfInstances"}, {"UID"}, ""),
    "AuditSourceTypeCode": ({"csd-code"}, {"codeSystemName", "originalText"}, ""),
    "EventID": _CODE,
    "EventTypeCode": _CODE,
    "RoleIDCode": _CODE,
    "ParticipantObjectIDTypeCode": _CODE,
    "EventOutcomeDescription": (set(), set(), ""),
    "ParticipantObjectName": (set(), set(), ""),
    "ParticipantObjectQuery": (set(), set(), ""),
}
"""Of each element the attributes that it must have, those that it may have, and its children in their order."""


def hold_to_schema(element: Element) -> None:
    """Fail where an element, or one in it, is not as the schema has it."""
    must, may, children = _FORM[element.tag]
    assert must <= element.attrib.keys() <= must | may, (element.tag, dict(element.attrib))
    found = "".join(f"{child.tag} " for child in element)
    assert re.fullmatch(children, found), f"{element.tag} has {found}"
    if element.tag == "ParticipantObjectQuery":
        assert base64.b64decode(element.text or "", validate=True)
    for child in element:
        hold_to_schema(child)


def messages_in(path: Path) -> list[Element]:
    """Read a trail; each message is as the schema has it."""
    found = [ElementTree.fromstring(line) for line in path.read_bytes().splitlines()] if path.exists() else []  # noqa: S314
    for message in found:
        hold_to_schema(message)
    return found


def code_of(message: Element) -> str:
    return message.find("EventIdentification/EventID").get("csd-code")


def told(message: Element) -> tuple[str, str]:
    """Its outcome, and the words to it."""
    described = message.findtext("EventIdentification/EventOutcomeDescription", "")
    return message.find("EventIdentification").get("EventOutcomeIndicator"), described


def ends(message: Element) -> list[tuple[str, str, str]]:
    """Title, role and whether it asked for it, of each participant."""
    return [
        (each.get("UserID"), each.find("RoleIDCode").get("csd-code"), each.get("UserIsRequestor"))
        for each in message.findall("ActiveParticipant")
    ]


def objects(message: Element) -> list[str]:
    """The UIDs of what it is about."""
    return [each.get("ParticipantObjectID") for each in message.findall("ParticipantObjectIdentification")]
