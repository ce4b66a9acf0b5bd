"""Who is let in where something fails on the way: nobody; and who is told of, that came without TLS."""

from __future__ import annotations

import socket
import threading
from xml.etree import ElementTree

import pytest

from app.audit_flood import FIRST
from app.places import Places
from app.witness import Witness
from tests.support_certificates import Authority
from tests.support_dicom import PEER_TITLE
from tests.support_peer import associate
from tests.support_receiver import until


def ask(port, calling=PEER_TITLE):
    association = associate(port, calling=calling)
    if association.is_established:
        association.release()
        return "let in"
    return "rejected" if association.is_rejected else "no word"


def failing(*_, **__):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("owner", "name", "calling"),
    [(Witness, "turned_away", "STRANGER"), (Places, "admit", PEER_TITLE), (Witness, "let_in", PEER_TITLE)],
)
def test_a_fault_while_a_peer_is_looked_at_lets_nobody_in(listen, monkeypatch, caplog, owner, name, calling):
    port = listen()
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, failing)
        assert ask(port, calling) == "rejected"
    assert "association rejected: RuntimeError at admission.py" in caplog.text
    assert ask(port) == "let in"


def test_where_no_thread_is_to_be_had_a_flood_is_still_rejected_and_counted(listen, tmp_path, monkeypatch):
    port = listen()
    with monkeypatch.context() as broken:
        broken.setattr(threading.Timer, "start", failing)
        assert [ask(port, "STRANGER") for _ in range(FIRST + 2)] == ["rejected"] * (FIRST + 2)
    # The next one finds a thread that will tell.
    assert ask(port, "STRANGER") == "rejected"
    assert [thread for thread in threading.enumerate() if thread.name == "rejections"]
    assert (tmp_path / "node" / "audit.log").read_bytes().count(b"not a known peer") == FIRST


def test_the_audit_trail_tells_of_those_with_whom_no_tls_came_about(listen, tmp_path):
    port = listen(tls=Authority(tmp_path).issue("node").files)
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            plain.sendall(b"\x01\x00\x00\x00\x00\x04abcd" + bytes(100))
            assert plain.recv(1000)[:1] in {b"", b"\x15"}  # the end, or an alert
    trail = tmp_path / "node" / "audit.log"
    assert until(lambda: trail.exists() and trail.read_bytes().count(b"no TLS: it does not speak TLS") == 2)
    for line in trail.read_bytes().splitlines():
        message = ElementTree.fromstring(line)  # noqa: S314 - our own
        assert message.find("EventIdentification").get("EventOutcomeIndicator") == "8"
        assert message.findall("ActiveParticipant")[1].get("NetworkAccessPointID") == "127.0.0.1"
