"""The journal's rules, and a node killed with SIGKILL at line after line."""

import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from app.config import Destination
from app.errors import JournalError
from app.inbox import Inbox
from app.journal import DeliveryState, JobState, Journal, StudyState
from app.journal_rows import SCHEMA_VERSION
from app.outbox import Outbox
from tests.support_dicom import Clock, arrive, node_settings, result_files, small_mr

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite", Clock())
    yield journal
    journal.close()


def with_job(journal, job_id="j1", key="k1", uid="1.2.3"):
    journal.study_arriving(key, uid)
    journal.job_ready(job_id, key, 7)


def test_it_is_a_wal_that_syncs_each_commit(journal, tmp_path):
    with_job(journal)
    with journal._engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
    assert (tmp_path / "journal.sqlite-wal").exists()


def test_a_study_goes_through_its_states(journal):
    seen = []
    for step in (
        lambda: journal.study_arriving("k1", "1.2.3"),
        lambda: journal.job_ready("j1", "k1", 7),
        journal.take_ready,
        lambda: journal.job_done("j1", 2, {"pacs": ["a.dcm", "b.dcm"]}),
    ):
        step()
        seen.append(journal.studies()[0].state)
    assert seen == [StudyState.ARRIVING, StudyState.COMPLETE, StudyState.PROCESSING, StudyState.DONE]
    assert [delivery.file for delivery in journal.owed("pacs")] == ["a.dcm", "b.dcm"]
    assert [event.what for event in journal.events("k1")] == [
        "study arrives",
        "revision 1 is complete: 7 instances",
        "attempt 1 begins",
        "done: 2 results",
    ]


def test_steps_that_are_repeated_change_nothing(journal):
    for _ in range(2):
        with_job(journal)
    journal.take_ready()
    for _ in range(2):
        journal.job_done("j1", 1, {"pacs": ["a.dcm"]})
    assert len(journal.jobs()) == len(journal.owed("pacs")) == 1


def test_an_older_revision_does_not_speak_for_the_study(journal):
    with_job(journal, "j1")
    journal.take_ready()
    with_job(journal, "j2")
    journal.job_done("j1", 0, {})
    assert journal.studies()[0].state is StudyState.COMPLETE


def test_a_failure_keeps_its_reason(journal):
    with_job(journal)
    journal.take_ready()
    journal.job_failed("j1", "missing-sequence", "FLAIR has no candidate", "select")
    job = journal.job("j1")
    assert (job.state, job.code, job.message, job.stage) == (
        JobState.FAILED,
        "missing-sequence",
        "FLAIR has no candidate",
        "select",
    )


def test_three_crashes_quarantine_a_job(journal):
    with_job(journal)
    for attempt in (1, 2, 3):
        assert [job.attempts for job in journal.take_ready()] == [attempt]
        assert len(journal.requeue_crashed()) == 1
    assert journal.take_ready() == []
    assert (journal.job("j1").state, journal.job("j1").code) == (JobState.QUARANTINED, "crashed-repeatedly")
    assert journal.studies()[0].state is StudyState.QUARANTINED


def test_a_crash_that_the_node_lived_through_is_tried_again_then_quarantined(journal):
    with_job(journal)
    journal.take_ready()
    assert journal.job_crashed("j1", "native-crash", "SIGSEGV", "preprocess", 2)
    assert journal.studies()[0].state is StudyState.COMPLETE
    assert journal.job("j1").message == "SIGSEGV; attempt 1"
    journal.take_ready()
    assert not journal.job_crashed("j1", "native-crash", "SIGSEGV", "preprocess", 2)
    job = journal.job("j1")
    assert (job.state, job.code, job.stage) == (JobState.QUARANTINED, "native-crash", "preprocess")
    assert not journal.job_crashed("j1", "hung", "", "", 9), "what has ended stays so"
    assert journal.job("j1").state is JobState.QUARANTINED


def test_a_job_that_is_done_at_last_has_no_reason_left(journal):
    with_job(journal)
    journal.take_ready()
    journal.job_crashed("j1", "native-crash", "SIGSEGV", "preprocess")
    journal.take_ready()
    journal.job_done("j1", 0, {})
    assert (journal.job("j1").code, journal.job("j1").message) == ("", "")


def owing(journal, job_id="j1", destinations=("pacs",)):
    with_job(journal, job_id, f"k-{job_id}", f"1.2.{job_id}")
    journal.take_ready()
    journal.job_done(job_id, 2, {name: ["a.dcm", "b.dcm"] for name in destinations})
    return [delivery.delivery_id for delivery in journal.deliveries(job_id)]


def test_refusals_for_good_make_a_dead_letter_and_others_do_not(journal):
    first, second = owing(journal)
    for _ in range(7):
        journal.not_delivered([first, second], "not reached", lambda failures: 0.0)
    for _ in range(3):
        journal.not_delivered([first], "failure 0xA900", lambda failures: 0.0, 3)
    assert [delivery.state for delivery in journal.deliveries("j1")] == [DeliveryState.DEAD, DeliveryState.OWED]
    assert [delivery.delivery_id for delivery in journal.due("pacs", 900.0)] == [second]
    assert journal.owing_jobs() == {"j1"}, "its files stay for the day somebody asks"
    assert "pacs refused a.dcm for good: failure 0xA900" in [event.what for event in journal.events("k-j1")]


def test_what_is_due_is_by_time_and_a_clock_set_back_makes_it_due(journal):
    first, second = owing(journal)
    assert len(journal.due("pacs", 900.0)) == 2
    journal.not_delivered([first], "", lambda failures: journal.now() + 60)
    journal.not_delivered([second], "", lambda failures: journal.now() + 5000)
    assert [delivery.delivery_id for delivery in journal.due("pacs", 900.0)] == [second]
    assert journal.next_attempt("pacs") == journal.now() + 60
    assert journal.next_attempt("elsewhere") is None


VERSION_1 = """
CREATE TABLE studies ("key" VARCHAR(32) NOT NULL, uid VARCHAR(64) NOT NULL, state VARCHAR(16) NOT NULL,
  revision INTEGER NOT NULL, arrived DOUBLE NOT NULL, changed DOUBLE NOT NULL, PRIMARY KEY ("key"), UNIQUE (uid));
CREATE TABLE events (event_id INTEGER NOT NULL, at DOUBLE NOT NULL, study_key VARCHAR(32) NOT NULL,
  job_id VARCHAR(32) NOT NULL, what VARCHAR NOT NULL, PRIMARY KEY (event_id));
CREATE INDEX ix_events_study_key ON events (study_key);
CREATE TABLE jobs (job_id VARCHAR(32) NOT NULL, study_key VARCHAR(32) NOT NULL, revision INTEGER NOT NULL,
  instances INTEGER NOT NULL, state VARCHAR(16) NOT NULL, attempts INTEGER NOT NULL, code VARCHAR NOT NULL,
  message VARCHAR NOT NULL, stage VARCHAR NOT NULL, created DOUBLE NOT NULL, finished DOUBLE, PRIMARY KEY (job_id),
  FOREIGN KEY(study_key) REFERENCES studies ("key"));
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_study_key ON jobs (study_key);
CREATE TABLE deliveries (delivery_id INTEGER NOT NULL, job_id VARCHAR(32) NOT NULL, destination VARCHAR(32) NOT NULL,
  file VARCHAR NOT NULL, state VARCHAR(16) NOT NULL, attempts INTEGER NOT NULL, next_attempt DOUBLE NOT NULL,
  note VARCHAR NOT NULL, delivered DOUBLE, PRIMARY KEY (delivery_id), UNIQUE (job_id, destination, file),
  FOREIGN KEY(job_id) REFERENCES jobs (job_id));
INSERT INTO studies VALUES ('k1', '1.2.3', 'processing', 1, 5.0, 6.0), ('k2', '1.2.4', 'done', 1, 5.0, 6.0);
INSERT INTO jobs VALUES ('j1', 'k1', 1, 7, 'processing', 1, '', '', '', 6.0, NULL),
  ('j2', 'k2', 1, 7, 'done', 1, '', '', '', 6.0, 9.0);
INSERT INTO deliveries VALUES (1, 'j2', 'pacs', 'a.dcm', 'owed', 4, 0.0, 'failure 0xA900', NULL);
PRAGMA user_version = 1;
"""
"""A journal of the first version, as that software wrote it."""


def test_a_journal_of_the_first_version_is_kept_and_goes_on(tmp_path):
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
    for _ in range(2):
        journal = Journal(path, Clock())
        assert [study.looks for study in journal.studies()] == [0, 0]
        assert [(delivery.note, delivery.refusals) for delivery in journal.owed("pacs")] == [("failure 0xA900", 0)]
        journal.close()
    journal = Journal(path, Clock())
    assert [job.job_id for job in journal.requeue_crashed()] == ["j1"]
    assert [job.attempts for job in journal.take_ready()] == [2]
    journal.close()
    columns = {
        table: [row[1] for row in sqlite3.connect(path).execute(f"PRAGMA table_info({table})")]
        for table in ("studies", "jobs", "deliveries")
    }
    Journal(tmp_path / "new.sqlite").close()
    fresh = sqlite3.connect(tmp_path / "new.sqlite")
    for table, names in columns.items():
        assert set(names) == {row[1] for row in fresh.execute(f"PRAGMA table_info({table})")}


def test_readers_hold_up_no_writer(journal):
    with_job(journal)
    with journal.reading() as session:
        session.connection().exec_driver_sql("SELECT * FROM jobs").all()
        journal.take_ready()
    assert journal.job("j1").state is JobState.PROCESSING


def test_the_first_to_be_ready_comes_first_whatever_the_clock_says(tmp_path):
    clock = Clock()
    journal = Journal(tmp_path / "journal.sqlite", clock)
    for number, seconds in ((3, 1000.0), (1, 90_000.0), (2, -80_000.0)):
        clock.seconds = seconds
        with_job(journal, f"j{number}", f"k{number}", f"1.{number}")
    assert [job.job_id for job in journal.take_ready()] == ["j3", "j1", "j2"]
    journal.close()


def test_many_threads_may_write_at_once(journal):
    def write(number):
        with_job(journal, f"j{number}", f"k{number}", f"1.{number}")
        journal.take_ready()
        journal.job_done(f"j{number}", 1, {"pacs": ["a"]})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert {job.state for job in journal.jobs()} == {JobState.DONE}
    assert len(journal.owed("pacs")) == 40


def test_a_file_that_is_no_journal_is_one_clear_line(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(JournalError, match="cannot be used: file is not a database") as caught:
        Journal(path)
    assert "\n" not in str(caught.value)


def test_a_journal_from_the_future_is_refused(tmp_path):
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match=f"has schema version 99, this software knows {SCHEMA_VERSION}"):
        Journal(path)


def test_a_journal_held_by_another_for_long_is_a_journal_error(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "journal.sqlite")
    with journal._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="database is locked"):
        journal.study_arriving("k1", "1.2.3")
    other.execute("ROLLBACK")
    journal.study_arriving("k1", "1.2.3")
    journal.close()
    other.close()


# Killed at any line: two studies come, one of them twice, and every result is owed once.


def run_node(settings, results: Path) -> None:
    """A node's whole work: reconcile, poll until nothing is left, settle each job with the same results."""
    journal = Journal(settings.journal_path)
    clock = Clock()
    inbox, outbox = Inbox(settings, journal, lambda folder: True, clock), Outbox(settings, journal)
    inbox.reconcile()
    outbox.reconcile()
    for _ in range(6):
        clock.seconds += 4
        for job in inbox.poll():
            files = []
            for source in sorted(results.iterdir()):
                files.append(job.output_folder / source.name)
                files[-1].write_bytes(source.read_bytes())
            outbox.commit(job.job_id, files)
            inbox.release(job.job_id)
    journal.close()


def run_and_die(settings, results: Path, line: int) -> bool:
    """Run the node in a fork that kills itself at its n-th line of our code; say whether it got that far."""
    child = os.fork()
    if child == 0:
        left = line
        package = str(Path(sys.modules["app.journal"].__file__).parent)

        def trace(frame, event, _):
            nonlocal left
            if not frame.f_code.co_filename.startswith(package):
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            run_node(settings, results)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a fork must never return into pytest
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def check_whole(settings, expected: dict[str, bytes]) -> None:
    journal = Journal(settings.journal_path)
    jobs = journal.jobs()
    assert [job.state for job in jobs] == [JobState.DONE] * 2
    assert {study.state for study in journal.studies()} == {StudyState.DONE}
    owed = [(delivery.job_id, delivery.file) for delivery in journal.owed("pacs")]
    assert sorted(owed) == sorted((job.job_id, name) for job in jobs for name in expected)
    for job in jobs:
        for folder in (settings.outbox_dir / job.job_id, settings.archive_dir / job.study_key / job.job_id):
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    assert list(settings.work_dir.iterdir()) == []
    assert list(settings.data_dir.rglob("*.part")) == []
    journal.close()


def test_a_node_killed_at_line_after_line_loses_nothing_and_repeats_nothing(tmp_path, monkeypatch):
    # A killed process loses no page that it wrote; syncing matters to a power cut, and takes most of the time.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    expected = {path.name: path.read_bytes() for path in result_files(tmp_path / "results")}
    study = [small_mr(uid, number=number) for uid in (generate_uid(), generate_uid()) for number in (1, 2)]
    line, killed, step = 1, 0, 43
    while True:
        settings = node_settings(
            tmp_path / f"node-{line}", inbox={"settle_seconds": 3}, sender={"destinations": (PACS,)}
        )
        for ds in study:
            arrive(settings, ds)
        died = run_and_die(settings, tmp_path / "results", line)
        run_node(settings, tmp_path / "results")
        check_whole(settings, expected)
        if not died:
            break
        killed, line = killed + 1, line + step
    assert killed >= 10


def test_a_commit_is_all_or_nothing_for_a_reader_beside_it(journal):
    with_job(journal)
    journal.take_ready()
    seen = set()
    stop = threading.Event()

    def read():
        while not stop.is_set():
            seen.add((journal.job("j1").state is JobState.DONE, len(journal.deliveries("j1"))))

    reader = threading.Thread(target=read)
    reader.start()
    journal.job_done("j1", 50, {name: [f"{number}.dcm" for number in range(50)] for name in ("a", "b")})
    time.sleep(0.05)
    stop.set()
    reader.join()
    # A job may be read before the commit and its deliveries after it, never the other way round.
    assert seen <= {(False, 0), (False, 100), (True, 100)}
    assert {delivery.state for delivery in journal.deliveries("j1")} == {DeliveryState.OWED}
