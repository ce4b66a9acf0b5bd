"""What nobody foresaw in a delivery: the thread goes on, the rest is delivered, and what is stuck is told."""

from __future__ import annotations

import logging
import random
import threading
import time
from contextlib import suppress

import pytest

from app.audit import TRAIL, AuditTrail
from app.backlog import waiting
from app.config import Destination
from app.delivery import Sender
from app.journal import DeliveryState, Journal
from app.outbox import Outbox
from app.sender import _kind
from app.store import NOT_UNDERSTOOD
from tests.support_commitment import Archive
from tests.support_delivery import Node, started
from tests.support_dicom import node_settings, result_files, save, small_mr
from tests.support_web import Handler, Service

RESULTS = 4


class Owing:
    """A sender at work on one job's results, in real time; each file's head may be spoilt before."""

    def __init__(self, folder, destination: Destination, spoil=lambda path: None, **clocks) -> None:
        sender = {"destinations": (destination,), "first_retry_seconds": 0.1, "longest_retry_seconds": 0.4}
        settings = node_settings(folder / "node", sender=sender | {"network_timeout_seconds": 5.0})
        self.journal = Journal(settings.journal_path)
        outbox = Outbox(settings, self.journal)
        self.journal.study_arriving("k1", "1.2.3")
        self.journal.job_ready("j1", "k1", 4)
        self.journal.take_ready()
        outbox.commit("j1", result_files(folder / "output", RESULTS))
        self.folder = settings.outbox_dir / "j1"
        spoil(sorted(self.folder.iterdir())[0])
        trail = AuditTrail(settings.data_dir / TRAIL, "GLIOMA_NODE")
        self.sender = Sender(settings.sender, self.journal, outbox, trail=trail, **clocks)
        self.sender.start()

    @property
    def thread(self) -> threading.Thread:
        (run,) = self.sender._runs
        return run.thread

    def until(self, condition, seconds=20.0) -> None:
        """Wait, without the pauses that a sender makes."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
            self.sender.wake()
        assert condition()

    def delivered(self) -> int:
        return sum(row.state is DeliveryState.DELIVERED for row in self.journal.deliveries("j1"))

    def close(self) -> None:
        self.sender.stop()
        self.journal.close()


@pytest.fixture
def owing(tmp_path):
    with started(lambda *args, **kwargs: Owing(tmp_path, *args, **kwargs)) as start:
        yield start


@pytest.fixture
def archive():
    with started(Archive) as start:
        yield start


def plain(pacs) -> Destination:
    return pacs.destination().model_copy(update={"commitment": None})


# Files that are damaged


def rewrite(path, change) -> None:
    """Put other content under a file's name; the archive, which shares the content, keeps its own."""
    data = bytearray(path.read_bytes())
    change(data)
    path.unlink()
    path.write_bytes(data)


DAMAGES = {
    "cut in its head": lambda data: data.__delitem__(slice(152, None)),
    "of an unknown VR": lambda data: data.__setitem__(slice(data.index(b"UI"), data.index(b"UI") + 2), b"U\0"),
    "empty": lambda data: data.clear(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_stuck_and_holds_up_no_other(owing, archive, damage):
    pacs = archive()
    here = owing(plain(pacs), lambda path: rewrite(path, DAMAGES[damage]))
    here.until(lambda: here.delivered() == RESULTS - 1)
    here.until(lambda: max(row.attempts for row in here.journal.deliveries("j1")) >= 2)
    (entry,) = waiting(here.journal)
    assert (entry.state, entry.files) == ("stuck", 1)
    assert entry.reason.startswith("not a DICOM file that can be sent")
    assert list(pacs.held.values()) == [1] * (RESULTS - 1)
    assert here.thread.is_alive()


def test_whatever_a_files_head_is_reading_it_raises_what_is_expected(tmp_path):
    path, generator = save(small_mr(), tmp_path / "a.dcm"), random.Random(1)
    sound, read = path.read_bytes(), 0
    for number in range(2_000):
        data = bytearray(sound[: number if number < 400 else None])
        for _ in range(generator.randint(1, 3) if number >= 400 else 0):
            data[generator.randrange(132, 360)] = generator.randrange(256)
        path.write_bytes(data)
        with suppress(*NOT_UNDERSTOOD):
            _kind(path)
            read += 1
    assert 500 < read < 1_900


# Errors that nobody foresaw: here, the outbox loses a file between its sending and its being written down


def test_an_error_that_nobody_foresaw_is_counted_and_told_and_the_rest_is_delivered(owing, archive, caplog):
    caplog.set_level(logging.INFO)
    pacs, lost = archive(), []

    def lose_the_first(event):
        if not lost:
            lost.extend(sorted(here.folder.iterdir())[:1])
            lost[0].unlink()
        return 0x0000

    notes = set()
    begin = threading.Event()
    pacs.on_store = lambda event: begin.wait(10) and lose_the_first(event)
    here = owing(plain(pacs))
    begin.set()
    here.until(lambda: notes.update(row.note for row in here.journal.deliveries("j1")) or any(notes))
    here.until(lambda: here.delivered() == RESULTS - 1)
    here.until(lambda: max(row.attempts for row in here.journal.deliveries("j1")) >= 2)
    assert "an error of the node (FileNotFoundError): its log tells the place" in notes
    (entry,) = waiting(here.journal)
    assert (entry.state, entry.files) == ("stuck", 1)
    assert list(pacs.held.values()) == [1] * RESULTS, "what was sent behind it was not sent twice"
    assert "pacs: FileNotFoundError at " in caplog.text
    assert str(lost[0]) not in caplog.text
    assert "Secret" not in caplog.text
    assert here.thread.is_alive()
    assert here.sender.is_alive()


def test_the_same_over_the_web(owing):
    lost = []

    def lose_the_first(handler, uids):
        if not lost:
            lost.extend(sorted(here.folder.iterdir())[:1])
            lost[0].unlink()
        Handler.honest(handler, uids)

    with started(Service) as start:
        service, begin = start(), threading.Event()
        service.behave = lambda handler, uids: begin.wait(10) and lose_the_first(handler, uids)
        here = owing(Destination(name="web", stow={"url": service.url}))
        begin.set()
        here.until(lambda: here.delivered() == RESULTS - 1)
        here.until(lambda: max(row.attempts for row in here.journal.deliveries("j1")) >= 2)
        assert here.thread.is_alive()


def test_what_cannot_be_asked_about_is_asked_again_later(tmp_path, archive):
    """A journal that holds what no request can: the round ends, and the commitment waits as after a refusal."""
    pacs = archive()
    with started(lambda: Node(tmp_path, pacs.destination())) as make:
        here = make()
        (run,) = here._sender._runs
        asked, pacs.action_status = pacs.requests, 0x0110
        here.turn()
        assert here.states() == {DeliveryState.STORED}
        told = len(asked)
        with here.journal.transaction() as session:
            for row in here.journal.deliveries("j1"):
                session.merge(row).sop_instance = "1.2.\u5c71"
        here.clock.seconds += 10_000
        assert run._round() == pytest.approx(5.0)
        run._round()
        assert len(asked) == told
        assert {row.note for row in here.journal.deliveries("j1")} == {
            "an error of the node (ValueError): its log tells the place"
        }
        assert min(row.next_attempt for row in here.journal.deliveries("j1")) > here.clock.seconds


# A thread that ended all the same


class Last(threading.Event):
    """A wait from which a thread does not come back."""

    def wait(self, timeout=None):
        raise SystemExit


def test_a_thread_that_ended_is_noticed_and_another_goes_on(owing, archive, caplog):
    pacs = archive()
    pacs.on_store = lambda event: 0xA700
    here = owing(plain(pacs))
    here.until(lambda: all(row.attempts for row in here.journal.deliveries("j1")))
    (run,), first = here.sender._runs, here.thread
    before, run.wake = run.wake, Last()
    before.set()
    first.join(10)
    run.wake = before
    assert not here.sender.is_alive()
    pacs.on_store = lambda event: 0x0000
    here.sender.revive()
    assert here.sender.is_alive()
    assert here.thread is not first
    assert "sender-pacs ended by itself; starting another" in caplog.text
    here.until(lambda: here.delivered() == RESULTS)
