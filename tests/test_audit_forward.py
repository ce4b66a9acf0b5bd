"""The way of the audit trail to its collector over TLS: whose certificates, and which ciphers."""

from __future__ import annotations

import ssl
import time
from contextlib import contextmanager

import pytest

from app.audit import AuditTrail
from app.audit_forward import Forwarder, open_forwarder
from app.config_operation import AuditConfig, SyslogConfig
from app.errors import ConfigError
from tests.support_certificates import Issued, renew
from tests.support_dicom import node_settings
from tests.test_audit import Collector, say, uids


@pytest.fixture
def trail(tmp_path):
    return AuditTrail(tmp_path / "audit.log", "GLIOMA_NODE")


@pytest.fixture
def ours(authority):
    return authority.issue("ours")


@pytest.fixture
def collector(authority):
    return Collector(authority.issue("collector").server_context())


def syslog(collector: Collector, ours: Issued) -> SyslogConfig:
    return SyslogConfig(host="localhost", port=collector.port, **ours.files.model_dump())


@contextmanager
def forwarding(folder, config):
    forwarder = Forwarder(folder / "audit.log", config)
    forwarder.start()
    try:
        yield
    finally:
        forwarder.stop()


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_certificate_that_was_renewed_is_shown_to_the_collector_from_the_next_connection_on(
    trail, tmp_path, collector, ours, authority
):
    with collector.up(), forwarding(tmp_path, syslog(collector, ours)):
        say(trail, "1.1")
        collector.wait(1)
        renew(ours, authority.issue("renewed"))
        say(trail, "1.2")
        assert uids(collector.wait(2)) == ["1.1", "1.2"]
    assert collector.shown == ["ours", "renewed"]


def test_files_that_are_half_renewed_cost_no_message_and_are_told_in_the_log(
    trail, tmp_path, collector, ours, authority, caplog
):
    with collector.up(), forwarding(tmp_path, syslog(collector, ours)):
        key, other = ours.key.read_bytes(), authority.issue("other")
        ours.key.write_bytes(other.key.read_bytes())
        say(trail, "1.1")
        until(lambda: f"is not that of certificate {ours.certificate}" in caplog.text)
        assert collector.bodies() == []
        ours.key.write_bytes(key)
        assert uids(collector.wait(1)) == ["1.1"]


def test_a_collector_of_weak_ciphers_is_told_nothing(trail, tmp_path, authority, ours):
    weak = authority.issue("weak").server_context()
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    refused, collector = [], Collector(weak)
    weak.sni_callback = lambda *told: refused.append(told)
    with collector.up(), forwarding(tmp_path, syslog(collector, ours)):
        say(trail, "1.1")
        until(lambda: refused)
    assert collector.received == b""


def test_damaged_files_end_a_start_with_the_setting_and_the_file(tmp_path, ours):
    ours.key.write_text("no key")
    audit = AuditConfig(syslog=SyslogConfig(host="localhost", **ours.files.model_dump()))
    settings = node_settings(tmp_path / "node").model_copy(update={"audit": audit})
    with pytest.raises(ConfigError, match=rf"node\.audit\.syslog: certificate .* and key {ours.key} cannot be used"):
        open_forwarder(settings)
