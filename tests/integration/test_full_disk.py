"""A real node whose disk is full, or whose results cannot be written: it goes on, receives, and loses nothing."""

from __future__ import annotations

import json

import pytest

from app.journal import JobState
from tests.integration.test_poison import SMALL, get, in_work
from tests.support_dicom import save, small_mr
from tests.support_port import free_port
from tests.support_study import RunningNode, phantom

NO_ROOM_MB = 10**9


@pytest.fixture
def node(tmp_path):
    made = RunningNode(tmp_path, more={"operation": {"port": free_port()}, "log": {"format": "json"}})
    yield made
    if made.process.poll() is None:
        made.kill()


def ready_of(node):
    status, page = get(node.more["operation"]["port"], "/ready")
    return status, json.loads(page)


def told(node, words):
    """Errors in the log with these words."""
    lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    return [line["message"] for line in lines if line["level"] == "error" and words in line["message"]]


def test_what_cannot_be_written_waits_while_studies_are_received(node, tmp_path):
    """The archive is not to be had while the first study comes out of the graph, and is back later."""
    truth = phantom(tmp_path, "study", **SMALL)
    node.start()
    archive, away = tmp_path / "data" / "archive", tmp_path / "away"
    archive.rename(away)
    archive.write_text("in the way")
    node.send(truth.folder)
    node.wait(lambda: told(node, "could not be settled"), 180, "nothing is told")
    status, checks = ready_of(node)
    assert (status, checks["storage"], checks["receiver"], checks["graph"]) == (503, False, True, True)
    assert "make room" in told(node, "could not be settled")[0]
    other = save(small_mr("1.2.3"), tmp_path / "other" / "a.dcm")
    assert node.send(other.parent).returncode == 0
    assert list((tmp_path / "data" / "inbox").glob("[0-9a-f]*/*.dcm"))
    archive.unlink()
    away.rename(archive)
    jobs = node.settled(2)
    assert sorted((job.state, job.attempts) for job in jobs) == [(JobState.DONE, 1), (JobState.FAILED, 1)]
    assert node.archived()
    assert len(told(node, "could not be")) == 1, "told once"
    node.wait(lambda: ready_of(node)[0] == 200, 10, "/ready stays at 503")


def test_below_the_watermark_no_study_is_begun_and_none_loses_an_attempt(node, tmp_path):
    truth = phantom(tmp_path, "study", **SMALL)
    node.start()
    node.send(truth.folder)
    node.wait(lambda: in_work(node), 60, "no job begins")
    node.kill()
    node.receiver["free_space_watermark_mb"] = NO_ROOM_MB
    for number in (1, 2):
        node.start()
        node.wait(lambda n=number: len(told(node, "no study is begun")) == n, 180, "nothing is told")
        status, checks = ready_of(node)
        assert (status, checks["disk"], checks["receiver"]) == (503, False, True)
        assert node.send(truth.folder, check=False).returncode != 0, "refused with 0xA700"
        node.kill()
    (job,) = node.jobs()
    assert (job.state, job.attempts) == (JobState.READY, 1)
    node.receiver["free_space_watermark_mb"] = 0
    node.start()
    (job,) = node.settled()
    assert (job.state, job.attempts) == (JobState.DONE, 2)
