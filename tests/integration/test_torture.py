"""The long tests in short, so that they work when they are wanted; figures of the long ones: docs/durability.md."""

from __future__ import annotations

import pytest

from tests.torture import soak as soak_module
from tests.torture.kills import torture
from tests.torture.soak import soak

pytestmark = pytest.mark.timeout(1800)
NEEDS_MANY_STUDIES = ("memory", "descriptors", "threads", "idle")
"""Faults that are none in a node that has hardly begun."""


def test_kills_lose_nothing_and_double_nothing(tmp_path):
    told = []
    first = torture(tmp_path, 1, seed=28, tell=told.append)
    assert first.sound, first.wrong
    assert first.result_sets == first.revisions >= len(first.accepted) > 0
    # As after an interruption: the second kill hits what the first run left.
    both = torture(tmp_path, 2, seed=28, tell=told.append)
    assert both.sound, both.wrong
    assert both.rounds == 2
    assert both.accepted.keys() >= first.accepted.keys()


def test_a_few_studies_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(soak_module, "IDLE_SECONDS", 1.0)
    result = soak(tmp_path, 2, lambda _: None)
    assert result.done == 2
    assert {"node", "receiver", "worker"} <= result.end.keys()
    assert not [fault for fault in result.faults if not fault.startswith(NEEDS_MANY_STUDIES)]
