"""Takes reports of storage commitment (N-EVENT-REPORT, PS3.4 section J.3.3), wherever they come: answers the status.

A report counts only if its transaction UID, which nobody can guess, is that of a request that waits, and if it comes
from the peer that was asked. Any other is refused and changes nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Any

from pydicom.uid import UID

from app.audit import AuditTrail, Party, Transfer
from app.commitment import NotOurs, Report, take
from app.config import SenderConfig
from app.errors import JournalError
from app.journal import Journal
from app.store import UNREADABLE
from app.tally import DeliveryTally

LOGGER = logging.getLogger(__name__)

PUSH_MODEL_INSTANCE = UID("1.2.840.10008.1.20.1.1")
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
RESOURCE_LIMITATION = 0x0213
STATUSES = {
    SUCCESS: ("Success", "What the report calls for is on disk."),
    PROCESSING_FAILURE: ("Processing failure", "The report cannot be read."),
    NO_SUCH_INSTANCE: ("No such SOP Instance", f"It is not of {PUSH_MODEL_INSTANCE}."),
    NO_SUCH_EVENT: ("No such event type", "Neither 1 (all committed) nor 2 (failures exist)."),
    INVALID_ARGUMENT: (
        "Invalid argument value",
        "No request of this peer under its Transaction UID waits: unknown, answered already, or asked anew.",
    ),
    RESOURCE_LIMITATION: ("Resource limitation", "The journal cannot be written now, or the report is too long."),
}
"""Every status that a report is answered with (PS3.7 section 10.1.1.1.8)."""
_MOST_BYTES = 4_000_000
"""A report of as many objects as one request has takes a tenth of it."""
_UID = re.compile(r"[0-9.]{1,64}")


class _Refused(Exception):
    """A report is not taken; carries the status and a reason without its content."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Reports:
    """What takes the reports of a process; methods may be called from any thread."""

    def __init__(
        self,
        journal: Journal,
        config: SenderConfig,
        trail: AuditTrail | None = None,
        tally: DeliveryTally | None = None,
    ) -> None:
        self._journal, self._config, self._trail, self._tally = journal, config, trail, tally

    def handle(self, event: Any) -> tuple[int, None]:
        """Take a report that came to the receiver: of the destinations that report under the calling AE title."""
        requestor = event.assoc.requestor
        title = str(requestor.primitive.calling_ae_title).strip()
        names = [each.name for each in self._config.held_to_commitment(title)]
        return self.handle_of(event, names, Party(title, str(requestor.address)))

    def handle_of(self, event: Any, destinations: Collection[str], peer: Party) -> tuple[int, None]:
        """Take a report of a peer that speaks for these destinations."""
        try:
            self._take(_read(event), destinations, peer)
        except _Refused as refused:
            LOGGER.warning("a report of storage commitment is refused: %s", refused)
            return refused.status, None
        return SUCCESS, None

    def _take(self, report: Report, destinations: Collection[str], peer: Party) -> None:
        try:
            effect = take(self._journal, report, destinations, self._config)
        except NotOurs as error:
            if error.forged and self._trail is not None:
                self._trail.turned_away(peer, f"its report of storage commitment: {error}")
            raise _Refused(INVALID_ARGUMENT, f"{error} ({report.request_uid})") from None
        except JournalError as error:
            LOGGER.error("%s", error)
            raise _Refused(RESOURCE_LIMITATION, "the journal cannot be written now") from None
        LOGGER.info(
            "storage commitment: %d kept, %d not kept, %d left out, of job %s",
            *(effect.kept, effect.failed, effect.left_out, effect.job_id),
        )
        if self._tally is not None:
            self._tally.count(effect.destination, "delivered", effect.kept)
            self._tally.count(effect.destination, "failed", effect.failed - effect.dead)
            self._tally.count(effect.destination, "dead", effect.dead)
        if effect.failed and self._trail is not None:
            self._trail.sent(peer, [Transfer(effect.study, failed=effect.failed)])


def _read(event: Any) -> Report:
    """Read the Event Information (PS3.4 table J.3-2); raises _Refused where it is none that can be taken."""
    request = event.request
    if request.AffectedSOPInstanceUID != PUSH_MODEL_INSTANCE:
        raise _Refused(NO_SUCH_INSTANCE, "it is of another SOP instance")
    if request.EventTypeID not in {1, 2}:
        raise _Refused(NO_SUCH_EVENT, "its event type is unknown")
    if request.EventInformation is None:
        raise _Refused(INVALID_ARGUMENT, "it has no event information")
    if len(request.EventInformation.getbuffer()) > _MOST_BYTES:
        raise _Refused(RESOURCE_LIMITATION, "it is too long")
    try:
        information = event.event_information
        uid = str(information.get("TransactionUID", ""))
        kept = frozenset(str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ())
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
            for item in information.get("FailedSOPSequence") or ()
        }
    except UNREADABLE as error:
        # The error's own text may quote the dataset.
        raise _Refused(PROCESSING_FAILURE, f"it cannot be read ({type(error).__name__})") from None
    if not _UID.fullmatch(uid):
        raise _Refused(INVALID_ARGUMENT, "it has no valid transaction UID")
    return Report(uid, kept, failed)
