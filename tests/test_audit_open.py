"""A receiver that is killed: what an association brought by then is in the trail at the next start, once."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.audit import TRAIL, AuditTrail
from app.audit_open import OPEN, UNENDED, tell_unended
from app.config import Peer
from app.files import study_key
from app.receiver import Receiver
from app.witness import Witness
from tests.support_audit import code_of, ends, messages_in, objects, told
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, small_mr
from tests.support_peer import associate
from tests.support_port import free_port
from tests.support_receiver import RunningReceiver, until
from tests.test_audit import MR


@pytest.fixture
def settings(tmp_path):
    return node_settings(tmp_path / "node", port=free_port(), peers=(Peer(ae_title=PEER_TITLE),), processes=2)


@pytest.fixture
def trail(settings):
    return settings.data_dir / TRAIL


def notes(settings):
    folder = settings.data_dir / OPEN
    return list(folder.iterdir()) if folder.exists() else []


def counts(message):
    return {each.get("UID"): each.get("NumberOfInstances") for each in message.iter("SOPClass")}


def started_anew(settings):
    """Start the receiver once more, as the node does, and end it."""
    receiver = Receiver(settings)
    receiver.close()


def test_what_an_association_brought_before_the_receiver_was_killed_is_told_at_the_next_start_once(settings, trail):
    first = RunningReceiver(settings).listen()
    try:
        ended, lost, beside = (first.associate() for _ in range(3))
        assert ended.send_c_store(small_mr("1.2.9")).Status == 0x0000
        ended.release()
        assert until(lambda: len(messages_in(trail)) == 1)
        for number in range(3):
            assert lost.send_c_store(small_mr("1.2.1", number=number)).Status == 0x0000
        assert lost.send_c_store(small_mr("1.2.2")).Status == 0x0000
        assert beside.send_c_echo().Status == 0x0000
        assert len(notes(settings)) == 1
    finally:
        first.end()
    started_anew(settings)
    _, *of_lost = messages_in(trail)
    assert [(code_of(message), objects(message), counts(message)) for message in of_lost] == [
        ("110104", ["1.2.1"], {MR: "3"}), ("110104", ["1.2.2"], {MR: "1"}),
    ]  # fmt: skip
    assert {told(message) for message in of_lost} == {("4", UNENDED)}
    assert ends(of_lost[0]) == [(PEER_TITLE, "110153", "true"), (NODE_TITLE, "110152", "false")]
    assert not notes(settings)
    written = trail.read_bytes()
    assert b"Secret" not in written
    started_anew(settings)
    assert trail.read_bytes() == written


def test_an_association_that_ended_leaves_no_note(settings, trail):
    receiver = Receiver(settings)
    association = associate(receiver.port, MR)
    association.send_c_store(small_mr("1.2.3"))
    assert len(notes(settings)) == 1
    association.release()
    assert until(lambda: not notes(settings))
    receiver.close()
    assert len(messages_in(trail)) == 1


def test_notes_that_were_cut_short_or_are_of_nothing_kept_are_passed_over(settings, trail):
    folder = settings.data_dir / OPEN
    folder.mkdir(parents=True)
    (folder / "a").write_text('{"title": "A", "address": "10.0.0.7", "stu')
    (folder / "b").write_text('{"title": "A", "address": "10.0.0.7", "study": "1.2.3", "since": 0}\n7\n\xff', "latin-1")
    tell_unended(settings.data_dir, settings.inbox_dir, AuditTrail(trail, NODE_TITLE))
    assert not trail.exists()
    assert not notes(settings)


def test_a_file_that_cannot_be_read_counts_as_of_an_unknown_class(settings, trail):
    folder, study = settings.data_dir / OPEN, settings.inbox_dir / study_key("1.2.3")
    for each in (folder, study):
        each.mkdir(parents=True)
    (study / "x.dcm").write_bytes(b"nothing")
    (folder / "a").write_text('{"title": "A", "address": "10.0.0.7", "study": "1.2.3", "since": 0}\n')
    tell_unended(settings.data_dir, settings.inbox_dir, AuditTrail(trail, NODE_TITLE))
    (message,) = messages_in(trail)
    assert counts(message) == {"unknown": "1"}


def test_a_disk_that_takes_no_note_costs_no_image(settings, trail, monkeypatch, caplog):
    receiver = Receiver(settings)
    whole = Path.open

    def full(self, *args, **kwargs):
        if self.parent.name == OPEN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    association = associate(receiver.port, MR)
    assert association.send_c_store(small_mr("1.2.3")).Status == 0x0000
    association.release()
    receiver.close()
    assert len(messages_in(trail)) == 1
    assert "cannot be noted: No space left on device" in caplog.text


def test_who_closes_waits_for_an_end_that_is_being_written():
    begun, go_on, written = threading.Event(), threading.Event(), []

    class Slow:
        def visited(self, *said):
            begun.set()
            go_on.wait(30)
            written.append(said)

    assoc = type("Association", (), {})()
    assoc.requestor = SimpleNamespace(primitive=None, address="10.0.0.9")
    assoc.dul, assoc.accepted_contexts = SimpleNamespace(release_asked=True), [1]
    witness = Witness(Slow())
    witness.let_in(assoc)
    threads = [
        threading.Thread(target=witness.ended, args=(SimpleNamespace(assoc=assoc),)),
        threading.Thread(target=witness.close),
    ]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    threads[1].join(0.5)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(written) == 1
