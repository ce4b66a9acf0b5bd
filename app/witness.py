"""Writes in the audit trail what associations with the receiver came to."""

from __future__ import annotations

import threading
from typing import Any, Self
from weakref import WeakKeyDictionary

from app.audit import TRAIL, AuditTrail, Party, Transfer
from app.config import Settings
from app.store import Identity

UNKNOWN = "unknown"
"""The study of an instance that could not be read."""


class Witness:
    """Keeps count, for each association that is open, of what came; writes it down when the association ends."""

    def __init__(self, trail: AuditTrail | None) -> None:
        self.trail = trail
        self._seen: WeakKeyDictionary[Any, dict[str, Transfer]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Make one that writes where the settings say, or nowhere."""
        config = settings.audit
        return cls(AuditTrail(settings.data_dir / TRAIL, settings.receiver.ae_title) if config.enabled else None)

    def saw(self, assoc: Any, status: int, *identities: Identity) -> None:
        """Count one instance by what it was answered with; without an identity it could not be read."""
        study, sop_class = (identities[0].study, identities[0].sop_class) if identities else (UNKNOWN, UNKNOWN)
        with self._lock:
            transfer = self._seen.setdefault(assoc, {}).setdefault(study, Transfer(study))
            transfer.count(sop_class, kept=status == 0x0000 or status >> 12 == 0xB)

    def turned_away(self, assoc: Any, reason: str) -> None:
        """Write down that a peer was rejected."""
        if self.trail is not None:
            self.trail.turned_away(_peer(assoc), reason)

    def ended(self, event: Any) -> None:
        """Write down what an association brought, if anything."""
        with self._lock:
            transfers = self._seen.pop(event.assoc, {})
        if transfers and self.trail is not None:
            self.trail.received(_peer(event.assoc), transfers.values())


def _peer(assoc: Any) -> Party:
    calling = assoc.requestor.primitive.calling_ae_title if assoc.requestor.primitive is not None else ""
    return Party(str(calling).strip(), str(assoc.requestor.address))
