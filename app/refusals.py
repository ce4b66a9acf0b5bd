"""Which answers to C-STORE no resend mends: the file, or what the peer takes, would have to change first."""

from __future__ import annotations

FOR_GOOD = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0111: "duplicate SOP instance",
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


def is_for_good(status: int) -> bool:
    """Say whether a C-STORE status means that no resend will do: 0xA9xx, 0xCxxx (PS3.4 table B.2-1) or `FOR_GOOD`."""
    return status >> 8 == 0xA9 or status >> 12 == 0xC or status in FOR_GOOD
