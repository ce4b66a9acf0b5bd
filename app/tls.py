"""TLS for DICOM: certificates on both sides, by the BCP 195 RFC 8996, 9325 profile (PS3.15 section B.12).

TLS 1.2 with the four cipher suites that RFC 9325 section 4.2 recommends, and TLS 1.3. Everything comes from files
that the configuration names; a file that was renewed is used from the next connection on.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from pathlib import Path
from typing import Any

from app.capped_socket import CappedTlsSocket
from app.config_tls import CertificateBinding, DestinationTls, TlsFiles
from app.errors import TlsError

LOGGER = logging.getLogger(__name__)

PROFILE = "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile"
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
"""Of TLS 1.2; those of TLS 1.3 are all sound."""
_WEAKEST = "@SECLEVEL=2"
"""RSA keys of 2048 bits and more, no SHA-1: a distribution's own setting may allow less."""


def tls_context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    """Make the context of either side: shows our certificate, wants the peer's; raises TlsError."""
    return _prepared(ssl.SSLContext(protocol), files)


def web_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Make a client's context for HTTPS: the server's certificate must name its host; raises TlsError.

    Without `ca` it must come from an authority that this machine trusts; our own is shown where there is one.
    """
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if certificate is not None and key is not None:
        _check_readable(("certificate", certificate), ("key", key))
        _load_own(context, certificate, key)
    if ca is None:
        context.load_default_certs()
    else:
        _check_readable(("CA file", ca))
        _load_authorities(context, ca)
    context.check_hostname = True
    return context


def _prepared(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    _strict(context)
    _check_readable(*_named(files))
    _load_own(context, files.certificate, files.key)
    _load_authorities(context, files.ca)
    return context


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join((*CIPHERS, _WEAKEST)))
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(*named: tuple[str, Path]) -> None:
    for name, path in named:
        try:
            path.open("rb").close()
        except OSError as error:
            remedy = "may the node's user read it?" if isinstance(error, PermissionError) else "is its path right?"
            raise TlsError(f"{name} {path} cannot be read ({error.strerror}): {remedy}") from None


def _load_authorities(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        raise TlsError(f"CA file {ca} holds no certificate in PEM form: convert it with openssl x509") from None


def _named(files: TlsFiles) -> list[tuple[str, Path]]:
    return [("certificate", files.certificate), ("key", files.key), ("CA file", files.ca)]


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_password() -> str:
        # OpenSSL would ask at the terminal, and a service would wait there for ever.
        raise TlsError(f"key {key} has a password: take it off with openssl pkey, and guard the file by its mode")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            told = f"key {key} is not that of certificate {certificate}: were both renewed?"
        elif error.reason in {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}:
            told = f"certificate {certificate} is too weak for BCP 195: RSA of 2048 bits or P-256, and SHA-256"
        else:
            told = f"certificate {certificate} and key {key} cannot be used ({error.reason}): are both PEM?"
        raise TlsError(told) from None


class ServerTls:
    """The receiver's context, made anew when one of its files has changed."""

    def __init__(self, files: TlsFiles, socket_class: type[ssl.SSLSocket]) -> None:
        """Read the files; raises TlsError."""
        self._files, self._socket_class = files, socket_class
        self._seen = self._stamp()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection.

        Files that cannot be used, half renewed ones among them, leave the former context at work.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._context = self._read()
            except TlsError as error:
                LOGGER.error("the former certificate stays in use: %s", error)
            else:
                LOGGER.info("certificate %s was read anew", self._files.certificate)
        return self._context

    def _read(self) -> ssl.SSLContext:
        context = tls_context(ssl.PROTOCOL_TLS_SERVER, self._files)
        # A resumed session would not show its certificate again.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        context.sslsocket_class = self._socket_class
        return context

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        return [_stamp_of(path) for _, path in _named(self._files)]


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class ClientTls(ssl.SSLContext):
    """The context of one connection to a destination; `failure` says afterwards why there is none."""

    failure: OSError | None = None
    shaken = False
    """Whether the handshake was well, as far as this side knows."""
    binding: CertificateBinding

    @property
    def is_distrusted(self) -> bool:
        """Say whether there is no connection because one side did not prove by TLS who it is."""
        return isinstance(self.failure, ssl.SSLError)

    @classmethod
    def to(cls, tls: DestinationTls) -> ClientTls:
        """Read the files; raises TlsError."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        _prepared(context, tls)
        context.check_hostname = not tls.is_bound
        context.binding = tls
        context.sslsocket_class = _ClientSocket
        return context


class _ClientSocket(CappedTlsSocket):
    """Keeps what pynetdicom hides, and sends nothing to a peer with the wrong certificate."""

    def do_handshake(self, block: bool = False) -> None:
        context = self.context
        try:
            super().do_handshake(block)
            if isinstance(context, ClientTls) and (why := why_not_bound(context.binding, self)):
                raise ssl.SSLCertVerificationError(why)
        except OSError as error:
            if isinstance(context, ClientTls):
                context.failure = error
            raise
        if isinstance(context, ClientTls):
            context.shaken = True


def why_not_bound(binding: CertificateBinding, connection: ssl.SSLSocket) -> str:
    """Say how a peer's certificate, already verified, differs from the one it must have; empty where it does not."""
    wanted = binding.certificate_common_name
    if wanted is not None and wanted not in (names := common_names(connection.getpeercert() or {})):
        return f"its certificate is of {', '.join(map(repr, names)) or 'no common name'}, not of {wanted!r}"
    if binding.certificate_sha256 is not None:
        found = hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
        if found != binding.certificate_sha256:
            return f"its certificate has the SHA-256 fingerprint {found}"
    return ""


def common_names(certificate: Any) -> list[str]:
    """Return the common names in the subject of a certificate as `getpeercert` gives it."""
    return [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]


def explain(error: OSError) -> str:
    """Put a failed handshake in words, without bytes that the peer sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return getattr(error, "verify_message", "") or str(error.args[-1])
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        told = _PLAINLY.get(error.reason or "")
        return told or (error.reason or "the connection ended").replace("_", " ").lower()
    return error.strerror or "the connection ended"


_PLAINLY = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "HTTP_REQUEST": "it does not speak TLS, but HTTP",
    "UNSUPPORTED_PROTOCOL": "it speaks only TLS older than 1.2",
    "NO_SHARED_CIPHER": "it offers no cipher suite of BCP 195",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust our certificate's authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours",
}
