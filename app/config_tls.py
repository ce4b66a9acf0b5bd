"""Settings of TLS: whose files, and which certificate the other side must show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from app.config_base import Section, hold_fingerprint


class TlsFiles(Section):
    """TLS with certificates on both sides (PS3.15 section B.12); docs/security.md tells how."""

    certificate: Path
    """The node's own certificate, PEM, the certificates between it and its authority behind it."""
    key: Path
    """The certificate's private key, PEM, without a password; to be read by the node's user alone."""
    ca: Path
    """Certificates, PEM, of the authorities that a peer's certificate must come from."""


class CertificateBinding(Section):
    """Which certificate a peer must show, where one of the right authority is not enough."""

    certificate_common_name: str | None = Field(default=None, min_length=1)
    """Common name in the subject of its certificate, letter for letter; stays when the certificate is renewed."""
    certificate_sha256: Annotated[str, AfterValidator(hold_fingerprint)] | None = None
    """SHA-256 fingerprint of its certificate, hexadecimal; changes when the certificate is renewed."""

    @property
    def is_bound(self) -> bool:
        """Whether one certain certificate, or name, is asked for."""
        return bool(self.certificate_common_name or self.certificate_sha256)


class DestinationTls(TlsFiles, CertificateBinding):
    """TLS to a destination; unless name or fingerprint say which certificate it has, that must name its host."""


class PortTls(TlsFiles, CertificateBinding):
    """TLS at a port for one peer; with name or fingerprint, for whoever shows that certificate alone."""
