"""The receiver on real sockets: who gets in, what is kept, and what a peer is told."""

import errno
import io
import itertools
import multiprocessing
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate
from pynetdicom.dsutils import encode, split_dataset
from pynetdicom.sop_class import MRImageStorage, Verification

import app.store
from app.config import Destination, Peer
from app.entity import TRANSFER_SYNTAXES
from app.errors import PeerError
from app.files import INCOMING, instance_name, study_key
from app.receiver import run_receiver
from app.sender import send_files
from app.slots import is_whole
from app.store import Refused, Store, read_identity
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, save, send_bytes, small_mr, with_meta
from tests.support_memory import traced_peak
from tests.support_peer import associate
from tests.support_port import free_port


@pytest.fixture
def inbox(tmp_path):
    return tmp_path / "node" / "inbox"


def ask(port, syntaxes=(uid.ExplicitVRLittleEndian,), **more):
    return associate(port, (MRImageStorage, list(syntaxes)), Verification, seconds=10, **more)


def store(port, ds):
    """Send one dataset and return the status."""
    association = ask(port)
    assert association.is_established
    status = association.send_c_store(ds).Status
    association.release()
    return status


def in_slots(inbox):
    """What is under way, or has two names yet; the slots of an association that has ended are empty."""
    until = time.monotonic() + 10
    while (found := [p for p in (inbox / INCOMING).iterdir() if p.stat().st_size]) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def stored(inbox: Path) -> list[Path]:
    return sorted(inbox.glob("[0-9a-f]*/*"))


def dataset_bytes(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


def us(port: int) -> Destination:
    return Destination(name="node", ae_title=NODE_TITLE, host="127.0.0.1", port=port)


# Who gets in


def test_a_known_peer_is_let_in_and_echoed(listen):
    association = ask(listen())
    assert association.send_c_echo().Status == 0x0000
    association.release()


REJECTED = [
    ({}, {"calling": "STRANGER"}, "Calling AE title not recognised"),
    ({}, {"called": "OTHER_NODE"}, "Called AE title not recognised"),
    ({"peers": ()}, {}, "Calling AE title not recognised"),
    (
        {"peers": (Peer(ae_title=PEER_TITLE, address="192.0.2.7"), Peer(ae_title="OTHER"))},
        {},
        "Calling AE title not recognised",
    ),
    (
        {"peers": (Peer(ae_title="OTHER", address="127.0.0.1"),)},
        {},
        "Calling AE title not recognised",
    ),
]


@pytest.mark.parametrize(("receiver", "request_", "reason"), REJECTED)
def test_a_stranger_is_rejected_and_told_why(listen, receiver, request_, reason):
    association = ask(listen(**receiver), **request_)
    assert association.is_rejected
    assert association.acceptor.primitive.reason_str == reason


ADMITTED = [
    ({"peers": (Peer(ae_title=PEER_TITLE, address="127.0.0.1"),)}, PEER_TITLE),
    ({"peers": (), "allow_any_peer": True}, "ANYBODY"),
]


@pytest.mark.parametrize(("receiver", "calling"), ADMITTED)
def test_address_and_open_list_are_heeded(listen, receiver, calling):
    association = ask(listen(**receiver), calling=calling)
    assert association.is_established
    association.release()


def test_one_association_too_many_is_rejected_until_another_ends(listen):
    port = listen(max_associations=1)
    first, second = ask(port), ask(port)
    assert first.is_established
    assert second.is_rejected
    assert second.acceptor.primitive.reason_str == "Local limit exceeded"
    first.release()
    deadline = time.monotonic() + 5
    while (third := ask(port)).is_rejected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert third.is_established
    third.release()


def test_a_flood_of_connections_is_cut_off_and_leaves_room_again(listen):
    port = listen(max_associations=2, network_timeout_seconds=1.0)
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    for connection in idle[30:]:
        assert closed_by_peer(connection)
    for connection in idle:
        connection.close()
    time.sleep(1.5)
    deadline = time.monotonic() + 15.0
    while not (association := ask(port)).is_established and time.monotonic() < deadline:
        time.sleep(0.2)
    assert association.is_established
    association.release()


# What is kept


def compressed(syntax: uid.UID):
    ds = small_mr(size=32)
    if syntax in (uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless):
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax.is_compressed:
        ds.PixelData = encapsulate([b"\xff\xd8 not pixels, only bytes to keep \xff\xd9"])
        ds["PixelData"].VR = "OB"
    return with_meta(ds, syntax)


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.name.split(" (")[0])
def test_every_transfer_syntax_is_kept_byte_for_byte(listen, inbox, tmp_path, syntax):
    ds = compressed(syntax)
    if syntax == uid.ExplicitVRBigEndian:
        ds = pydicom.dcmread(io.BytesIO(big_endian(ds)))
    source = save(ds, tmp_path / "source.dcm")
    (outcome,) = send_files([source], us(listen()), PEER_TITLE, 10)
    assert (outcome.status, outcome.note) == (0x0000, "")
    (kept,) = stored(inbox)
    assert kept == inbox / study_key(ds.StudyInstanceUID) / instance_name(ds.SOPInstanceUID)
    assert dataset_bytes(kept) == dataset_bytes(source)
    again = pydicom.dcmread(kept)
    assert again.file_meta.TransferSyntaxUID == syntax
    assert again.SOPInstanceUID == ds.SOPInstanceUID
    assert is_whole(kept.read_bytes()), "the preamble tells what the rest is"


def big_endian(ds) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, implicit_vr=False, little_endian=False, enforce_file_format=True)
    return buffer.getvalue()


def test_deflated_is_not_taken(listen):
    association = ask(listen(), syntaxes=[uid.DeflatedExplicitVRLittleEndian])
    assert [context.abstract_syntax for context in association.rejected_contexts] == [MRImageStorage]
    association.release()


def test_the_same_instance_again_changes_nothing(listen, inbox):
    port, ds = listen(), small_mr()
    assert store(port, ds) == 0x0000
    (kept,) = stored(inbox)
    before = (kept.stat().st_ino, kept.parent.stat().st_mtime_ns)
    assert store(port, ds) == 0x0000
    assert (kept.stat().st_ino, kept.parent.stat().st_mtime_ns) == before


def test_other_content_under_a_known_uid_is_a_warning_and_the_first_stays(listen, inbox):
    port, ds = listen(), small_mr()
    assert store(port, ds) == 0x0000
    (kept,) = stored(inbox)
    before = kept.read_bytes()
    ds.InstanceNumber = 99
    assert store(port, ds) == 0xB000
    assert stored(inbox) == [kept]
    assert kept.read_bytes() == before


def test_peers_that_send_the_same_instances_at_once_are_all_told_success(listen, inbox):
    port, study = listen(), uid.generate_uid()
    images = [small_mr(study, number=number) for number in range(6)]

    def send_all(_):
        association = ask(port)
        statuses = [association.send_c_store(ds).Status for ds in images]
        association.release()
        return statuses

    with ThreadPoolExecutor(4) as pool:
        assert set(itertools.chain.from_iterable(pool.map(send_all, range(4)))) == {0x0000}
    assert len(stored(inbox)) == len(images)
    assert in_slots(inbox) == []


def test_an_executable_in_the_preamble_does_not_arrive(listen, inbox, tmp_path):
    path = save(small_mr(), tmp_path / "polyglot.dcm")
    path.write_bytes((b"MZ" + b"\x90" * 126) + path.read_bytes()[128:])
    (outcome,) = send_files([path], us(listen()), PEER_TITLE, 10)
    assert outcome.delivered
    (kept,) = stored(inbox)
    assert b"MZ" not in kept.read_bytes()[:128]
    assert kept.read_bytes()[24:128] == bytes(104)


def test_a_path_as_uid_leads_nowhere(listen, inbox):
    ds = small_mr()
    with warnings.catch_warnings(action="ignore"):  # pydicom warns of such a value, or not, by its settings
        ds.StudyInstanceUID = "../../../etc"
    assert store(listen(), ds) == 0xC000
    assert stored(inbox) == []


# What a peer is told when it cannot be kept


def broken(change):
    ds = small_mr()
    change(ds)
    return ds


BROKEN = [
    (lambda ds: delattr(ds, "StudyInstanceUID"), 0xC000),
    (lambda ds: delattr(ds, "SeriesInstanceUID"), 0xC000),
    (lambda ds: setattr(ds, "StudyInstanceUID", ""), 0xC000),
]


@pytest.mark.parametrize(("change", "status"), BROKEN)
def test_a_dataset_without_its_uids_is_refused(listen, inbox, caplog, change, status):
    assert store(listen(), broken(change)) == status
    assert stored(inbox) == []
    (line,) = [record for record in caplog.records if record.name == "app.receiver"]
    assert "0xC000" in line.getMessage()
    assert "Secret" not in caplog.text


def send_raw(port, content: bytes, instance_uid: str, sop_class=MRImageStorage) -> int:
    """C-STORE bytes as they are, whatever they hold."""
    association = ask(port)
    status = send_bytes(association, sop_class, instance_uid, content)
    association.release()
    return status


def test_a_truncated_dataset_is_refused_and_the_next_is_kept(listen, inbox, caplog):
    port, ds = listen(), small_mr()
    whole = encode(ds, is_implicit_vr=False, is_little_endian=True)
    for length in (len(whole) - 100, len(whole) // 3, 20, 7):
        assert send_raw(port, whole[:length] + b"\0" * (length % 2), ds.SOPInstanceUID) == 0xC000, length
    assert stored(inbox) == []
    assert send_raw(port, whole, ds.SOPInstanceUID) == 0x0000
    assert "Secret" not in caplog.text


@pytest.mark.parametrize("explicit", [True, False])
def test_an_image_cut_short_anywhere_is_refused(explicit):
    """Cut between two elements it reads as a whole dataset: only its missing pixels tell."""
    ds = small_mr()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if explicit else uid.ImplicitVRLittleEndian
    whole = io.BytesIO()
    pydicom.dcmwrite(whole, ds, enforce_file_format=True)
    content = whole.getvalue()
    assert read_identity(content).instance == ds.SOPInstanceUID
    header = len(content) - len(ds.PixelData)
    for length in range(header + 1):
        with pytest.raises(Refused):
            read_identity(content[:length])


def test_an_object_that_is_no_image_needs_no_pixels():
    ds = small_mr()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.RawDataStorage
    del ds.PixelData
    whole = io.BytesIO()
    pydicom.dcmwrite(whole, ds, enforce_file_format=True)
    assert read_identity(whole.getvalue()).sop_class == uid.RawDataStorage


def test_garbage_is_refused(listen, inbox):
    port = listen()
    for seed in range(5):
        garbage = os.urandom(2000) if seed else b"\0" * 2000
        assert send_raw(port, garbage, "1.2.3") == 0xC000
    assert stored(inbox) == []


def test_uids_that_are_not_the_requests_are_a_mismatch(listen, inbox):
    port, ds = listen(), small_mr()
    content = encode(ds, is_implicit_vr=False, is_little_endian=True)
    assert send_raw(port, content, "1.2.3") == 0xA900
    assert send_raw(port, content, ds.SOPInstanceUID, sop_class=uid.CTImageStorage) == 0xA900
    assert stored(inbox) == []


def test_less_space_than_the_watermark_is_out_of_resources(listen, inbox):
    assert store(listen(free_space_watermark_mb=10**9), small_mr()) == 0xA700
    assert stored(inbox) == []


def test_a_full_disk_is_out_of_resources_and_leaves_nothing(listen, inbox, monkeypatch):
    def full(path, *parts):
        path.write_bytes(parts[0][:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(app.store, "fill_synced", full)
    port = listen()
    assert store(port, small_mr()) == 0xA700
    assert stored(inbox) == in_slots(inbox) == []
    monkeypatch.undo()
    assert store(port, small_mr()) == 0x0000


def test_an_unforeseen_error_is_logged_by_its_place_alone(listen, monkeypatch, caplog):
    def fails(self, identity, content):
        raise RuntimeError("Secret^Person")

    monkeypatch.setattr(Store, "keep", fails)
    assert store(listen(), small_mr()) == 0xC000
    assert re.search(r"RuntimeError at .*receiver\.py:\d+ > test_receiver\.py:\d+", caplog.text)
    assert "Secret" not in caplog.text


# Lengths that lie


def closed_by_peer(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        while connection.recv(1000):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("pdu_type", [0x01, 0x04, 0x05])
def test_a_pdu_that_claims_4_gb_ends_its_connection_before_it_is_read(listen, pdu_type):
    port = listen()
    with socket.create_connection(("127.0.0.1", port)) as connection, traced_peak() as peak:
        connection.sendall(struct.pack(">BxL", pdu_type, 0xFFFFFFFF))
        sent = 0
        try:
            while sent < 50_000_000:
                sent += connection.send(b"\0" * 65_536)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 50_000_000
        assert closed_by_peer(connection)
        assert peak() < 20_000_000
    assert store(port, small_mr()) == 0x0000


def test_a_pdu_over_the_limit_inside_an_association_ends_it(listen, inbox):
    port = listen()
    association = ask(port)
    association.dul.socket.send(struct.pack(">BxL", 0x04, 300_000))
    deadline = time.monotonic() + 5
    while association.is_established and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not association.is_established
    assert stored(inbox) == []


def test_an_instance_over_the_limit_ends_its_association_and_smaller_ones_pass(listen, inbox, tmp_path):
    port = listen(max_object_mb=1)
    small = [save(small_mr(size=512, number=number), tmp_path / f"{number}.dcm") for number in range(3)]
    big = save(small_mr(size=1024), tmp_path / "big.dcm")
    outcomes = send_files([*small, big], us(port), PEER_TITLE, 10)
    assert [outcome.delivered for outcome in outcomes] == [True, True, True, False]
    assert len(stored(inbox)) == 3


def test_half_a_pdu_is_not_waited_for_for_ever(listen):
    port = listen(network_timeout_seconds=0.5)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"\x01\x00\x00")
        assert closed_by_peer(connection)


def test_identity_is_read_without_the_values():
    buffer = io.BytesIO()
    ds = small_mr()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    identity = read_identity(buffer.getvalue())
    assert (identity.instance, identity.study) == (ds.SOPInstanceUID, ds.StudyInstanceUID)
    with pytest.raises(Refused, match=r"^truncated: \(7FE0,0010\) ends beyond the dataset$"):
        read_identity(buffer.getvalue()[:-1])


# As a process


@pytest.fixture
def process(tmp_path):
    """Run `run_receiver` in a process of its own; returns it and its port."""
    context = multiprocessing.get_context("spawn")
    running = []

    def start():
        ours, theirs = context.Pipe()
        child = context.Process(target=run_receiver, args=(node_settings(tmp_path / "node"), theirs))
        child.start()
        theirs.close()
        running.append(child)
        return child, ours.recv()

    yield start
    for child in running:
        child.kill()
        child.join()


def test_sigterm_ends_the_process_with_status_0(process):
    child, port = process()
    association = ask(port)
    begun = time.monotonic()
    child.terminate()
    child.join(5)
    assert child.exitcode == 0
    assert time.monotonic() - begun < 3
    association.abort()


def test_whatever_got_success_survives_kill_9(process, inbox, tmp_path):
    child, port = process()
    sources = [save(small_mr(size=128, number=number), tmp_path / "in" / f"{number}.dcm") for number in range(120)]
    outcomes = []

    def killed_half_way(outcome):
        outcomes.append(outcome)
        if len(outcomes) == 40:
            threading.Timer(0.02, os.kill, (child.pid, signal.SIGKILL)).start()

    send_files(sources, us(port), PEER_TITLE, 10, killed_half_way)
    delivered = [outcome.path for outcome in outcomes if outcome.delivered]
    assert 40 <= len(delivered) < 120
    on_disk = {dataset_bytes(path) for path in stored(inbox)}
    assert {dataset_bytes(path) for path in delivered} <= on_disk
    assert len(on_disk) <= len(delivered) + 1

    half = inbox / INCOMING / "half.part"
    half.write_bytes(b"DICM")
    _, port = process()
    assert not half.exists()
    assert all(outcome.status == 0x0000 for outcome in send_files(sources, us(port), PEER_TITLE, 10))
    assert len(stored(inbox)) == 120


def test_an_address_in_use_is_one_line_and_status_2(listen, tmp_path):
    port = listen()
    settings = node_settings(tmp_path / "other", port=port)
    code = (
        "from app.config import Settings; from app.receiver import run_receiver\n"
        f"run_receiver(Settings(**{settings.model_dump(mode='json')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "does another node run?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("target", ["run_receiver", "when_orphaned"])
def test_the_receiver_ends_with_the_node_that_spawned_it(tmp_path, target):
    settings = node_settings(tmp_path / "node")
    script = tmp_path / "node.py"
    script.write_text(
        "import multiprocessing, os, signal, time\n"
        "from app.config import Settings\n"
        "from app.receiver import run_receiver\n"
        "def when_orphaned(settings, pipe):\n"
        "    pipe.send(0)\n"
        "    while os.getppid() == multiprocessing.parent_process().pid: time.sleep(0.01)\n"
        "    run_receiver(settings, pipe)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    ours, theirs = context.Pipe()\n"
        f"    settings = Settings(**{settings.model_dump(mode='json')!r})\n"
        f"    child = context.Process(target={target}, args=(settings, theirs))\n"
        "    child.start(); ours.recv(); print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    node = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    receiver = int(node.stdout)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(receiver) and psutil.Process(receiver).status() != "zombie" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(receiver) or psutil.Process(receiver).status() == "zombie"


def test_the_receiver_imports_nothing_heavy():
    heavy = ("torch", "monai", "highdicom", "holoscan", "sqlalchemy", "SimpleITK", "operators.domain")
    code = f"import sys, app.receiver; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def test_nobody_listens_is_a_peer_error_with_a_remedy(tmp_path):
    port = free_port()
    with pytest.raises(PeerError, match="is the PACS up"):
        send_files([save(small_mr(), tmp_path / "a.dcm")], us(port), PEER_TITLE, 2)
