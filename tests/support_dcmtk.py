"""DCMTK's own programs: pynetdicom puts others of the same names into the virtual environment."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

DCMTK_PATH = os.pathsep.join(
    entry for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(entry) != Path(sys.prefix) / "bin"
)


def dcmtk(name: str) -> str:
    """Return the path of one of DCMTK's programs, or skip the test that needs it."""
    found = shutil.which(name, path=DCMTK_PATH)
    if found is None:
        pytest.skip(f"DCMTK's {name} is not installed")
    return found
