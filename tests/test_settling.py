"""A disk that is full or fails stops neither node nor study: what cannot be written waits, and no attempt is lost."""

from __future__ import annotations

import errno
import logging
import resource
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.config import Destination
from app.errors import JournalError
from app.inbox import Inbox
from app.journal import JobState, Journal
from app.metrics import StageTimes
from app.outbox import Outbox
from app.settling import Settling
from app.storage import LONGEST_PAUSE_SECONDS, Storage
from operators.errors import NO_ROOM
from operators.stage import Job, run_stage
from tests.support_dicom import Clock, arrive, node_settings, result_files, small_mr
from tests.support_faults import Disk, on

A = Destination(name="a", ae_title="A", host="127.0.0.1", port=1)


@pytest.fixture
def site(tmp_path):
    """Build a node's parts, a study in its inbox that is complete, and a clock."""
    made = []

    def build(name="node"):
        settings = node_settings(tmp_path / name, sender={"destinations": (A,)}, inbox={"settle_seconds": 1.0})
        journal, clock = Journal(settings.journal_path), Clock()
        made.append(journal)
        inbox = Inbox(settings, journal, lambda folder: True, now=clock)
        outbox, storage = Outbox(settings, journal), Storage(settings.data_dir, 0, clock)
        settling = Settling(settings, journal, inbox, outbox, storage, StageTimes(), lambda: None)
        arrive(settings, small_mr("1.2.3"))
        inbox.poll(0)
        clock.seconds += 2
        return SimpleNamespace(
            settings=settings, journal=journal, clock=clock, inbox=inbox, storage=storage, settling=settling
        )

    yield build
    for journal in made:
        journal.close()


def begun(here):
    """The study's job as it comes out of the graph, with a result."""
    (ready,) = here.inbox.poll(1)
    job = Job(ready.job_id, ready.input_folder, ready.output_folder)
    (job.results["SR"],) = result_files(ready.output_folder, 1)
    return job


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_job_that_cannot_be_settled_waits_with_its_results_and_loses_no_attempt(site, monkeypatch, caplog, fault):
    for fail_at in count():
        here = site(f"{fail_at}")
        job = begun(here)
        with on(Disk(here.settings.data_dir, fail_at, fault), monkeypatch) as disk:
            here.settling.settle(job)
        if len(disk.calls) <= fail_at:
            break  # every call has had its turn
        if len(here.settling):  # else it was one of those that may fail, as what tidies up
            assert here.journal.job(job.job_id).state is JobState.PROCESSING
            assert not here.storage.is_well
            assert not here.storage.may_try()
            assert f"job {job.job_id} could not be settled" in errors(caplog)[-1]
            assert "make room" in errors(caplog)[-1]
            here.clock.seconds += 1
            assert here.storage.may_try()
            here.settling.again()
        row = here.journal.job(job.job_id)
        assert (row.state, row.attempts, len(here.settling)) == (JobState.DONE, 1, 0)
        assert [delivery.file for delivery in here.journal.owed("a")] == [job.results["SR"].name]
        assert here.storage.is_well
    assert fail_at > 10


@contextmanager
def no_room_for(journal_path):
    """SQLite's log can grow no more, as on a full disk: the system's own error, at the system's own call."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{journal_path}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_journal_without_room_is_a_full_disk_too(site, caplog):
    here = site()
    job = begun(here)
    with no_room_for(here.settings.journal_path):
        here.settling.settle(job)
    assert len(here.settling) == 1
    assert "the journal" in errors(caplog)[0]
    here.settling.again()
    assert here.journal.job(job.job_id).state is JobState.DONE


def test_it_is_told_once_and_tried_with_growing_pauses(site, caplog):
    here = site()
    waited = []
    for _ in range(12):
        here.storage.failed("the results", "No space left on device")
        begin = here.clock.seconds
        while not here.storage.may_try():
            here.clock.seconds += 1
        waited.append(here.clock.seconds - begin)
        here.storage.went_well()
    assert waited[:4] == [1, 2, 4, 8]
    assert waited[-1] == LONGEST_PAUSE_SECONDS
    assert len(errors(caplog)) == 1
    here.storage.proved()
    here.storage.failed("the results", "No space left on device")
    assert len(errors(caplog)) == 2, "another trouble is told"


def test_below_the_watermark_is_told_once_with_the_remedy(tmp_path, caplog):
    storage = Storage(tmp_path, 10**9)
    assert not storage.has_room()
    assert not storage.has_room()
    (told,) = errors(caplog)
    assert "node.receiver.free_space_watermark_mb" in told
    assert "make room" in told


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_stage_that_finds_no_room_does_not_count_against_the_study(site, fault):
    here = site()
    for _ in range(5):
        job = begun(here)

        def write(job):
            raise OSError(fault, "not told", "/the/patients/file")

        run_stage("write SEG", write, job)
        assert job.failure.code == NO_ROOM
        assert "patient" not in job.failure.message
        here.settling.settle(job)
        row = here.journal.job(job.job_id)
        assert (row.state, row.attempts) == (JobState.READY, 0)
        assert not here.storage.is_well
    here.settling.settle(begun(here))
    assert here.journal.job(job.job_id).state is JobState.DONE
    assert here.storage.is_well


def test_a_job_whose_folder_cannot_be_made_has_its_turn_again(site, monkeypatch):
    here = site()
    here.inbox.poll(0)
    folder = here.settings.work_dir
    (job_id,) = here.journal.waiting_jobs()
    with on(Disk(folder, 0, errno.ENOSPC), monkeypatch), pytest.raises(OSError, match="No space left"):
        here.inbox.poll(1)
    assert [ready.job_id for ready in here.inbox.poll(1)] == [job_id]
    assert here.inbox.poll(1) == []
    assert here.journal.job(job_id).attempts == 1


def test_what_still_waits_when_the_node_stops_is_analysed_again_without_a_lost_attempt(site, monkeypatch, caplog):
    here = site()
    job = begun(here)
    here.settings.archive_dir.rmdir()
    here.settings.archive_dir.write_text("in the way")
    here.settling.settle(job)
    here.settling.give_up()
    row = here.journal.job(job.job_id)
    assert (row.state, row.attempts, row.code) == (JobState.READY, 0, NO_ROOM)
    assert "1 jobs cannot be settled" in errors(caplog)[-1]


def test_what_the_journal_did_not_take_of_a_study_is_told_to_it_again(site):
    here = site()
    arrive(here.settings, small_mr("1.2.4"))
    here.clock.seconds += 20
    with no_room_for(here.settings.journal_path), pytest.raises(JournalError):
        here.inbox.poll(0)
    here.inbox.poll(0)
    here.clock.seconds += 2
    assert len(here.inbox.poll()) == 2
