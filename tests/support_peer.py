"""A modality or PACS that asks the node, or a port of its, for an association."""

from __future__ import annotations

from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from app.requestor import heed_rejection
from tests.support_dicom import NODE_TITLE, PEER_TITLE


def associate(
    port: int,
    *contexts: str | tuple[str, list[UID]],
    calling: str = PEER_TITLE,
    called: str = NODE_TITLE,
    source: str = "127.0.0.1",
    seconds: float = 30.0,
    **more: Any,
) -> Association:
    """Ask as a peer would, from one of this machine's addresses; return the association, however that went.

    `contexts` are SOP classes, in Explicit VR Little Endian where no transfer syntaxes stand beside one; without any,
    Verification is proposed.
    """
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
    for context in contexts or (Verification,):
        sop_class, syntaxes = (context, [ExplicitVRLittleEndian]) if isinstance(context, str) else context
        ae.add_requested_context(sop_class, syntaxes)
    return heed_rejection(ae.associate("127.0.0.1", port, ae_title=called, bind_address=(source, 0), **more))
