"""A destination that is slow, mad or lying: it holds no thread, fills no memory, and nothing it did not take counts."""

from __future__ import annotations

import ssl
import struct
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt

from app.config import Destination, SenderConfig
from app.errors import PeerError
from app.requestor import MOST_UNASKED, Requestor
from app.sender import NO_ANSWER, Courier, echo, send_files
from tests.support_certificates import Authority
from tests.support_dicom import result_files, save, small_mr
from tests.support_speaker import ACTION, DATA, ECHO, STORE, Speaker, accept, answer
from tests.torture.peers import BREAKS, command, part, pdu

SECONDS = 1.0
"""How long a peer may be silent, in these tests."""
SLACK = 6.0
"""What a busy machine may be late, in seconds."""


@pytest.fixture
def speaker():
    """Start peers; each ends with the test. No thread of ours outlives a peer that misbehaves."""
    before, opened = set(threading.enumerate()), []

    def start(script, context=None):
        opened.append(Speaker(script, context))
        return opened[-1]

    yield start
    deadline = time.monotonic() + SLACK
    while left := [t for t in set(threading.enumerate()) - before if "reactor" in t.name or "Requestor" in t.name]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("authority"))
    return authority.issue("peer"), authority.issue("node")


@pytest.fixture(params=["plain", "TLS"])
def start(request, speaker, certificates):
    """Start a peer, over TLS too, and return it with a destination that is it."""
    shown, ours = certificates
    over_tls = request.param == "TLS"

    def begin(script):
        context = None
        if over_tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(shown.certificate, shown.key)
        peer = speaker(script, context)
        return peer, peer.destination(ours.destination() if over_tls else None)

    return begin


def send(destination, files):
    return send_files(files, destination, "NODE", SECONDS)


def drip(dialogue):
    """Begin a PDU of 1,000 bytes, and send one of them now and then."""
    dialogue.say(struct.pack(">BxL", DATA, 1000))
    while True:
        dialogue.say(b"\0")
        time.sleep(0.2)


def flood(dialogue, header):
    """Say a length, and go on until the connection is closed."""
    dialogue.say(header)
    while True:
        dialogue.say(bytes(100_000))


def accepted(then):
    def script(dialogue):
        dialogue.say(accept([1]))
        then(dialogue)

    return script


# Time and memory


def test_a_peer_whose_answer_to_the_request_trickles_is_given_up(start):
    _, destination = start(drip)
    begun = time.monotonic()
    with pytest.raises(PeerError, match="ended the association before it began"):
        echo(destination, SenderConfig(network_timeout_seconds=SECONDS))
    assert time.monotonic() - begun < 2 * SECONDS + SLACK


def test_a_peer_whose_answer_to_an_object_trickles_is_given_up(start, tmp_path):
    def trickle(dialogue):
        dialogue.hear_request()
        drip(dialogue)

    _, destination = start(accepted(trickle))
    begun = time.monotonic()
    (outcome,) = send(destination, result_files(tmp_path, 1))
    assert (outcome.delivered, outcome.note) == (False, NO_ANSWER)
    assert time.monotonic() - begun < 3 * SECONDS + SLACK


def test_a_peer_that_takes_nothing_of_an_object_is_given_up(start, tmp_path):
    let_go = threading.Event()
    _, destination = start(accepted(lambda _: let_go.wait(60)))
    begun = time.monotonic()
    (outcome,) = send(destination, [save(small_mr(size=2500), tmp_path / "large.dcm")])
    assert not outcome.delivered
    assert time.monotonic() - begun < 3 * SECONDS + SLACK
    let_go.set()


@pytest.mark.parametrize("length", [1_000_000, 0xFFFFFFFF])
def test_a_length_beyond_any_answer_ends_the_connection_before_memory_is_taken(start, length):
    peer, destination = start(lambda dialogue: flood(dialogue, struct.pack(">BxL", 2, length)))
    with pytest.raises(PeerError):
        echo(destination, SenderConfig(network_timeout_seconds=30.0))
    assert peer.cut_off.wait(SLACK)
    # What the kernel took before the connection was closed.
    assert peer.dialogues[0].sent < 20_000_000


def test_an_answer_that_never_ends_is_cut_off(start):
    def endless(dialogue):
        dialogue.hear_request()
        while True:
            dialogue.say(pdu(DATA, part(1, 1, bytes(16_000))))

    peer, destination = start(accepted(endless))
    begun = time.monotonic()
    with pytest.raises(PeerError, match="does not answer C-ECHO"):
        echo(destination, SenderConfig(network_timeout_seconds=30.0))
    assert peer.cut_off.wait(SLACK)
    assert time.monotonic() - begun < 30.0
    assert peer.dialogues[0].sent < 30_000_000


def test_a_flood_of_messages_that_nobody_asked_for_is_cut_off(start):
    """Reports of storage commitment, each of which pynetdicom gives a thread of its own."""
    report = command(
        e0002="1.2.840.10008.1.20.1", e0100=0x0100, e0110=1, e0800=0x0101, e1000="1.2.840.10008.1.20.1.1", e1002=1
    )

    def tell(dialogue):
        dialogue.say(answer(ACTION, dialogue.hear_request(), e1008=1))
        for _ in range(100_000):
            dialogue.say(pdu(DATA, part(1, 3, report)))

    peer, destination = start(accepted(tell))
    heard = []

    def take(event):
        heard.append(event)
        return 0x0115, None

    assert Courier(destination, "NODE", 5.0).ask("1.2.3", [], take, lambda: True, 60.0) == ""
    assert peer.cut_off.wait(SLACK)
    assert len(heard) <= MOST_UNASKED + 1


@pytest.mark.parametrize("longest", [1, 7, 500])
def test_a_peer_that_takes_only_crumbs_gets_nothing(start, tmp_path, longest):
    def crumbs(dialogue):
        dialogue.say(accept([1], longest=longest))
        dialogue.hear()

    _, destination = start(crumbs)
    with pytest.raises(PeerError, match=f"takes no PDU longer than {longest} bytes"):
        send(destination, result_files(tmp_path, 1))


def test_a_peer_that_takes_pdus_of_any_length_gets_none_that_is_as_long_as_an_object(start, tmp_path):
    lengths = []

    def measure(dialogue):
        dialogue.say(accept([1, 3], longest=0))
        while True:
            kind, content = dialogue.hear()
            lengths.append(len(content))
            if content[5] == 2:
                dialogue.say(answer(STORE, 1, content[4]))
            if kind == 5:
                return

    _, destination = start(measure)
    (outcome,) = send(destination, [save(small_mr(size=1000), tmp_path / "large.dcm")])
    assert outcome.delivered
    assert 100_000 < max(lengths) <= 131_072


# Answers to something else

SOP_CLASS = str(MRImageStorage)
OTHER_ANSWERS = {
    "of an earlier message": lambda message: answer(STORE, message - 1),
    "of a message that never was": lambda message: answer(STORE, 77),
    "without a message": lambda message: pdu(DATA, part(1, 3, command(e0100=STORE, e0800=0x0101, e0900=0))),
    "to another kind of request": lambda message: answer(ECHO, message),
    "without a status": lambda message: pdu(DATA, part(1, 3, command(e0100=STORE, e0120=message, e0800=0x0101))),
    "that is a request": lambda message: answer(1, message, e0002=SOP_CLASS, e0110=message, e1000="1.2.3"),
    "of nothing": lambda message: pdu(DATA, part(1, 3, b"")),
    "of noise": lambda message: pdu(DATA, part(1, 3, bytes(range(200)))),
}


@pytest.mark.parametrize("which", OTHER_ANSWERS)
def test_an_answer_to_something_else_is_none(speaker, tmp_path, which):
    """The second of two objects gets it; the first was taken as it should be."""
    wrong = []

    def script(dialogue):
        dialogue.say(accept([1, 3]))
        dialogue.say(answer(STORE, dialogue.hear_request()))
        wrong.append(dialogue.hear_request())
        dialogue.say(OTHER_ANSWERS[which](wrong[0]))
        dialogue.hear()

    outcomes = send(speaker(script).destination(), result_files(tmp_path, 3))
    assert wrong == [2]
    assert [outcome.delivered for outcome in outcomes] == [True, False, False]
    assert outcomes[1].note == NO_ANSWER
    assert not any(outcome.for_good for outcome in outcomes)


def test_an_answer_that_comes_twice_does_not_count_for_the_next_object(tmp_path):
    """A pynetdicom PACS that took the first object, says so twice, and refuses the second."""
    got = []

    def store(event):
        got.append(event.request.MessageID)
        if len(got) == 1:
            said = answer(STORE, event.request.MessageID, event.context.context_id)
            event.assoc.dul.socket.socket.sendall(said)
            return 0x0000
        return 0xA700

    ae = AE("PACS")
    ae.add_supported_context(MRImageStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.server_address[1])
    outcomes = send_files(result_files(tmp_path, 3), destination, "NODE", 5.0)
    assert [outcome.delivered for outcome in outcomes] == [True, False, False]
    server.shutdown()


def test_each_request_has_an_id_of_its_own(tmp_path):
    got = []

    def store(event):
        got.append(event.request.MessageID)
        return 0x0000

    ae = AE("PACS")
    ae.add_supported_context(MRImageStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.server_address[1])
    assert all(outcome.delivered for outcome in send_files(result_files(tmp_path, 5), destination, "NODE", 5.0))
    assert got == [1, 2, 3, 4, 5]
    server.shutdown()


@pytest.fixture
def association():
    """One with a PACS that answers C-ECHO."""
    ae = AE("PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(("127.0.0.1", 0), block=False)
    asking = Requestor("NODE", 5.0)
    asking.add_requested_context("1.2.840.10008.1.1")
    opened = asking.associate("127.0.0.1", server.server_address[1])
    yield opened
    opened.release()
    server.shutdown()


def test_ids_begin_anew_behind_the_last_one(association):
    association.dimse._asked = (object, 65_534)
    assert [association.send_c_echo().get("Status") for _ in range(3)] == [0, 0, 0]
    assert association.dimse._asked[1] == 2


def test_an_echo_counts_only_if_it_is_that_of_ours(speaker):
    def script(dialogue):
        dialogue.say(accept([1]))
        dialogue.say(answer(ECHO, dialogue.hear_request() + 1))
        dialogue.hear()

    with pytest.raises(PeerError, match="does not answer C-ECHO with Success"):
        echo(speaker(script).destination(), SenderConfig(network_timeout_seconds=5.0))


@pytest.mark.parametrize(("kind", "late"), [(ACTION, 1), (STORE, 0)])
def test_a_request_for_commitment_counts_only_if_its_answer_is_its_own(speaker, kind, late):
    def script(dialogue):
        dialogue.say(accept([1]))
        dialogue.say(answer(kind, dialogue.hear_request() + late))
        dialogue.hear()

    courier = Courier(speaker(script).destination(), "NODE", 5.0)
    assert courier.ask("1.2.3", [], lambda _: (0, None), lambda: False, 0.0) == NO_ANSWER


def test_an_answer_reaches_who_waits_for_it_though_the_association_looks_for_messages_too(association):
    """pynetdicom's own thread may be late in holding back: it then takes the answer, which nobody waits for there."""
    done = threading.Event()

    def look():
        while not done.is_set():
            association.dimse.get_msg()

    late = threading.Thread(target=look)
    late.start()
    assert [association.send_c_echo().get("Status") for _ in range(20)] == [0x0000] * 20
    done.set()
    late.join()


@pytest.mark.parametrize("ended", [False, True])
def test_nobody_waits_for_ever_for_the_association_to_hold_back(association, ended):
    """Its thread ended, or a report that came meanwhile, which is served in another one, took its word back."""
    if ended:
        association._kill = True
        association.join(5)
    association._reactor_checkpoint.clear()
    time.sleep(0.1)
    association._is_paused = False
    asked = threading.Thread(target=association.send_c_echo, daemon=True)
    asked.start()
    asked.join(SLACK)
    assert not asked.is_alive()


# Anything at all


def test_whatever_a_peer_says_an_attempt_ends_in_time_and_nothing_of_it_is_taken_for_delivered(speaker, tmp_path):
    """150 conversations, broken as those of the siege are; an object counts only where its own answer came."""
    files, random = result_files(tmp_path, 1), np.random.default_rng(7)
    told = {}

    def script(dialogue):
        number = len(told)
        pdus = [accept([1, 3]), answer(STORE, 1), pdu(6, bytes(4))]
        for _ in range(int(random.integers(1, 3))):
            pdus = BREAKS[int(random.integers(len(BREAKS)))](pdus, random)
        told[number] = b"".join(pdus)
        dialogue.say(b"".join(pdus[:1]))
        dialogue.connection.settimeout(0.2)
        # It may not have been understood.
        with suppress(OSError):
            dialogue.hear_request()
        dialogue.say(b"".join(pdus[1:]))

    peer = speaker(script)
    taken, longest = 0, 0.0
    for number in range(150):
        begun = time.monotonic()
        try:
            (outcome,) = send_files(files, peer.destination(), "NODE", 0.5)
        except PeerError:
            continue
        finally:
            longest = max(longest, time.monotonic() - begun)
        if outcome.delivered:
            taken += 1
            assert struct.pack("<HHLH", 0, 0x0120, 2, 1) in told[number]
    assert taken > 5
    assert longest < 3 * 0.5 + SLACK
