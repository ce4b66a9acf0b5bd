"""The long tests in short, so that they work when they are wanted; figures of the long ones: docs/durability.md."""

from __future__ import annotations

from collections import Counter

import pytest

from app.config import Destination
from app.files import instance_name, study_key
from app.sender import send_files
from tests.support_dicom import NODE_TITLE, PEER_TITLE, save, small_mr
from tests.torture import soak as soak_module
from tests.torture.kills import Tally, content_of, torture
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


@pytest.mark.parametrize(("hits", "sound"), [(0, False), (7, False), (8, True)])
def test_a_run_whose_kills_miss_proves_nothing(hits, sound):
    tally = Tally(rounds=10, kills=Counter(node=hits), accepted={"1.2": {"1.2.3": ""}}, kept_instances=1)
    assert tally.sound == sound


def test_an_instance_is_known_by_its_content_whoever_wrote_the_head(listen, tmp_path):
    sent = save(small_mr("1.2.3"), tmp_path / "1.dcm")
    peer = Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=listen())
    send_files([sent], peer, PEER_TITLE, 10)
    uid, digest = content_of(sent)
    kept = tmp_path / "node" / "inbox" / study_key("1.2.3") / instance_name(uid)
    assert kept.read_bytes() != sent.read_bytes()
    assert content_of(kept) == (uid, digest)
    whole = kept.read_bytes()
    for spoilt in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole[:100], b""):
        kept.unlink()
        kept.write_bytes(spoilt)
        assert content_of(kept) != (uid, digest)


def test_a_few_studies_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(soak_module, "IDLE_SECONDS", 1.0)
    monkeypatch.setattr(soak_module, "COMPRESSED_EVERY", 1)
    result = soak(tmp_path, 2, lambda _: None)
    assert result.done == 2
    assert {"node", "receiver", "worker", "decoder"} <= result.end.keys()
    assert not [fault for fault in result.faults if not fault.startswith(NEEDS_MANY_STUDIES)]
