"""What a person sees of the queue, and what putting back does; a thousand studies cost no memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import pytest

from app.backlog import (
    describe,
    destinations,
    figures,
    find_job,
    put_back_all,
    put_back_destination,
    put_back_job,
    waiting,
)
from app.errors import InputError
from app.journal import DeliveryState, JobState, Journal, StudyState
from tests.support_dicom import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def journal(tmp_path, clock):
    journal = Journal(tmp_path / "journal.sqlite", clock)
    yield journal
    journal.close()


def job_id(number: int) -> str:
    return f"{number:08d}" * 4


def ready(journal, number):
    journal.study_arriving(f"k{number}", f"1.2.{number}")
    journal.job_ready(job_id(number), f"k{number}", 7)
    return job_id(number)


def failed(journal, number, code="missing-sequence"):
    ready(journal, number)
    journal.take_ready()
    journal.job_failed(job_id(number), code, "FLAIR has no candidate", "select")
    return job_id(number)


def done(journal, number, *names):
    ready(journal, number)
    journal.take_ready()
    journal.job_done(job_id(number), 2, {name: ["a.dcm", "b.dcm"] for name in names})
    return job_id(number)


def test_each_state_is_shown_with_age_attempts_and_reason(journal, clock):
    done(journal, 1, "pacs", "dead", "fresh", "there")
    stuck, refused = (
        [d.delivery_id for d in journal.deliveries(job_id(1)) if d.destination == name] for name in ("pacs", "dead")
    )
    journal.not_delivered(stuck, "not reached", lambda failures: 0.0)
    journal.not_delivered(refused[:1], "failure 0xA900", lambda failures: 0.0, 1)
    for delivery in journal.owed("there"):
        journal.delivered(delivery.delivery_id)
    failed(journal, 2)
    ready(journal, 3)
    journal.take_ready()
    ready(journal, 4)
    journal.study_arriving("k5", "1.2.5")
    clock.seconds += 90
    shown = [(e.what, e.job_id[:8], e.state, e.attempts, e.destination, e.files, e.reason) for e in waiting(journal)]
    assert shown == [
        ("study", "", "arriving", 0, "", 0, ""),
        ("study", "00000002", "failed", 1, "", 7, "missing-sequence: FLAIR has no candidate"),
        ("study", "00000003", "in work", 1, "", 7, ""),
        ("study", "00000004", "waiting", 0, "", 7, ""),
        ("delivery", "00000001", "dead", 1, "dead", 2, "failure 0xA900"),
        ("delivery", "00000001", "waiting", 0, "fresh", 2, ""),
        ("delivery", "00000001", "stuck", 1, "pacs", 2, "not reached"),
    ]
    assert {entry.age_seconds for entry in waiting(journal)} == {90.0}
    assert not any("1.2." in str(entry) for entry in waiting(journal)), "a study UID is not shown"


def test_an_earlier_revision_that_failed_is_nobodys_concern(journal):
    old = failed(journal, 1)
    journal.study_arriving("k1", "1.2.1")
    journal.job_ready("j-new", "k1", 9)
    assert [entry.job_id for entry in waiting(journal)] == ["j-new"]
    with pytest.raises(InputError, match="a later revision of its study took its place"):
        put_back_job(journal, old)
    assert put_back_all(journal).jobs == 0
    assert journal.job(old).state is JobState.FAILED


def test_a_job_is_found_by_its_first_digits(journal):
    ready(journal, 1)
    assert find_job(journal, "00000001").job_id == job_id(1)
    ready(journal, 10_000_001)
    for text, words in (("0000", "there is no job"), ("ffffff", "there is no job"), ("%%%%%%", "there is no job")):
        with pytest.raises(InputError, match=words):
            find_job(journal, text)
    ready(journal, 2)
    with pytest.raises(InputError, match="more than one job"):
        find_job(journal, "000000")


def test_what_failed_is_put_back_from_nought(journal):
    failed(journal, 1)
    journal.take_ready()
    assert put_back_job(journal, job_id(1)[:10]).jobs == 1
    assert journal.studies()[0].state is StudyState.COMPLETE
    (job,) = journal.take_ready()
    assert (job.job_id, job.attempts) == (job_id(1), 1)
    assert "put back by a person" in [event.what for event in journal.events("k1")]
    with pytest.raises(InputError, match="is in work already"):
        put_back_job(journal, job_id(1))


def test_what_is_quarantined_is_put_back(journal):
    ready(journal, 1)
    journal.take_ready()
    journal.requeue_crashed(1)
    assert [entry.state for entry in waiting(journal)] == ["quarantined"]
    put_back_all(journal)
    assert [entry.state for entry in waiting(journal)] == ["waiting"]


def test_deliveries_are_put_back_by_job_destination_or_all(journal):
    for number in (1, 2):
        done(journal, number, "a", "b")
        for name in ("a", "b"):
            ids = [
                delivery.delivery_id for delivery in journal.deliveries(job_id(number)) if delivery.destination == name
            ]
            journal.not_delivered(ids, "no", lambda failures: 1e12, 1 if name == "a" else None)
    assert destinations(journal) == {"a", "b"}
    assert journal.due("b", 1e12) == []
    assert put_back_job(journal, job_id(1)).deliveries == 4
    assert put_back_destination(journal, "a").deliveries == 2
    assert put_back_all(journal).deliveries == 2
    assert len(journal.due("a", 900.0)) == len(journal.due("b", 900.0)) == 4
    found = {(d.state, d.attempts, d.refusals) for n in (1, 2) for d in journal.deliveries(job_id(n))}
    assert found == {(DeliveryState.OWED, 0, 0)}


def test_a_job_is_described_with_its_deliveries_and_events(journal):
    done(journal, 1, "pacs")
    found = describe(journal, find_job(journal, job_id(1)))
    assert (found["state"], found["attempts"], found["images"]) == ("done", 1, 7)
    assert [delivery["file"] for delivery in found["deliveries"]] == ["a.dcm", "b.dcm"]
    assert found["events"][-1]["what"] == "done: 2 results"


def test_figures_count_and_tell_the_oldest(journal, clock):
    done(journal, 1, "pacs")
    journal.not_delivered([journal.owed("pacs")[0].delivery_id], "failure 0xC000", lambda failures: 0.0, 1)
    clock.seconds += 10
    failed(journal, 2)
    ready(journal, 3)
    clock.seconds += 5
    ready(journal, 4)
    found = figures(journal)
    assert found.studies[StudyState.COMPLETE] == 2
    assert (found.studies[StudyState.DONE], found.studies[StudyState.FAILED]) == (1, 1)
    assert (found.waiting, found.oldest_waiting_seconds, found.oldest_in_work_seconds) == (2, 5.0, 0.0)
    owed = found.destinations["pacs"]
    assert (owed.owed, owed.dead, owed.oldest_seconds) == (1, 1, 15.0)


def test_a_thousand_waiting_studies_grow_no_memory_and_go_by_age(journal, clock):
    for number in range(1000):
        clock.seconds += 1
        ready(journal, number)
    journal.take_ready(0)
    figures(journal)
    tracemalloc.start()
    try:
        taken = [journal.take_ready(2) for _ in range(3)]
        assert figures(journal).waiting == 994
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [job.job_id for pair in taken for job in pair] == [job_id(number) for number in range(6)]
    assert peak < 1_000_000, "it reads what it takes, not what waits"
    assert len(waiting(journal)) == 1000


def test_a_thousand_studies_in_the_inbox_take_bounded_memory_and_are_read_no_oftener_than_few(tmp_path):
    """Of inbox, journal and settling together, from the first look until some are settled."""
    command = [sys.executable, "-m", "tests.waiting_studies", str(tmp_path), "20", "100", "1000"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, timeout=300, check=True)
    _, few, many = (json.loads(line) for line in ran.stdout.splitlines())  # the first warms up what every one needs
    for found in (few, many):
        studies = found["studies"]
        assert found["settled"] == {JobState.DONE: 8, JobState.FAILED: 8}
        assert found["settling"] == 0
        assert found["waiting"] == studies - 16
        # Of that file the head is read first, then the dataset.
        noticed = {"scandir": studies + 1, "open": 2 * studies}
        assert found["noticed"] == noticed, "its names, and one file that tells the study"
        assert found["waited"] == {"scandir": 10}, "nothing of a folder that did not change"
        assert found["quiet"] == {}, "nothing at all while all that came has its job"
    for kind in ("scandir", "open"):
        assert many["reads"][kind] <= 10 * few["reads"][kind], f"{kind} grows with the studies, not faster"
    assert many["held"] < 2_000_000
    assert many["held"] - few["held"] < 900 * 1_000, "1 kB a study"
