"""What a peer's refusal means: why there is no association, and which answers to C-STORE no resend mends."""

from __future__ import annotations

from typing import Any

from app.tls import ClientTls, explain

NO_KIND = "accepts none of the kinds of object to be sent"
UNREACHABLE = "cannot be reached: is the PACS up, are its host and port right, does a firewall stand between?"
FOR_GOOD = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0112: "no such SOP instance",
    0x0117: "invalid object instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
}
"""General statuses of DIMSE (PS3.7 annex C) with their meaning there. The rest may pass: processing failure, resource
limits, a mistyped or duplicated message."""

ALREADY_THERE = 0x0111
"""Duplicate SOP instance: sent again as its answer was lost. UIDs of results derive from content, so it is the same."""


def why_not(association: Any, connected: bool, calling: str, tls: ClientTls | None) -> str:
    """Say why `association` was not established; `connected` tells whether a connection was, TLS and all."""
    if tls is not None and tls.failure is not None:
        return (
            f"can be reached, but not by TLS ({explain(tls.failure)}): "
            "is TLS on at its port, and does each side trust the other's certificate?"
        )
    if not connected:
        return UNREACHABLE
    if association.is_rejected:
        return (
            f"rejected us ({association.acceptor.primitive.reason_str}): is its AE title right, "
            f"and does it know ours, {calling}, with this machine's address?"
        )
    if association.acceptor.primitive is not None:
        return NO_KIND
    if tls is not None:
        return "ended the association before it began: does it accept our certificate?"
    return "ended the association before it began: is this the PACS's DICOM port, and without TLS?"


def is_for_good(status: int) -> bool:
    """Say whether a C-STORE status means that no resend will do: 0xA9xx, 0xCxxx (PS3.4 table B.2-1) or `FOR_GOOD`."""
    return status >> 8 == 0xA9 or status >> 12 == 0xC or status in FOR_GOOD
