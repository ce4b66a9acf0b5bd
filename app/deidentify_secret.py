"""The site's secret, without which no pseudonym can be made or undone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from app.config import Settings
from app.config_deidentification import LEAST_SECRET
from app.errors import ConfigError
from app.files import PART, private_folder, sync_folder, write_synced

SECRET_FILE = "deidentification.secret"  # noqa: S105 - the name of the file


def secret_path(settings: Settings) -> Path | None:
    """Return the file that holds the site's secret; None where the settings themselves do."""
    config = settings.deidentification
    return None if config.secret is not None else config.secret_file or settings.data_dir / SECRET_FILE


def read_secret(settings: Settings) -> bytes:
    """Read the site's secret, or make it where the settings name none and there is none yet.

    Raises ConfigError where it cannot be read or made, or is too short to be one.
    """
    config, path = settings.deidentification, secret_path(settings)
    if path is None:
        return config.secret.get_secret_value().strip().encode() if config.secret is not None else b""
    try:
        if config.secret_file is None and not path.exists():
            _make_secret(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"the secret of de-identification, {path}, cannot be used: {error.strerror}") from error
    if len(secret) < LEAST_SECRET:
        raise ConfigError(f"the secret of de-identification in {path} must have {LEAST_SECRET} characters at least")
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret so that of two processes that do so at once both get the same, and a power cut takes none."""
    private_folder(path.parent)
    part = path.with_name(f".{path.name}-{os.getpid()}{PART}")
    try:
        part.touch(mode=0o600)
        write_synced(part, f"{secrets.token_hex(32)}\n".encode())
        path.hardlink_to(part)
    except FileExistsError:
        pass
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)
