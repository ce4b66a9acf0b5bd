"""A flood of rejected peers: few lines, the exact count, and the next single one at once."""

from __future__ import annotations

import re
import threading
from xml.etree import ElementTree

import pytest

from app import audit_flood
from app.audit import AuditTrail, Party
from app.audit_flood import FIRST, MOST_WINDOWS, SEVERAL, WINDOW_SECONDS, Rejections
from app.config import Peer
from app.receiver import Receiver
from tests.support_dicom import NODE_TITLE, PEER_TITLE, Clock, node_settings
from tests.support_peer import associate

STRANGER = Party("STRANGER", "10.0.0.9")
UNKNOWN = "not a known peer by title and address"


class Written:
    """What was written down, a line each."""

    def __init__(self) -> None:
        self.lines: list[tuple[Party, str, bool]] = []

    def __call__(self, peer: Party, reason: str, for_now: bool) -> None:
        self.lines.append((peer, reason, for_now))

    @property
    def count(self) -> int:
        """How many rejections the lines tell of."""
        return sum(
            int(found[1]) if (found := re.match(r"further rejections within a minute: (\d+),", reason)) else 1
            for _, reason, _ in self.lines
        )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def written():
    return Written()


@pytest.fixture
def rejections(clock, written):
    made = Rejections(written, clock)
    yield made
    made.close()


def test_the_first_are_written_each_and_the_rest_by_their_count(rejections, written, clock):
    alone = [rejections.tell(STRANGER, UNKNOWN) for _ in range(1_000)]
    assert alone == [True] * FIRST + [False] * (1_000 - FIRST)
    assert written.lines == [(STRANGER, UNKNOWN, False)] * FIRST
    clock.seconds += WINDOW_SECONDS - 0.1
    rejections.sweep()
    assert len(written.lines) == FIRST, "its minute is not over"
    clock.seconds += 0.1
    rejections.sweep()
    told = f"further rejections within a minute: {1_000 - FIRST}, of STRANGER: {UNKNOWN}"
    assert written.lines[FIRST:] == [(STRANGER, told, False)]
    rejections.sweep()
    rejections.close()
    assert written.count == 1_000, "once"


def test_after_quiet_a_single_one_is_written_at_once(rejections, written, clock):
    for _ in range(3 * FIRST):
        rejections.tell(STRANGER, UNKNOWN)
    clock.seconds += WINDOW_SECONDS
    assert rejections.tell(STRANGER, UNKNOWN)
    assert [reason.partition(":")[0] for _, reason, _ in written.lines[FIRST:]] == [
        "further rejections within a minute",
        UNKNOWN,
    ]
    clock.seconds += 10 * WINDOW_SECONDS
    assert rejections.tell(STRANGER, UNKNOWN)
    assert written.count == 3 * FIRST + 2


def test_a_flood_that_goes_on_is_told_every_minute(rejections, written, clock):
    for _ in range(600):
        rejections.tell(STRANGER, UNKNOWN)
        clock.seconds += 1.0
    rejections.close()
    assert written.count == 600
    assert len(written.lines) == 10 * (FIRST + 1)


def test_another_address_or_reason_is_not_hidden_by_a_flood(rejections, written):
    for _ in range(100):
        rejections.tell(STRANGER, UNKNOWN)
    assert rejections.tell(Party("STRANGER", "10.0.0.10"), UNKNOWN)
    assert rejections.tell(STRANGER, "the node stops", for_now=True)
    assert written.lines[-1] == (STRANGER, "the node stops", True)


def test_titles_and_called_titles_that_change_each_time_make_no_more_lines(rejections, written):
    kind = f"it calls another title than {NODE_TITLE}"
    for number in range(1_000):
        peer = Party(f"T{number}", STRANGER.address)
        rejections.tell(peer, UNKNOWN)
        rejections.tell(peer, f"it calls C{number}, not {NODE_TITLE}", kind=kind)
    rejections.close()
    assert len(written.lines) == 2 * (FIRST + 1)
    assert written.count == 2_000
    peer, told, _ = written.lines[-2]
    assert peer == Party(SEVERAL, STRANGER.address)
    named = ", ".join(f"T{number}" for number in range(FIRST, FIRST + 3))
    assert told.endswith(f"of {named} and others: {UNKNOWN}")
    assert written.lines[-1][1].endswith(kind)


def test_addresses_and_reasons_without_end_take_no_memory_and_few_lines(rejections, written):
    for number in range(10_000):
        rejections.tell(Party("T", f"10.0.{number // 250}.{number % 250}"), f"reason {number}", for_now=number != 9_999)
    assert len(rejections._windows) <= MOST_WINDOWS + 1
    assert len(written.lines) == MOST_WINDOWS + FIRST
    rejections.close()
    assert written.count == 10_000
    peer, told, for_now = written.lines[-1]
    assert peer == Party("T", SEVERAL)
    assert "too many to tell apart" in told
    assert not for_now, "the gravest of them counts"


def test_one_that_may_come_again_is_no_alarm_by_its_number(rejections, written):
    for _ in range(2 * FIRST):
        rejections.tell(STRANGER, "as many associations as may be are open", for_now=True)
    rejections.close()
    assert [for_now for _, _, for_now in written.lines] == [True] * (FIRST + 1)


def test_what_is_gathered_is_written_by_itself_when_its_minute_is_over(written, monkeypatch):
    monkeypatch.setattr(audit_flood, "WINDOW_SECONDS", 0.3)
    rejections = Rejections(written)
    for _ in range(FIRST):
        rejections.tell(STRANGER, UNKNOWN)
    assert rejections._timer is None, "nothing is to be waited for"
    for _ in range(50):
        rejections.tell(STRANGER, UNKNOWN)
    rejections._timer.join(10)
    assert written.count == FIRST + 50
    assert rejections._timer is None, "no thread goes on for nothing"
    rejections.close()
    assert written.count == FIRST + 50


def test_many_threads_lose_no_count(written, monkeypatch):
    monkeypatch.setattr(audit_flood, "WINDOW_SECONDS", 0.02)
    rejections = Rejections(written)

    def flood(address):
        for number in range(2_000):
            rejections.tell(Party(f"T{number % 7}", address), f"reason {number % 3}")

    threads = [threading.Thread(target=flood, args=(f"10.0.0.{number % 2}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rejections.close()
    assert written.count == 6 * 2_000
    assert rejections.tell(STRANGER, UNKNOWN), "after the end each is written"
    assert written.count == 6 * 2_000 + 1
    assert rejections._timer is None


def test_the_line_has_the_form_of_the_others(tmp_path):
    trail = AuditTrail(tmp_path / "audit.log", NODE_TITLE)
    rejections = Rejections(lambda peer, reason, for_now: trail.turned_away(peer, reason, for_now=for_now))
    for number in range(100):
        rejections.tell(Party(f"T{number}", STRANGER.address), UNKNOWN)
    rejections.close()
    found = [ElementTree.fromstring(line) for line in (tmp_path / "audit.log").read_bytes().splitlines()]  # noqa: S314
    assert len(found) == FIRST + 1
    assert len({tuple(element.tag for element in message.iter()) for message in found}) == 1
    last = found[-1]
    assert last.find("EventIdentification/EventID").get("csd-code") == "110113"
    assert last.findtext("EventIdentification/EventOutcomeDescription").startswith(
        f"further rejections within a minute: {100 - FIRST}, of T5, T6, T7 and others: not a known peer"
    )
    assert last.findall("ActiveParticipant")[1].get("NetworkAccessPointID") == STRANGER.address


def test_a_receiver_that_is_flooded_writes_few_lines_and_the_count_at_its_end(tmp_path, caplog):
    receiver = Receiver(node_settings(tmp_path / "node", peers=(Peer(ae_title=PEER_TITLE),)))
    for number in range(4 * FIRST):
        assert associate(receiver.port, calling=f"STRANGER{number}").is_rejected
        assert associate(receiver.port, called=f"OTHER{number}").is_rejected
    receiver.close()
    trail = (tmp_path / "node" / "audit.log").read_text().splitlines()
    assert len(trail) == 2 * (FIRST + 1)
    assert sum(f"further rejections within a minute: {3 * FIRST}, of" in line for line in trail) == 2
    assert sum(" calls 'OTHER" in message for message in caplog.messages) == FIRST
    assert sum("is not a known peer" in message for message in caplog.messages) == FIRST
    sums = [message for message in caplog.messages if "associations rejected at 127.0.0.1: further" in message]
    assert len(sums) == 2
