"""Certificates for tests, by the openssl program: a Python package for it would be one more thing to install."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.config_tls import DestinationTls, TlsFiles


def openssl(*arguments: object, text: str = "") -> None:
    subprocess.run(
        ["openssl", *map(str, arguments)], input=text, check=True, capture_output=True, text=True, timeout=30
    )


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and the authority that its peers must trust."""

    certificate: Path
    key: Path
    ca: Path

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(certificate=self.certificate, key=self.key, ca=self.ca)

    def destination(self, **binding: str) -> DestinationTls:
        return DestinationTls(**self.files.model_dump(), **binding)

    def trusting(self, ca: Path) -> Issued:
        return Issued(self.certificate, self.key, ca)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()

    def client_context(self) -> ssl.SSLContext:
        """What a peer might use, without anything of the node's."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.check_hostname = False
        context.load_cert_chain(self.certificate, self.key)
        return context

    def server_context(self) -> ssl.SSLContext:
        """The same of a peer that listens, and wants a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str = "Test CA", days: int = 3650) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.certificate, self._key = folder, folder / "ca.crt", folder / "ca.key"
        extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self._key]
        openssl("req", "-x509", *new_key, "-out", self.certificate, "-days", days, "-subj", f"/CN={name}", *extensions)

    def issue(
        self,
        name: str,
        *,
        days: int = 365,
        hosts: str = "DNS:localhost,IP:127.0.0.1",
        usage: str = "serverAuth,clientAuth",
        key: tuple[str, ...] = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    ) -> Issued:
        """Make a key and a certificate for it; with negative `days` it has expired."""
        stem = self.folder / name
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        issued = Issued(stem.with_suffix(".crt"), stem.with_suffix(".key"), self.certificate)
        new_key = ["-newkey", *key, "-nodes", "-keyout", issued.key]
        openssl("req", "-new", *new_key, "-out", request, "-subj", f"/CN={name}")
        extensions.write_text(f"subjectAltName={hosts}\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n")
        signing = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions]
        openssl("x509", "-req", "-in", request, *signing, "-days", days, "-out", issued.certificate)
        issued.key.chmod(0o600)
        return issued


def renew(old: Issued, new: Issued) -> None:
    """Put a new certificate and key where the old ones are, as an administrator would."""
    for source, target in ((new.certificate, old.certificate), (new.key, old.key)):
        part = target.with_suffix(".new")
        part.write_bytes(source.read_bytes())
        part.replace(target)
