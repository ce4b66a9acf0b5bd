"""A PACS of the tests' own that takes objects, and is asked for storage commitment."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel as Model
from pynetdicom.sop_class import StorageCommitmentPushModelInstance as Instance

from app.config import Destination

TITLE = "PACS"


def information(request_uid: str, kept=(), failed=None) -> Dataset:
    """What a report tells: Event Information of PS3.4 table J.3-2."""
    ds = Dataset()
    ds.TransactionUID = request_uid
    for keyword, uids in (("ReferencedSOPSequence", kept), ("FailedSOPSequence", failed or {})):
        items = []
        for uid in uids:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, uid
            if failed and uid in failed:
                item.FailureReason = failed[uid]
            items.append(item)
        if items:
            setattr(ds, keyword, items)
    return ds


def send_report(port: int, ds: Dataset, *, title=TITLE, role=True, event_type=None, instance=Instance) -> int | None:
    """Report to a node on an association of our own; return its status, None where it rejects us."""
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 15
    ae.add_requested_context(Model)
    ext = [build_role(Model, scp_role=True)] if role else []
    association = ae.associate("127.0.0.1", port, ae_title="GLIOMA_NODE", ext_neg=ext)
    if not association.is_established:
        return None
    kind = event_type or (2 if "FailedSOPSequence" in ds else 1)
    answer, _ = association.send_n_event_report(ds, kind, Model, instance)
    association.release()
    return answer.get("Status")


class Archive:
    """Stores, and keeps what it is asked until the test has it reported; with `here`, it reports at once itself."""

    def __init__(self, *, commits=True, here=False, port=0) -> None:
        self.held: dict[str, int] = {}
        """How often each instance came."""
        self.requests: list[tuple[str, list[str]]] = []
        """Transaction UID and instances of each request."""
        self.action_status, self.here, self.statuses = 0x0000, here, []
        self.keeps: Callable[[str], int | None] = lambda uid: None if uid in self.held else 0x0112
        """Failure Reason of an instance; None: it is kept."""
        self.on_store: Callable[[evt.Event], int] = lambda event: 0x0000
        """What C-STORE is answered with; Success and Warning keep the object."""
        self._ae = AE(TITLE)
        self._ae.add_supported_context(MRImageStorage, ExplicitVRLittleEndian)
        self._ae.add_supported_context("1.2.840.10008.1.1")
        if commits:
            self._ae.add_supported_context(Model)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self._server = self._ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def destination(self, **commitment) -> Destination:
        settings = {"stay_seconds": 0.0} | commitment
        return Destination(name="pacs", ae_title=TITLE, host="127.0.0.1", port=self.port, commitment=settings)

    def _store(self, event: evt.Event) -> int:
        uid, status = str(event.request.AffectedSOPInstanceUID), self.on_store(event)
        if status == 0x0000 or status >> 12 == 0xB:
            self.held[uid] = self.held.get(uid, 0) + 1
        return status

    def aborts(self) -> None:
        """End every association as soon as it is accepted."""
        self._server.bind(evt.EVT_ACCEPTED, lambda event: event.assoc.abort())

    def knows(self, *titles: str) -> None:
        """Reject whoever calls itself otherwise; without titles nobody."""
        self._ae.require_calling_aet = list(titles)

    def _action(self, event: evt.Event) -> tuple[int, None]:
        asked = event.action_information
        uids = [str(item.ReferencedSOPInstanceUID) for item in asked.ReferencedSOPSequence]
        self.requests.append((str(asked.TransactionUID), uids))
        if self.here:
            threading.Timer(0.2, self._report_here, [event.assoc]).start()
        return self.action_status, None

    def _report_here(self, association) -> None:
        ds = self.answer()
        kind = 2 if "FailedSOPSequence" in ds else 1
        self.statuses.append(association.send_n_event_report(ds, kind, Model, Instance)[0].get("Status"))

    def answer(self, number: int = -1) -> Dataset:
        """What this PACS has to say of one of the requests."""
        request_uid, uids = self.requests[number]
        failed = {uid: reason for uid in uids if (reason := self.keeps(uid)) is not None}
        return information(request_uid, [uid for uid in uids if uid not in failed], failed)

    def close(self) -> None:
        threading.Thread(target=self._server.shutdown).start()
