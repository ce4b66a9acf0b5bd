"""A real Orthanc with its DICOMweb plugin gets what the node owes it by STOW-RS."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from pydicom import uid

from app.config import Destination
from app.config_delivery import StowConfig
from app.doctor import examine
from app.errors import PeerError
from app.journal import DeliveryState
from app.stow import StowCourier
from operators.write_seg import write_segs
from tests.integration.orthanc import Orthanc
from tests.support_delivery import Node
from tests.support_dicom import result_files, save, small_mr
from tests.support_results import MADE_AT, job_of

PASSWORD = "of-this-test"  # noqa: S105 - nobody else's


@pytest.fixture
def server(tmp_path):
    with Orthanc(tmp_path, dicomweb=True) as running:
        yield running


def root(server: Orthanc) -> str:
    return f"{server.url}/dicom-web"


def send(url: str, files: list[Path], **stow):
    heard = []
    StowCourier("orthanc", StowConfig(url=url, **stow), 30.0).send(files, heard.append)
    return {outcome.path: outcome for outcome in heard}


def test_files_arrive_whole_whatever_their_transfer_syntax(server, tmp_path):
    images = [small_mr(number=number, size=64) for number in range(6)]
    images[0].compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    images[1].compress(uid.RLELossless, generate_instance_uid=False)
    files = [save(ds, tmp_path / f"{ds.InstanceNumber}.dcm") for ds in images]
    outcomes = send(root(server), files)
    assert [(outcomes[path].delivered, outcomes[path].note) for path in files] == [(True, "")] * 6
    for ds in images:
        held = pydicom.dcmread(io.BytesIO(server.file(ds.SOPInstanceUID)))
        assert held.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
        assert held.PixelData == ds.PixelData


def test_segmentations_arrive_as_they_were_written(server, tmp_path):
    job = job_of(tmp_path)
    write_segs(job, "1.0", MADE_AT, labelmap=True)
    for kind in ("SEG T1C", "SEG T1C labelmap"):
        path = job.results[kind]
        assert send(root(server), [path])[path].delivered
        sent = pydicom.dcmread(path)
        assert pydicom.dcmread(io.BytesIO(server.file(sent.SOPInstanceUID))) == sent


def test_sending_again_is_success_and_makes_no_second_copy(server, tmp_path):
    files = result_files(tmp_path / "files")
    for _ in range(2):
        assert all(outcome.delivered for outcome in send(root(server), files).values())
    assert len(server.instance_uids()) == 2


def test_a_file_that_it_cannot_read_costs_no_other(server, tmp_path):
    files = result_files(tmp_path, 3)
    whole = files[1].read_bytes()
    # Cut within the first element behind the meta information: whoever reads only that takes it for whole.
    (length,) = (int.from_bytes(whole[140:144], "little"),)
    files[1].write_bytes(whole[: 144 + length + 4])
    outcomes = send(root(server), files)
    assert [outcomes[path].delivered for path in files] == [True, False, True]
    assert outcomes[files[1]].for_good
    assert len(server.instance_uids()) == 2


def test_one_that_is_down_gets_everything_once_it_is_up(tmp_path):
    server = Orthanc(tmp_path, dicomweb=True)
    here = Node(tmp_path, Destination(name="orthanc", stow={"url": root(server)}), results=3)
    here.turn()
    assert here.states() == {DeliveryState.OWED}
    with server:
        here.turn(6)
        assert here.states() == {DeliveryState.DELIVERED}
        assert len(server.instance_uids()) == 3
    assert not here.kept_files
    here.close()


def test_a_password_opens_it_and_a_wrong_one_is_told(tmp_path):
    files = result_files(tmp_path / "files", 1)
    good, wrong = tmp_path / "good", tmp_path / "wrong"
    good.write_text(PASSWORD)
    wrong.write_text("another")
    options = {"AuthenticationEnabled": True, "RegisteredUsers": {"node": PASSWORD}}
    with Orthanc(tmp_path, dicomweb=True, login=("node", PASSWORD), **options) as server:
        with pytest.raises(PeerError, match="answers 401: does it know our user or token"):
            send(root(server), files, user="node", secret_file=wrong)
        assert send(root(server), files, user="node", secret_file=good)[files[0]].delivered


@pytest.mark.parametrize(("path", "ok"), [("/dicom-web", True), ("/nowhere", False)])
def test_doctor_tells_whether_it_is_there(server, tmp_path, path, ok):
    here = Node(tmp_path, Destination(name="orthanc", stow={"url": server.url + path}))
    (check,) = [check for check in examine(here.settings) if check.subject == "destination orthanc"]
    assert check.ok == ok, check.found
    assert server.instance_uids() == set()
    here.close()
