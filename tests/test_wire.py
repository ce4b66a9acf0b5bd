"""The short ways of the receiver give the bytes and verdicts of the long ones."""

from __future__ import annotations

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from app.skim import skim
from app.store import _IDENTITY, Refused, _read_thoroughly
from app.wire import LAST_OF_COMMAND, PREAMBLE, file_head, store_answer
from tests.torture.mutations import case, image, nested, seeds, written

UIDS = ("1.2.3", "1.2.34", "1." + "2" * 62)


@pytest.mark.parametrize("instance", UIDS)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_files_head_is_what_pydicom_writes(instance, syntax):
    meta = create_file_meta(sop_class_uid=MRImageStorage, sop_instance_uid=instance, transfer_syntax=syntax)
    assert file_head(MRImageStorage, instance, syntax) == PREAMBLE + encode_file_meta(meta)


@pytest.mark.parametrize("instance", UIDS)
@pytest.mark.parametrize("status", [0x0000, 0xA700, 0xB000])
def test_an_answer_is_what_pynetdicom_sends(instance, status):
    answer = C_STORE()
    answer.MessageID = answer.MessageIDBeingRespondedTo = 65535
    answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID, answer.Status = MRImageStorage, instance, status
    message = C_STORE_RSP()
    message.primitive_to_message(answer)
    (part,) = message.encode_msg(1, 16384)
    ((_, sent),) = part.presentation_data_value_list
    assert LAST_OF_COMMAND + store_answer(MRImageStorage, instance, 65535, status) == sent


def test_the_quick_walk_reads_a_plain_image_and_leaves_the_rest():
    plain = image(None)
    del plain.AnatomicRegionSequence
    found, has_pixels = skim(written(plain, ExplicitVRLittleEndian), _IDENTITY)
    assert found == {
        0x00080016: MRImageStorage,
        0x00080018: plain.SOPInstanceUID,
        0x0020000D: "1.2.3",
        0x0020000E: "1.2.3.4",
    }
    assert has_pixels
    assert skim(written(plain, ImplicitVRLittleEndian), _IDENTITY) is None
    deep = nested(image(None), 3)
    deep["ContentSequence"].is_undefined_length = True
    assert skim(written(deep, ExplicitVRLittleEndian), _IDENTITY) is None
    for cut in range(1, 200):
        quick = skim(written(plain, ExplicitVRLittleEndian)[:-cut], _IDENTITY)
        assert quick is None or not quick[1], "an image without pixels is refused"


@pytest.mark.filterwarnings("ignore")
def test_what_the_quick_walk_takes_the_thorough_reader_takes_alike():
    whole, taken = seeds(), 0
    for number in range(3_000):
        content = case(number, whole)
        quick = skim(content, _IDENTITY)
        try:
            values, has_pixels = _read_thoroughly(content)
        except Refused:
            # It refuses UIDs that are none, as `read_identity` does after a quick walk too.
            continue
        if quick is not None and all(tag in quick[0] for tag in _IDENTITY):
            taken += 1
            assert [quick[0][tag] for tag in _IDENTITY] == values
            assert quick[1] == has_pixels
    assert taken > 100
