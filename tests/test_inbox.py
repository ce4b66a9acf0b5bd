"""When a study is complete, what a job holds, and that a crash between two steps makes no second job."""

import os
import shutil
import threading
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import pydicom
import pytest
from pydicom.uid import generate_uid

from app.backlog import put_back_job
from app.files import INCOMING, revision_id, study_key
from app.inbox import LOOK_SECONDS, Inbox
from app.journal import JobState, Journal, StudyState
from tests.support_dicom import Clock, arrive, node_settings, small_mr


class Node:
    """An inbox and its journal; `restart` is what a crash leaves."""

    def __init__(self, folder: Path):
        self.settings = node_settings(folder, inbox={"settle_seconds": 3.0, "timeout_seconds": 120.0})
        self.clock = Clock()
        self.recognised = False
        self.asked = []
        self.restart()

    def restart(self):
        self.journal = Journal(self.settings.journal_path)
        self.inbox = Inbox(self.settings, self.journal, self._recognise, self.clock)
        self.inbox.reconcile()

    def _recognise(self, folder):
        self.asked.append(folder)
        return self.recognised

    def after(self, seconds):
        self.clock.seconds += seconds
        return self.inbox.poll()

    def states(self):
        return [study.state for study in self.journal.studies()]


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path / "node")
    yield node
    node.journal.close()


def test_a_recognised_study_is_complete_when_it_has_been_quiet(node):
    study = generate_uid()
    node.recognised = True
    arrive(node.settings, small_mr(study))
    assert node.after(0) == []
    assert node.states() == [StudyState.ARRIVING]
    arrive(node.settings, small_mr(study))
    assert node.after(2.9) == node.after(2.9) == []
    (job,) = node.after(0.2)
    assert len(list(job.input_folder.iterdir())) == 2
    assert list(job.output_folder.iterdir()) == []
    assert node.states() == [StudyState.PROCESSING]
    assert node.after(1000) == []


def test_an_unrecognised_study_is_complete_after_the_long_wait_and_asked_about_once(node):
    folder = arrive(node.settings, small_mr())
    for _ in range(119):
        assert node.after(1) == []
    assert node.asked == [folder]
    assert len(node.after(2)) == 1


def test_each_change_asks_again_and_only_then(node):
    study = generate_uid()
    for number in (1, 2, 3):
        arrive(node.settings, small_mr(study, number=number))
        for _ in range(5):
            node.after(2)
        assert len(node.asked) == number


def test_later_instances_make_a_new_revision_and_leave_the_running_job_alone(node):
    study = generate_uid()
    node.recognised = True
    arrive(node.settings, small_mr(study))
    node.after(0)
    (first,) = node.after(4)
    before = sorted(path.name for path in first.input_folder.iterdir())
    arrive(node.settings, small_mr(study))
    node.after(0)
    assert node.states() == [StudyState.ARRIVING]
    node.journal.job_done(first.job_id, 0, {})
    assert node.states() == [StudyState.ARRIVING]
    (second,) = node.after(4)
    assert second.job_id != first.job_id
    assert sorted(path.name for path in first.input_folder.iterdir()) == before
    assert len(list(second.input_folder.iterdir())) == 2
    assert [job.revision for job in node.journal.jobs()] == [1, 2]
    node.journal.job_failed(second.job_id, "missing-sequence", "no FLAIR", "select")
    assert node.states() == [StudyState.FAILED]


def test_studies_that_are_done_are_looked_at_when_something_comes_and_else_now_and_then(node, monkeypatch):
    node.recognised = True
    done = arrive(node.settings, small_mr())
    node.after(0)
    node.after(4)
    looks = []
    monkeypatch.setattr(node.inbox, "_look_at", lambda folder, modified: looks.append(folder.name))
    for folder in (node.settings.inbox_dir, node.settings.inbox_dir / INCOMING):
        os.utime(folder, (2_000_000.0, 2_000_000.0))  # nothing as fresh as to hide a change
    for _ in range(3):
        node.after(0.5)
    assert looks == [done.name], "once, as the folders' times have changed"
    node.after(LOOK_SECONDS)
    assert looks == [done.name] * 2, "whatever was put there by hand"
    other = arrive(node.settings, small_mr())
    node.after(0.5)
    assert sorted(looks[2:]) == sorted([done.name, other.name])


def test_a_touched_folder_without_new_instances_makes_no_job(node):
    node.recognised = True
    folder = arrive(node.settings, small_mr())
    node.after(0)
    (job,) = node.after(4)
    node.journal.job_done(job.job_id, 0, {})
    os.utime(folder, (2_000_000, 2_000_000))
    assert node.after(0) == node.after(200) == []
    assert node.states() == [StudyState.DONE]


def test_the_snapshot_shares_the_bytes_of_the_inbox(node):
    node.recognised = True
    folder = arrive(node.settings, small_mr())
    node.after(0)
    (job,) = node.after(4)
    (kept,), (frozen,) = folder.iterdir(), job.input_folder.iterdir()
    assert kept.samefile(frozen)
    node.inbox.release(job.job_id)
    assert not job.input_folder.parent.exists()
    assert pydicom.dcmread(kept).Modality == "MR"


def test_studies_do_not_wait_for_each_other(node):
    node.recognised = True
    for _ in range(3):
        arrive(node.settings, small_mr())
    node.after(0)
    assert len({job.job_id for job in node.after(4)}) == 3


def test_no_more_jobs_are_handed_out_than_asked_for(node):
    node.recognised = True
    for _ in range(3):
        arrive(node.settings, small_mr())
    node.after(0)
    node.clock.seconds += 4
    assert [len(node.inbox.poll(limit)) for limit in (0, -1, 2, 2, 2)] == [0, 0, 2, 1, 0]


def test_a_job_id_follows_from_the_study_and_its_instances():
    assert revision_id("1.2", ["b", "a"]) == revision_id("1.2", ["a", "b"])
    assert len({revision_id("1.2", ["a"]), revision_id("1.2", ["a", "b"]), revision_id("1.3", ["a"])}) == 3


def test_a_finished_study_is_not_looked_into_again_after_a_restart(node):
    node.recognised = True
    arrive(node.settings, small_mr())
    node.after(0)
    (job,) = node.after(4)
    node.journal.job_done(job.job_id, 0, {})
    node.asked.clear()
    node.restart()
    assert node.after(0) == node.after(1000) == node.asked == []


def test_an_interrupted_job_starts_again_with_an_empty_output(node):
    node.recognised = True
    arrive(node.settings, small_mr())
    node.after(0)
    (job,) = node.after(4)
    (job.output_folder / "half.dcm").write_bytes(b"DICM")
    node.restart()
    assert node.after(0) == [job]
    assert list(job.output_folder.iterdir()) == []
    assert len(list(job.input_folder.iterdir())) == 1


def test_a_job_that_always_kills_the_node_fails_and_takes_no_other_with_it(node):
    node.recognised = True
    for _ in range(3):
        arrive(node.settings, small_mr())
    node.after(0)
    poison = node.after(4)[1].job_id
    done = []
    for _ in range(20):
        node.restart()
        for _ in range(5):
            handed = node.after(1)
            assert len(handed) <= 1
            if any(job.job_id == poison for job in handed):
                break
            for job in handed:
                node.journal.job_done(job.job_id, 0, {})
                done.append(job.job_id)
    states = {job.job_id: (job.state, job.code) for job in node.journal.jobs()}
    assert states.pop(poison) == (JobState.QUARANTINED, "crashed-repeatedly")
    assert set(states.values()) == {(JobState.DONE, "")}
    assert len(done) == len(set(done)) == 2


def test_a_folder_that_the_journal_does_not_know_is_adopted(node):
    node.recognised = True
    arrive(node.settings, small_mr())
    node.journal.close()
    node.settings.journal_path.unlink()
    node.restart()
    node.after(0)
    assert len(node.after(4)) == 1
    (study,) = node.journal.studies()
    assert study.uid.startswith("1.2.826")


STRANGE = ["an empty folder", "a file that is no DICOM", "another study's instance"]


@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_folder_is_left_alone_and_stops_nothing(node, what):
    node.recognised = True
    strange = node.settings.inbox_dir / "0123456789abcdef0123456789abcdef"
    strange.mkdir()
    if what != STRANGE[0]:
        (strange / "a.dcm").write_bytes(b"not DICOM" * 40)
    if what == STRANGE[2]:
        small_mr().save_as(strange / "a.dcm", enforce_file_format=True)
    arrive(node.settings, small_mr())
    node.after(0)
    assert len(node.after(4)) == 1
    assert len(node.journal.studies()) == 1
    assert strange.exists()


def test_what_is_being_received_is_no_study(node):
    incoming = node.settings.inbox_dir / INCOMING
    incoming.mkdir()
    (incoming / "a.part").write_bytes(b"DICM")
    assert node.after(0) == node.after(1000) == []
    assert node.journal.studies() == []


def test_a_folder_removed_by_hand_stops_nothing(node):
    node.recognised = True
    gone = arrive(node.settings, small_mr())
    arrive(node.settings, small_mr())
    node.after(0)
    shutil.rmtree(gone)
    assert len(node.after(4)) == 1


def test_a_job_whose_input_is_gone_fails_with_that_reason(node):
    node.recognised = True
    arrive(node.settings, small_mr())
    node.after(0)
    (job,) = node.after(4)
    shutil.rmtree(job.input_folder)
    shutil.rmtree(next(node.settings.inbox_dir.glob("[!.]*")))
    node.restart()
    assert node.after(0) == []
    assert node.journal.job(job.job_id).code == "input-lost"


def test_a_job_that_is_put_back_gets_the_same_instances_from_the_inbox(node):
    node.recognised = True
    folder = arrive(node.settings, small_mr())
    node.after(0)
    (job,) = node.after(4)
    before = {path.name: path.read_bytes() for path in job.input_folder.iterdir()}
    node.inbox.release(job.job_id)
    node.journal.job_failed(job.job_id, "internal-error", "a fault", "segment")
    put_back_job(node.journal, job.job_id)
    (again,) = node.after(0)
    assert again.job_id == job.job_id
    assert {path.name: path.read_bytes() for path in again.input_folder.iterdir()} == before
    node.inbox.release(job.job_id)
    node.journal.job_failed(job.job_id, "internal-error", "a fault", "segment")
    put_back_job(node.journal, job.job_id)
    (folder / "new.dcm").write_bytes(b"")
    assert node.after(0) == [], "other instances are another job"
    assert node.journal.job(job.job_id).code == "input-lost"


def test_a_folder_that_kills_the_node_when_it_is_looked_into_is_left_to_its_job(node):
    """The node dies in `recognise`, which no job answers for."""

    class Killed(BaseException):
        pass

    def die(folder):
        raise Killed

    arrive(node.settings, small_mr())
    for _ in range(3):
        node._recognise = die
        node.restart()
        node.after(0)
        with pytest.raises(Killed):
            node.after(4)
    node.restart()
    node.after(0)
    assert node.after(4) == []
    assert len(node.after(120)) == 1


def test_a_study_that_comes_again_after_it_was_removed_is_done_as_before(node):
    node.recognised = True
    images = [small_mr(generate_uid())]
    images.append(small_mr(images[0].StudyInstanceUID, number=2))
    for image in images:
        folder = arrive(node.settings, image)
    node.after(0)
    (job,) = node.after(4)
    node.journal.job_done(job.job_id, 0, {})
    node.inbox.release(job.job_id)
    shutil.rmtree(folder)
    node.after(0)
    for image in images:
        arrive(node.settings, image)
        node.after(0)
    assert node.states() == [StudyState.DONE]
    assert node.after(300) == []


def test_nothing_that_arrives_while_the_inbox_looks_is_missed(tmp_path):
    settings = node_settings(tmp_path / "node", inbox={"settle_seconds": 0.0})
    journal = Journal(settings.journal_path)
    inbox = Inbox(settings, journal, lambda folder: True)
    study = generate_uid()
    images = [small_mr(study, number=number) for number in range(40)]
    incoming = tmp_path / "incoming"
    incoming.mkdir()

    def deliver():
        for ds in images:
            path = incoming / "part"
            ds.save_as(path, enforce_file_format=True)
            folder = settings.inbox_dir / study_key(study)
            folder.mkdir(exist_ok=True)
            path.replace(folder / f"{ds.SOPInstanceUID}.dcm")

    peer = threading.Thread(target=deliver)
    peer.start()
    counts = []
    for _ in range(400):
        counts += [len(list(job.input_folder.iterdir())) for job in inbox.poll()]
        if counts[-1:] == [len(images)]:
            break
        threading.Event().wait(0.01)
    peer.join()
    assert counts[-1] == len(images)
    journal.close()


class FileClock(Clock):
    """The clock that files are dated by, in ns; a test sets it."""

    def __call__(self):
        return int(self.seconds * 1e9)


@pytest.fixture
def dated(node):
    """The node's inbox with such a clock, at the time of its files."""
    clock = FileClock()
    clock.seconds = 2_000_000.0
    node.recognised = True
    node.inbox = Inbox(node.settings, node.journal, node._recognise, node.clock, clock)
    return clock


@pytest.mark.parametrize("hours", [-12, -1, 1, 12, 24 * 365])
def test_a_study_is_complete_in_its_time_though_the_clock_is_set(node, dated, hours):
    arrive(node.settings, small_mr())
    assert node.after(0) == []
    dated.seconds = 1_000_001.0 + hours * 3600  # of the file's own time
    assert node.after(1) == []
    assert len(node.after(3)) == 1


def test_a_change_after_the_clock_was_set_back_makes_a_study_wait_anew(node, dated):
    study = generate_uid()
    folder = arrive(node.settings, small_mr(study))
    node.after(0)
    dated.seconds -= 7200
    arrive(node.settings, small_mr(study))
    os.utime(folder, (dated.seconds, dated.seconds))
    dated.seconds += 1
    assert node.after(2.9) == []
    (job,) = node.after(3.1)
    assert len(list(job.input_folder.iterdir())) == 2


def test_a_change_at_this_moment_is_waited_for(node, dated):
    folder = arrive(node.settings, small_mr())
    node.after(0)
    dated.seconds = folder.stat().st_mtime + 0.01
    assert node.after(100) == []
    dated.seconds += 1
    assert len(node.after(0)) == 1


@pytest.fixture
def quick_node():
    """A node in memory, if the system has a file system there: a thousand studies are synced many thousand times."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        node = Node(Path(folder) / "node")
        yield node
        node.journal.close()


def test_a_thousand_waiting_studies_take_little_memory_and_are_handed_out_in_the_order_they_came(quick_node):
    """All are complete at once, as after a night without a node; their names are hashes, in no order."""
    node, moments = quick_node, {}
    for number in range(1000):
        folder = arrive(node.settings, small_mr(f"1.2.{number}", size=4))
        moments[folder.name] = 1_000_000 + (number * 379) % 1000
        os.utime(folder, (moments[folder.name], moments[folder.name]))
    handed = []
    tracemalloc.start()
    try:
        assert node.after(0) == []
        node.clock.seconds += 121
        while ready := node.inbox.poll(200):
            handed += [job.job_id for job in ready]
            for job in ready:
                node.inbox.release(job.job_id)
                node.journal.job_failed(job.job_id, "missing-sequence", "no FLAIR", "select")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    came = {job.job_id: moments[job.study_key] for job in node.journal.jobs()}
    assert [came[job_id] for job_id in handed] == sorted(moments.values())
    assert peak < 5_000_000, "5 kB a study"
