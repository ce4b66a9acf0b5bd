"""Built engines on disk: one file for each network on each device, package version and precision."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What an engine depends on: where any of it differs, another is built."""

    model_sha256: str
    device: str
    """Name and compute capability of the GPU."""
    package: str
    """TensorRT's package and version."""
    precision: str
    batch: int
    """Most slices a call."""

    @property
    def file_name(self) -> str:
        """Name of the engine's file: a digest of the key."""
        return f"{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32]}.engine"


class EngineCache:
    """A folder of engines. An engine is code: the folder belongs to the node's user alone (mode 0700)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def engine(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """Return the engine kept under a key; where there is none, or a damaged one, build and keep it.

        A folder that cannot be written costs the next start a build, nothing else.
        """
        path = self._folder / key.file_name
        plan = _read(path, key)
        if plan is None:
            plan = build()
            try:
                self._keep(path, key, plan)
            except OSError as error:
                LOGGER.warning("the engine cannot be kept for the next start: %s", error)
        return plan

    def forget(self, key: EngineKey) -> None:
        """Drop the engine of a key."""
        (self._folder / key.file_name).unlink(missing_ok=True)

    def _keep(self, path: Path, key: EngineKey, plan: bytes) -> None:
        """Write an engine whole or not at all, behind a line that tells its key and digest."""
        # One by one: `parents=True` would leave a missing data folder open to all.
        for folder in (*reversed(self._folder.parents), self._folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as part:
            part.write(_header(key, plan) + plan)
        Path(part.name).replace(path)


def _header(key: EngineKey, plan: bytes) -> bytes:
    return json.dumps(asdict(key) | {"plan_sha256": hashlib.sha256(plan).hexdigest()}).encode() + b"\n"


def _read(path: Path, key: EngineKey) -> bytes | None:
    """Return the engine of a file; None where there is none or it is not what was written."""
    if not path.is_file():
        return None
    header, _, plan = path.read_bytes().partition(b"\n")
    if header + b"\n" != _header(key, plan):
        LOGGER.warning("%s is damaged; the engine is built anew", path)
        return None
    return plan
