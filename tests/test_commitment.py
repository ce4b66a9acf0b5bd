"""Storage commitment on real sockets: who takes an object owes us a promise; who does not keep it gets it again."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel

from app import commitment
from app.audit import TRAIL
from app.backlog import describe, figures, put_back_destination, waiting
from app.commitment_report import PUSH_MODEL_INSTANCE, STATUSES, _read, _Refused
from app.config import Destination
from app.errors import JournalError
from app.journal import DeliveryState, Journal
from app.receiver import run_receiver
from tests.support_commitment import TITLE, Archive, information, send_report
from tests.support_delivery import Node, started
from tests.support_dicom import PEER_TITLE, node_settings, result_files

REFUSED = 0x0115


@pytest.fixture
def archive():
    """Start PACS; each ends with the test."""
    with started(Archive) as start:
        yield start


@pytest.fixture
def node(tmp_path):
    """Make nodes on one data folder; each ends with the test."""
    with started(partial(Node, tmp_path)) as make:
        yield make


# The way it should go


def test_what_is_stored_is_owed_until_the_report_comes(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    assert here.states() == {DeliveryState.STORED}
    assert here.counted() == (0, 0, 0), "what is owed is not delivered"
    assert here.kept_files
    assert here.journal.is_owing("j1")
    assert (here.entry.state, here.entry.files, here.entry.destination) == ("uncommitted", 2, "pacs")
    counted = figures(here.journal).destinations["pacs"]
    assert (counted.owed, counted.uncommitted, counted.dead) == (0, 2, 0)
    ((request_uid, uids),) = pacs.requests
    assert request_uid.startswith("2.25.")
    assert sorted(uids) == sorted(pacs.held)
    assert send_report(here.port, pacs.answer()) == 0x0000
    assert here.states() == {DeliveryState.DELIVERED}
    here.turn(1)
    assert not here.kept_files
    assert waiting(here.journal) == []
    assert set(pacs.held.values()) == {1}
    assert here.counted() == (2, 0, 0)
    assert "pacs has committed itself to keep result-0.dcm" in [event.what for event in here.journal.events("k1")]


def test_a_report_on_the_same_association_is_taken(archive, node):
    pacs = archive(here=True)
    here = node(pacs.destination(stay_seconds=10.0))
    begun = time.monotonic()
    here.turn()
    assert here.states() == {DeliveryState.DELIVERED}
    assert pacs.statuses == [0x0000]
    assert time.monotonic() - begun < 9, "it goes on as soon as the report is there"
    assert not here.kept_files


@pytest.mark.parametrize("role", [True, False])
def test_a_report_is_taken_with_the_role_of_scp_and_from_those_that_forget_to_ask_for_it(archive, node, role):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    assert send_report(here.port, pacs.answer(), role=role) == 0x0000


def test_reports_may_come_under_another_title_if_the_settings_say_so(archive, node):
    pacs = archive()
    here = node(pacs.destination(reported_by=PEER_TITLE))
    here.turn()
    assert send_report(here.port, pacs.answer()) == REFUSED
    assert send_report(here.port, pacs.answer(), title=PEER_TITLE) == 0x0000


def test_without_commitment_the_answer_to_c_store_is_the_last_word_and_reports_are_not_negotiated(archive, node):
    pacs = archive()
    here = node(pacs.destination().model_copy(update={"commitment": None}))
    here.turn()
    assert here.states() == {DeliveryState.DELIVERED}
    assert pacs.requests == []
    ae = AE(TITLE)
    ae.add_requested_context(StorageCommitmentPushModel)
    association = ae.associate("127.0.0.1", here.port, ae_title="GLIOMA_NODE")
    assert [context.result for context in association.rejected_contexts] == [3]
    association.abort()


def test_the_receiver_takes_nothing_but_reports_under_that_class(archive, node):
    here = node(archive().destination())
    ae = AE(TITLE)
    ae.add_requested_context(StorageCommitmentPushModel)
    association = ae.associate("127.0.0.1", here.port, ae_title="GLIOMA_NODE")
    asked = information("1.2.3", ["1.2.4"])
    answer, _ = association.send_n_action(asked, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    association.release()
    assert answer.Status == 0x0110


# A PACS that lies


def test_what_was_taken_and_not_kept_is_sent_again(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    lost, kept = sorted(pacs.held)
    pacs.held[lost] = 0
    pacs.keeps = lambda uid: None if pacs.held[uid] else 0x0112
    assert send_report(here.port, pacs.answer()) == 0x0000
    by_state = {row.state: row for row in here.journal.deliveries("j1")}
    assert by_state[DeliveryState.DELIVERED].sop_instance == kept
    assert by_state[DeliveryState.OWED].sop_instance == lost
    assert by_state[DeliveryState.OWED].note == "taken, but not kept: no such object instance (0x0112)"
    assert (here.entry.state, here.entry.files) == ("stuck", 1)
    trail = (here.settings.data_dir / TRAIL).read_text()
    assert "1 instances were not taken" in trail
    here.turn(6)
    assert pacs.held == {lost: 1, kept: 1}
    assert pacs.requests[-1][1] == [lost]
    assert send_report(here.port, pacs.answer()) == 0x0000
    assert here.states() == {DeliveryState.DELIVERED}


def test_one_that_never_keeps_anything_gets_it_with_growing_pauses_and_is_seen(archive, node):
    pacs = archive()
    pacs.keeps = lambda uid: 0x0110
    here = node(pacs.destination(), first_retry_seconds=10.0, longest_retry_seconds=60.0)
    here.turn()
    pauses = []
    for _ in range(6):
        assert send_report(here.port, pacs.answer()) == 0x0000
        pauses.append(here.journal.next_attempt("pacs") - time.time())
        assert here.states() == {DeliveryState.OWED}
        assert here.entry.state == "stuck"
        assert "taken, but not kept: processing failure" in here.entry.reason
        here.clock.seconds = here.journal.next_attempt("pacs") + 1
        here.turn()
    assert pauses == pytest.approx([10, 20, 40, 60, 60, 60], abs=5)
    assert set(pacs.held.values()) == {7}
    assert here.kept_files
    pacs.keeps = lambda uid: None
    assert send_report(here.port, pacs.answer()) == 0x0000
    assert here.states() == {DeliveryState.DELIVERED}


def test_what_it_can_never_keep_becomes_a_dead_letter_that_a_person_can_revive(archive, node):
    pacs = archive()
    pacs.keeps = lambda uid: 0x0122
    here = node(pacs.destination(), refusals_allowed=2)
    here.turn()
    send_report(here.port, pacs.answer())
    assert here.states() == {DeliveryState.OWED}
    here.turn(6)
    send_report(here.port, pacs.answer())
    assert here.states() == {DeliveryState.DEAD}
    assert here.entry.state == "dead"
    assert here.counted() == (0, 2, 2)
    here.turn(86_400)
    assert set(pacs.held.values()) == {2}
    put_back_destination(here.journal, "pacs")
    here.turn()
    pacs.keeps = lambda uid: None
    send_report(here.port, pacs.answer())
    assert here.states() == {DeliveryState.DELIVERED}


def test_what_a_report_leaves_out_is_asked_for_again(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    request_uid, (first, second) = pacs.requests[0]
    assert send_report(here.port, information(request_uid, [first, "1.2.3.4"])) == 0x0000
    states = {row.sop_instance: (row.state, row.note) for row in here.journal.deliveries("j1")}
    assert states[first][0] is DeliveryState.DELIVERED
    assert states[second] == (DeliveryState.STORED, commitment.LEFT_OUT)
    here.turn(6)
    assert pacs.requests[-1][1] == [second]
    assert pacs.requests[-1][0] != request_uid
    assert set(pacs.held.values()) == {1}


def test_kept_and_failed_at_once_counts_as_failed(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    request_uid, uids = pacs.requests[0]
    assert send_report(here.port, information(request_uid, uids, dict.fromkeys(uids, 0x0213))) == 0x0000
    assert here.states() == {DeliveryState.OWED}


def test_a_transaction_uid_that_the_pacs_has_seen_before_only_means_asking_again(archive, node):
    pacs = archive()
    pacs.keeps = lambda uid: commitment.DUPLICATE_TRANSACTION
    here = node(pacs.destination())
    here.turn()
    assert send_report(here.port, pacs.answer()) == 0x0000
    here.turn(6)
    assert len(pacs.requests) == 2
    assert set(pacs.held.values()) == {1}


# No report, and reports that are none


def test_without_a_report_it_is_asked_anew_under_another_uid_with_growing_patience(archive, node):
    pacs = archive()
    here = node(pacs.destination(timeout_seconds=100.0, longest_timeout_seconds=300.0))
    here.turn()
    for patience in (100, 200, 300, 300):
        here.turn(patience - 1)
        before = len(pacs.requests)
        here.turn(2)
        assert len(pacs.requests) == before + 1
    assert len({request_uid for request_uid, _ in pacs.requests}) == 5
    assert set(pacs.held.values()) == {1}, "nothing is sent twice for want of a report"
    assert (here.entry.state, here.entry.attempts) == ("stuck", 5)
    assert here.entry.reason == "no report of storage commitment came in time"
    before = here.snapshot()
    assert send_report(here.port, pacs.answer(0)) == REFUSED, "late: it was asked anew"
    assert here.snapshot() == before
    assert send_report(here.port, pacs.answer()) == 0x0000
    assert here.states() == {DeliveryState.DELIVERED}


def test_a_clock_that_was_set_back_delays_no_request(archive, node):
    pacs = archive()
    here = node(pacs.destination(timeout_seconds=100.0, longest_timeout_seconds=300.0))
    here.turn()
    here.turn(-86_400)
    assert len(pacs.requests) == 2


def test_the_same_report_twice_is_refused_the_second_time_and_changes_nothing(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    assert send_report(here.port, pacs.answer()) == 0x0000
    before = here.snapshot()
    assert send_report(here.port, pacs.answer()) == REFUSED
    pacs.keeps = lambda uid: 0x0110
    assert send_report(here.port, pacs.answer()) == REFUSED
    assert here.snapshot() == before


def test_a_report_of_another_known_peer_is_forged(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    before = here.snapshot()
    assert send_report(here.port, pacs.answer(), title=PEER_TITLE) == REFUSED
    assert here.snapshot() == before
    trail = (here.settings.data_dir / TRAIL).read_text()
    assert "made to another peer" in trail
    assert PEER_TITLE in trail


def test_a_stranger_is_not_let_in_to_report(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    assert send_report(here.port, pacs.answer(), title="STRANGER") is None
    assert here.states() == {DeliveryState.STORED}


def no_uid(ds):
    del ds.TransactionUID


NONE_OF_OURS = [
    ("an unknown transaction", lambda ds: setattr(ds, "TransactionUID", generate_uid(None)), {}, REFUSED),
    ("no transaction", no_uid, {}, REFUSED),
    ("an empty one", lambda ds: setattr(ds, "TransactionUID", ""), {}, REFUSED),
    ("an event that there is not", lambda ds: None, {"event_type": 3}, 0x0113),
    ("another instance", lambda ds: None, {"instance": "1.2.3"}, 0x0112),
]


@pytest.mark.parametrize(("spoil", "how", "status"), [case[1:] for case in NONE_OF_OURS], ids=lambda v: "")
def test_what_is_no_report_of_ours_gets_its_status_and_changes_nothing(archive, node, spoil, how, status):
    pacs = archive()
    here = node(pacs.destination())
    # Between two requests no transaction UID is open: an empty one must not match.
    here.turn()
    commitment.take(
        here.journal, commitment.Report(pacs.requests[0][0], frozenset(), {}), ["pacs"], here.settings.sender
    )
    ds = pacs.answer()
    spoil(ds)
    before = here.snapshot()
    assert send_report(here.port, ds, **how) == status
    assert here.snapshot() == before
    assert status in STATUSES


def test_a_report_that_cannot_be_read_is_a_processing_failure(archive, node, monkeypatch):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    before = here.snapshot()
    # A sequence that claims more bytes than there are, in explicit VR: the peer's own library would not write it.
    broken = b"\x08\x00\x99\x11SQ\x00\x00\xff\x00\x00\x00\xfe\xff\x00\xe0\xff\x00\x00\x00\x08\x00"
    monkeypatch.setattr("pynetdicom.association.encode", lambda *a, **k: broken)
    assert send_report(here.port, pacs.answer()) in {0x0110, REFUSED}
    assert here.snapshot() == before


def test_while_the_journal_cannot_be_written_a_report_is_refused_for_now(archive, node, monkeypatch):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()

    def locked(*_):
        raise JournalError("the journal cannot be used: database is locked")

    with monkeypatch.context() as patched:
        patched.setattr("app.commitment_report.take", locked)
        assert send_report(here.port, pacs.answer()) == 0x0213
    assert send_report(here.port, pacs.answer()) == 0x0000


# A PACS that does not know commitment, or is away


def test_a_pacs_without_commitment_keeps_the_results_and_the_reason_is_told(archive, node):
    pacs = archive(commits=False)
    here = node(pacs.destination())
    here.turn()
    assert here.states() == {DeliveryState.STORED}
    assert len(pacs.held) == 2
    assert "does not offer storage commitment: switch it on there, or take" in here.entry.reason
    here.turn(6)
    here.turn(11)
    assert here.entry.state == "stuck"
    assert set(pacs.held.values()) == {1}
    later = node(pacs.destination().model_copy(update={"commitment": None}))
    later.turn()
    assert later.states() == {DeliveryState.DELIVERED}
    assert later.counted() == (2, 0, 0)
    assert "storage commitment is off" in later.journal.events("k1")[-1].what


def test_a_pause_that_is_longer_than_the_patience_is_kept(archive, node):
    pacs = archive()
    pacs.action_status = 0x0110
    here = node(pacs.destination(timeout_seconds=1.0, longest_timeout_seconds=2.0), first_retry_seconds=100.0)
    here.turn()
    for _ in range(5):
        assert here.turn() == 5.0
    assert len(pacs.requests) == 1


def test_a_request_that_is_refused_is_made_again_and_the_status_told(archive, node):
    pacs = archive()
    pacs.action_status = 0x0213
    here = node(pacs.destination())
    here.turn()
    assert "refuses the request for storage commitment (0x0213)" in here.entry.reason
    pacs.action_status = 0x0000
    here.turn(6)
    assert send_report(here.port, pacs.answer()) == 0x0000
    assert here.states() == {DeliveryState.DELIVERED}


def test_a_pacs_that_is_gone_when_it_is_to_be_asked_is_asked_when_it_is_back(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    delivery = here.journal.owed("pacs")
    for number, row in enumerate(delivery):
        commitment.stored(here.journal, row.delivery_id, "", "1.2", f"1.2.{number}")
    gone = node(pacs.destination().model_copy(update={"port": 1}))
    gone.turn()
    assert "cannot be reached" in gone.entry.reason
    here.clock.seconds = gone.clock.seconds
    here.turn(6)
    assert pacs.requests[0][1] == ["1.2.0", "1.2.1"]


def test_a_pacs_that_aborts_when_it_is_asked_is_asked_again(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    pacs.aborts()
    here.clock.seconds += 601
    here.turn()
    assert here.states() == {DeliveryState.STORED}
    assert len(pacs.requests) == 1
    assert here.entry.reason


def test_a_person_can_have_it_asked_at_once(archive, node):
    pacs = archive()
    here = node(pacs.destination())
    here.turn()
    here.turn(1)
    assert len(pacs.requests) == 1
    put_back_destination(here.journal, "pacs")
    here.turn()
    assert len(pacs.requests) == 2
    assert set(pacs.held.values()) == {1}
    (first, _) = describe(here.journal, here.journal.job("j1"))["deliveries"]
    assert (first["state"], first["asks"]) == ("stored", 1)


def test_each_job_is_a_request_of_its_own(archive, node, tmp_path):
    pacs = archive()
    here = node(pacs.destination())
    here.journal.job_ready("j2", "k1", 5)
    here.journal.take_ready()
    here.outbox.commit("j2", result_files(tmp_path / "more", 3))
    assert here.turn() == 0.0, "the next is asked at once"
    here.turn()
    assert [len(uids) for _, uids in pacs.requests] == [2, 3]


def test_no_name_is_in_log_journal_or_trail(archive, node, caplog):
    caplog.set_level("INFO")
    pacs = archive()
    pacs.keeps = lambda uid: 0x0110
    here = node(pacs.destination())
    here.turn()
    send_report(here.port, pacs.answer())
    assert "taken, but not kept" in here.entry.reason
    assert "Secret" not in caplog.text
    for path in (*here.settings.data_dir.glob("journal*"), here.settings.data_dir / TRAIL):
        assert b"Secret" not in path.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_broken_reports_are_refused_and_nothing_else():
    sound = encode(information("1.2.3", ["1.2.4", "1.2.5"], {"1.2.6": 0x0112}), True, True)
    context = build_context(StorageCommitmentPushModel, "1.2.840.10008.1.2")
    context.context_id = 1
    outcomes = Counter()
    for number in range(1500):
        dice, content = random.Random(number), bytearray(sound)
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(content) + 1)
            content[at : at + dice.choice([0, 1, 1, 9])] = dice.randbytes(dice.choice([0, 1, 1, 8]))
        report = N_EVENT_REPORT()
        report.MessageID, report.EventTypeID = 1, 1
        report.AffectedSOPClassUID = StorageCommitmentPushModel
        report.AffectedSOPInstanceUID = PUSH_MODEL_INSTANCE
        report.EventInformation = io.BytesIO(bytes(content))
        event = evt.Event(None, evt.EVT_N_EVENT_REPORT, {"request": report, "context": context.as_tuple})
        try:
            _read(event)
            outcomes["read"] += 1
        except _Refused as refused:
            outcomes[refused.status] += 1
    assert set(outcomes) == {"read", 0x0110, REFUSED}


# kill -9


def test_a_report_that_was_answered_survives_kill_9_of_the_receiver(archive, tmp_path):
    pacs, jobs = archive(), range(40)
    here = Node(tmp_path, pacs.destination())
    for number in jobs:
        here.journal.job_ready(f"r{number}", "k1", 10 + number)
        here.journal.take_ready()
        here.journal.job_done(f"r{number}", 1, {"pacs": ["a.dcm"]})
        (row,) = here.journal.deliveries(f"r{number}")
        commitment.stored(here.journal, row.delivery_id, "", "1.2", f"1.2.{number}")
        commitment.begin(here.journal, [row], f"1.9.{number}", lambda asked: 3600.0)
    spawn = multiprocessing.get_context("spawn")
    answers: dict[int, list[int | None]] = {number: [] for number in jobs}
    left, kills, dice = list(jobs), {30, 20, 10}, random.Random(5)
    while left:
        ours, theirs = spawn.Pipe(duplex=False)
        child = spawn.Process(target=run_receiver, args=(here.settings, theirs))
        child.start()
        theirs.close()
        port = ours.recv()
        while left and child.is_alive():
            if len(left) in kills:
                kills.remove(len(left))
                threading.Timer(dice.uniform(0.0, 0.1), os.kill, (child.pid, signal.SIGKILL)).start()
            number = left[0]
            status = send_report(port, information(f"1.9.{number}", [f"1.2.{number}"]))
            answers[number].append(status)
            if status is not None:
                left.pop(0)
        child.kill()
        child.join()
    assert not kills
    for number, heard in answers.items():
        # One that was taken, and whose answer the kill swallowed, is refused when it comes again.
        assert heard[-1] == 0x0000 or (heard[0] is None and heard[-1] == REFUSED)
        assert [row.state for row in here.journal.deliveries(f"r{number}")] == [DeliveryState.DELIVERED]
    here.close()


def cycle(journal: Journal, config, answered: Path) -> None:
    """Store, ask, and take a report of one kept and one lost; go on from wherever an earlier run ended."""
    for number, row in enumerate(journal.owed("pacs")):
        commitment.stored(journal, row.delivery_id, "", "1.2", f"1.2.{number}")
    if rows := commitment.to_ask(journal, "pacs", 3600.0):
        commitment.begin(journal, rows, "1.9.1", lambda asked: 0.0)
    if commitment.is_open(journal, "1.9.1"):
        commitment.take(journal, commitment.Report("1.9.1", frozenset(["1.2.0", "1.2.1"]), {}), ["pacs"], config)
    answered.touch()


def die_at(line: int, work) -> bool:
    """Run `work` in a fork that is killed at its line-th line of the node's code; say whether it was."""
    child = os.fork()
    if child == 0:
        left = line
        package = str(Path(commitment.__file__).parent)

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
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a fork must never return into pytest
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_killed_at_line_after_line_nothing_is_lost_and_nothing_taken_for_kept_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104, commitment={})
    line, killed, seen = 1, 0, set()
    while True:
        settings = node_settings(tmp_path / str(line), sender={"destinations": (destination,)})
        journal = Journal(settings.journal_path)
        journal.study_arriving("k1", "1.2.3")
        journal.job_ready("j1", "k1", 4)
        journal.take_ready()
        journal.job_done("j1", 2, {"pacs": ["a.dcm", "b.dcm"]})
        journal.close()
        answered = tmp_path / str(line) / "answered"

        def work(settings=settings, answered=answered):
            cycle(Journal(settings.journal_path), settings.sender, answered)

        died = die_at(line, work)
        journal = Journal(settings.journal_path)
        states = tuple(sorted(row.state for row in journal.deliveries("j1")))
        seen.add(states)
        assert answered.exists() <= (states == (DeliveryState.DELIVERED,) * 2)
        assert journal.is_owing("j1") == (states != (DeliveryState.DELIVERED,) * 2)
        cycle(journal, settings.sender, answered)
        assert {row.state for row in journal.deliveries("j1")} == {DeliveryState.DELIVERED}
        journal.close()
        if not died:
            break
        killed, line = killed + 1, line + 17
    assert killed >= 10
    assert {(DeliveryState.OWED,) * 2, (DeliveryState.STORED,) * 2, (DeliveryState.DELIVERED,) * 2} <= seen
