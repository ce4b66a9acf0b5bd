"""A destination's thread that is stuck is seen and told; one that is slow, or moves for a long time, is not blamed."""

from __future__ import annotations

import logging
import threading

import pytest

from app.config_delivery import StowConfig
from app.heartbeat import SLACK_SECONDS, Heartbeat, place_of
from app.requestor import CONNECT_SECONDS, LARGEST_PDU_BYTES, _Layer
from app.sender import Courier
from app.stow import SLOWEST_BYTES_PER_SECOND, StowCourier
from tests.support_dicom import Clock, save, small_mr
from tests.test_delivery_faults import RESULTS, archive, owing, plain  # noqa: F401 - fixtures

TIMEOUT = 5.0
"""Of `owing`."""
LONGEST = TIMEOUT + CONNECT_SECONDS + SLACK_SECONDS


@pytest.fixture
def clock():
    return Clock()


def looked(heartbeat):
    """What two looks see, as those of a node that goes round."""
    heartbeat.look()
    heartbeat.look()
    return heartbeat.is_stuck


def test_a_step_has_the_time_that_it_asks_for_and_no_more(clock):
    heartbeat = Heartbeat(clock)
    for seconds in (0.0, 1_000.0):
        heartbeat.step(seconds)
        clock.seconds += seconds + SLACK_SECONDS
        assert not looked(heartbeat)
        clock.seconds += 0.1
        assert looked(heartbeat)
        assert heartbeat.since_step() == pytest.approx(seconds + SLACK_SECONDS + 0.1)
        heartbeat.step()
        assert not looked(heartbeat)


def test_a_look_tells_of_a_change_alone(clock):
    heartbeat = Heartbeat(clock)
    assert not heartbeat.look()
    clock.seconds += 1_000
    assert [heartbeat.look() for _ in range(4)] == [False, True, False, False]
    heartbeat.step()
    assert [heartbeat.look() for _ in range(2)] == [True, False]


def test_a_machine_that_was_asleep_has_no_stuck_thread(clock):
    """Whoever looks may be awake before the thread."""
    heartbeat = Heartbeat(clock)
    for _ in range(3):
        clock.seconds += 100_000
        assert not heartbeat.look()
        heartbeat.step()
        assert not heartbeat.look()
    assert not heartbeat.is_stuck


def test_a_place_is_told_by_file_and_line():
    let_go = threading.Event()
    thread = threading.Thread(target=let_go.wait, args=(30,))
    assert place_of(thread) == "no place"
    thread.start()
    assert "threading.py:" in place_of(thread)
    let_go.set()
    thread.join()
    assert place_of(thread) == "no place"


@pytest.fixture
def stuck(monkeypatch):
    """Every association is asked for in a call that does not return before the test says so."""
    reached, let_go = threading.Event(), threading.Event()
    associate = Courier._associate

    def never(self, *args, **kwargs):
        self._step()
        reached.set()
        let_go.wait(60)
        return associate(self, *args, **kwargs)

    monkeypatch.setattr(Courier, "_associate", never)
    yield reached, let_go
    let_go.set()


def test_a_stuck_thread_is_told_once_and_goes_on_if_it_can(archive, owing, stuck, clock, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    reached, let_go = stuck
    here = owing(plain(archive()), steady=clock)
    sender, thread = here.sender, here.thread
    assert reached.wait(10)

    def look():
        sender.revive()
        sender.revive()
        return sender.is_alive()

    clock.seconds += LONGEST
    assert look(), "its time-outs allow that"
    clock.seconds += 1
    assert not look()
    assert not look()
    told = [record.message for record in caplog.records if "is stuck" in record.message]
    assert len(told) == 1
    assert f"sender-pacs is stuck: for {LONGEST + 1:.0f} s" in told[0]
    assert "test_heartbeat.py" in told[0], "where"
    assert here.thread is thread, "no second one beside it"
    let_go.set()
    here.until(lambda: here.delivered() == RESULTS)
    assert look()
    assert sum("moves again" in message for message in caplog.messages) == 1


def test_the_clock_on_the_wall_may_jump(archive, owing, clock):  # noqa: F811
    here = owing(plain(archive()), now=clock)
    for seconds in (1e9, -2e9):
        clock.seconds += seconds
        here.sender.revive()
        here.sender.revive()
        assert here.sender.is_alive()


def test_a_transfer_that_moves_is_not_stuck_however_long_it_takes(tmp_path, archive, clock, monkeypatch):  # noqa: F811
    """Each PDU takes nearly as long as the time-outs allow."""
    heartbeat, seen = Heartbeat(clock), []
    send = _Layer._send

    def slowly(self, pdu):
        clock.seconds += LONGEST - 1
        seen.append(looked(heartbeat))
        send(self, pdu)

    monkeypatch.setattr(_Layer, "_send", slowly)
    pacs = plain(archive())
    files = [save(small_mr(number=number, size=1024), tmp_path / f"{number}.dcm") for number in range(3)]
    outcomes = Courier(pacs, "GLIOMA_NODE", TIMEOUT, heartbeat.step).send(files)
    assert all(outcome.delivered for outcome in outcomes)
    assert len(seen) > 3 * 2 * 1024 * 1024 / LARGEST_PDU_BYTES
    assert not any(seen)


def test_a_request_over_the_web_has_the_time_that_its_size_gives_it(tmp_path):
    path, steps = save(small_mr(size=1024), tmp_path / "1.dcm"), []
    courier = StowCourier("web", StowConfig(url="http://127.0.0.1:1"), TIMEOUT, steps.append)
    with pytest.raises(Exception, match="cannot be reached"):
        courier.send([path], lambda outcome: None)
    assert max(steps) == pytest.approx(TIMEOUT + path.stat().st_size / SLOWEST_BYTES_PER_SECOND)
