"""Settings of de-identification."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from app.config_base import Section

LEAST_SECRET = 32
"""Characters."""


class DeidentificationConfig(Section):
    """The site's secret, from which pseudonyms, UIDs and shifts of dates derive (docs/security.md)."""

    secret_file: Path | None = None
    """File that holds it, of 32 characters at least; none: DATA_DIR/deidentification.secret, made at first use with
    mode 0600."""
    secret: SecretStr | None = Field(default=None, min_length=LEAST_SECRET)
    """The secret itself, in place of a file: for the environment, GLIOMA_NODE__DEIDENTIFICATION__SECRET."""
