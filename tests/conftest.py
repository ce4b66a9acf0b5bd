"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import app  # noqa: F401 - loads the CUDA runtime before anything imports Holoscan

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# Two test processes on two cores: threads of their own would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real patients, or a skip that says why."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real patients (../shared/data) are not here")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real patients where they are absent."""
    if (SHARED / "data").is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason="the real patients (../shared/data) are not here"))
