"""Bombs in compressed pixel data, through the graph, the command line and a node: one refusal, and the rest goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys

import psutil
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

import operators.decoder
from app.config import Destination, load_settings
from app.journal import JobState
from app.phantom import PhantomOptions, make_phantom
from app.process import open_pipeline
from app.sender import send_files
from operators.pixel_limits import PixelLimits
from operators.stage import Job
from tests.support_bombs import (
    Peak,
    claim,
    compress,
    fragment_bomb,
    jpeg2000_bomb,
    lie,
    offset_table_bomb,
    rle_bomb,
)
from tests.support_decoder_faults import crash, die_once, hang
from tests.support_study import ROOT, RunningNode

SMALL = {"slices": 12, "rows": 96, "columns": 96, "pixel_mm": 2.4, "spacing_mm": 11.0, "thickness_mm": 10.0}
DECODE_MB = 300
CHILD_BYTES = 500_000_000
FLAIR, FLAIRS = "03_FLAIR_006.dcm", "*_FLAIR_*.dcm"
KINDS = {
    "JPEG lossless claims 60,000 x 60,000": (JPEGLosslessSV1, lambda p: claim(p, 60_000, 60_000), "pixel-data-refused"),
    "JPEG-LS claims 60,000 x 60,000": (JPEGLSLossless, lambda p: claim(p, 60_000, 60_000), "pixel-data-refused"),
    "JPEG 2000 claims 60,000 x 60,000": (JPEG2000Lossless, lambda p: claim(p, 60_000, 60_000), "pixel-data-refused"),
    "RLE of 15 segments": (RLELossless, lambda p: claim(p, 0, 0), "pixel-data-refused"),
    "RLE that comes to 1 GB": (RLELossless, lambda p: rle_bomb(p, 1_000), "unreadable-instance"),
    "JPEG 2000 of 65,535 layers": (JPEG2000Lossless, jpeg2000_bomb, "unreadable-instance"),
    "an offset table of 200 MB": (RLELossless, lambda p: offset_table_bomb(p, 50_000_000), "unreadable-instance"),
    "300,000 fragments": (RLELossless, lambda p: fragment_bomb(p, 300_000), "pixel-data-refused"),
}
"""Syntax, what arms one slice of FLAIR, and how the study ends."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small study, uncompressed."""
    folder = tmp_path_factory.mktemp("sound") / "study"
    make_phantom(folder, PhantomOptions(**SMALL))
    return folder


def study_of(made, folder, syntax, arm=None):
    """A copy whose FLAIR is compressed, and armed."""
    shutil.copytree(made, folder)
    compress(folder, syntax, FLAIRS)
    if arm is not None:
        arm(folder / FLAIR)
    return folder


def run(folder, tmp_path, limits, jobs):
    """Send studies through one graph, one after another; returns the jobs as they were settled."""
    settings = load_settings(data_dir=tmp_path / "data", pixels=limits)
    settled: list[Job] = []
    pipeline = open_pipeline(settings, settled.append)
    try:
        graph = pipeline.run_async()
        for name in jobs:
            (tmp_path / "out" / name).mkdir(parents=True)
            pipeline.put(Job(name, folder / name, tmp_path / "out" / name))
        pipeline.drain()
        graph.result()
    finally:
        pipeline.close()
    return {job.job_id: job for job in settled}


def test_each_bomb_ends_its_study_alone_and_a_sound_one_is_done(made, tmp_path):
    for name, (syntax, arm, _) in KINDS.items():
        study_of(made, tmp_path / "in" / name, syntax, arm)
    study_of(made, tmp_path / "in" / "sound", JPEG2000Lossless)
    jobs = run(tmp_path / "in", tmp_path, PixelLimits(decode_mb=DECODE_MB), [*KINDS, "sound"])
    for name, (_, _, code) in KINDS.items():
        failure = jobs[name].failure
        assert failure is not None, name
        assert failure.code == code, (name, failure)
        assert failure.not_assessable, "the sender must act"
        assert "\n" not in failure.message
    assert jobs["sound"].failure is None
    assert jobs["sound"].results


def test_a_bomb_in_a_sequence_that_may_be_missing_refuses_the_study_too(made, tmp_path):
    study = study_of(made, tmp_path / "in" / "T2", RLELossless)
    compress(study, JPEG2000Lossless, "*_T2_*.dcm")
    claim(study / "02_T2_006.dcm", 60_000, 60_000)
    failure = run(tmp_path / "in", tmp_path, PixelLimits(), ["T2"])["T2"].failure
    assert failure.code == "pixel-data-refused"
    assert failure.message.startswith("T2 (series 2): 02_T2_006.dcm was not decoded: it holds 60000 x 60000")


@pytest.mark.parametrize(
    ("work", "code"), [(hang, "pixel-data-refused"), (crash, "pixel-data-refused"), (die_once, None)]
)
def test_a_decoder_that_hangs_crashes_or_is_killed_in_mid_study(made, tmp_path, monkeypatch, work, code):
    """Not one attempt of the node's is lost by it."""
    study_of(made, tmp_path / "in" / "first", RLELossless)
    monkeypatch.setattr(operators.decoder, "decode_frames", work)
    failure = run(tmp_path / "in", tmp_path, PixelLimits(decode_seconds=10.0), ["first"])["first"].failure
    assert (failure.code if failure else None) == code
    if failure:
        assert FLAIR in failure.message


def test_the_command_line_refuses_a_bomb_in_one_line(made, tmp_path):
    study = study_of(made, tmp_path / "study", JPEGLosslessSV1, lambda path: claim(path, 60_000, 60_000))
    command = [sys.executable, "-m", "app", "process", str(study), "--out", str(tmp_path / "out")]
    with Peak() as peak:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "(pixel-data-refused): FLAIR (series 3): " in line
    assert f"{FLAIR} was not decoded: it holds 60000 x 60000 pixels" in line
    assert not list((tmp_path / "out").iterdir())
    assert peak.children < 1_500_000_000, "command line with all its libraries, and the decoder"
    explained = subprocess.run(
        [sys.executable, "-m", "app", "explain", str(study)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in explained.stderr


def send(node, folder):
    peer = Destination(name="node", ae_title="GLIOMA_NODE", host="127.0.0.1", port=node.port)
    outcomes = send_files(sorted(folder.glob("*.dcm")), peer, "SCANNER", 60.0)
    assert all(outcome.delivered for outcome in outcomes)


def new_study(folder, seed):
    make_phantom(folder, PhantomOptions(seed=seed, **SMALL))
    return folder


def test_a_node_refuses_bombs_and_goes_on(tmp_path):
    bombs = {
        "claim": new_study(tmp_path / "claim", 11),
        "rle": new_study(tmp_path / "rle", 12),
        "side": new_study(tmp_path / "side", 13),
    }
    compress(bombs["claim"], JPEGBaseline8Bit, FLAIRS)
    claim(bombs["claim"] / FLAIR, 60_000, 60_000)
    compress(bombs["rle"], RLELossless, FLAIRS)
    rle_bomb(bombs["rle"] / FLAIR, 1_000)
    compress(bombs["side"], JPEGBaseline8Bit, FLAIRS)
    for path in bombs["side"].glob(FLAIRS):
        lie(path, 65_000, 65_000)
    sound = new_study(tmp_path / "good", 14)
    compress(sound, JPEGLSLossless, FLAIRS)
    node = RunningNode(tmp_path / "node", more={"pixels": {"decode_mb": DECODE_MB}})
    node.folder.mkdir()
    node.start()
    try:
        begun = node.process.pid
        with Peak() as peak:
            for number, folder in enumerate([*bombs.values(), sound], 1):
                send(node, folder)
                jobs = node.settled(number)
        assert node.process.pid == begun
        assert all(job.attempts == 1 for job in jobs), "no bomb was tried three times"
        assert [job.state for job in jobs] == [JobState.FAILED] * 3 + [JobState.DONE]
        assert [job.code for job in jobs[:3]] == ["pixel-data-refused", "unreadable-instance", "pixel-data-refused"]
        assert peak.children < 3_000_000_000
        decoder = [
            process
            for process in psutil.Process(begun).children(recursive=True)
            if process.memory_info().rss < CHILD_BYTES
        ]
        assert decoder, "a light process decodes"
        assert "Phantom" not in node.log()
        assert node.stop() == 0
    finally:
        if node.process.poll() is None:
            node.kill()
