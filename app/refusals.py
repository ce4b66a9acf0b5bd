"""Why there is no association with a peer, in words that say what to look at."""

from __future__ import annotations

from typing import Any

from app.tls import ClientTls, explain

UNREACHABLE = "cannot be reached: is the PACS up, are its host and port right, does a firewall stand between?"


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
        return "accepts none of the kinds of object to be sent"
    if tls is not None:
        return "ended the association before it began: does it accept our certificate?"
    return "ended the association before it began: is this the PACS's DICOM port, and without TLS?"
