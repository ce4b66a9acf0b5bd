"""A PACS that is gone for an hour, refuses, warns, aborts in the middle, or lies: it has everything in the end.

The clock is the test's, so an hour takes seconds; sockets, journal and files are real.
"""

from __future__ import annotations

import re
import threading
from functools import partial

import pytest

from app import metrics
from app.backlog import figures, waiting
from app.config import Destination
from app.journal import DeliveryState
from app.refusals import ALREADY_THERE
from tests.support_commitment import TITLE, Archive, send_report
from tests.support_delivery import Node, started
from tests.support_port import free_port

RESULTS = 4


@pytest.fixture
def archive():
    """Start PACS; each ends with the test."""
    with started(Archive) as start:
        yield start


@pytest.fixture
def node(tmp_path):
    """Make a node that owes four results; it ends with the test."""
    with started(partial(Node, tmp_path, results=RESULTS)) as make:
        yield make


def plain(pacs):
    """A destination that is believed."""
    return pacs.destination().model_copy(update={"commitment": None})


def pass_time(here, seconds):
    """Let the sender's thread go round for so long, and return the longest that it would have slept."""
    end, longest = here.clock.seconds + seconds, 0.0
    wait = here.turn()
    while here.clock.seconds < end:
        longest = max(longest, wait)
        wait = here.turn(max(wait, 0.5))
    return longest


def measured(here, name):
    """A figure of /metrics for the destination."""
    figured, folder = figures(here.journal), here.settings.data_dir
    counts = {"associations": 0, "rejected": 0}
    text = metrics.write_metrics(figured, ["pacs"], {}, {}, metrics.StageTimes(), {}, folder, ready=True, **counts)
    return float(re.search(rf'^{name}{{destination="pacs"}} (\S+)$', text, re.MULTILINE)[1])


def test_gone_for_an_hour(archive, node):
    port = free_port()
    here = node(Destination(name="pacs", ae_title=TITLE, host="127.0.0.1", port=port))
    assert pass_time(here, 3600) <= 5.0, "what a person puts back meanwhile is seen within seconds"
    assert (here.entry.state, here.entry.files) == ("stuck", RESULTS)
    assert 10 < here.entry.attempts < 20, "the pauses grow, up to a quarter of an hour"
    assert "is the PACS up" in here.entry.reason
    assert measured(here, "glioma_oldest_owed_seconds") > 3600
    assert measured(here, "glioma_deliveries_owed") == RESULTS
    failed = RESULTS * here.entry.attempts
    assert here.counted() == (0, failed, 0)
    pacs = archive(port=port)
    pass_time(here, 901)
    assert here.states() == {DeliveryState.DELIVERED}
    assert list(pacs.held.values()) == [1] * RESULTS
    assert here.counted() == (RESULTS, failed, 0)
    assert not here.kept_files


def test_one_that_refuses_for_good(archive, node):
    pacs = archive()
    pacs.on_store = lambda event: 0xC000
    here = node(plain(pacs), refusals_allowed=2)
    pass_time(here, 30)
    assert here.states() == {DeliveryState.DEAD}
    assert here.counted() == (0, RESULTS, RESULTS)


FAULTS = {
    "out of resources": (lambda event: 0xA700, "failure 0xA700"),
    "does not understand": (lambda event: 0xC000, "failure 0xC000"),
    "processing failure": (lambda event: 0x0110, "failure 0x0110"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_that_refuses_for_a_while(archive, node, fault):
    pacs = archive()
    pacs.on_store, told = FAULTS[fault]
    here = node(plain(pacs))
    pass_time(here, 30)
    assert here.entry.state == "stuck"
    assert here.entry.reason == told
    pacs.on_store = lambda event: 0x0000
    pass_time(here, 60)
    assert here.states() == {DeliveryState.DELIVERED}
    assert list(pacs.held.values()) == [1] * RESULTS


def test_one_that_does_not_know_us_for_a_while(archive, node):
    pacs = archive()
    pacs.knows("SOMEBODY")
    here = node(plain(pacs))
    pass_time(here, 120)
    assert "rejected us" in here.entry.reason
    assert here.entry.state == "stuck"
    pacs.knows()
    pass_time(here, 120)
    assert here.states() == {DeliveryState.DELIVERED}


def test_one_that_answers_warnings(archive, node):
    pacs = archive()
    pacs.on_store = lambda event: 0xB000
    here = node(plain(pacs))
    here.turn()
    assert here.states() == {DeliveryState.DELIVERED}
    assert {row.note for row in here.journal.deliveries("j1")} == {"warning 0xB000"}


def test_one_that_aborts_in_the_middle_again_and_again(archive, node):
    pacs = archive()
    came = []

    def abort_each_second(event):
        came.append(event.request.AffectedSOPInstanceUID)
        if len(came) % 2 == 0:
            event.assoc.abort()
        return 0x0000

    pacs.on_store = abort_each_second
    here = node(plain(pacs))
    here.turn()
    assert here.entry.state == "stuck"
    assert here.entry.files == RESULTS - 1
    pass_time(here, 300)
    assert here.states() == {DeliveryState.DELIVERED}
    assert len(pacs.held) == RESULTS


def test_one_that_stores_and_loses_its_answer_is_sent_no_second_object(archive, node):
    """Sent again under its UID: a PACS that then says that it has it already, has it."""
    pacs = archive()
    lost = []

    def lose_the_first_answer(event):
        uid = event.request.AffectedSOPInstanceUID
        if not lost:
            lost.append(uid)
            pacs.held[str(uid)] = 1
            event.assoc.abort()
        return ALREADY_THERE if str(uid) in pacs.held else 0x0000

    pacs.on_store = lose_the_first_answer
    here = node(plain(pacs), refusals_allowed=1)
    pass_time(here, 30)
    assert here.states() == {DeliveryState.DELIVERED}
    assert list(pacs.held.values()) == [1] * RESULTS
    assert [row.note for row in here.journal.deliveries("j1") if row.note] == ["was there already"]


def test_one_bad_day(archive, node):
    """All of it, one after the other, to one PACS that is held to commitment; it loses half of what it took, too."""
    port = free_port()
    away = Destination(name="pacs", ae_title=TITLE, host="127.0.0.1", port=port, commitment={"stay_seconds": 0.0})
    here = node(away)
    pass_time(here, 3600)
    reasons = [here.entry.reason]

    pacs = archive(port=port)
    pacs.knows("SOMEBODY")
    pass_time(here, 1000)
    reasons.append(here.entry.reason)

    pacs.knows()
    pacs.on_store = lambda event: 0xA700
    pass_time(here, 1000)
    reasons.append(here.entry.reason)

    aborted = threading.Event()

    def abort_once(event):
        if len(pacs.held) == 2 and not aborted.is_set():
            aborted.set()
            event.assoc.abort()
        return 0xB000

    pacs.on_store = abort_once
    pass_time(here, 2000)
    assert aborted.is_set()
    assert here.states() == {DeliveryState.STORED}
    assert measured(here, "glioma_deliveries_uncommitted") == RESULTS
    assert measured(here, "glioma_deliveries_owed") == 0

    lost = sorted(pacs.held)[:2]
    for uid in lost:
        del pacs.held[uid]
    pacs.on_store = lambda event: 0x0000
    open_ones = {row.request_uid for row in here.journal.deliveries("j1")}
    for number, (request_uid, _) in enumerate(list(pacs.requests)):
        expected = 0x0000 if request_uid in open_ones else 0x0115
        assert send_report(here.port, pacs.answer(number)) == expected
    reasons.append(here.entry.reason)
    assert here.entry.files == 2

    pass_time(here, 1000)
    assert set(pacs.requests[-1][1]) <= set(lost)
    answered = 0
    for row in {row.request_uid for row in here.journal.deliveries("j1") if row.request_uid}:
        (number,) = [n for n, (request_uid, _) in enumerate(pacs.requests) if request_uid == row]
        answered += send_report(here.port, pacs.answer(number)) == 0x0000
    assert answered
    here.turn()
    assert here.states() == {DeliveryState.DELIVERED}
    assert len(pacs.held) == RESULTS
    assert waiting(here.journal) == []
    assert not here.kept_files
    for reason, told in zip(reasons, ("is the PACS up", "rejected us", "failure 0xA700", "not kept"), strict=True):
        assert told in reason
