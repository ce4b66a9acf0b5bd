"""Settings of how a destination is held to what it was sent, and of one that is reached over the web."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from app.config_base import AETitle, Section


class CommitmentConfig(Section):
    """Storage commitment (PS3.4 annex J): what a destination took stays owed until it reports that it keeps it.

    The report comes on the association on which it is asked for, or on one to the node's own receiver: that must list
    the destination under `node.receiver.peers`, and have the title that results are sent under.
    """

    timeout_seconds: float = Field(default=600.0, gt=0)
    """Without a report for this long it is asked for anew, under a new transaction UID; the wait doubles each time."""
    longest_timeout_seconds: float = Field(default=86_400.0, gt=0)
    """The wait for a report never grows beyond this."""
    stay_seconds: float = Field(default=2.0, ge=0)
    """The association on which it was asked stays open for the report for this long at most."""
    reported_by: AETitle | None = None
    """Title under which the reports come, where it is not the destination's `ae_title`."""

    def patience(self, asked: int) -> float:
        """Return how long, in seconds, to wait for the report when it is asked for the `asked`-th time."""
        return min(self.timeout_seconds * 2.0 ** min(asked - 1, 32), self.longest_timeout_seconds)


def _url(value: str) -> str:
    """Hold a service's root to http or https, a host, and nothing that could be a secret."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("a URL is wanted, as in https://pacs.example.org/dicom-web")
    if parts.username or parts.password:
        raise ValueError("the URL must hold no user and no password: give `user`, and the secret in a file")
    return value.rstrip("/")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class StowConfig(Section):
    """A DICOMweb service that results are sent to by STOW-RS (PS3.18 section 10.5)."""

    url: Annotated[str, AfterValidator(_url)]
    """Its root, as in https://pacs.example.org/dicom-web; results go to `/studies` below it."""
    ca: Path | None = None
    """Certificates, PEM, of the authorities that its certificate must come from; none: those this machine trusts."""
    certificate: Path | None = None
    """The node's own certificate, PEM, where the service asks for one."""
    key: Path | None = None
    """The certificate's private key, PEM, without a password."""
    user: str | None = Field(default=None, min_length=1, pattern=r"^[ -9;-~]+$")
    """User of HTTP Basic authentication, with the secret as password; none: the secret is a bearer token."""
    secret_file: Path | None = None
    """File that holds the secret alone; it is read for each sending, so one that is renewed needs no restart."""
    secret_variable: str | None = Field(default=None, min_length=1)
    """Environment variable that holds the secret, in place of a file."""

    @model_validator(mode="after")
    def _keeps_its_secret(self) -> StowConfig:
        if self.secret_file and self.secret_variable:
            raise ValueError("give secret_file or secret_variable, not both")
        if self.user and not self.has_secret:
            raise ValueError("a user needs a password: give secret_file or secret_variable")
        parts = urlsplit(self.url)
        if self.has_secret and parts.scheme != "https" and not _is_this_machine(parts.hostname or ""):
            raise ValueError("a secret goes over https alone")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self

    @property
    def has_secret(self) -> bool:
        """Whether the service is told a password or token."""
        return bool(self.secret_file or self.secret_variable)

    @property
    def host(self) -> str:
        """Its host name or address."""
        return urlsplit(self.url).hostname or ""
