"""Earlier reports over TLS: the PACS that is asked, and the port it sends to, each by files and certificate."""

from __future__ import annotations

import ssl

import pytest
from pydantic import ValidationError
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from app.config_history import HistoryPacs
from app.config_tls import PortTls
from app.history_port import listening
from app.retrieve import fetch_reports
from operators.errors import HistoryUnavailable
from tests.support_certificates import renew
from tests.support_port import free_port
from tests.test_hostile_history import HERE, Archive


@pytest.fixture(scope="module")
def node(authority):
    return authority.issue("node")


@pytest.fixture(scope="module")
def pacs(authority):
    return authority.issue("pacs")


@pytest.fixture
def archive(report):
    """Start PACS; each ends with the test."""
    open_ones = []

    def start(**issued):
        open_ones.append(Archive([report], **issued))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.close()


def port_tls(issued, **binding):
    return PortTls(**issued.files.model_dump(), **binding)


def fetched(archive, now, **changes):
    return [report.SOPInstanceUID for report in fetch_reports(now, archive.config(timeout_seconds=10.0, **changes))]


def test_a_report_is_asked_for_and_comes_over_tls(archive, now, report, node, pacs):
    there = archive(shown=pacs, sending=pacs)
    assert fetched(there, now, tls=node.destination(), move_tls=port_tls(node)) == [report.SOPInstanceUID]


def test_either_way_alone_can_be_by_tls(archive, now, report, node, pacs):
    assert fetched(archive(shown=pacs), now, tls=node.destination()) == [report.SOPInstanceUID]
    assert fetched(archive(sending=pacs), now, move_tls=port_tls(node)) == [report.SOPInstanceUID]


# The PACS that is asked


def test_a_pacs_with_the_wrong_certificate_is_asked_nothing(archive, now, node, authority, stranger):
    cases = [
        (stranger.issue("false").trusting(authority.certificate), {}, "unable to get local issuer certificate"),
        (authority.issue("old", days=-1), {}, "certificate has expired"),
        (authority.issue("elsewhere", hosts="DNS:pacs.example.org"), {}, "IP address mismatch"),
        (authority.issue("named"), {"certificate_common_name": "pacs"}, "of 'named', not of 'pacs'"),
        (authority.issue("printed"), {"certificate_sha256": "0" * 64}, "has the SHA-256 fingerprint"),
    ]
    for shown, binding, why in cases:
        there, asked = archive(shown=shown), []
        there.matches = lambda identifier, asked=asked: asked.append(identifier) or []
        with pytest.raises(HistoryUnavailable, match=f"does not answer by TLS .*{why}"):
            fetched(there, now, tls=node.destination(**binding))
        assert not asked


def test_a_name_or_fingerprint_stands_in_place_of_the_host(archive, now, report, node, authority):
    far = authority.issue("far", hosts="DNS:pacs.example.org")
    there = archive(shown=far)
    for binding in ({"certificate_common_name": "far"}, {"certificate_sha256": far.sha256}):
        assert fetched(there, now, tls=node.destination(**binding)) == [report.SOPInstanceUID]


def test_a_pacs_that_does_not_take_our_certificate_speaks_no_tls_or_is_down_is_told_apart(
    archive, now, node, pacs, stranger, authority
):
    ours = stranger.issue("ours").trusting(authority.certificate)
    with pytest.raises(HistoryUnavailable, match=r"does it accept our certificate|does not trust our certificate"):
        fetched(archive(shown=pacs), now, tls=ours.destination())
    with pytest.raises(HistoryUnavailable, match="does not answer by TLS"):
        fetched(archive(), now, tls=node.destination())
    with pytest.raises(HistoryUnavailable, match=r"does not answer$"):
        fetched(archive(shown=pacs), now)
    with pytest.raises(HistoryUnavailable, match=r"does not answer$"):
        fetched(archive(shown=pacs), now, tls=node.destination(), port=free_port())


def test_files_that_cannot_be_used_cost_the_comparison_and_are_told_in_the_log(
    archive, now, node, pacs, tmp_path, caplog
):
    gone = node.trusting(tmp_path / "gone.crt")
    there = archive(shown=pacs, sending=pacs)
    with pytest.raises(HistoryUnavailable, match="cannot be asked by TLS: the node's log tells why"):
        fetched(there, now, tls=gone.destination())
    with pytest.raises(HistoryUnavailable, match="cannot speak TLS: the node's log tells why"):
        fetched(there, now, tls=node.destination(), move_tls=port_tls(gone))
    assert f"history: CA file {gone.ca} cannot be read" in caplog.text
    assert f"history port: CA file {gone.ca} cannot be read" in caplog.text


def test_a_renewed_certificate_of_ours_is_shown_the_next_time(archive, now, report, authority, pacs):
    ours = authority.issue("ours", days=-1)
    there, tls = archive(shown=pacs, sending=pacs), {"tls": ours.destination(), "move_tls": port_tls(ours)}
    with pytest.raises(HistoryUnavailable):
        fetched(there, now, **tls)
    renew(ours, authority.issue("ours-renewed"))
    assert fetched(there, now, **tls) == [report.SOPInstanceUID]


# The port


def sent(port, report, context, title="PACS"):
    """Send a report as a PACS does; return whether it was taken."""
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    ae.add_requested_context(Comprehensive3DSRStorage, ExplicitVRLittleEndian)
    tls_args = (context, HERE) if context is not None else None
    association = ae.associate(HERE, port, ae_title="GLIOMA_HISTORY", tls_args=tls_args)
    if not association.is_established:
        return False
    status = association.send_c_store(report)
    association.release()
    return status.Status == 0x0000


def open_port(tls):
    port = free_port()
    pacs = HistoryPacs(ae_title="PACS", host=HERE, port=1, move_port=port, timeout_seconds=10.0, move_tls=tls)
    return port, listening(pacs, HERE)


def test_the_port_takes_who_shows_a_certificate_of_the_authority_and_nobody_else(
    node, pacs, report, authority, stranger
):
    anonymous = ssl.create_default_context(cafile=str(pacs.ca))
    anonymous.check_hostname = False
    port, opened = open_port(port_tls(node))
    with opened as reports:
        assert not sent(port, report, None), "plain DICOM"
        assert not sent(port, report, anonymous)
        assert not sent(port, report, stranger.issue("pacs").trusting(authority.certificate).client_context())
        assert not sent(port, report, authority.issue("late", days=-1).client_context())
        assert not sent(port, report, pacs.client_context(), title="STRANGER")
        assert reports.taken() == []
        assert sent(port, report, pacs.client_context())
        assert len(reports.taken()) == 1


def test_a_plain_port_takes_no_tls(pacs, report):
    port, opened = open_port(None)
    with opened:
        assert not sent(port, report, pacs.client_context())
        assert sent(port, report, None)


def test_the_port_can_be_bound_to_a_name_or_a_fingerprint(node, pacs, report, authority, caplog):
    other = authority.issue("other")
    for binding in ({"certificate_common_name": "pacs"}, {"certificate_sha256": pacs.sha256}):
        port, opened = open_port(port_tls(node, **binding))
        with opened:
            assert not sent(port, report, other.client_context())
            assert sent(port, report, pacs.client_context())
    assert "its certificate is of 'other', not of 'pacs'" in caplog.text
    assert f"its certificate has the SHA-256 fingerprint {other.sha256}" in caplog.text


def test_a_pacs_that_sends_by_the_wrong_means_is_told_by_which(archive, now, node, pacs):
    with pytest.raises(HistoryUnavailable, match="by TLS, and does it"):
        fetched(archive(shown=pacs), now, tls=node.destination(), move_tls=port_tls(node))
    with pytest.raises(HistoryUnavailable, match="by plain DICOM, and does it"):
        fetched(archive(sending=pacs), now)


@pytest.mark.parametrize("missing", ["certificate", "key", "ca"])
def test_half_of_the_files_is_an_error_of_the_settings(node, missing):
    files = node.files.model_dump(exclude={missing})
    for where in ("tls", "move_tls"):
        with pytest.raises(ValidationError, match="Field required"):
            HistoryPacs(ae_title="PACS", host=HERE, port=104, **{where: files})
