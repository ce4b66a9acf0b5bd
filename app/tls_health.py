"""What is wrong with TLS files, or soon will be."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config_tls import TlsFiles
from app.errors import TlsError
from app.tls import common_names, tls_context, web_context

DAYS_AHEAD = 30
"""A certificate that ends within so many days is warned of."""
_DAY_SECONDS = 86_400
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name: an expired certificate is read too."""


@dataclass(frozen=True)
class Finding:
    """One thing seen: well, or with what to do about it; `grave` where TLS does not work as it is."""

    found: str
    remedy: str = ""
    grave: bool = False


def look_at(files: TlsFiles, server_side: bool, now: float) -> list[Finding]:
    """Look at certificate, key and authorities for one side of TLS; `now` in seconds since 1970."""
    try:
        findings = [*look_at_mode(files.key, "key"), *_times(files, server_side, now)]
    except TlsError as error:
        return [Finding(str(error), "mend the files that node.*.tls, or move_tls, names: docs/security.md", grave=True)]
    return findings


def look_at_client(certificate: Path | None, key: Path | None, ca: Path | None, now: float) -> list[Finding]:
    """Look at the files of a client that may have no certificate of its own, and trust what this machine trusts."""
    if certificate is not None:
        # The key may be in the certificate's file, and without authorities of its own the certificate stands alone.
        return look_at(TlsFiles(certificate=certificate, key=key or certificate, ca=ca or certificate), False, now)
    if ca is None:
        return []
    try:
        return list(_authorities(web_context(ca, None, None), ca, now, also_good=True))
    except TlsError as error:
        return [Finding(str(error), "mend the file that `ca` names: docs/security.md", grave=True)]


def look_at_mode(file: Path, what: str) -> Iterator[Finding]:
    """Look at who can read a file that is to be the node's alone."""
    try:
        status = file.stat()
    except OSError:
        return
    # As PostgreSQL has it: root may share a key with a group of services.
    private = 0o640 if status.st_uid == 0 else 0o600
    if status.st_mode & 0o777 & ~private:
        yield Finding(f"{what} {file} can be read or written by others", f"chmod {private:o} {file}")


def _times(files: TlsFiles, server_side: bool, now: float) -> Iterator[Finding]:
    own = _own_certificate(files, server_side)
    yield _time(f"certificate {files.certificate}{_named(own)}", own, now)
    yield from _authorities(tls_context(ssl.PROTOCOL_TLS_CLIENT, files), files.ca, now)


def _authorities(context: ssl.SSLContext, ca: Path, now: float, *, also_good: bool = False) -> Iterator[Finding]:
    authorities = context.get_ca_certs()
    for authority in authorities:
        finding = _time(f"authority{_named(authority)} in {ca}", authority, now)
        if finding.remedy or also_good:
            # One of several that has ended harms nobody whose certificate is of another.
            yield Finding(finding.found, finding.remedy, grave=finding.grave and len(authorities) == 1)


def _time(subject: str, certificate: Any, now: float) -> Finding:
    begins, ends = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    days = int((ends - now) // _DAY_SECONDS)
    day = time.strftime("%Y-%m-%d", time.gmtime(ends))
    if ends <= now:
        return Finding(f"{subject} expired on {day}", "renew it; the node takes the new file by itself", grave=True)
    if begins > now:
        begin = time.strftime("%Y-%m-%d %H:%M", time.gmtime(begins))
        return Finding(f"{subject} is valid only from {begin} UTC", "is this machine's clock right?", grave=True)
    if days < DAYS_AHEAD:
        return Finding(f"{subject} expires on {day}, in {days} days", "renew it; the node takes the new file by itself")
    return Finding(f"{subject} is valid until {day}")


def _named(certificate: Any) -> str:
    names = common_names(certificate)
    return f" ({', '.join(names)})" if names else ""


def _own_certificate(files: TlsFiles, server_side: bool) -> Any:
    """Return our certificate as a peer sees it, who trusts it; raises TlsError where it is not made for that side.

    Python reads a certificate only after a handshake, so there is one, in memory.
    """
    ours = tls_context(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT, files)
    peer = tls_context(ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER, files)
    ours.verify_mode = ssl.CERT_NONE
    peer.load_verify_locations(files.certificate)
    peer.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    to_us, to_peer = ssl.MemoryBIO(), ssl.MemoryBIO()
    us = ours.wrap_bio(to_us, to_peer, server_side=server_side)
    them = peer.wrap_bio(to_peer, to_us, server_side=not server_side)
    try:
        waiting = [us, them]
        while waiting:
            waiting = [side for side in waiting if not _shaken(side)]
    except ssl.SSLCertVerificationError as error:
        side = "a server" if server_side else "a client"
        raise TlsError(
            f"certificate {files.certificate} does not serve as that of {side}: {error.verify_message}"
        ) from None
    return them.getpeercert()


def _shaken(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
