"""Doctor names each thing that may be wrong, and its remedy."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from app import doctor, doctor_place
from app.audit import TRAIL
from app.config import Destination, OperationConfig, SenderConfig, Settings
from app.config_history import HistoryConfig, HistoryPacs
from app.config_operation import AuditConfig, SyslogConfig
from app.config_results import ResultsConfig
from app.config_tls import PortTls
from app.deidentify_secret import read_secret
from app.doctor_place import look_at_place
from app.doctor_services import look_at_services
from app.files import private_folder
from app.journal import Journal
from models.markers.slice_network import ABOUT, NETWORK
from operators.pixel_limits import PixelLimits
from tests.support_certificates import Authority
from tests.support_decoder_faults import leave
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings
from tests.support_port import free_port

WEIGHTS = Settings.model_fields["models_dir"].default


@pytest.fixture
def settings(tmp_path):
    return node_settings(tmp_path / "data")


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def looked(settings, subject):
    return [check for check in look_at_place(settings) if check.subject == subject]


def wrong(settings, subject):
    """The one check of a subject that is not well."""
    (check,) = [check for check in looked(settings, subject) if not check.ok]
    assert check.remedy
    return check


def test_a_sound_place_is_all_well(settings):
    found = {check.subject: check for check in look_at_place(settings)}
    assert set(found) == {"data folder", "journal", "disk", "port", "image decoder"}
    assert all(check.ok for check in found.values()), found
    assert list(settings.data_dir.iterdir()) == []
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700


def test_a_taken_port(settings, taken, tmp_path):
    check = wrong(node_settings(tmp_path / "data", port=taken), "port")
    assert "in use" in check.found
    assert f"choose another node.receiver.port than {taken}" in check.remedy


def test_a_taken_port_of_monitoring(settings, taken):
    settings = settings.model_copy(update={"operation": OperationConfig(port=taken)})
    assert "node.operation.port" in wrong(settings, "monitoring port").remedy


def test_a_port_that_this_user_may_not_have(settings, monkeypatch):
    def refuse(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    check = wrong(settings, "port")
    assert "below 1024" in check.found
    assert "from 1024 on" in check.remedy


def test_a_data_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    check = wrong(node_settings(tmp_path / "file" / "data"), "data folder")
    assert "Not a directory" in check.found
    assert "node.data_dir" in check.remedy


FAILING = [
    (errno.EACCES, "Permission denied", "chown"),
    (errno.EROFS, "Read-only file system", "mount it for writing"),
    (errno.ENOSPC, "No space left on device", "make room"),
    (errno.EDQUOT, "Disk quota exceeded", "quota"),
]


@pytest.mark.parametrize(("number", "text", "remedy"), FAILING, ids=[text for _, text, _ in FAILING])
def test_a_folder_that_cannot_be_written(settings, monkeypatch, number, text, remedy):
    def fail(self, content):
        raise OSError(number, text, str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    check = wrong(settings, "data folder")
    assert text in check.found
    assert remedy in check.remedy


def test_an_inbox_that_cannot_be_written_though_its_parent_can(settings, monkeypatch):
    private_folder(settings.inbox_dir)
    write = Path.write_bytes

    def fail(self, content):
        if self.parent == settings.inbox_dir:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    assert "inbox" in wrong(settings, "data folder").found


def test_an_archive_that_cannot_be_written(settings):
    private_folder(settings.archive_dir)
    (settings.archive_dir / ".doctor").mkdir()
    assert "archive" in wrong(settings, "data folder").found


def test_a_data_folder_that_others_can_enter_is_a_warning(settings):
    settings.data_dir.mkdir(mode=0o755)
    settings.data_dir.chmod(0o755)
    check = wrong(settings, "data folder")
    assert check.warns
    assert "0755" in check.found
    assert check.remedy == f"chmod 700 {settings.data_dir}"


def test_a_disk_below_its_watermark(tmp_path):
    check = wrong(node_settings(tmp_path / "data", free_space_watermark_mb=10**9), "disk")
    assert "kept in reserve" in check.found


def test_a_disk_without_room_for_files(settings, monkeypatch):
    real = os.statvfs

    def full(path):
        found = list(real(path))
        found[5], found[7] = 1_000_000, 3  # f_files, f_favail
        return os.statvfs_result(found)

    monkeypatch.setattr(doctor_place.os, "statvfs", full)
    assert "3 more files" in wrong(settings, "disk").found


def test_a_journal_is_looked_at_and_left_as_it_is(settings):
    Journal(settings.journal_path).close()
    before = settings.journal_path.read_bytes()
    (check,) = looked(settings, "journal")
    assert check.ok
    assert settings.journal_path.read_bytes() == before


@pytest.mark.parametrize("damage", [b"nonsense" * 4096, None])
def test_a_damaged_journal(settings, damage):
    journal = Journal(settings.journal_path)
    for number in range(300):
        journal.study_arriving(f"{number:032d}", f"1.2.{number}")
    journal.close()
    whole = bytearray(settings.journal_path.read_bytes())
    if damage is None:  # pages in the middle
        whole[8192 : len(whole) - 4096] = os.urandom(len(whole) - 12_288)
    settings.journal_path.write_bytes(damage or whole)
    check = wrong(settings, "journal")
    assert "stop the node and move" in check.remedy


def test_a_decoder_that_has_too_little_memory(settings, monkeypatch):
    monkeypatch.setattr("operators.decoder.prepare", leave)
    check = wrong(settings.model_copy(update={"pixels": PixelLimits(decode_mb=64)}), "image decoder")
    assert "node.pixels.decode_mb" in check.remedy


# Destinations


def destination(port, title=NODE_TITLE):
    return Destination(name="pacs", ae_title=title, host="127.0.0.1", port=port)


def asked(port, title=NODE_TITLE, calling=PEER_TITLE):
    return doctor._destination(
        destination(port, title), SenderConfig(calling_ae_title=calling, network_timeout_seconds=5.0)
    )


def test_a_pacs_that_answers(listen):
    check = asked(listen())
    assert check.ok
    assert "answers C-ECHO" in check.found


def test_a_pacs_that_is_not_there():
    port = free_port()
    check = asked(port)
    assert not check.ok
    assert "cannot be reached" in check.found
    assert "is the PACS up" in check.found


@pytest.mark.parametrize(("title", "calling"), [("OTHER", PEER_TITLE), (NODE_TITLE, "STRANGER")])
def test_a_pacs_that_refuses_a_title(listen, title, calling):
    check = asked(listen(), title, calling)
    assert not check.ok
    assert "AE title not recognised" in check.found
    assert f"does it know {calling}" in check.remedy


def web(url, **stow):
    return Destination(name="web", stow={"url": url, **stow})


def test_a_web_services_authority_is_looked_at_where_there_is_no_certificate_of_ours(tmp_path):
    late = Authority(tmp_path / "late", days=10).certificate
    (check,) = doctor._files(web("https://pacs.example.org", ca=late))
    assert (check.subject, check.ok, check.warns) == ("destination web TLS", False, True)
    assert "authority (Test CA) in" in check.found
    assert "expires on" in check.found
    (check,) = doctor._files(web("https://pacs.example.org", ca=Authority(tmp_path / "good").certificate))
    assert check.ok
    assert "valid until" in check.found
    (check,) = doctor._files(web("https://pacs.example.org", ca=tmp_path / "none.pem"))
    assert not check.ok
    assert not check.warns
    assert "none.pem cannot be read" in check.found


@pytest.mark.parametrize(("mode", "found"), [(0o600, 0), (0o644, 1)])
def test_a_web_services_secret_that_others_can_read(tmp_path, mode, found):
    secret = tmp_path / "token"
    secret.write_text("hunter2-secret")
    secret.chmod(mode)
    checks = list(doctor._files(web("https://pacs.example.org", secret_file=secret)))
    assert len(checks) == found
    for check in checks:
        assert check.warns
        assert check.found == f"secret {secret} can be read or written by others"
        assert check.remedy in {f"chmod 600 {secret}", f"chmod 640 {secret}"}


def test_the_secret_of_deidentification_is_not_made_by_looking(settings):
    private_folder(settings.data_dir)
    assert doctor._secret(settings).ok
    assert list(settings.data_dir.iterdir()) == []
    read_secret(settings)
    assert doctor._secret(settings).ok


# Audit trail and history


def of_services(settings, subject):
    (check,) = [check for check in look_at_services(settings) if check.subject == subject]
    return check


def test_a_trail_that_cannot_be_written(settings):
    private_folder(settings.data_dir)
    trail = settings.data_dir / TRAIL
    assert of_services(settings, "audit trail").ok
    assert not trail.exists()
    trail.write_text("a line\n")
    assert of_services(settings, "audit trail").ok
    assert trail.read_text() == "a line\n"
    trail.unlink()
    trail.mkdir()
    check = of_services(settings, "audit trail")
    assert not check.ok
    assert "move it away" in check.remedy


def audited(settings, **syslog):
    config = SyslogConfig(host="localhost", **syslog)
    return settings.model_copy(update={"audit": AuditConfig(syslog=config)})


@pytest.fixture
def collector(authority):
    """A collector that speaks TLS and wants a certificate; returns its port."""
    own = authority.issue("collector")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(own.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(own.certificate, own.key)
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                accepted, _ = server.accept()
            except OSError:
                return
            with suppress(OSError), context.wrap_socket(accepted, server_side=True) as connection:
                connection.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def test_a_collector_that_takes_the_trail(settings, collector, authority):
    ours = authority.issue("node")
    told = list(
        look_at_services(audited(settings, port=collector, ca=ours.ca, certificate=ours.certificate, key=ours.key))
    )
    assert all(check.ok for check in told), told
    assert "takes connections over TLS" in told[-1].found
    assert "certificate" in told[-2].found


def test_a_collector_that_is_not_there_or_wants_what_we_have_not(settings, collector, authority, tmp_path):
    gone = of_services(audited(settings, port=free_port(), plain=True), "audit collector")
    assert not gone.ok
    assert "Connection refused" in gone.found
    assert "is the collector up" in gone.remedy
    bare = of_services(audited(settings, port=collector, ca=authority.certificate), "audit collector")
    assert not bare.ok
    assert "certificate" in bare.found
    other = Authority(tmp_path / "other").certificate
    assert not of_services(audited(settings, port=collector, ca=other), "audit collector").ok


def test_a_collectors_damaged_files_are_one_clear_line(settings, collector, authority):
    late = authority.issue("late", days=-1)
    files = {"ca": late.ca, "certificate": late.certificate, "key": late.key}
    checks = list(look_at_services(audited(settings, port=collector, **files)))
    assert [check.subject for check in checks if not check.ok] == ["audit collector TLS"]
    assert "expired on" in checks[-1].found


def history(settings, port, **more):
    pacs = HistoryPacs(ae_title=NODE_TITLE, host="127.0.0.1", port=port, timeout_seconds=5.0, **more)
    return settings.model_copy(update={"history": HistoryConfig(pacs=pacs)})


def test_the_pacs_of_history_and_its_port(settings, listen, taken):
    port = listen()
    sound = history(settings, port, calling_ae_title=PEER_TITLE, move_port=free_port())
    assert "answers C-ECHO" in of_services(sound, "history").found
    assert of_services(sound, "history port").ok
    stranger = of_services(history(settings, port, calling_ae_title="STRANGER"), "history")
    assert not stranger.ok
    assert "does it know STRANGER" in stranger.remedy
    check = of_services(history(settings, port, calling_ae_title=PEER_TITLE, move_port=taken), "history port")
    assert not check.ok
    assert "node.history.pacs.move_port" in check.remedy
    elsewhere = history(settings, port, move_host="192.0.2.1", move_port=free_port())
    assert not of_services(elsewhere, "history port").ok, "an address that this machine does not have"


def test_tls_of_the_pacs_of_history_and_of_its_port(settings, listen, authority, tmp_path):
    node, peer = authority.issue("node"), authority.issue("pacs")
    port = listen(tls=peer.files)
    own = {"calling_ae_title": PEER_TITLE, "move_port": free_port()}
    move_tls = PortTls(**node.files.model_dump())
    sound = list(look_at_services(history(settings, port, tls=node.destination(), move_tls=move_tls, **own)))
    about = {check.subject: check for check in sound if check.subject.startswith("history")}
    assert set(about) == {"history", "history TLS", "history port", "history port TLS"}
    assert all(check.ok for check in about.values())
    assert "by TLS" in about["history"].found

    half = history(settings, port, tls=node.destination(), **own)
    found = [check for check in look_at_services(half) if not check.ok]
    assert [(check.subject, check.warns) for check in found] == [("history TLS", True)]
    assert "reports come in the clear" in found[0].found
    assert "node.history.pacs.move_tls" in found[0].remedy

    gone = node.trusting(tmp_path / "gone.crt")
    damaged = history(settings, port, tls=gone.destination(), move_tls=PortTls(**gone.files.model_dump()), **own)
    found = [check for check in look_at_services(damaged) if not check.ok]
    assert [check.subject for check in found] == ["history TLS", "history port TLS"], "one clear line for each"
    assert all("gone.crt cannot be read" in check.found for check in found)

    late = PortTls(**authority.issue("late-port", days=-1).files.model_dump())
    expired = history(settings, port, tls=node.destination(), move_tls=late, **own)
    assert "expired on" in of_services(expired, "history port TLS").found
    plain = of_services(history(settings, port, move_tls=move_tls, **own), "history")
    assert "and without TLS" in plain.found


# Models


@pytest.fixture
def models(settings, tmp_path):
    """The shipped models, in a folder that a test may spoil."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    return settings.model_copy(update={"models_dir": tmp_path / "weights"})


def test_shipped_models_are_what_their_cards_describe(models):
    assert doctor._model(models).ok
    assert doctor._markers(models).ok
    (check,) = doctor._networks(models)
    assert check.ok
    assert check.subject == "attention map of idh"


def test_a_network_of_ones_own_is_told_what_it_lacks_beside_it(models, tmp_path):
    """It opens, and studies are segmented; but that nothing more is said of them should be known beforehand."""
    inputs = tmp_path / "inputs"
    shutil.copytree(models.inputs_dir, inputs)
    shutil.copytree(models.models_dir / "nasbranet", models.models_dir / "mine")
    pipeline = models.pipeline.model_copy(update={"segmenter": "mine"})
    mine = models.model_copy(update={"pipeline": pipeline, "inputs_dir": inputs})
    assert doctor._model(mine).ok
    described, chosen = doctor._beside_model(mine)
    for check, file in ((described, "mine.json"), (chosen, "mine.refinement.json")):
        assert (check.ok, check.warns) == (False, True)
        assert f"mine has no {inputs / file}" in check.found
        assert f"--to {inputs / file}" in check.remedy
    assert "describe-inputs" in described.remedy
    assert "refine" in chosen.remedy
    for ending in ("json", "refinement.json"):
        shutil.copy(inputs / f"nasbranet.{ending}", inputs / f"mine.{ending}")
    assert all(check.ok for check in doctor._beside_model(mine))
    (inputs / "mine.refinement.json").write_text("{")
    damaged = list(doctor._beside_model(mine))[1]
    assert (damaged.ok, damaged.warns) == (False, False)


def network(models):
    return models.models_dir / "nasbranet" / "model.onnx"


def test_a_model_file_that_is_cut_short(models):
    whole = network(models).read_bytes()
    network(models).write_bytes(whole[: len(whole) // 2])
    check = doctor._model(models)
    assert not check.ok
    assert "model.onnx" in check.found
    assert "restore models/weights" in check.remedy


def test_a_model_file_of_noise_and_one_that_is_gone(models):
    network(models).write_bytes(os.urandom(10_000))
    assert not doctor._model(models).ok
    network(models).unlink()
    check = doctor._model(models)
    assert not check.ok
    assert "missing" in check.found


def test_a_model_that_opens_but_is_another_than_its_card_says(models):
    import onnx

    model = onnx.load(network(models))
    model.doc_string = "changed"
    onnx.save(model, network(models))
    check = doctor._model(models)
    assert not check.ok
    assert "is not the file that its model card describes (SHA-256" in check.found


def test_a_marker_model_that_is_damaged(models):
    damaged = next(path for path in sorted((models.models_dir / "markers").rglob("*")) if path.suffix == ".skops")
    damaged.write_bytes(damaged.read_bytes()[:-200])
    assert not doctor._markers(models).ok


@pytest.mark.parametrize("part", [NETWORK, ABOUT])
def test_a_network_that_is_damaged_or_gone_is_a_warning(models, part):
    path = models.models_dir / "markers" / "idh" / part
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:-300]), path.unlink):
        spoil()
        (check,) = doctor._networks(models)
        assert not check.ok
        assert check.warns
        assert part in check.found
        assert "node.results.attention_maps" in check.remedy
    assert doctor._markers(models).ok, "what answers is whole"


def test_a_network_that_is_not_wanted_is_not_looked_at(models):
    (models.models_dir / "markers" / "idh" / NETWORK).write_bytes(b"")
    (check,) = doctor._networks(models.model_copy(update={"results": ResultsConfig(attention_maps=False)}))
    assert check.ok
    assert "none are drawn" in check.found
