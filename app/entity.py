"""The application entities that are served: titles, limits, time-outs, and the contexts that are accepted."""

from __future__ import annotations

from typing import cast

from pydicom import uid
from pynetdicom import AE, AllStoragePresentationContexts, VerificationPresentationContexts
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from app import __version__
from app.capped_socket import request_seconds
from app.config import ReceiverConfig

TRANSFER_SYNTAXES = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
]
"""Deflated is left out: it inflates without a bound (pynetdicom issue 1086)."""
_BEYOND_COUNT = 1_000_000
"""As pynetdicom's own limit: it counts connections that have not asked for anything; `Connections` counts here."""


def bounded_entity(config: ReceiverConfig) -> AE:
    """Make an AE that is served under its own title alone, with longest PDU and time-outs, and no context yet."""
    ae = AE(ae_title=config.ae_title)
    ae.require_called_aet = True
    ae.maximum_pdu_size = config.max_pdu_bytes
    ae.dimse_timeout = ae.network_timeout = config.network_timeout_seconds
    ae.acse_timeout = request_seconds(config)
    return ae


def application_entity(config: ReceiverConfig, *, reports: bool = False) -> AE:
    """Make the AE that is served: its titles, limits, time-outs and the contexts it accepts.

    With `reports` it takes those of storage commitment, of which the peer asks for the role of SCP (PS3.4 J.3.3).
    """
    ae = bounded_entity(config)
    ae.maximum_associations = _BEYOND_COUNT
    ae.implementation_version_name = f"GLIOMA_{__version__}"
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(cast("uid.UID", context.abstract_syntax), TRANSFER_SYNTAXES)
    for context in VerificationPresentationContexts:
        ae.add_supported_context(cast("uid.UID", context.abstract_syntax))
    if reports:
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    return ae
