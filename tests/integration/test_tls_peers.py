"""TLS with other vendors' software: DCMTK's storescu and echoscu to the receiver, and a real Orthanc as destination and
as the PACS of earlier reports."""

from __future__ import annotations

import io
import os
import subprocess

import pydicom
import pytest

from app.config import Destination, Peer
from app.config_history import HistoryPacs
from app.config_tls import PortTls
from app.errors import PeerError
from app.receiver import Receiver
from app.retrieve import fetch_reports
from app.sender import send_files
from tests.integration.orthanc import Orthanc
from tests.support_certificates import Authority
from tests.support_dcmtk import dcmtk
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, save, small_mr
from tests.support_port import free_port
from tests.test_earlier import header_of, study


@pytest.fixture(scope="module")
def node(authority):
    return authority.issue("node")


@pytest.fixture(scope="module")
def peer(authority):
    return authority.issue("peer")


def run(program, port, *arguments):
    return subprocess.run(
        [dcmtk(program), "-v", "-aet", PEER_TITLE, "-aec", NODE_TITLE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"TCP_NODELAY": "1"},
    )


def with_tls(shown, profile="+py"):
    return ["+tls", shown.key, shown.certificate, "+cf", shown.ca, profile]


PROFILES = [
    ("+py", "BCP 195, not downgrading"),
    ("+px", "BCP 195"),
    ("+pz", "BCP 195, extended"),
]


@pytest.mark.parametrize("profile", [profile for profile, _ in PROFILES], ids=[name for _, name in PROFILES])
def test_dcmtk_stores_by_every_profile_of_bcp_195(listen, node, peer, tmp_path, profile):
    port = listen(tls=node.files)
    for number in range(20):
        save(small_mr(number=number, size=128), tmp_path / "in" / f"{number}.dcm")
    done = run("storescu", port, *with_tls(peer, profile), "127.0.0.1", port, "+sd", tmp_path / "in")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm"))) == 20


def test_dcmtk_is_turned_away_without_a_certificate_or_with_another_authoritys(
    listen, node, peer, tmp_path_factory, authority
):
    port = listen(tls=node.files)
    anonymous = run("echoscu", port, "+tla", "+cf", peer.ca, "127.0.0.1", port)
    stranger = Authority(tmp_path_factory.mktemp("stranger")).issue("peer").trusting(authority.certificate)
    foreign = run("echoscu", port, *with_tls(stranger), "127.0.0.1", port)
    plain = run("echoscu", port, "127.0.0.1", port)
    retired = run("echoscu", port, *with_tls(peer, "+pa"), "127.0.0.1", port)
    assert 0 not in (anonymous.returncode, foreign.returncode, plain.returncode)
    assert run("echoscu", port, *with_tls(peer), "127.0.0.1", port).returncode == 0
    # The retired AES profile offers suites of today beside its own.
    assert retired.returncode == 0 or "handshake" in retired.stdout + retired.stderr


def orthanc_with_tls(folder, shown, **settings):
    return Orthanc(
        folder,
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(shown.certificate),
        DicomTlsPrivateKey=str(shown.key),
        DicomTlsTrustedCertificates=str(shown.ca),
        DicomTlsRemoteCertificateRequired=True,
        **settings,
    )


def test_orthanc_is_asked_for_earlier_reports_and_sends_them_over_tls(tmp_path, node, peer):
    port, job = free_port(), study(tmp_path / "then", "20240102")
    modalities = {
        "node": {"AET": "GLIOMA_NODE", "Host": "127.0.0.1", "Port": 11112},
        "history": {"AET": "GLIOMA_HISTORY", "Host": "127.0.0.1", "Port": port, "UseDicomTls": True},
    }
    with orthanc_with_tls(tmp_path, peer, DicomModalities=modalities) as pacs:
        there = pacs.destination().model_copy(update={"tls": node.destination()})
        assert all(o.delivered for o in send_files(job.results.values(), there, "GLIOMA_NODE", 10))
        asked = HistoryPacs(
            ae_title=there.ae_title,
            host=there.host,
            port=there.port,
            tls=node.destination(),
            move_port=port,
            move_tls=PortTls(**node.files.model_dump(), certificate_common_name="peer"),
            timeout_seconds=10.0,
        )
        (found,) = fetch_reports(header_of(study(tmp_path / "now", "20250102")), asked)
        assert found.SOPInstanceUID == pydicom.dcmread(job.results["SR"]).SOPInstanceUID


def test_orthanc_gets_results_over_tls_and_sends_a_study_back(tmp_path, node, peer):
    port = free_port()
    settings = node_settings(
        tmp_path / "node",
        port=port,
        tls=node.files,
        peers=(Peer(ae_title="ORTHANC", certificate_common_name="peer"),),
    )
    receiver = Receiver(settings)
    images = [small_mr(number=number, size=64) for number in range(5)]
    modalities = {
        "node": {"AET": NODE_TITLE, "Host": "127.0.0.1", "Port": port, "UseDicomTls": True},
    }
    try:
        with orthanc_with_tls(tmp_path, peer, DicomModalities=modalities) as pacs:
            there = pacs.destination().model_copy(update={"tls": node.destination()})
            files = [save(ds, tmp_path / f"{ds.InstanceNumber}.dcm") for ds in images]
            assert [outcome.status for outcome in send_files(files, there, NODE_TITLE, 10)] == [0x0000] * 5
            assert pacs.instance_uids() == {ds.SOPInstanceUID for ds in images}
            held = pydicom.dcmread(io.BytesIO(pacs.file(images[0].SOPInstanceUID)))
            assert held.PixelData == images[0].PixelData

            plain = Destination(name="plain", ae_title="ORTHANC", host="127.0.0.1", port=pacs.dicom_port)
            with pytest.raises(PeerError):
                send_files(files, plain, NODE_TITLE, 5)

            studies = pacs.get("/studies")
            answer = pacs.post("/modalities/node/store", {"Resources": studies, "Synchronous": True})
            assert answer["FailedInstancesCount"] == 0
    finally:
        receiver.close()
    kept = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm")}
    assert kept == {ds.SOPInstanceUID for ds in images}
