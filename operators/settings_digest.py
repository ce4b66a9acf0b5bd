"""Settings as a word that changes when they do: results made by other settings are other results."""

from __future__ import annotations

import hashlib


def digest_of(name: str, *settings: object) -> str:
    """Return the name and a digest of settings whose repr tells all of them, as those of plain values do."""
    told = "\n".join(map(repr, settings))
    return f"{name} {hashlib.sha256(told.encode()).hexdigest()[:16]}"
