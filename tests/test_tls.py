"""TLS on real sockets: who gets in by certificate, who does not, and what each is told."""

from __future__ import annotations

import socket
import ssl
import time
import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, Verification

from app.config import Destination, Peer, ReceiverConfig, SenderConfig
from app.config_tls import DestinationTls
from app.errors import PeerError, TlsError
from app.receiver import Receiver
from app.sender import echo, parse_peer, send_files
from app.tls import CIPHERS
from tests.support_certificates import Issued, openssl, renew
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, save, small_mr


@pytest.fixture(scope="module")
def node(authority):
    return authority.issue("node")


@pytest.fixture(scope="module")
def peer(authority):
    return authority.issue("peer")


@pytest.fixture
def port(listen, node):
    """A receiver that speaks TLS."""
    return listen(tls=node.files)


def verify(port: int, tls: DestinationTls | None, timeout: float = 10.0) -> None:
    us = Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=port, tls=tls)
    echo(us, SenderConfig(calling_ae_title=PEER_TITLE, network_timeout_seconds=timeout))


def logged(caplog) -> str:
    """What the receiver logs of a connection that it turned away; it does so in its own time."""
    deadline = time.monotonic() + 5
    while not caplog.messages and time.monotonic() < deadline:
        time.sleep(0.02)
    return "\n".join(caplog.messages)


# The receiver


def test_a_study_comes_and_goes_over_mutual_tls(port, peer, tmp_path):
    us = Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=port, tls=peer.destination())
    files = [save(small_mr(size=256, number=number), tmp_path / f"{number}.dcm") for number in range(5)]
    assert all(outcome.status == 0x0000 for outcome in send_files(files, us, PEER_TITLE, 10))
    assert len(list((tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm"))) == 5


def test_pynetdicoms_own_client_is_served(port, peer):
    ae = AE(ae_title=PEER_TITLE)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title=NODE_TITLE, tls_args=(peer.client_context(), "localhost"))
    assert association.send_c_echo().Status == 0x0000
    association.release()


SPOKEN = [
    (ssl.TLSVersion.TLSv1_3, None, "TLSv1.3"),
    *((ssl.TLSVersion.TLSv1_2, cipher, "TLSv1.2") for cipher in CIPHERS if "ECDSA" in cipher),
]


def shake_hands(port: int, context: ssl.SSLContext) -> str:
    """Shake hands and have a byte's answer, as TLS 1.3 tells of a refusal only then; return the version."""
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as connection:
        spoken = connection.version()
        connection.sendall(b"\x07\0\0\0\0\x04\0\0\0\0")
        connection.recv(1)
        return spoken


@pytest.mark.parametrize(("version", "cipher", "spoken"), SPOKEN)
def test_both_versions_and_the_cipher_suites_of_bcp_195_are_spoken(port, peer, version, cipher, spoken):
    context = peer.client_context()
    context.minimum_version = context.maximum_version = version
    if cipher is not None:
        context.set_ciphers(cipher)
    assert shake_hands(port, context) == spoken


def test_rsa_certificates_are_spoken_too(listen, authority, peer):
    rsa = authority.issue("rsa", key=("rsa:2048",))
    for cipher in CIPHERS:
        if "RSA" in cipher.split("-"):
            context = peer.client_context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(cipher)
            assert shake_hands(listen(tls=rsa.files), context) == "TLSv1.2"


OLD = [
    ({"maximum_version": ssl.TLSVersion.TLSv1_1, "minimum_version": ssl.TLSVersion.TLSv1}, "DEFAULT@SECLEVEL=0"),
    ({"maximum_version": ssl.TLSVersion.TLSv1_2}, "AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA"),
    ({"maximum_version": ssl.TLSVersion.TLSv1_2}, "ECDHE-ECDSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256"),
]


@pytest.mark.parametrize(("versions", "ciphers"), OLD, ids=["TLS 1.1", "no AEAD or no ECDHE", "not recommended"])
def test_what_bcp_195_does_not_allow_is_refused(port, peer, versions, ciphers, caplog):
    context = peer.client_context()
    context.set_ciphers(ciphers)
    with warnings.catch_warnings(action="ignore"):  # of versions this old
        for name, value in sorted(versions.items(), reverse=True):
            setattr(context, name, value)
    with pytest.raises(OSError):  # noqa: PT011 - an alert, or a reset that overtook it
        shake_hands(port, context)
    assert "no TLS with 127.0.0.1: it " in logged(caplog)
    verify(port, peer.destination())


def turned_away(port: int, context: ssl.SSLContext) -> bool:
    try:
        shake_hands(port, context)
    except OSError:
        return True
    return False


def test_a_peer_without_a_certificate_is_turned_away(port, peer, caplog):
    context = ssl.create_default_context(cafile=str(peer.ca))
    context.check_hostname = False
    assert turned_away(port, context)
    assert "no TLS with 127.0.0.1: it shows no certificate" in logged(caplog)
    verify(port, peer.destination())


WRONG = [
    ("another authority's", "unable to get local issuer certificate"),
    ("expired", "certificate has expired"),
    ("a server's only", "unsuitable certificate purpose"),
]


@pytest.mark.parametrize(("which", "why"), WRONG)
def test_a_wrong_certificate_is_turned_away_and_the_log_says_why(port, peer, authority, stranger, which, why, caplog):
    shown = {
        "another authority's": lambda: stranger.issue("intruder").trusting(authority.certificate),
        "expired": lambda: authority.issue("late", days=-1),
        "a server's only": lambda: authority.issue("server", usage="serverAuth"),
    }[which]()
    assert turned_away(port, shown.client_context())
    assert f"no TLS with 127.0.0.1: {why}" in logged(caplog)
    caplog.clear()
    with pytest.raises(PeerError, match=r"does it accept our certificate|not by TLS"):
        verify(port, shown.destination())
    verify(port, peer.destination())


def test_plain_dicom_is_refused_on_a_tls_port_and_tls_on_a_plain_one(port, peer, listen, caplog):
    with pytest.raises(PeerError, match="and without TLS"):
        verify(port, None)
    assert "no TLS with 127.0.0.1: it does not speak TLS" in logged(caplog)
    with pytest.raises(PeerError, match="not by TLS"):
        verify(listen(), peer.destination())
    verify(port, peer.destination())


def bound(**binding: str) -> tuple[Peer, ...]:
    return (Peer(ae_title=PEER_TITLE, **binding),)


def test_a_title_can_be_bound_to_a_name_or_a_fingerprint(listen, node, peer, authority, caplog):
    other = authority.issue("other")
    by_name = listen(tls=node.files, peers=bound(certificate_common_name="peer"))
    by_print = listen(tls=node.files, peers=bound(certificate_sha256=peer.sha256.upper()))
    for port in (by_name, by_print):
        verify(port, peer.destination())
        with pytest.raises(PeerError, match="Calling AE title not recognised"):
            verify(port, other.destination())
    assert "'TEST_PEER' at 127.0.0.1 is not a known peer: its certificate is of 'other', not of 'peer'" in caplog.text
    assert f"its certificate has the SHA-256 fingerprint {other.sha256}" in caplog.text


def test_a_renewed_certificate_is_used_from_the_next_connection_on(listen, authority, peer):
    served, renewed = authority.issue("served"), authority.issue("renewed")
    port = listen(tls=served.files)
    tls = {"certificate_sha256": served.sha256}
    verify(port, peer.destination(**tls))
    renew(served, renewed)
    with pytest.raises(PeerError, match="SHA-256 fingerprint"):
        verify(port, peer.destination(**tls))
    verify(port, peer.destination(certificate_sha256=renewed.sha256))


def test_a_renewal_that_is_half_done_or_broken_leaves_the_former_certificate_at_work(
    listen, authority, peer, tmp_path, caplog
):
    served, renewed = authority.issue("half"), authority.issue("half-renewed")
    former = served.sha256
    port = listen(tls=served.files)
    served.certificate.write_bytes(renewed.certificate.read_bytes())
    verify(port, peer.destination(certificate_sha256=former))
    assert "the former certificate stays in use: key " in caplog.text
    served.key.unlink()
    verify(port, peer.destination(certificate_sha256=former))
    served.key.write_bytes(renewed.key.read_bytes())
    verify(port, peer.destination(certificate_sha256=renewed.sha256))
    assert "BEGIN" not in caplog.text


def test_an_authority_that_is_no_longer_trusted_lets_nobody_in_any_more(listen, authority, stranger, peer):
    served = authority.issue("changing")
    own_ca = Path(served.certificate).with_name("own-ca.crt")
    own_ca.write_bytes(authority.certificate.read_bytes())
    port = listen(tls=served.trusting(own_ca).files)
    verify(port, peer.destination())
    own_ca.write_bytes(stranger.certificate.read_bytes() + b"\n")
    with pytest.raises(PeerError):
        verify(port, peer.destination())


# What cannot be configured


def test_a_binding_without_tls_is_an_error():
    with pytest.raises(ValidationError, match=r"node\.receiver\.tls is not set"):
        ReceiverConfig(peers=bound(certificate_common_name="peer"))
    with pytest.raises(ValidationError, match="64 hexadecimal digits"):
        Peer(ae_title="A", certificate_sha256="12:34")


def broken_files(node: Issued, folder: Path) -> dict[str, tuple[Issued, str]]:
    locked, text = folder / "locked.key", folder / "text.pem"
    openssl("pkey", "-in", node.key, "-aes256", "-passout", "pass:secret-word", "-out", locked)
    text.write_text("no certificate\n")
    return {
        "absent": (Issued(folder / "absent.crt", node.key, node.ca), r"certificate .*absent\.crt cannot be read"),
        "no CA": (Issued(node.certificate, node.key, folder / "absent.crt"), "CA file .* cannot be read"),
        "empty CA": (Issued(node.certificate, node.key, text), "holds no certificate in PEM form"),
        "text": (Issued(text, node.key, node.ca), "are both PEM"),
        "locked": (Issued(node.certificate, locked, node.ca), "has a password: take it off with openssl pkey"),
    }


@pytest.mark.parametrize("which", ["absent", "no CA", "empty CA", "text", "locked", "mismatched", "weak"])
def test_files_that_cannot_be_used_are_named_with_the_remedy(node, peer, authority, tmp_path, which):
    cases = broken_files(node, tmp_path)
    cases["mismatched"] = (Issued(node.certificate, peer.key, node.ca), "is not that of certificate")
    if which == "weak":
        cases["weak"] = (authority.issue("weak", key=("rsa:1024",)), "too weak for BCP 195")
    files, told = cases[which]
    with pytest.raises(TlsError, match=told) as caught:
        Receiver(node_settings(tmp_path / "node", tls=files.files))
    assert "secret-word" not in str(caught.value)
    with pytest.raises(PeerError, match=told):
        verify(1, files.destination())


# The sender


class Pacs:
    """Another's Storage SCP with TLS."""

    def __init__(self, shown: Issued, **context: object) -> None:
        self.got: list[str] = []
        ae = AE(ae_title="PACS")
        ae.add_supported_context(MRImageStorage)
        ae.add_supported_context(Verification)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self.server = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=shown.server_context()
        )

    def _store(self, event) -> int:
        self.got.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    def destination(self, tls: DestinationTls, host: str = "127.0.0.1") -> Destination:
        return Destination(name="pacs", ae_title="PACS", host=host, port=self.server.server_address[1], tls=tls)


@pytest.fixture
def pacs():
    open_ones = []

    def start(shown):
        open_ones.append(Pacs(shown))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.server.shutdown()


def test_results_reach_a_destination_over_tls(pacs, node, peer, tmp_path):
    destination = pacs(peer).destination(node.destination())
    ds = small_mr()
    (outcome,) = send_files([save(ds, tmp_path / "a.dcm")], destination, NODE_TITLE, 10)
    assert (outcome.delivered, outcome.note) == (True, "")


def test_a_destination_with_the_wrong_certificate_gets_nothing(pacs, node, authority, stranger, tmp_path):
    path = save(small_mr(), tmp_path / "a.dcm")
    cases = [
        (stranger.issue("false").trusting(authority.certificate), {}, "unable to get local issuer certificate"),
        (authority.issue("old", days=-1), {}, "certificate has expired"),
        (authority.issue("elsewhere", hosts="DNS:pacs.example.org"), {}, "IP address mismatch"),
        (authority.issue("named"), {"certificate_common_name": "pacs"}, "of 'named', not of 'pacs'"),
        (authority.issue("printed"), {"certificate_sha256": "0" * 64}, "has the SHA-256 fingerprint"),
    ]
    for shown, binding, why in cases:
        there = pacs(shown)
        with pytest.raises(PeerError, match=f"can be reached, but not by TLS .*{why}"):
            send_files([path], there.destination(node.destination(**binding)), NODE_TITLE, 10)
        assert there.got == []


def test_a_name_or_fingerprint_stands_in_place_of_the_host(pacs, node, authority):
    elsewhere = authority.issue("far", hosts="DNS:pacs.example.org")
    there = pacs(elsewhere)
    config = SenderConfig(network_timeout_seconds=10)
    for binding in ({"certificate_common_name": "far"}, {"certificate_sha256": elsewhere.sha256}):
        echo(there.destination(node.destination(**binding)), config)


def test_a_renewed_certificate_of_ours_is_shown_at_the_next_association(pacs, authority, peer, tmp_path):
    ours = authority.issue("ours", days=-1)
    there, config = pacs(peer), SenderConfig(network_timeout_seconds=10)
    with pytest.raises(PeerError):
        echo(there.destination(ours.destination()), config)
    renew(ours, authority.issue("ours-renewed"))
    echo(there.destination(ours.destination()), config)


def test_a_destination_that_never_shakes_hands_is_given_up(node):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        there = Destination(
            name="pacs", ae_title="PACS", host="127.0.0.1", port=deaf.getsockname()[1], tls=node.destination()
        )
        begun = time.monotonic()
        with pytest.raises(PeerError, match="no answer in time"):
            echo(there, SenderConfig(network_timeout_seconds=1))
        assert time.monotonic() - begun < 5


def test_a_destination_that_is_down_is_told_as_down(node):
    with pytest.raises(PeerError, match="is the PACS up"):
        verify(1, node.destination(), 2)


def test_send_reads_its_files_from_the_command_line(port, peer, tmp_path):
    there = parse_peer(f"{NODE_TITLE}@127.0.0.1:{port}", (peer.certificate, peer.key, peer.ca))
    (outcome,) = send_files([save(small_mr(), tmp_path / "a.dcm")], there, PEER_TITLE, 10)
    assert outcome.delivered
