"""A PACS that is asked for earlier reports, and the port it sends to: whatever comes, no study is lost."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as Find,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelMove as Move,
)

from app.config_history import HistoryConfig, HistoryPacs
from app.history import History
from app.history_port import MOST_REPORT_MB, MOST_REPORTS, listening
from app.retrieve import MOST_MATCHES, PATIENCE, _Asked, _associated, fetch_reports
from operators.errors import HistoryUnavailable
from tests.support_certificates import Issued
from tests.support_dicom import send_bytes
from tests.support_memory import traced_peak
from tests.support_peer import associate
from tests.support_port import free_port
from tests.support_speaker import Speaker, accept, answer
from tests.test_earlier import study

SECONDS, SLACK = 1.0, 6.0
HERE, OTHER = "127.0.0.1", "127.0.0.2"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """An earlier examination of the patient."""
    return study(tmp_path_factory.mktemp("then"), "20240102")


@pytest.fixture
def report(job):
    return pydicom.dcmread(job.results["SR"])


class Archive:
    """Answers queries as a test says, and sends what it has to the port that it knows."""

    def __init__(self, reports=(), *, shown: Issued | None = None, sending: Issued | None = None) -> None:
        """With `shown` it speaks TLS alone, with `sending` it sends by TLS."""
        self.reports, self.move_port, self.statuses = list(reports), free_port(), []
        self.matches = lambda identifier: [self._match(identifier)]
        self.before_sending = lambda: None
        """What happens while the port is open, and nothing was sent."""
        ae = AE("PACS")
        ae.add_supported_context(Find)
        ae.add_supported_context(Move)
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._send)]
        self._sending = sending
        context = shown.server_context() if shown is not None else None
        self._server = ae.start_server((HERE, 0), block=False, evt_handlers=handlers, ssl_context=context)
        self.port = self._server.server_address[1]

    def config(self, **changes) -> HistoryPacs:
        values = {"ae_title": "PACS", "host": HERE, "port": self.port, "move_port": self.move_port}
        return HistoryPacs(**(values | {"timeout_seconds": SECONDS} | changes))

    def _match(self, identifier: Dataset) -> Dataset:
        found = Dataset()
        found.QueryRetrieveLevel = identifier.QueryRetrieveLevel
        found.StudyInstanceUID, found.StudyDate = self.reports[0].StudyInstanceUID, "20240102"
        if identifier.QueryRetrieveLevel == "SERIES":
            found.SeriesInstanceUID = self.reports[0].SeriesInstanceUID
        return found

    def _find(self, event):
        for found in self.matches(event.identifier):
            yield 0xFF00, found
        yield 0x0000, None

    def _send(self, event):
        self.before_sending()
        tls_args = (self._sending.client_context(), HERE) if self._sending is not None else None
        yield HERE, self.move_port, {"contexts": [context()], "tls_args": tls_args}
        yield len(self.reports)
        for each in self.reports:
            yield 0xFF00, each

    def close(self) -> None:
        threading.Thread(target=self._server.shutdown).start()


def context():
    return build_context(Comprehensive3DSRStorage, ExplicitVRLittleEndian)


@pytest.fixture
def archive(report):
    made = Archive([report])
    yield made
    made.close()


def given_up(now, pacs, why):
    begun = time.monotonic()
    with pytest.raises(HistoryUnavailable, match=why):
        fetch_reports(now, pacs)
    return time.monotonic() - begun


# What is asked


def test_a_report_is_fetched_from_a_pacs_that_is_as_it_should_be(archive, now, report):
    (got,) = fetch_reports(now, archive.config(timeout_seconds=10.0))
    assert got.SOPInstanceUID == report.SOPInstanceUID


@pytest.mark.parametrize("said", [b"", b"\x02\0\0", struct.pack(">BxL", 2, 100), struct.pack(">BxL", 2, 0xFFFFFFFF)])
def test_a_pacs_that_falls_silent_is_given_up(now, said):
    let_go = threading.Event()
    peer = Speaker(lambda dialogue: dialogue.say(said) or let_go.wait(30))
    pacs = HistoryPacs(ae_title="PACS", host=HERE, port=peer.port, timeout_seconds=SECONDS)
    assert given_up(now, pacs, "does not answer") < 3 * SECONDS + SLACK
    let_go.set()
    peer.close()


def test_matches_without_end_are_not_all_taken(archive, now):
    def endless(identifier):
        while True:
            yield archive._match(identifier)

    archive.matches = endless
    assert given_up(now, archive.config(timeout_seconds=10.0), f"answers more than {MOST_MATCHES} times") < 20.0


def test_a_pacs_whose_matches_go_on_and_on_is_given_up(archive, now):
    def slowly(identifier):
        while True:
            time.sleep(0.4 * SECONDS)
            yield archive._match(identifier)

    archive.matches = slowly
    assert given_up(now, archive.config(), "takes too long to answer") < PATIENCE * SECONDS + SLACK


def test_a_pacs_that_says_for_ever_that_more_is_to_be_sent_is_given_up():
    def script(dialogue):
        dialogue.say(accept([1, 3]))
        message = dialogue.hear_request()
        while True:
            dialogue.say(answer(0x8021, message, 3, e0900=0xFF00))
            time.sleep(0.4 * SECONDS)

    peer, begun = Speaker(script), time.monotonic()
    pacs = HistoryPacs(ae_title="PACS", host=HERE, port=peer.port, timeout_seconds=SECONDS)
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "SERIES", "1.2"
    with pytest.raises(HistoryUnavailable, match="takes too long to answer"), _associated(pacs) as association:
        _Asked(association, pacs).move(identifier)
    assert time.monotonic() - begun < PATIENCE * SECONDS + SLACK
    assert peer.cut_off.wait(SLACK)
    peer.close()


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_matches_without_uids_are_passed_over(archive, now, keyword):
    def nameless(identifier):
        match = archive._match(identifier)
        if keyword in match:
            delattr(match, keyword)
        return [match]

    archive.matches = nameless
    assert fetch_reports(now, archive.config(timeout_seconds=5.0)) == []


# What it sends


def bare(report):
    """A report without the UIDs that it should have, but of our making."""
    del report.StudyInstanceUID


def twisted(report):
    """Sequences that are none."""
    report.ContentSequence[0].add_new("ContentSequence", "LO", "nothing")
    report.add_new("ContentSequence", "LO", "nothing")


@pytest.mark.parametrize("spoil", [bare, twisted])
def test_a_report_that_is_none_is_passed_over(archive, now, job, tmp_path, spoil, caplog):
    spoilt = pydicom.dcmread(job.results["SR"])
    spoil(spoilt)
    archive.reports.append(spoilt)
    history = History(tmp_path / "archive", HistoryConfig(pacs=archive.config(timeout_seconds=10.0)))
    (got,) = history.find(now)
    assert got.SOPInstanceUID == archive.reports[0].SOPInstanceUID
    assert "StudyInstanceUID" in got
    assert "an earlier report is passed over: it cannot be read" in caplog.text
    assert str(now.PatientID) not in caplog.text


# The port


@contextmanager
def open_port(**changes):
    port = free_port()
    pacs = HistoryPacs(ae_title="PACS", host=HERE, port=1, move_port=port, **({"timeout_seconds": SECONDS} | changes))
    with listening(pacs, HERE) as reports:
        yield port, reports


def ask(port, title="PACS", source=HERE, called="GLIOMA_HISTORY"):
    return associate(port, Comprehensive3DSRStorage, calling=title, source=source, called=called, seconds=10)


STRANGERS = [({"title": "STRANGER"}, "calling"), ({"source": OTHER}, "calling"), ({"called": "OTHER"}, "called")]


@pytest.mark.parametrize(("changes", "which"), STRANGERS)
def test_the_port_is_for_the_pacs_alone(changes, which):
    with open_port() as (port, _):
        stranger = ask(port, **changes)
        assert stranger.is_rejected
        assert which in stranger.acceptor.primitive.reason_str.lower()
        known = ask(port)
        assert known.is_established
        known.release()


def test_other_addresses_of_the_pacs_can_be_named_and_where_to_listen():
    with open_port(move_from=(OTHER,), move_host=HERE) as (port, _):
        assert ask(port).is_rejected
        known = ask(port, source=OTHER)
        assert known.is_established
        known.release()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((OTHER, port), timeout=5)


def test_a_length_that_lies_takes_no_memory():
    flood = bytes(200_000_000)
    with open_port() as (port, _), socket.create_connection((HERE, port)) as peer, traced_peak() as peak:
        peer.sendall(struct.pack(">BxL", 1, 0xFFFFFFFF))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            peer.sendall(flood)
        assert peak() < 20_000_000


@pytest.mark.parametrize("said", [b"", b"\x01", struct.pack(">BxL", 1, 100)])
def test_a_silent_peer_is_let_go(said):
    with open_port() as (port, _), socket.create_connection((HERE, port)) as peer:
        peer.sendall(said)
        peer.settimeout(SECONDS + SLACK)
        assert peer.recv(1) == b""


def test_the_port_closes_though_peers_hold_on(report):
    begun, before = time.monotonic(), threading.active_count()
    with open_port(timeout_seconds=30.0) as (port, _):
        associated = ask(port)
        silent = socket.create_connection((HERE, port))
        silent.sendall(b"\x01")
        begun = time.monotonic()
    assert time.monotonic() - begun < SLACK
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HERE, port), timeout=5)
    silent.close()
    associated.abort()
    while threading.active_count() > before and time.monotonic() - begun < 2 * SLACK:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_no_more_and_no_larger_reports_are_taken_than_a_patient_can_have(report):
    with open_port(timeout_seconds=10.0) as (port, reports):
        peer = ask(port)
        for number in range(MOST_REPORTS):
            report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
            assert peer.send_c_store(report).Status == 0x0000
        assert peer.send_c_store(report).Status == 0xA700
        peer.release()
        assert len(reports.taken()) == MOST_REPORTS
    with open_port(timeout_seconds=10.0) as (port, reports):
        peer = ask(port)
        report.ImageComments = "x" * (MOST_REPORT_MB * 1_000_000)
        report["ImageComments"].VR = "UT"
        assert "Status" not in peer.send_c_store(report), "the connection ends instead"
        assert reports.taken() == []


def test_a_report_that_nests_without_end_is_refused(report):
    head = report.file_meta
    # The library itself could not write it.
    item, end = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
    opening = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff" + item
    closing = end + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    with open_port(timeout_seconds=10.0) as (port, reports):
        peer = ask(port)
        content = opening * 3_000 + closing * 3_000
        status = send_bytes(peer, Comprehensive3DSRStorage, head.MediaStorageSOPInstanceUID, content)
        assert status == 0xC000
        assert reports.taken() == []
        assert peer.send_c_store(report).Status == 0x0000
        peer.release()
