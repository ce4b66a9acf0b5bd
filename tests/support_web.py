"""A DICOMweb service of the tests' own, as honest or as hostile as a test says."""

from __future__ import annotations

import email.policy
import io
import json
import ssl
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydicom

from app.config import Destination


def answer_of(stored: Iterable[str] = (), failed: dict[str, int] | None = None) -> bytes:
    """A Store Instances Response (PS3.18 section 10.5.3.2) as JSON."""

    def item(uid: str, reason: int | None = None) -> dict:
        told = {"00081155": {"vr": "UI", "Value": [uid]}}
        return told if reason is None else told | {"00081197": {"vr": "US", "Value": [reason]}}

    told = {}
    if stored := list(stored):
        told["00081199"] = {"vr": "SQ", "Value": [item(uid) for uid in stored]}
    if failed:
        told["00081198"] = {"vr": "SQ", "Value": [item(uid, reason) for uid, reason in failed.items()]}
    return json.dumps(told).encode()


class Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.requests.append(dict(self.headers) | {"path": self.path})
        behave = self.server.early or (lambda _: False)
        if behave(self):
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        parts = [part.get_payload(decode=True) for part in message.iter_parts()] if message.is_multipart() else []
        self.server.parts += [part for part in parts if part]
        uids = [str(pydicom.dcmread(io.BytesIO(part)).SOPInstanceUID) for part in parts if part]
        self.server.asked.append(uids)
        (self.server.behave or Handler.honest)(self, uids)

    def honest(self, uids: list[str]) -> None:
        for uid in uids:
            self.server.held[uid] = self.server.held.get(uid, 0) + 1
        self.say(200, answer_of(uids))

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Service(ThreadingHTTPServer):
    """Answers until `close`; `behave` takes a handler and the SOP Instance UIDs that came, `early` a handler alone."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.held: dict[str, int] = {}
        self.requests: list[dict[str, str]] = []
        self.asked: list[list[str]] = []
        self.parts: list[bytes] = []
        self.behave: Callable[[Handler, list[str]], None] | None = None
        self.early: Callable[[Handler], bool] | None = None
        self.scheme = "http" if context is None else "https"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/dicom-web"

    def destination(self, **stow) -> Destination:
        return Destination(name="web", stow={"url": self.url} | stow)

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests want."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
