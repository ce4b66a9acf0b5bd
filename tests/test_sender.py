"""Sending on real sockets: contexts, statuses, peers that are down, and what a restart goes on with."""

import logging
import socket
import threading
import time
from itertools import product

import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.acse import ACSE
from pynetdicom.sop_class import MRImageStorage

from app.backlog import put_back_destination
from app.config import Destination, SenderConfig
from app.delivery import Sender
from app.errors import InputError, PeerError
from app.journal import DeliveryState, Journal
from app.outbox import Outbox
from app.sender import _batches, contexts_for, echo, parse_peer, send_files
from tests.support_dicom import node_settings, result_files, save, small_mr, with_meta
from tests.support_port import free_port


class Pacs:
    """A Storage SCP that answers what the test says and remembers what came."""

    def __init__(self, *, port=0, status=0x0000, syntaxes=None, title="PACS", classes=(MRImageStorage,)):
        self.status, self.got, self.associations = status, [], 0
        ae = AE(ae_title=title)
        ae.require_called_aet = True
        for sop_class in classes:
            ae.add_supported_context(sop_class, syntaxes or [uid.ExplicitVRLittleEndian])
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self.server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def _store(self, event):
        status = self.status(event) if callable(self.status) else self.status
        if status == 0x0000 or status >> 12 == 0xB:
            self.got.append(
                (event.request.AffectedSOPInstanceUID, event.context.transfer_syntax, event.encoded_dataset(False))
            )
        return status

    def _accepted(self, event):
        self.associations += 1

    def destination(self, name="pacs"):
        return Destination(name=name, ae_title="PACS", host="127.0.0.1", port=self.port)

    def close(self):
        # It ends at its next half second; no test waits for that.
        threading.Thread(target=self.server.shutdown).start()


@pytest.fixture
def pacs():
    """Start peers; each ends with the test."""
    open_ones = []

    def start(**kwargs):
        open_ones.append(Pacs(**kwargs))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.close()


# Peers by name


def test_a_peer_is_read():
    peer = parse_peer("PACS_1@pacs.example.org:104")
    assert (peer.ae_title, peer.host, peer.port) == ("PACS_1", "pacs.example.org", 104)
    assert parse_peer("A@[::1]:104").host == "::1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PACS",
        "PACS@host",
        "@host:104",
        "PACS@:104",
        "PACS@host:x",
        "PACS@host:0",
        "PACS@host:70000",
        "A" * 17 + "@h:1",
    ],
)
def test_a_wrong_peer_is_an_input_error_that_quotes_it(text):
    with pytest.raises(InputError, match="is not a peer") as caught:
        parse_peer(text)
    assert repr(text) in str(caught.value)


# One sending


def test_many_files_go_over_one_association_as_they_are(pacs, tmp_path):
    peer, files, heard = pacs(), result_files(tmp_path, 5), []
    outcomes = send_files(files, peer.destination(), "NODE", 5, heard.append)
    assert [outcome.path for outcome in outcomes] == files
    assert heard == outcomes
    assert all(outcome.delivered and outcome.status == 0 and outcome.note == "" for outcome in outcomes)
    assert peer.associations == 1
    assert all(path.read_bytes().endswith(content) for path, (_, _, content) in zip(files, peer.got, strict=True))


def test_a_native_file_is_rewritten_for_a_peer_that_only_takes_implicit(pacs, tmp_path):
    peer = pacs(syntaxes=[uid.ImplicitVRLittleEndian])
    ds = small_mr()
    (outcome,) = send_files([save(ds, tmp_path / "a.dcm")], peer.destination(), "NODE", 5)
    assert outcome.delivered
    ((instance, syntax, _),) = peer.got
    assert (instance, syntax) == (ds.SOPInstanceUID, uid.ImplicitVRLittleEndian)


def test_a_compressed_file_that_the_peer_does_not_take_is_not_delivered_and_stops_no_other(pacs, tmp_path):
    ds = small_mr()
    ds.PixelData = encapsulate([b"\xff\x4f\xff\x51"])
    files = [
        save(with_meta(ds, uid.JPEG2000), tmp_path / "a.dcm"),
        save(small_mr(), tmp_path / "b.dcm"),
    ]
    outcomes = send_files(files, pacs().destination(), "NODE", 5)
    assert [outcome.delivered for outcome in outcomes] == [False, True]
    assert "could not be sent as the peer wants it" in outcomes[0].note


def test_a_peer_that_stops_within_a_pdu_is_given_up(pacs, tmp_path):
    answered = threading.Event()

    def half(event):
        event.assoc.dul.socket.socket.sendall(b"\x04\0\0\0\x01")
        answered.wait(15)
        return 0x0000

    peer, begun = pacs(status=half), time.monotonic()
    (outcome,) = send_files(result_files(tmp_path, 1), peer.destination(), "NODE", 1.0)
    assert time.monotonic() - begun < 8
    answered.set()
    assert not outcome.delivered


def test_an_object_class_the_peer_does_not_take_is_named(pacs, tmp_path):
    ds = small_mr()
    ds.SOPClassUID = uid.SegmentationStorage
    files = [save(with_meta(ds, uid.ExplicitVRLittleEndian), tmp_path / "a.dcm"), save(small_mr(), tmp_path / "b.dcm")]
    outcomes = send_files(files, pacs().destination(), "NODE", 5)
    assert outcomes[0].note == "the peer does not take Segmentation Storage"
    assert outcomes[1].delivered


STATUSES = [
    (0x0000, True, ""),
    (0xB000, True, "warning 0xB000"),
    (0xB007, True, "warning 0xB007"),
    (0xA700, False, "failure 0xA700"),
    (0xA900, False, "failure 0xA900"),
    (0xC123, False, "failure 0xC123"),
    (0x0122, False, "failure 0x0122"),
    (0x0111, True, "was there already"),
]


@pytest.mark.parametrize(("status", "delivered", "note"), STATUSES)
def test_what_a_status_means(pacs, tmp_path, status, delivered, note):
    (outcome,) = send_files([save(small_mr(), tmp_path / "a.dcm")], pacs(status=status).destination(), "NODE", 5)
    assert (outcome.status, outcome.delivered, outcome.note) == (status, delivered, note)


def test_a_file_that_is_no_dicom_is_told_and_the_rest_is_sent(pacs, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing of DICOM")
    (tmp_path / "empty").touch()
    files = [tmp_path / "notes.txt", tmp_path / "empty", tmp_path / "absent", save(small_mr(), tmp_path / "a.dcm")]
    outcomes = send_files(files, pacs().destination(), "NODE", 5)
    assert [outcome.delivered for outcome in outcomes] == [False, False, False, True]
    assert all(outcome.note.startswith("not a DICOM file") for outcome in outcomes[:3])


def test_more_kinds_than_one_association_can_hold_are_cut_into_several(tmp_path):
    syntaxes = [uid.JPEG2000, uid.RLELossless, uid.ExplicitVRLittleEndian]
    files = [(tmp_path / f"{n}", (f"1.2.{n // 3}", str(syntaxes[n % 3]))) for n in range(150)]
    batches = list(_batches(files))
    assert [file for batch in batches for file in batch] == files
    assert len(batches) == 2
    assert all(len(contexts_for(kind for _, kind in batch)) <= 128 for batch in batches)


def test_a_peer_that_takes_none_of_it_says_so(pacs, tmp_path):
    ds = small_mr()
    ds.SOPClassUID = uid.SegmentationStorage
    file = save(with_meta(ds, uid.ExplicitVRLittleEndian), tmp_path / "a.dcm")
    with pytest.raises(PeerError, match="accepts none of the kinds of object to be sent"):
        send_files([file], pacs().destination(), "NODE", 5)


def test_200_kinds_reach_the_peer_over_two_associations(pacs, tmp_path):
    syntaxes = [uid.JPEG2000, uid.JPEG2000Lossless, uid.RLELossless, uid.JPEGLossless, uid.JPEGBaseline8Bit]
    classes = [context.abstract_syntax for context in AllStoragePresentationContexts[:40]]
    files = []
    for sop_class, syntax in product(classes, syntaxes):
        ds = small_mr(size=4)
        ds.SOPClassUID, ds.PixelData = sop_class, encapsulate([b"\xff\xd8"])
        files.append(save(with_meta(ds, syntax), tmp_path / f"{len(files)}.dcm"))
    peer = pacs(classes=classes, syntaxes=syntaxes)
    outcomes = send_files(files, peer.destination(), "NODE", 60)
    assert {outcome.note for outcome in outcomes} == {""}
    assert (len(peer.got), peer.associations) == (200, 2)


# Peers that are not as they should be


def test_a_peer_that_is_down_says_what_to_look_at(tmp_path):
    peer = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=free_port())
    with pytest.raises(PeerError, match=r"PACS at 127\.0\.0\.1 port \d+ cannot be reached: is the PACS up"):
        send_files([save(small_mr(), tmp_path / "a.dcm")], peer, "NODE", 5)


def test_a_host_that_is_unknown_says_so(tmp_path):
    peer = Destination(name="pacs", ae_title="PACS", host="no-such-host.invalid", port=104)
    with pytest.raises(PeerError, match="cannot be found"):
        send_files([save(small_mr(), tmp_path / "a.dcm")], peer, "NODE", 5)


def test_a_wrong_title_says_so(pacs, tmp_path):
    peer = pacs(title="OTHER").destination()
    with pytest.raises(PeerError, match=r"rejected us \(Called AE title not recognised\).*does it know ours, NODE"):
        send_files([save(small_mr(), tmp_path / "a.dcm")], peer, "NODE", 5)


def test_a_rejection_that_was_faster_than_we_looked_says_so(pacs, tmp_path, monkeypatch):
    """Whoever asks comes to look only when the peer has answered, and closed the connection."""
    send_request = ACSE.send_request

    def slow(self):
        send_request(self)
        self.dul.join(10)
        assert not self.dul.is_alive()

    monkeypatch.setattr(ACSE, "send_request", slow)
    peer = pacs(title="OTHER").destination()
    with pytest.raises(PeerError, match=r"rejected us \(Called AE title not recognised\)"):
        send_files([save(small_mr(), tmp_path / "a.dcm")], peer, "NODE", 5)


def test_a_port_that_does_not_speak_dicom_says_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        peer = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(PeerError, match="is this the PACS's DICOM port"):
            send_files([save(small_mr(), tmp_path / "a.dcm")], peer, "NODE", 2)


def test_a_peer_that_drops_the_association_costs_no_time_out(pacs, tmp_path):
    def drop_third(event):
        if len(peer.got) == 2:
            event.assoc.abort()
        return 0x0000

    peer = pacs(status=drop_third)
    begun = time.monotonic()
    outcomes = send_files(result_files(tmp_path, 5), peer.destination(), "NODE", 20)
    assert [outcome.delivered for outcome in outcomes] == [True, True, False, False, False]
    assert time.monotonic() - begun < 5


def test_echo_is_silent_for_a_peer_that_answers_and_says_what_is_wrong_else(pacs):
    config = SenderConfig(network_timeout_seconds=5.0)
    echo(pacs(classes=["1.2.840.10008.1.1"], syntaxes=[uid.ImplicitVRLittleEndian]).destination(), config)
    with pytest.raises(PeerError, match="rejected us"):
        echo(pacs(title="OTHER").destination(), config)
    with pytest.raises(PeerError, match="is the PACS up"):
        echo(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=free_port()), config)


# The delivery of what is owed


@pytest.fixture
def owing(tmp_path):
    """Return a function that commits a job's results to destinations, and starts senders for them."""
    opened = []

    def build(*destinations, job_id="j1", **sender):
        defaults = {"destinations": destinations, "first_retry_seconds": 0.1, "longest_retry_seconds": 0.4}
        settings = node_settings(tmp_path / "node", sender=defaults | {"network_timeout_seconds": 3.0} | sender)
        journal = Journal(settings.journal_path)
        outbox = Outbox(settings, journal)
        if journal.job(job_id) is None:
            journal.study_arriving("k1", "1.2.3")
            journal.job_ready(job_id, "k1", 4)
            journal.take_ready()
            outbox.commit(job_id, result_files(tmp_path / "output"))
        opened.append(Sender(settings.sender, journal, outbox))
        opened[-1].start()
        return opened[-1], journal, settings

    yield build
    for sender in opened:
        sender.stop()


def until(condition, seconds=8.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_what_is_owed_is_delivered_and_leaves_the_outbox(owing, pacs):
    peer = pacs()
    _, journal, settings = owing(peer.destination())
    until(lambda: not (settings.outbox_dir / "j1").exists())
    assert {delivery.state for delivery in journal.deliveries("j1")} == {DeliveryState.DELIVERED}
    assert len(peer.got) == 2
    assert peer.associations == 1
    assert len(list((settings.archive_dir / "k1" / "j1").iterdir())) == 2


def test_a_peer_that_is_first_down_then_up_gets_everything(owing, pacs):
    port = free_port()
    _, journal, _ = owing(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port))
    until(lambda: min(delivery.attempts for delivery in journal.deliveries("j1")) >= 2)
    assert "is the PACS up" in journal.deliveries("j1")[0].note
    peer = pacs(port=port)
    until(lambda: journal.owed("pacs") == [])
    assert len(peer.got) == 2


def test_one_destination_that_is_down_does_not_hold_up_another(owing, pacs):
    down = Destination(name="down", ae_title="PACS", host="127.0.0.1", port=free_port())
    peer = pacs()
    _, journal, settings = owing(down, peer.destination("up"))
    until(lambda: journal.owed("up") == [])
    assert len(journal.owed("down")) == 2
    assert (settings.outbox_dir / "j1").exists()


def test_a_failure_of_one_file_is_tried_again_and_the_other_is_not_sent_twice(owing, pacs):
    refusals = []

    def refuse_first_twice(event):
        first = event.request.AffectedSOPInstanceUID
        if len(refusals) < 2 and first not in {got[0] for got in peer.got} and (not refusals or refusals[0] == first):
            refusals.append(first)
            return 0xA700
        return 0x0000

    peer = pacs(status=refuse_first_twice)
    _, journal, _ = owing(peer.destination())
    until(lambda: journal.owed("pacs") == [])
    assert sorted(delivery.attempts for delivery in journal.deliveries("j1")) == [1, 3]
    assert len(peer.got) == len({got[0] for got in peer.got}) == 2


def test_a_warning_counts_as_delivered_and_is_noted(owing, pacs):
    _, journal, _ = owing(pacs(status=0xB000).destination())
    until(lambda: journal.owed("pacs") == [])
    assert {delivery.note for delivery in journal.deliveries("j1")} == {"warning 0xB000"}


def test_the_wait_doubles_up_to_its_limit_and_outlives_the_process(owing, pacs):
    peer = pacs(status=0xC000).destination()
    sender, journal, _ = owing(peer, first_retry_seconds=100.0, longest_retry_seconds=250.0)
    until(lambda: all(delivery.attempts for delivery in journal.deliveries("j1")))
    sender.stop()
    wait = journal.deliveries("j1")[0].next_attempt - time.time()
    assert 80 < wait <= 100
    _, journal, _ = owing(peer, first_retry_seconds=100.0, longest_retry_seconds=250.0)
    time.sleep(0.5)
    assert {delivery.attempts for delivery in journal.deliveries("j1")} == {1}
    (run,) = sender._runs
    waits = [run._next(failures) - time.time() for failures in (1, 2, 3, 50)]
    assert waits == pytest.approx([100, 200, 250, 250], abs=1)


def test_what_is_refused_for_good_is_a_dead_letter_and_the_rest_goes_on(owing, pacs):
    first = []

    def refuse_the_first(event):
        first.append(event.request.AffectedSOPInstanceUID)
        return 0xA900 if event.request.AffectedSOPInstanceUID == first[0] else 0x0000

    peer = pacs(status=refuse_the_first)
    _, journal, settings = owing(peer.destination(), refusals_allowed=3)
    until(lambda: journal.owed("pacs") == [])
    dead, delivered = sorted(journal.deliveries("j1"), key=lambda delivery: delivery.state)
    assert (dead.state, dead.attempts, dead.note) == (DeliveryState.DEAD, 3, "failure 0xA900")
    assert delivered.state is DeliveryState.DELIVERED
    time.sleep(0.6)
    assert first.count(first[0]) == 3, "it is not sent any more"
    assert len(list((settings.outbox_dir / "j1").iterdir())) == 2, "its file waits for a person"
    peer.status = 0x0000
    other = Journal(settings.journal_path)  # as the command does, beside a running node
    put_back_destination(other, "pacs")
    other.close()
    until(lambda: not (settings.outbox_dir / "j1").exists())
    assert {delivery.state for delivery in journal.deliveries("j1")} == {DeliveryState.DELIVERED}


def test_a_peer_that_takes_none_of_the_kinds_is_given_up(owing, pacs):
    _, journal, _ = owing(pacs(classes=[uid.SegmentationStorage]).destination(), refusals_allowed=2)
    until(lambda: journal.owed("pacs") == [])
    assert {(delivery.state, delivery.attempts) for delivery in journal.deliveries("j1")} == {(DeliveryState.DEAD, 2)}
    assert "accepts none of the kinds" in journal.deliveries("j1")[0].note


@pytest.mark.parametrize("status", [0xA700, 0x0110, 0x0213])
def test_what_may_pass_is_tried_for_ever(owing, pacs, status):
    _, journal, _ = owing(pacs(status=status).destination(), refusals_allowed=1, longest_retry_seconds=0.1)
    until(lambda: min(delivery.attempts for delivery in journal.deliveries("j1")) >= 3)
    assert {delivery.state for delivery in journal.deliveries("j1")} == {DeliveryState.OWED}


def test_a_peer_that_is_down_or_does_not_know_us_is_tried_for_ever(owing, pacs):
    down = Destination(name="down", ae_title="PACS", host="127.0.0.1", port=free_port())
    stranger = pacs(title="OTHER").destination("stranger")
    _, journal, _ = owing(down, stranger, refusals_allowed=1, longest_retry_seconds=0.1)
    until(lambda: min(delivery.attempts for delivery in journal.deliveries("j1")) >= 3)
    assert {delivery.state for delivery in journal.deliveries("j1")} == {DeliveryState.OWED}


def test_a_clock_that_was_set_back_delays_nothing(owing, pacs):
    peer = pacs(status=0xC000)
    sender, journal, _ = owing(peer.destination())
    until(lambda: all(delivery.attempts for delivery in journal.deliveries("j1")))
    sender.stop()
    ids = [delivery.delivery_id for delivery in journal.owed("pacs")]
    journal.not_delivered(ids, "", lambda failures: time.time() + 86_400)
    peer.status = 0x0000
    _, journal, _ = owing(peer.destination())
    until(lambda: journal.owed("pacs") == [])


def test_a_restart_goes_on_with_what_is_owed(owing, pacs):
    port = free_port()
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port)
    sender, journal, _ = owing(destination)
    until(lambda: all(delivery.attempts for delivery in journal.deliveries("j1")))
    sender.stop()
    peer = pacs(port=port)
    _, journal, _ = owing(destination)
    until(lambda: journal.owed("pacs") == [])
    assert len(peer.got) == 2


def test_new_results_are_sent_when_the_sender_is_woken(owing, pacs, tmp_path):
    peer = pacs()
    sender, journal, settings = owing(peer.destination())
    until(lambda: journal.owed("pacs") == [])
    journal.job_ready("j2", "k1", 5)
    journal.take_ready()
    Outbox(settings, journal).commit("j2", result_files(tmp_path / "more", 1))
    sender.wake()
    until(lambda: len(peer.got) == 3)


def test_stop_does_not_wait_for_a_peer_that_hangs(owing, pacs):
    hanging, let_go = threading.Event(), threading.Event()

    def hang(event):
        hanging.set()
        let_go.wait(20)
        return 0x0000

    sender, journal, _ = owing(pacs(status=hang).destination(), network_timeout_seconds=20.0)
    assert hanging.wait(5)
    begun = time.monotonic()
    sender.stop()
    assert time.monotonic() - begun < 2
    let_go.set()
    assert len(journal.owed("pacs")) == 2
    assert {delivery.attempts for delivery in journal.deliveries("j1")} == {0}


def test_no_name_is_in_log_or_journal(owing, pacs, caplog):
    caplog.set_level(logging.INFO)
    _, journal, settings = owing(pacs(status=0xC000).destination())
    until(lambda: all(delivery.attempts for delivery in journal.deliveries("j1")))
    assert "Secret" not in caplog.text
    assert all(b"Secret" not in path.read_bytes() for path in settings.data_dir.glob("journal*"))
    assert pydicom.dcmread(next((settings.outbox_dir / "j1").iterdir())).PatientName == "Secret^Person"
