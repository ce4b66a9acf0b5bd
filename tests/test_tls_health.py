"""What doctor says of TLS files: one line each, with the remedy."""

from __future__ import annotations

import time

import pytest

from app.config import Destination, Settings
from app.doctor import Check, _tls, examine
from app.tls_health import DAYS_AHEAD, look_at
from tests.support_certificates import Authority, Issued
from tests.support_dicom import node_settings

DAY = 86_400


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"), days=2000)


@pytest.fixture(scope="module")
def good(authority):
    return authority.issue("node", days=365)


@pytest.mark.parametrize("server_side", [True, False])
def test_a_good_certificate_is_named_with_its_last_day(good, server_side):
    (finding,) = look_at(good.files, server_side, time.time())
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 365 * DAY))
    assert (finding.found, finding.remedy) == (f"certificate {good.certificate} (node) is valid until {day}", "")


@pytest.mark.parametrize("server_side", [True, False])
@pytest.mark.parametrize(
    ("days_on", "found", "grave"),
    [
        (365 - DAYS_AHEAD - 1, "is valid until", False),
        (365 - DAYS_AHEAD + 1, "in 28 days", False),
        (366, "expired on", True),
        (-1, "is valid only from", True),
    ],
)
def test_the_end_is_told_thirty_days_ahead(good, server_side, days_on, found, grave):
    finding = look_at(good.files, server_side, time.time() + days_on * DAY)[0]
    assert found in finding.found
    assert finding.grave == grave
    assert bool(finding.remedy) == (found != "is valid until")


def test_an_authority_that_ends_is_told_too(good):
    told = look_at(good.files, True, time.time() + 1999 * DAY)
    assert "authority (Test CA) in " in told[1].found
    assert "expires on" in told[1].found


def test_a_key_that_others_can_read_is_warned_of(authority):
    careless = authority.issue("careless")
    careless.key.chmod(0o644)
    finding = look_at(careless.files, True, time.time())[0]
    assert finding.found == f"key {careless.key} can be read or written by others"
    assert finding.remedy in {f"chmod 640 {careless.key}", f"chmod 600 {careless.key}"}
    assert not finding.grave


def test_a_certificate_for_the_other_side_is_told(authority):
    client = authority.issue("client", usage="clientAuth")
    assert not look_at(client.files, False, time.time())[0].grave
    finding = look_at(client.files, True, time.time())[0]
    assert finding.grave
    assert "does not serve as that of a server: unsuitable certificate purpose" in finding.found


def test_a_missing_or_mismatched_file_is_one_grave_line(good, authority, tmp_path):
    other = authority.issue("other")
    cases = [
        (Issued(good.certificate, tmp_path / "no.key", good.ca), "no.key cannot be read"),
        (Issued(good.certificate, good.key, tmp_path / "no.crt"), "no.crt cannot be read"),
        (Issued(good.certificate, other.key, good.ca), "is not that of certificate"),
    ]
    for files, told in cases:
        (finding,) = look_at(files.files, True, time.time())
        assert told in finding.found
        assert finding.grave
        assert finding.remedy


def checks(settings: Settings) -> list[Check]:
    return [check for check in examine(settings) if "TLS" in check.subject]


def test_doctor_looks_at_receiver_and_destinations(good, authority, tmp_path, monkeypatch):
    monkeypatch.setattr("app.doctor._model", lambda _: Check("model", True, ""))
    monkeypatch.setattr("app.doctor._markers", lambda _: Check("markers", True, ""))
    late = authority.issue("late", days=-1)
    there = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, tls=late.destination())
    sender = {"destinations": (there,), "network_timeout_seconds": 1.0}
    first, second = checks(node_settings(tmp_path / "node", tls=good.files, sender=sender))
    assert (first.subject, first.ok) == ("receiver TLS", True)
    assert (second.subject, second.ok, second.warns) == ("destination pacs TLS", False, False)
    assert "expired on" in second.found


def test_what_is_to_be_mended_soon_is_a_warning_not_a_fault(authority):
    soon = authority.issue("soon", days=10)
    (check,) = _tls("receiver TLS", soon.files, server_side=True)
    assert (check.ok, check.warns) == (False, True)
    assert check.remedy == "renew it; the node takes the new file by itself"
