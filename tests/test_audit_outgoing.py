"""What the node itself goes out for, in the audit trail: where a destination is away or not trusted, what is asked."""

from __future__ import annotations

import base64
import io
from functools import partial

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from app.audit import MOST_STUDIES, TRAIL, AuditTrail, Party
from app.audit_outage import SUM_SECONDS, Outage
from app.config import Destination
from app.config_history import HistoryConfig
from app.history import History
from operators.errors import HistoryUnavailable
from tests.support_audit import code_of, ends, messages_in, objects, told
from tests.support_commitment import TITLE
from tests.support_commitment import Archive as Pacs
from tests.support_delivery import Node, started
from tests.support_dicom import Clock
from tests.support_port import free_port
from tests.support_web import Service
from tests.test_delivery import pass_time, plain
from tests.test_history_tls import port_tls
from tests.test_hostile_history import Archive, ask

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
SR = "1.2.840.10008.5.1.4.1.1.88.34"


# Gathering


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outage(clock):
    return Outage(clock)


def test_the_first_failure_is_written_at_once_and_the_rest_by_their_number_each_hour_and_at_the_end(outage, clock):
    lines = []
    for number in range(100):
        outage.failed("away", f"why {number}", lines.append)
    assert lines == ["why 0"]
    clock.seconds += SUM_SECONDS - 1
    outage.look()
    assert len(lines) == 1
    clock.seconds += 1
    outage.look()
    outage.look()
    assert lines[1:] == ["99 further attempts came to nothing, the last one: why 99"]
    outage.failed("away", "why now", lines.append)
    outage.over()
    outage.over()
    assert lines[2:] == ["1 further attempts came to nothing, the last one: why now"]
    outage.failed("away", "again", lines.append)
    assert lines[3:] == ["again"], "it had been reached in between"


def test_failures_of_another_kind_are_not_hidden(outage):
    lines = []
    for _ in range(3):
        outage.failed("away", "away", lines.append)
        outage.failed("untrusted", "a stranger", lines.append)
    outage.over()
    assert lines[:2] == ["away", "a stranger"]
    assert sorted(lines[2:]) == [
        f"2 further attempts came to nothing, the last one: {why}" for why in ("a stranger", "away")
    ]


def test_a_message_names_so_many_studies_and_no_more(tmp_path):
    trail = AuditTrail(tmp_path / TRAIL, "GLIOMA_NODE")
    trail.not_sent(Party("PACS", "10.0.0.5"), [f"1.2.{n}" for n in range(MOST_STUDIES + 7)], "it is away")
    trail.sends_for(Party("PACS", "10.0.0.5"), ["1.2.3"])
    many, one = messages_in(tmp_path / TRAIL)
    assert objects(many) == [f"1.2.{n}" for n in range(MOST_STUDIES)]
    assert told(many) == ("4", "and of 7 studies more: it is away")
    assert told(one) == ("0", "")


# Deliveries


@pytest.fixture
def pacs():
    with started(Pacs) as start:
        yield start


@pytest.fixture
def node(tmp_path):
    with started(partial(Node, tmp_path)) as make:
        yield make


def trail_of(here):
    return messages_in(here.settings.data_dir / TRAIL)


def test_a_destination_that_is_gone_for_hours_is_in_the_trail_with_the_study_and_few_lines(pacs, node):
    port = free_port()
    here = node(Destination(name="pacs", ae_title=TITLE, host="127.0.0.1", port=port))
    pass_time(here, 7000)
    attempts = here.entry.attempts
    first, second = trail_of(here)
    assert code_of(first) == code_of(second) == "110104"
    assert told(first)[0] == "4"
    assert f"{TITLE} at 127.0.0.1 port {port} cannot be reached: is the PACS up" in told(first)[1]
    assert ends(first) == [("GLIOMA_NODE", "110153", "true"), (TITLE, "110152", "false")]
    assert objects(first) == objects(second) == ["1.2.3"]
    assert "further attempts came to nothing, the last one: PACS at 127.0.0.1" in told(second)[1]
    pacs(port=port)
    pass_time(here, 901)
    *_, third, sent = trail_of(here)
    told_of = [int(told(message)[1].partition(" ")[0]) for message in (second, third)]
    assert sum(told_of) + 1 >= attempts, "none is forgotten"
    assert (code_of(sent), told(sent)) == ("110104", ("0", ""))
    assert len(trail_of(here)) == 4


def test_one_that_rejects_us_is_in_the_trail_and_what_was_counted_when_the_node_ends(pacs, node):
    there = pacs()
    there.knows("SOMEBODY")
    here = node(plain(there))
    pass_time(here, 60)
    here._sender.stop()
    first, second = trail_of(here)
    assert "rejected us" in told(first)[1]
    assert told(second)[1].startswith(f"{here.entry.attempts - 1} further attempts came to nothing")


def test_a_destination_with_the_wrong_certificate_is_a_security_alert(node, authority, stranger):
    false = stranger.issue("false").trusting(authority.certificate)
    ours = authority.issue("node")
    there = Archive(shown=false)
    here = node(Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=there.port, tls=ours.destination()))
    pass_time(here, 60)
    there.close()
    (message,) = trail_of(here)
    assert (code_of(message), told(message)[0]) == ("110113", "8")
    assert message.find("EventIdentification/EventTypeCode").get("csd-code") == "110126"
    assert "unable to get local issuer certificate" in told(message)[1]
    assert ends(message) == [("GLIOMA_NODE", "110150", "true"), ("PACS", "110152", "false")]


def test_a_web_service_with_the_wrong_certificate_is_a_security_alert(node, authority, stranger):
    with started(Service) as start:
        there = start(context=stranger.issue("web").server_context())
        here = node(there.destination(ca=authority.certificate))
        here.turn()
    (message,) = trail_of(here)
    assert (code_of(message), told(message)[0]) == ("110113", "8")


def test_one_that_cannot_be_asked_for_commitment_is_in_the_trail(pacs, node):
    there = pacs()
    here = node(there.destination())
    there.on_store = lambda event: there.knows("SOMEBODY") or 0x0000
    here.turn()
    sent, asked = trail_of(here)
    assert (told(sent)[0], told(asked)[0]) == ("0", "4")
    assert "rejected us" in told(asked)[1]


# Earlier reports


@pytest.fixture
def archive(report):
    made = Archive([report])
    yield made
    made.close()


@pytest.fixture
def trail(tmp_path):
    return AuditTrail(tmp_path / TRAIL, "GLIOMA_NODE")


def looked_for(tmp_path, trail, config, now):
    """Look once; return what the trail says, and that it names nobody."""
    history = History(tmp_path / "archive", HistoryConfig(pacs=config), trail)
    try:
        found = list(history.find(now))
    except HistoryUnavailable:
        found = None
    history.close()
    written = (tmp_path / TRAIL).read_bytes()
    asked = b"".join(base64.b64decode(query) for query in queries(tmp_path))
    for value in (now.PatientID, now.PatientName, now.PatientBirthDate):
        assert str(value).encode() not in written + asked
    return found, messages_in(tmp_path / TRAIL)


def queries(folder):
    return [each.text for m in messages_in(folder / TRAIL) for each in m.iter("ParticipantObjectQuery")]


def asked_of(message) -> Dataset:
    element = message.find("ParticipantObjectIdentification")
    syntax = base64.b64decode(element.find("ParticipantObjectDetail").get("value")).decode()
    assert (element.find("ParticipantObjectDetail").get("type"), syntax) == ("TransferSyntax", ImplicitVRLittleEndian)
    content = base64.b64decode(element.findtext("ParticipantObjectQuery"))
    return pydicom.dcmread(io.BytesIO(content), force=True)


def test_queries_the_request_to_send_and_what_came_are_in_the_trail(tmp_path, trail, archive, now, report):
    found, messages = looked_for(tmp_path, trail, archive.config(timeout_seconds=10.0), now)
    assert [each.SOPInstanceUID for each in found] == [report.SOPInstanceUID]
    assert [(code_of(message), told(message)[0]) for message in messages] == [
        ("110112", "0"), ("110112", "0"), ("110102", "0"), ("110104", "0"),
    ]  # fmt: skip
    studies, series, begins, came = messages
    for query in (studies, series):
        assert objects(query) == [STUDY_ROOT_FIND]
        assert query.find(".//ParticipantObjectIDTypeCode").get("csd-code") == "110181"
        assert ends(query) == [("GLIOMA_NODE", "110153", "true"), ("PACS", "110152", "false")]
        assert f"for study {now.StudyInstanceUID}" in told(query)[1]
    assert told(studies)[1].endswith("; the Patient ID that it names is left out")
    asked = asked_of(studies)
    assert (asked.QueryRetrieveLevel, asked.PatientID) == ("STUDY", "")
    asked = asked_of(series)
    assert (asked.QueryRetrieveLevel, asked.StudyInstanceUID) == ("SERIES", report.StudyInstanceUID)
    assert (asked.Modality, asked.SeriesInstanceUID) == ("SR", "")
    assert objects(begins) == objects(came) == [report.StudyInstanceUID]
    assert ends(begins) == [("PACS", "110153", "false"), ("GLIOMA_NODE", "110152", "true")]
    assert came.find(".//SOPClass").attrib == {"UID": SR, "NumberOfInstances": "1"}
    assert [title for title, _, _ in ends(came)] == ["PACS", "GLIOMA_NODE"]


def test_a_query_that_is_refused_and_a_request_to_send_that_is_not_met_are_failures(tmp_path, trail, archive, now):
    archive.move_port = free_port()  # it does not know where we are
    config = archive.config(timeout_seconds=10.0, move_port=free_port())
    found, messages = looked_for(tmp_path, trail, config, now)
    assert found is None
    assert [code_of(message) for message in messages] == ["110112", "110112", "110102", "110104"]
    assert told(messages[-1])[0] == "4"
    assert "PACS does not send to GLIOMA_HISTORY" in told(messages[-1])[1]

    def broken(identifier):
        raise ValueError

    archive.matches = broken
    _, messages = looked_for(tmp_path, trail, config, now)
    assert (code_of(messages[-1]), told(messages[-1])[0]) == ("110112", "4")
    assert "PACS refuses the query" in told(messages[-1])[1]


def test_a_pacs_that_is_away_is_a_failed_query_once_and_by_its_number(tmp_path, trail, archive, now):
    config = archive.config(port=free_port())
    history = History(tmp_path / "archive", HistoryConfig(pacs=config), trail)
    for _ in range(4):
        with pytest.raises(HistoryUnavailable):
            list(history.find(now))
    history.close()
    first, rest = messages_in(tmp_path / TRAIL)
    assert code_of(first) == code_of(rest) == "110112"
    assert (told(first)[0], told(rest)[0]) == ("4", "4")
    assert told(first)[1].endswith("does not answer")
    assert "3 further attempts came to nothing" in told(rest)[1]


def test_a_pacs_with_the_wrong_certificate_is_a_security_alert(tmp_path, trail, now, report, authority, stranger):
    there = Archive([report], shown=stranger.issue("false").trusting(authority.certificate))
    config = there.config(timeout_seconds=10.0, tls=authority.issue("node").destination())
    found, (message,) = looked_for(tmp_path, trail, config, now)
    there.close()
    assert found is None
    assert (code_of(message), told(message)[0]) == ("110113", "8")
    assert "unable to get local issuer certificate" in told(message)[1]


def test_whoever_is_turned_away_at_the_history_port_is_in_the_trail(tmp_path, trail, archive, now, report, authority):
    """A stranger, one that calls another title, and one without TLS, while the port is open for the PACS."""
    node = authority.issue("node")
    for tls in (None, port_tls(node)):
        config = archive.config(timeout_seconds=10.0, move_tls=tls)
        archive.before_sending = lambda port=config.move_port: [
            ask(port, title="STRANGER"), ask(port, called="OTHER"),
        ]  # fmt: skip
        looked_for(tmp_path, trail, config, now)
    alerts = [told(message) for message in messages_in(tmp_path / TRAIL) if code_of(message) == "110113"]
    assert ("8", "not a known peer by title and address") in alerts
    assert ("8", "it calls OTHER, not GLIOMA_HISTORY") in alerts
    assert [why for _, why in alerts if why.startswith("no TLS: ")]


def test_a_study_uid_that_is_none_is_not_quoted(tmp_path, trail, archive, now):
    spoilt = pydicom.dcmread(io.BytesIO(written(archive.reports[0])))
    spoilt["StudyInstanceUID"].value = "Secret^Person"
    archive.reports.append(spoilt)
    _, messages = looked_for(tmp_path, trail, archive.config(timeout_seconds=10.0), now)
    assert "unknown" in [uid for message in messages for uid in objects(message)]
    assert b"Secret" not in (tmp_path / TRAIL).read_bytes()


def written(report: Dataset) -> bytes:
    whole = io.BytesIO()
    report.save_as(whole, enforce_file_format=True)
    return whole.getvalue()
