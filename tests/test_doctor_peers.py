"""Doctor, and the settings that ship, on who may send."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import Peer, ReceiverConfig, load_settings
from app.config_tls import TlsFiles
from app.doctor import examine
from tests.support_dicom import node_settings

SHIPPED = Path(__file__).parents[1] / "app.yaml"


def seen(folder, *peers):
    # Only TLS can hold a peer to its certificate; its files are looked at later.
    tls = TlsFiles(certificate=folder / "node.crt", key=folder / "node.key", ca=folder / "ca.crt")
    checks = examine(node_settings(folder, peers=peers, tls=tls))
    return next(check for check in checks if check.subject == "peers")


def test_the_settings_that_ship_let_in_this_machine_alone():
    shipped = load_settings(SHIPPED).receiver
    assert not shipped.allow_any_peer
    assert [peer.address for peer in shipped.peers] == ["127.0.0.1"]
    assert ReceiverConfig().peers == ()


@pytest.mark.parametrize(
    ("bound", "warns"),
    [
        ({}, True),
        ({"address": "10.0.0.5"}, False),
        ({"certificate_common_name": "pacs.example.org"}, False),
        ({"certificate_sha256": "ab" * 32}, False),
    ],
    ids=["from anywhere", "address", "name", "fingerprint"],
)
def test_a_title_that_may_come_from_anywhere_is_a_warning(tmp_path, bound, warns):
    check = seen(tmp_path, Peer(ae_title="MR1", address="10.0.0.7"), Peer(ae_title="PACS", **bound))
    assert (check.ok, check.warns) == (not warns, warns)
    assert check.found == ("MR1, PACS; from any address: PACS" if warns else "MR1, PACS")


def test_nobody_who_may_send_is_no_mere_warning(tmp_path):
    check = seen(tmp_path)
    assert not check.ok
    assert not check.warns
