"""The receiver's short way for C-STORE: what takes it, what it leaves to the long one, and what it reads."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import struct
import subprocess

import pytest
from pydicom.uid import MRImageStorage
from pynetdicom.dsutils import decode

from app import short_way
from app.audit import TRAIL
from app.receiver import Receiver
from app.store import SUCCESS
from app.tally import Tally
from app.upper_layer import Served
from app.wire import StoreRequest, store_answer, store_answer_pdu, store_request
from tests.support_dcmtk import dcmtk
from tests.support_dicom import NODE_TITLE, PEER_TITLE, node_settings, save, small_mr
from tests.support_receiver import until
from tests.test_upper_layer import ECHO, association, hear, status_of, store
from tests.torture.mutations import HEAD, written
from tests.torture.peers import DATA, RELEASE, command, part, pdu

INSTANCES = [f"1.2.826.0.1.{number}" for number in range(1, 6)]


def dataset_of(instance):
    ds = small_mr("1.2.3")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = instance
    file = written(ds, ds.file_meta.TransferSyntaxUID)
    return file[HEAD + 12 + struct.unpack_from("<L", file, HEAD + 8)[0] :]


DATASETS = {instance: dataset_of(instance) for instance in INSTANCES}
PLAIN = {"e0002": MRImageStorage, "e0100": 1, "e0110": 9, "e0700": 2, "e0800": 1, "e1000": INSTANCES[0]}


@pytest.fixture
def taken(monkeypatch):
    """Counts what goes the short way, and what begins on it."""
    counts = {"PDUs": 0, "instances": 0}
    real = short_way.ShortWay.take

    def take(self, pdu, serve):
        def served(begun, dataset):
            counts["instances"] += 1
            serve(begun, dataset)

        done = real(self, pdu, served)
        counts["PDUs"] += done
        return done

    monkeypatch.setattr(short_way.ShortWay, "take", take)
    return counts


def test_what_storescu_sends_takes_the_short_way(listen, taken, tmp_path):
    (tmp_path / "sent").mkdir()
    for number in range(5):
        save(small_mr("1.2.3", number=number), tmp_path / "sent" / f"{number}.dcm")
    titles = ["-aet", PEER_TITLE, "-aec", NODE_TITLE]
    sender = [dcmtk("storescu"), *titles, "+sd", "127.0.0.1", str(listen()), str(tmp_path / "sent")]
    subprocess.run(sender, check=True, timeout=60)
    assert taken["instances"] == 5
    assert len(list((tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm"))) == 5


def test_other_messages_on_the_same_association_are_served_between(listen, taken):
    with association(listen()) as connection:
        for _ in range(3):
            connection.sendall(store() + ECHO + store())
            assert [status_of(hear(connection)[1]) for _ in range(3)] == [SUCCESS] * 3
        connection.sendall(pdu(RELEASE, bytes(4)))
        assert hear(connection)[0] == 6
    assert taken["instances"] == 6


def test_a_message_that_turns_out_not_to_be_plain_goes_on_the_long_way(listen, taken):
    """Its last fragment comes under another context, at which pynetdicom does not look."""
    with association(listen()) as connection:
        whole = DATASETS[INSTANCES[0]]
        connection.sendall(pdu(DATA, part(3, 3, command(**PLAIN))) + pdu(DATA, part(3, 0, whole[:1000])))
        connection.sendall(pdu(DATA, part(5, 2, whole[1000:])) + store())
        assert [status_of(hear(connection)[1]) for _ in range(2)] == [SUCCESS] * 2
    assert taken["instances"] == 1
    # The answer goes out before it is counted.
    assert until(lambda: taken["PDUs"] >= 4)
    assert taken["PDUs"] == 4


def test_a_peer_that_takes_but_short_pdus_is_answered_in_parts_on_the_long_way(listen, taken, monkeypatch):
    monkeypatch.setattr("app.upper_layer._ANSWER_BYTES", 20_000)
    with association(listen()) as connection:
        connection.sendall(store())
        assert status_of(hear(connection)[1]) == SUCCESS
    assert taken["PDUs"] == 0


def elements(**changed):
    return command(**{name: value for name, value in (PLAIN | changed).items() if value is not None})


UNPLAIN = {
    "another command": elements(e0100=0x0020),
    "no dataset": elements(e0800=0x0101),
    "no priority": elements(e0700=None),
    "no message ID": elements(e0110=None),
    "a priority that there is not": elements(e0700=3),
    "half of an originator": elements(e1030="PACS"),
    "an originator in two words": elements(e1030="A\\B ", e1031=1),
    "an element that is none of it": elements(e0900=0),
    "spaces behind a UID": elements(e1000="1.2.3 "),
    "two noughts behind a UID": elements(e1000="1.2.34\0\0"),
    "no UID": elements(e1000=""),
    "a UID of letters": elements(e1000="1.2.x3"),
    "a UID that is too long": elements(e1000="1." + "2" * 64),
    "a wrong group length": b"\0\0\0\0\4\0\0\0\1\0\0\0" + elements()[12:],
    "no group length": elements()[12:],
    "a byte more": elements() + b"\0",
    "a byte less": elements()[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("what", UNPLAIN)
def test_a_command_that_is_not_plain_is_not_read(what):
    assert store_request(UNPLAIN[what]) is None


@pytest.mark.parametrize("instance", ["1.2.3", "1.2.34", "1." + "2" * 62])
@pytest.mark.parametrize("originator", [{}, {"e1030": "PACS", "e1031": 7}, {"e1030": "A PACS AT WORK 16", "e1031": 0}])
def test_a_plain_command_is_read_as_pynetdicom_reads_it(instance, originator):
    originator = {name: value[:16] if isinstance(value, str) else value for name, value in originator.items()}
    said = elements(e1000=instance, e0110=65535, **originator)
    assert store_request(said) == StoreRequest(MRImageStorage, instance, 65535)
    read = decode(io.BytesIO(said), True, True)
    assert (read.AffectedSOPClassUID, read.AffectedSOPInstanceUID, read.MessageID) == store_request(said)


def test_no_byte_of_a_plain_command_can_be_changed_unnoticed_to_another_meaning():
    """Whatever one byte becomes: it is not read, or read as pynetdicom does."""
    said = elements(e1030="PACS", e1031=7)
    for at, value in itertools.product(range(len(said)), (0, 1, 2, 3, 0x20, 0x2E, 0x31, 0x5C, 0xFF)):
        changed = said[:at] + bytes([value]) + said[at + 1 :]
        if (request := store_request(changed)) is not None:
            read = decode(io.BytesIO(changed), True, True)
            assert (read.AffectedSOPClassUID, read.AffectedSOPInstanceUID, read.MessageID) == request
            assert (read.CommandField, read.Priority in {0, 1, 2}, read.CommandDataSetType != 0x0101) == (1, True, True)


def test_an_answer_is_a_whole_pdu():
    request = StoreRequest(MRImageStorage, "1.2.3", 7)
    said = b"\3" + store_answer(MRImageStorage, "1.2.3", 7, 0xA700)
    assert store_answer_pdu(5, request, 0xA700) == pdu(DATA, part(5, 3, said[1:]))


@pytest.mark.parametrize("short", [True, False])
def test_count_log_and_audit_trail_are_the_same_either_way(tmp_path, monkeypatch, caplog, taken, short):
    monkeypatch.setattr(Served, "takes_short_way", short)
    tally = Tally(multiprocessing.get_context("spawn"))
    receiver = Receiver(node_settings(tmp_path / "node"), tally)
    first, other = (DATASETS[instance] for instance in INSTANCES[:2])
    with association(receiver.port) as connection:
        for dataset in (first, first, first[:-1] + b"\x7f", first[:-20], other):
            connection.sendall(pdu(DATA, part(3, 3, command(**PLAIN))) + pdu(DATA, part(3, 2, dataset)))
        assert [status_of(hear(connection)[1]) for _ in range(5)] == [0, 0, 0xB000, 0xC000, 0xA900]
        connection.sendall(pdu(RELEASE, bytes(4)))
        assert hear(connection)[0] == 6
    receiver.close()
    assert taken["instances"] == 5 * short
    assert tally.read() == {"kept": 2, "coerced": 1, "refused": 2}
    assert [record.getMessage() for record in caplog.records if record.name == "app.receiver"] == [
        f"instance {INSTANCES[0]} came again with other content; the first is kept",
        f"instance {INSTANCES[0]} refused with 0xC000: truncated: (7FE0,0010) ends beyond the dataset",
        f"instance {INSTANCES[0]} refused with 0xA900: its SOP instance UID is not the request's",
    ]
    trail = (tmp_path / "node" / TRAIL).read_text()
    assert trail.count("1.2.3") >= 1
    assert ("1 instances were not taken" in trail, trail.count("<AuditMessage>")) == (True, 2)
