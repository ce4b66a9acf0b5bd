"""Writes in the audit trail, and where an operator must act in the log, what associations with the receiver came to."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any, Self
from weakref import WeakKeyDictionary

from app.audit import TRAIL, AuditTrail, Party, Transfer
from app.audit_flood import Rejections
from app.audit_open import Note, OpenOnes
from app.config import Settings
from app.store import UID, Identity
from app.tally import Tally

LOGGER = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""The study of an instance that could not be read, and the title of a peer that did not come to tell it."""
_NAMED = 3
"""Of what a peer asked for in vain, so many are named."""


@dataclass
class _Seen:
    """What an association that is open brought so far."""

    transfers: dict[str, Transfer] = field(default_factory=dict)
    echoes: int = 0
    note: Note | None = None


class Witness:
    """Keeps count, for each association that is open, of what came; writes it down when the association ends."""

    def __init__(self, trail: AuditTrail | None, tally: Tally | None = None, open_ones: OpenOnes | None = None) -> None:
        """With `open_ones` the next process can tell of what this one, when it is killed, cannot."""
        self.trail, self._tally, self._open = trail, tally, open_ones
        self._rejections = Rejections(self._write_rejection)
        self._seen: WeakKeyDictionary[Any, _Seen] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        """Held while an end is written down, so that who closes waits for that."""

    @classmethod
    def of(cls, settings: Settings, tally: Tally | None = None) -> Self:
        """Make one that writes where the settings say, or nowhere; in `tally` it counts those that are turned away.

        Raises OSError where it cannot note what is open.
        """
        if not settings.audit.enabled:
            return cls(None, tally)
        trail = AuditTrail(settings.data_dir / TRAIL, settings.receiver.ae_title)
        return cls(trail, tally, OpenOnes(settings.data_dir))

    def let_in(self, assoc: Any) -> None:
        """Begin to count: its end will be written down."""
        with self._lock:
            self._seen[assoc] = _Seen()

    def expects(self, assoc: Any, study: str) -> None:
        """Note that an instance of a study is about to be kept."""
        if self._open is None:
            return
        with self._lock:
            seen = self._seen.setdefault(assoc, _Seen())
            note = seen.note = seen.note or self._open.begin()
        self._open.expect(note, _peer(assoc), study)

    def saw(self, assoc: Any, status: int, *identities: Identity) -> None:
        """Count one instance by what it was answered with; without an identity it could not be read."""
        study, sop_class = (identities[0].study, identities[0].sop_class) if identities else (UNKNOWN, UNKNOWN)
        with self._lock:
            transfer = self._seen.setdefault(assoc, _Seen()).transfers.setdefault(study, Transfer(study))
            transfer.count(sop_class, kept=status == 0x0000 or status >> 12 == 0xB)

    def echoed(self, event: Any) -> int:
        """Count a C-ECHO; returns the status to answer."""
        with self._lock:
            self._seen.setdefault(event.assoc, _Seen()).echoes += 1
        return 0x0000

    def turned_away(self, assoc: Any, reason: str, *, for_now: bool = False) -> bool:
        """Write down that a peer was rejected, for good or `for_now`; return whether the log is to tell of it too.

        It is not where it is one of a flood, which is told by its count.
        """
        self._count()
        return self._rejections.tell(_peer(assoc), reason, for_now=for_now)

    def no_tls(self, address: str, why: str) -> bool:
        """Write down that no TLS came about with a peer; return as `turned_away`."""
        self._count()
        return self._rejections.tell(Party(UNKNOWN, address), f"no TLS: {why}")

    def not_listed(self, address: str) -> None:
        """Have it written down that an address is no peer's; from a thread that must not wait for the disk."""
        self._count()
        if self._rejections.tell_soon(Party(UNKNOWN, address), "its address is no known peer's"):
            LOGGER.warning("a connection is closed: %s is not the address of a known peer", address)

    def rejected(self, event: Any) -> None:
        """Tell of a peer that pynetdicom rejected for what it calls us."""
        assoc, peer = event.assoc, _peer(event.assoc)
        called, ours = str(assoc.requestor.primitive.called_ae_title).strip(), str(assoc.acceptor.ae_title).strip()
        self._count()
        with self._lock:
            self._seen.pop(assoc, None)
        kind = f"it calls another title than {ours}"
        if self._rejections.tell(peer, f"it calls {called}, not {ours}", kind=kind):
            LOGGER.warning("association rejected: %r at %s calls %r, not %s", peer.ae_title, peer.address, called, ours)

    def ended(self, event: Any) -> None:
        """Write down what an association brought."""
        self._end(event.assoc)

    def close(self) -> None:
        """Write down the associations whose end nobody will see any more, and what was gathered."""
        with self._lock:
            left = list(self._seen)
        for assoc in left:
            self._end(assoc)
        with self._ending:
            pass
        self._rejections.close()

    def _count(self) -> None:
        if self._tally is not None:
            self._tally.reject()

    def _write_rejection(self, peer: Party, reason: str, for_now: bool) -> None:
        if self.trail is not None:
            self.trail.turned_away(peer, reason, for_now=for_now)

    def _end(self, assoc: Any) -> None:
        with self._ending:
            with self._lock:
                seen = self._seen.pop(assoc, None)
            if seen is None:
                return
            self._write_end(assoc, seen)
            if self._open is not None and seen.note is not None:
                self._open.forget(seen.note)

    def _write_end(self, assoc: Any, seen: _Seen) -> None:
        peer, unserved = _peer(assoc), _asked_in_vain(assoc)
        fault = "" if assoc.dul.release_asked else "ended without a release"
        if unserved:
            fault = f"the node serves none of what it asked for: {unserved}"
            LOGGER.warning("association with %r at %s came to nothing: %s", peer.ae_title, peer.address, fault)
        if self.trail is None:
            return
        if seen.transfers:
            self.trail.received(peer, seen.transfers.values(), fault)
        else:
            self.trail.visited(peer, f"{seen.echoes} C-ECHO, no instances", fault)


def _peer(assoc: Any) -> Party:
    calling = assoc.requestor.primitive.calling_ae_title if assoc.requestor.primitive is not None else ""
    return Party(str(calling).strip(), str(assoc.requestor.address))


def _asked_in_vain(assoc: Any) -> str:
    """Name what a peer asked for, where it got none of it; empty where it got any."""
    if assoc.accepted_contexts:
        return ""
    asked = sorted({str(context.abstract_syntax) for context in assoc.rejected_contexts})
    # An abstract syntax is a peer's own word.
    named = [uid if UID.fullmatch(uid) else "(an invalid UID)" for uid in asked[:_NAMED]]
    more = f" and {len(asked) - _NAMED} more" if len(asked) > _NAMED else ""
    return f"{', '.join(named)}{more}"
