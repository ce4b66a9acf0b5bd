"""What sections of the settings are made of."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ae_title(value: str) -> str:
    """Hold an AE title to PS3.5 section 6.2: 1 to 16 printable ASCII characters, no backslash."""
    title = value.strip()
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def hold_address(value: str) -> str:
    """Hold a peer's address to an IP address."""
    try:
        ip_address(value)
    except ValueError:
        raise ValueError("an address is an IPv4 or IPv6 address, not a name") from None
    return value


def hold_fingerprint(value: str) -> str:
    """Hold a certificate's fingerprint to SHA-256: 64 hexadecimal digits, with or without colons."""
    digits = value.replace(":", "").lower()
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits")
    return digits


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A section: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
