"""STOW-RS (PS3.18 section 10.5): sends files to a DICOMweb service, as one attempt.

What the answer does not name as stored is not delivered, whatever its status says. No redirect is followed: results
go where the settings say, and nowhere else. Every wait has an end, and no answer is read beyond a bound.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp.payload import BufferedReaderPayload
from pydicom import Dataset

from app.config import read_secret
from app.config_delivery import StowConfig
from app.errors import ConfigError, PeerError, PeerUntrusted, TlsError
from app.heartbeat import Step
from app.refusals import ALREADY_THERE, UNREACHABLE, is_for_good
from app.requestor import CONNECT_SECONDS
from app.sender import Outcome, Progress, reference_of, unreadable
from app.store import NOT_UNDERSTOOD, UNREADABLE
from app.tls import explain, web_context

ABOUT_OBJECTS = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""Statuses by which a service refuses what was sent, and not who sent it or where: a refusal for good."""
STORES = {HTTPStatus.OK, HTTPStatus.ACCEPTED}
ALREADY_STORED = {ALREADY_THERE, 45070}
"""Failure Reasons of an instance that is there already; the second is that of Azure's DICOM service."""
MOST_ANSWER_BYTES = 1_000_000
"""Of an answer; the tenth of it names as many instances as one request has."""
FILES_AT_ONCE = 50
BYTES_AT_ONCE = 50_000_000
"""In one request, unless a single file is larger."""
SLOWEST_BYTES_PER_SECOND = 50_000
"""A service that takes a request more slowly than this, and the time-out on top, is given up."""
_PROCESSING_FAILURE = 0x0110
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _File:
    path: Path
    sop_instance: str
    size: int


@dataclass(frozen=True)
class _Answer:
    """What a service said of a request."""

    status: int
    stored: Mapping[str, int | None] = field(default_factory=dict)
    """SOP Instance UIDs that it stored, each with a Warning Reason or None."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """SOP Instance UIDs that it did not, each with its Failure Reason."""


class StowCourier:
    """Sends to one service, in the thread that calls `send`; `stop`, from another, ends it at once."""

    def __init__(self, name: str, stow: StowConfig, timeout: float, step: Step = lambda seconds: None) -> None:
        """`timeout` is how long, in seconds, the service may be silent; `step` hears of each step that moves."""
        self._stow, self._timeout, self._step = stow, timeout, step
        self._name = f"{name} at {stow.url}"
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def stop(self) -> None:
        """Give up: end the request that is open, and make no more."""
        self._stopped.set()
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(task.cancel)

    def send(self, files: Iterable[Path], on_progress: Progress) -> None:
        """Send files, and tell what became of each.

        Raises PeerError when the service cannot be reached, or refuses us; what was sent before has been told.
        """
        readable: list[_File] = []
        for path in files:
            self._step(0.0)
            try:
                readable.append(_File(path, reference_of(path)[1], path.stat().st_size))
            except NOT_UNDERSTOOD as error:
                on_progress(unreadable(path, error))
        if readable:
            self._run(self._send(readable, on_progress))

    def echo(self) -> None:
        """Ask whether the service is there and takes us, by a request that stores nothing; raises PeerError."""
        self._run(self._probe())

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        async def stoppable() -> _Result:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            if self._stopped.is_set():
                work.close()
                raise PeerError(f"sending to {self._name} was stopped")
            try:
                return await work
            except asyncio.CancelledError:
                raise PeerError(f"sending to {self._name} was stopped") from None

        return asyncio.run(stoppable())

    async def _probe(self) -> None:
        async with self._session() as session:
            await self._exchange(session, [])

    async def _send(self, files: Sequence[_File], tell: Progress) -> None:
        async with self._session() as session:
            for batch in _batches(files):
                answer = await self._exchange(session, batch)
                alone = [
                    file for file in batch if len(batch) > 1 and answer.status not in STORES and _unnamed(answer, file)
                ]
                for file in batch:
                    if file not in alone:
                        tell(_judge(answer, file))
                # One file may have spoilt the request for all.
                for file in alone:
                    tell(_judge(await self._exchange(session, [file]), file))

    def _session(self) -> aiohttp.ClientSession:
        stow = self._stow
        headers = {"Accept": "application/dicom+json", "Accept-Encoding": "identity"}
        try:
            context = web_context(stow.ca, stow.certificate, stow.key) if stow.url.startswith("https:") else True
            if stow.has_secret:
                secret = read_secret(stow)
                basic = aiohttp.BasicAuth(stow.user, secret).encode() if stow.user else None
                headers["Authorization"] = basic or f"Bearer {secret}"
        except (TlsError, ConfigError) as error:
            raise PeerError(f"{self._name} cannot be sent to: {error}") from None
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=min(self._timeout, CONNECT_SECONDS), sock_read=self._timeout
        )
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=1),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=limits,
        )

    async def _exchange(self, session: aiohttp.ClientSession, batch: Sequence[_File]) -> _Answer:
        """Make one request and read its answer; raises PeerError where it is none, or is about us."""
        body = aiohttp.MultipartWriter("related")
        kind = f'multipart/related; type="application/dicom"; boundary={body.boundary}'
        limit = self._timeout + sum(file.size for file in batch) / SLOWEST_BYTES_PER_SECOND
        self._step(limit)
        try:
            with ExitStack() as opened:
                for file in batch:
                    part = BufferedReaderPayload(
                        opened.enter_context(file.path.open("rb")), filename=None, content_type="application/dicom"
                    )
                    body.append_payload(part)
                async with (
                    asyncio.timeout(limit),
                    session.post(
                        f"{self._stow.url}/studies", data=body, headers={"Content-Type": kind}, allow_redirects=False
                    ) as response,
                ):
                    self._check_status(response)
                    return _read(response.status, await self._content(response))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Its own words may hold a header, and the secret in it.
            distrusted = isinstance(error, aiohttp.ClientSSLError)
            raise (PeerUntrusted if distrusted else PeerError)(f"{self._name} {_why_not(error)}") from None

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status in STORES or status in ABOUT_OBJECTS:
            return
        told = f"{self._name} answers {status}"
        if 300 <= status < 400:
            there = urlsplit(response.headers.get("Location", "")).hostname or ""
            to = f" to {there}" if _HOST.fullmatch(there) else ""
            raise PeerError(f"{told}, a redirect{to}, which is not followed: set `stow.url` to where the service is")
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise PeerError(f"{told}: does it know our user or token, and may that store?")
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            raise PeerError(f"{told}: is `stow.url` the root of its DICOMweb service?")
        raise PeerError(f"{told}: it cannot store now")

    async def _content(self, response: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > MOST_ANSWER_BYTES:
                raise PeerError(f"{self._name} gives an answer of more than {MOST_ANSWER_BYTES} bytes")
        return bytes(content)


def _batches(files: Sequence[_File]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    for file in files:
        full = len(batch) == FILES_AT_ONCE or sum(other.size for other in batch) + file.size > BYTES_AT_ONCE
        if batch and full:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _read(status: int, content: bytes) -> _Answer:
    """Read the Store Instances Response (PS3.18 section 10.5.3.2); one that cannot be read names nothing."""
    stored: dict[str, int | None] = {}
    failed: dict[str, int] = {}
    try:
        told = json.loads(content)
        for part in told if isinstance(told, list) else [told]:
            answer = Dataset.from_json(part)
            for item in answer.get("ReferencedSOPSequence") or ():
                warning = item.get("WarningReason")
                stored[str(item.ReferencedSOPInstanceUID)] = None if warning is None else int(warning)
            for item in answer.get("FailedSOPSequence") or ():
                reason = item.get("FailureReason")
                failed[str(item.ReferencedSOPInstanceUID)] = _PROCESSING_FAILURE if reason is None else int(reason)
    except UNREADABLE:
        return _Answer(status)
    return _Answer(status, stored, failed)


def _unnamed(answer: _Answer, file: _File) -> bool:
    return file.sop_instance not in answer.stored and file.sop_instance not in answer.failed


def _judge(answer: _Answer, file: _File) -> Outcome:
    """Say what an answer means for one file: where it contradicts itself, the worse holds."""
    reason = answer.failed.get(file.sop_instance)
    if reason in ALREADY_STORED:
        return Outcome(file.path, delivered=True, note="was there already", status=reason)
    if reason is not None:
        note = f"failure 0x{reason:04X}"
        return Outcome(file.path, delivered=False, note=note, status=reason, for_good=is_for_good(reason))
    if file.sop_instance in answer.stored:
        warning = answer.stored[file.sop_instance]
        return Outcome(
            file.path, delivered=True, note="" if warning is None else f"warning 0x{warning:04X}", status=warning
        )
    if answer.status in STORES:
        note = f"the service answers {answer.status}, but does not name it among what it stored"
        return Outcome(file.path, delivered=False, note=note)
    return Outcome(file.path, delivered=False, note=f"the service refuses it ({answer.status})", for_good=True)


def _why_not(error: Exception) -> str:
    """Put a failed exchange in words of ours."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        told = explain(cause) if isinstance(cause, OSError) else "its certificate is not trusted"
        return f"can be reached, but not trusted ({told}): is `stow.ca` right, and does the certificate name its host?"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"can be reached, but not by TLS ({explain(error.os_error)})"
    for kind, told in _PLAINLY.items():
        if isinstance(error, kind):
            return told
    return f"ended the connection before it had answered ({type(error).__name__})"


_PLAINLY: Mapping[type[Exception], str] = {
    aiohttp.ClientConnectorDNSError: "cannot be found: is the host in `stow.url` right?",
    aiohttp.ClientConnectorError: UNREACHABLE,
    TimeoutError: "gave no whole answer in time",
}
"""What an error means, the narrower before the wider."""
