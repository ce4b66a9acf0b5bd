"""Who is let in: peers of the list, by title, address and certificate, as long as there is room."""

from __future__ import annotations

import logging
import socket
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

from pynetdicom import evt

from app.addresses import address_of
from app.capped_socket import Capped
from app.config import Peer, ReceiverConfig
from app.listener import Connections, connection_of
from app.log import positions
from app.tls import why_not_bound
from app.witness import Witness

if TYPE_CHECKING:
    from pynetdicom.pdu_primitives import A_ASSOCIATE

LOGGER = logging.getLogger(__name__)


def handle_request(event: evt.Event, config: ReceiverConfig, connections: Connections, witness: Witness) -> None:
    """Reject an association of a peer that is not on the list, or for which there is no room."""
    connection = connection_of(event)
    if connection is None:
        return
    is_let_in = False
    try:
        is_let_in = _is_let_in(event, connection, config, connections, witness)
    except Exception as error:  # noqa: BLE001 - pynetdicom would pass over it, and let the peer in
        LOGGER.error("association rejected: %s at %s", type(error).__name__, positions(error.__traceback__))
        event.assoc.acse.send_reject(0x02, 0x03, 0x01)
    finally:
        if not is_let_in:
            # Without this the connection may close before the rejection is sent.
            event.assoc.kill()


def _is_let_in(
    event: evt.Event, connection: Capped, config: ReceiverConfig, connections: Connections, witness: Witness
) -> bool:
    """Say whether a peer may go on; it is told where it may not."""
    address = str(event.assoc.requestor.address)
    calling = cast("A_ASSOCIATE", event.assoc.requestor.primitive).calling_ae_title.strip()
    if not config.allow_any_peer and (why := _why_unknown(calling, address, connection, config)):
        if witness.turned_away(event.assoc, f"not a known peer{why}"):
            LOGGER.warning("association rejected: %r at %s is not a known peer%s", calling, address, why)
        event.assoc.acse.send_reject(0x01, 0x01, 0x03)
    elif connections.draining:
        if witness.turned_away(event.assoc, "the node stops", for_now=True):
            LOGGER.info("association rejected: the node stops; %r at %s may come again", calling, address)
        event.assoc.acse.send_reject(0x02, 0x03, 0x01)
    elif not connections.admit(connection):
        if witness.turned_away(event.assoc, "as many associations as may be are open", for_now=True):
            LOGGER.warning("association rejected: as many as may be are open; %r at %s was one more", calling, address)
        event.assoc.acse.send_reject(0x02, 0x03, 0x02)
    else:
        witness.let_in(event.assoc)
        return True
    return False


def _why_unknown(calling: str, address: str, connection: socket.socket, config: ReceiverConfig) -> str:
    """Say why a peer is not on the list; empty where it is."""
    actual = address_of(address)
    named = [
        peer
        for peer in config.peers
        if peer.ae_title == calling and (peer.address is None or ip_address(peer.address) == actual)
    ]
    whys = [_why_not_its_certificate(peer, connection) for peer in named]
    return "" if "" in whys else f": {whys[0]}" if whys else " by title and address"


def _why_not_its_certificate(peer: Peer, connection: socket.socket) -> str:
    return why_not_bound(peer, connection) if isinstance(connection, ssl.SSLSocket) else ""
