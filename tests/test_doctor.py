"""Doctor names each thing that may be wrong, and its remedy."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path

import pytest

from app import doctor, doctor_place
from app.config import Destination, OperationConfig, SenderConfig, Settings
from app.doctor_place import look_at_place
from app.files import private_folder
from app.journal import Journal
from operators.pixel_limits import PixelLimits
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


# Models


@pytest.fixture
def models(settings, tmp_path):
    """The shipped models, in a folder that a test may spoil."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    return settings.model_copy(update={"models_dir": tmp_path / "weights"})


def test_shipped_models_are_what_their_cards_describe(models):
    assert doctor._model(models).ok
    assert doctor._markers(models).ok


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
