"""A peer of the tests' own that says what a test wants, byte for byte, to one who asks for an association."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable

from pydicom.uid import ExplicitVRLittleEndian

from app.config import Destination
from app.config_tls import DestinationTls
from tests.torture.peers import command, item, part, pdu

ACCEPT, DATA, RELEASED = 2, 4, 6
STORE, ECHO, ACTION = 0x8001, 0x8030, 0x8130
TITLE = "PACS"


def accept(contexts: bytes, *, longest: int = 16_384) -> bytes:
    """Make an A-ASSOCIATE-AC (PS3.8 section 9.3.3) for these context IDs, in explicit VR."""
    items = b"".join(
        item(0x21, struct.pack(">BxBx", number, 0) + item(0x40, ExplicitVRLittleEndian.encode())) for number in contexts
    )
    user = item(0x50, item(0x51, struct.pack(">L", longest)) + item(0x52, b"1.2.3.4"))
    head = struct.pack(">HH", 1, 0) + TITLE.encode().ljust(16) + b"NODE".ljust(16) + bytes(32)
    return pdu(ACCEPT, head + item(0x10, b"1.2.840.10008.3.1.1.1") + items + user)


def answer(kind: int, message: int, context: int = 1, **elements: int | str) -> bytes:
    """Make an answer without a dataset; Success, unless `elements` say else."""
    said = {"e0100": kind, "e0120": message, "e0800": 0x0101, "e0900": 0x0000} | elements
    return pdu(DATA, part(context, 3, command(**said)))


class Dialogue:
    """One connection, as the peer sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.sent = 0

    def say(self, data: bytes) -> None:
        self.connection.sendall(data)
        self.sent += len(data)

    def hear(self) -> tuple[int, bytes]:
        """Take one whole PDU: its type and content."""
        kind, length = struct.unpack(">BxL", self._exactly(6))
        return kind, self._exactly(length)

    def hear_request(self) -> int:
        """Take PDUs up to the last fragment of a message, and return its message ID."""
        asked: dict[int, bytes] = {}
        while True:
            kind, content = self.hear()
            if kind != DATA:
                raise ConnectionError("something else than a message")
            control = content[5]
            if control & 1:
                asked = _elements(content[6:])
            has_dataset = struct.unpack("<H", asked[0x0800])[0] != 0x0101
            if control & 2 and not (control & 1 and has_dataset):
                return struct.unpack("<H", asked[0x0110])[0]

    def _exactly(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            some = self.connection.recv(size - len(got))
            if not some:
                raise ConnectionError("it has gone")
            got += some
        return bytes(got)


def _elements(command_set: bytes) -> dict[int, bytes]:
    """Read a command set: what each element of group 0000 holds."""
    found, at = {}, 0
    while at < len(command_set):
        _, element, length = struct.unpack_from("<HHL", command_set, at)
        found[element] = command_set[at + 8 : at + 8 + length]
        at += 8 + length
    return found


class Speaker:
    """Listens; each connection is told `script`, and its end noted."""

    def __init__(self, script: Callable[[Dialogue], None], context: ssl.SSLContext | None = None) -> None:
        self._script, self._context = script, context
        self.dialogues: list[Dialogue] = []
        self.cut_off = threading.Event()
        """A connection was ended by the other side."""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._server.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            dialogue = Dialogue(connection)
            self.dialogues.append(dialogue)
            dialogue.hear()
            self._script(dialogue)
        except OSError:
            self.cut_off.set()
        finally:
            connection.close()

    def destination(self, tls: DestinationTls | None = None) -> Destination:
        return Destination(name="pacs", ae_title=TITLE, host="127.0.0.1", port=self.port, tls=tls)

    def close(self) -> None:
        self._server.close()
        for dialogue in self.dialogues:
            dialogue.connection.close()
