"""A clock that is set ends no association, and keeps no silent peer."""

from __future__ import annotations

import threading
import time

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from pynetdicom.timer import Timer

import app.listener  # noqa: F401 - as in receiver and node
from tests.support_dicom import NODE_TITLE, PEER_TITLE


@pytest.fixture
def leap(monkeypatch):
    """Set the clock of the day ahead or back, by seconds."""
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    return lambda seconds: shift.__setitem__(0, seconds)


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_timer_runs_on(leap, hours):
    timer = Timer(60.0)
    timer.start()
    leap(hours * 3600.0)
    assert 0 < timer.remaining <= 60
    assert not timer.expired


def test_an_association_lives_through_a_clock_that_is_set_ahead(listen, leap):
    ae = AE(ae_title=PEER_TITLE)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", listen(), ae_title=NODE_TITLE)
    assert association.send_c_echo().Status == 0
    leap(36_000.0)
    threading.Event().wait(1.0)
    assert association.send_c_echo().Status == 0
    association.release()


def test_a_silent_peer_is_ended_in_time_though_the_clock_is_set_back(listen, leap):
    ae = AE(ae_title=PEER_TITLE)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", listen(network_timeout_seconds=1.0), ae_title=NODE_TITLE)
    assert association.is_established
    leap(-36_000.0)
    association.join(30.0)
    assert association.is_aborted
