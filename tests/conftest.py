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


@pytest.fixture
def listen(tmp_path):
    """Start receivers on free ports; each call returns one that ends with the test."""
    from app.receiver import Receiver
    from tests.support_dicom import node_settings

    open_ones = []

    def start(**receiver):
        open_ones.append(Receiver(node_settings(tmp_path / "node", **receiver)))
        return open_ones[-1].port

    yield start
    for one in open_ones:
        one.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Whom both sides trust."""
    from tests.support_certificates import Authority

    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority, which nobody trusts."""
    from tests.support_certificates import Authority

    return Authority(tmp_path_factory.mktemp("stranger"), "Other CA")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of an earlier examination of the patient."""
    import pydicom

    from tests.test_earlier import study

    return pydicom.dcmread(study(tmp_path_factory.mktemp("then"), "20240102").results["SR"])


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    """A header of the study that is analysed."""
    from tests.test_earlier import header_of, study

    return header_of(study(tmp_path_factory.mktemp("now"), "20250102"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real patients where they are absent."""
    if (SHARED / "data").is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason="the real patients (../shared/data) are not here"))
