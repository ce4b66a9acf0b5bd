"""DCMTK's storescu and echoscu against the receiver: another vendor's idea of the same standard."""

import os
import subprocess

import pydicom
import pytest
from pydicom import uid
from pydicom.uid import generate_uid
from pynetdicom.dsutils import split_dataset

from tests.support_dcmtk import dcmtk
from tests.support_dicom import NODE_TITLE, PEER_TITLE, save, small_mr, with_meta


def run(program, port, *arguments, calling=PEER_TITLE, called=NODE_TITLE):
    # DCMTK leaves Nagle's algorithm on unless told otherwise.
    return subprocess.run(
        [
            dcmtk(program),
            "-v",
            "-aet",
            calling,
            "-aec",
            called,
            "127.0.0.1",
            str(port),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"TCP_NODELAY": "1"},
    )


def stored(tmp_path):
    return sorted((tmp_path / "node" / "inbox").glob("[0-9a-f]*/*.dcm"))


def test_echo(listen):
    assert run("echoscu", listen()).returncode == 0


def test_a_folder_arrives_whole(listen, tmp_path):
    study = generate_uid()
    images = {ds.SOPInstanceUID: ds for ds in (small_mr(study, number=number, size=64) for number in range(60))}
    for number, ds in enumerate(images.values()):
        save(ds, tmp_path / "in" / f"{number}.dcm")
    done = run("storescu", listen(), "+sd", tmp_path / "in")
    assert done.returncode == 0, done.stdout + done.stderr
    kept = [pydicom.dcmread(path) for path in stored(tmp_path)]
    assert len(kept) == 60
    assert all(ds.PixelData == images[ds.SOPInstanceUID].PixelData for ds in kept)


PROPOSED = [("-xv", uid.JPEG2000Lossless), ("-xt", uid.JPEGLSLossless), ("-xr", uid.RLELossless)]


@pytest.mark.parametrize(("option", "syntax"), PROPOSED, ids=["JPEG 2000", "JPEG-LS", "RLE"])
def test_compressed_instances_arrive_byte_for_byte(listen, tmp_path, option, syntax):
    ds = small_mr(size=32)
    ds.compress(syntax, generate_instance_uid=False)
    source = save(with_meta(ds, syntax), tmp_path / "a.dcm")
    done = run("storescu", listen(), option, source)
    assert done.returncode == 0, done.stdout + done.stderr
    (kept,) = stored(tmp_path)
    assert kept.read_bytes()[split_dataset(kept)[1] :] == source.read_bytes()[split_dataset(source)[1] :]


def test_a_stranger_is_turned_away_with_the_reason(listen, tmp_path):
    source = save(small_mr(), tmp_path / "a.dcm")
    port = listen()
    assert "Calling AE Title Not Recognized" in run("storescu", port, source, calling="STRANGER").stderr
    assert "Called AE Title Not Recognized" in run("storescu", port, source, called="OTHER").stderr
    assert stored(tmp_path) == []


def test_a_full_disk_is_told_as_out_of_resources(listen, tmp_path):
    source = save(small_mr(), tmp_path / "a.dcm")
    done = run("storescu", listen(free_space_watermark_mb=10**9), source)
    assert done.returncode != 0
    assert "Refused: OutOfResources" in done.stdout + done.stderr
