"""Earlier reports come from a real PACS by C-FIND and C-MOVE."""

from __future__ import annotations

from datetime import date

import pydicom
import pytest

from app.config_history import HistoryConfig, HistoryPacs
from app.history import History
from app.sender import send_files
from operators.earlier import latest_before
from operators.errors import HistoryUnavailable
from tests.integration.orthanc import Orthanc
from tests.support_port import free_port
from tests.test_earlier import header_of, study


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def pacs(tmp_path, port):
    modalities = {"node": ("GLIOMA_NODE", 11112), "history": ("GLIOMA_HISTORY", port)}
    with Orthanc(tmp_path, modalities=modalities) as running:
        yield running


def asking(orthanc, move_port, **changes):
    at = orthanc.destination()
    values = {
        "ae_title": at.ae_title,
        "host": at.host,
        "port": at.port,
        "move_port": move_port,
        "timeout_seconds": 10.0,
    }
    return HistoryConfig(pacs=HistoryPacs(**(values | changes)))


def test_an_earlier_report_is_fetched(tmp_path, pacs, port):
    jobs = [study(tmp_path / day, day) for day in ("20230101", "20240102")]
    files = [path for job in jobs for path in job.results.values()]
    assert all(o.delivered for o in send_files(files, pacs.destination(), "GLIOMA_NODE", 10))
    now = header_of(study(tmp_path / "now", "20250102"))
    history = History(tmp_path / "archive", asking(pacs, port))
    found = list(history.find(now))
    assert {str(report.SOPInstanceUID) for report in found} == {_report(job) for job in jobs}
    assert latest_before(found, now).examined_on == date(2024, 1, 2)
    stranger = header_of(study(tmp_path / "other", "20250102", patient="P-2"))
    assert list(history.find(stranger)) == []


def _report(job):
    return str(pydicom.dcmread(job.results["SR"], stop_before_pixels=True).SOPInstanceUID)


def test_a_pacs_that_is_gone_or_does_not_know_us_is_told(tmp_path, pacs, port):
    job = study(tmp_path / "then", "20240102")
    assert all(o.delivered for o in send_files([job.results["SR"]], pacs.destination(), "GLIOMA_NODE", 10))
    now = header_of(study(tmp_path / "now", "20250102"))

    def find(**changes):
        return list(History(tmp_path / "archive", asking(pacs, port, **changes)).find(now))

    with pytest.raises(HistoryUnavailable, match="does not answer"):
        find(port=free_port())
    with pytest.raises(HistoryUnavailable, match="does not send to STRANGER"):
        find(move_ae_title="STRANGER")
    with pytest.raises(HistoryUnavailable, match="refuses"):
        find(calling_ae_title="STRANGER")
    assert len(find()) == 1
