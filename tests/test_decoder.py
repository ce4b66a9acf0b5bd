"""Compressed pixel data are decoded within bounds: a bomb is refused, and neither node nor decoder grows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from support_bombs import (
    COMPRESSED,
    Peak,
    claim,
    compress,
    fragment_bomb,
    jpeg2000_bomb,
    lie,
    offset_table_bomb,
    rle_bomb,
)
from support_decoder_faults import VICTIM, allocate, crash, die_once, fill_log, hang, hang_once
from support_phantom import change, copy_of, small_phantom

import operators.decoder
from operators.build_volumes import build_volume
from operators.codestream import Claim, contradiction
from operators.decoder import ChildDecoder
from operators.domain import Contrast
from operators.errors import PixelDataRefused, StudyRejected, UnreadableInstance
from operators.load_study import load_study
from operators.pixel_limits import PixelLimits
from operators.pixels import read_instances, read_planes
from tests.test_native import gone

ROOT = Path(__file__).parents[1]
DECODE_MB = 300
CHILD_BYTES = 500_000_000
"""What the decoder may hold: its libraries, about 80 MB, and what the setting allows."""
NODE_BYTES = 100_000_000
"""What a bomb may add to the node."""


@pytest.fixture(scope="module")
def decoder():
    made = ChildDecoder(PixelLimits(decode_mb=DECODE_MB))
    yield made
    made.stop()


@pytest.fixture
def impatient():
    """A decoder that gives up soon."""
    made = ChildDecoder(PixelLimits(decode_seconds=6.0))
    yield made
    made.stop()


@pytest.fixture
def folder(tmp_path):
    return copy_of(small_phantom(contrasts=(Contrast.FLAIR,)), tmp_path)


def read(folder, decoder):
    """Read a folder's one series, or what is left of it, as the node does."""
    study = load_study(folder)
    return [read_instances(series.instances, decoder) for series in study.series]


def name_of(syntax):
    return syntax.name.split(",")[0].split(" (")[0]


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name_of)
def test_the_process_gives_what_decoding_here_gives(folder, decoder, syntax):
    compress(folder, syntax)
    (series,) = load_study(folder).series
    found = read_instances(series.instances, decoder)
    assert decoder.pid != os.getpid()
    np.testing.assert_array_equal(found, read_instances(series.instances))
    np.testing.assert_array_equal(read_planes(series, [7, 2], decoder), found[[7, 2]])


def test_uncompressed_values_need_no_process(folder):
    made = ChildDecoder()
    assert read(folder, made)
    assert made.pid is None


def test_frames_go_through_a_few_at_a_time(folder, decoder, monkeypatch):
    compress(folder, RLELossless)
    (series,) = load_study(folder).series
    sizes = []
    some = decoder._some
    monkeypatch.setattr(decoder, "_some", lambda frames: sizes.append(len(frames)) or some(frames))
    frames = [(instance.path, 0) for instance in series.instances]
    assert len(list(decoder.decode(frames, 5_000_000))) == 12
    assert sizes == [3, 3, 3, 3]


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name_of)
def test_a_codestream_of_another_size_than_its_header_is_not_decoded(folder, decoder, syntax):
    compress(folder, syntax)
    claim(folder / VICTIM, 60_000, 60_000)
    with Peak() as peak, pytest.raises(PixelDataRefused, match=f"{VICTIM} was not decoded: it holds") as caught:
        read(folder, decoder)
    assert caught.value.code == "pixel-data-refused"
    assert "its header says 64 x" in str(caught.value)
    assert peak.here < NODE_BYTES
    assert peak.children < 120_000_000, "nothing was taken for it"


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name_of)
def test_sizes_beyond_reason_are_refused_though_all_agree(folder, decoder, syntax):
    compress(folder, syntax)
    lie(folder / VICTIM, 65_000, 65_000)
    with Peak() as peak, pytest.raises(PixelDataRefused, match=r"65000 x 65000 pixels; .*node\.pixels\.side"):
        read(folder, decoder)
    assert peak.here < NODE_BYTES


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name_of)
def test_the_largest_size_that_is_read_stays_within_bounds(folder, decoder, syntax):
    """A few hundred bytes that claim 4096 x 4096: some decoders make an image of them, some do not."""
    compress(folder, syntax)
    lie(folder / VICTIM, 4_096, 4_096)
    with Peak() as peak, suppress(UnreadableInstance):
        read(folder, decoder)
    assert peak.here < 4_096**2 * 4 + 4_096**2 * 4 * 3
    assert peak.children < CHILD_BYTES


BOMBS = {
    "RLE segments that come to 1 GB": (RLELossless, lambda path: rle_bomb(path, 1_000)),
    "JPEG 2000 of 65,535 layers": (JPEG2000Lossless, jpeg2000_bomb),
    "an offset table of 50,000,000 entries": (JPEGLSLossless, lambda path: offset_table_bomb(path, 50_000_000)),
    "fragments": (RLELossless, lambda path: fragment_bomb(path, 300_000)),
}


@pytest.mark.parametrize(("syntax", "arm"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_within_bounds(folder, decoder, syntax, arm):
    compress(folder, syntax)
    arm(folder / VICTIM)
    with Peak() as peak, pytest.raises(StudyRejected, match=VICTIM) as caught:
        read(folder, decoder)
    assert "\n" not in str(caught.value)
    assert peak.here < NODE_BYTES
    assert peak.children < CHILD_BYTES


def test_the_next_study_is_decoded_by_a_process_that_no_bomb_touched(folder, decoder, tmp_path):
    compress(folder, RLELossless)
    sound = copy_of(small_phantom(contrasts=(Contrast.FLAIR,)), tmp_path / "sound")
    compress(sound, RLELossless)
    (before,) = read(sound, decoder)
    pid = decoder.pid
    rle_bomb(folder / VICTIM, 1_000)
    with pytest.raises(UnreadableInstance):
        read(folder, decoder)
    (after,) = read(sound, decoder)
    assert decoder.pid != pid
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("frames", ["0", "-5", "2", "1000000000"])
def test_a_number_of_frames_that_lies_takes_no_memory(folder, decoder, frames):
    compress(folder, JPEG2000Lossless)
    change(folder / VICTIM, NumberOfFrames=frames)
    with Peak() as peak, suppress(StudyRejected):
        read(folder, decoder)
    assert peak.here < NODE_BYTES
    assert peak.children < CHILD_BYTES


@pytest.mark.parametrize(("rows", "columns"), [(0, 64), (64, 0), (65_535, 65_535), (4_097, 64)])
def test_a_matrix_that_is_none_is_refused(folder, decoder, rows, columns):
    compress(folder, JPEGBaseline8Bit)
    change(folder / VICTIM, Rows=rows, Columns=columns)
    with pytest.raises(PixelDataRefused, match=f"{rows} x {columns} pixels"):
        read(folder, decoder)


def test_a_series_beyond_the_limit_is_refused_before_memory_is_taken(folder):
    small = ChildDecoder(PixelLimits(series_mb=1))
    for path in folder.glob("*.dcm"):
        change(path, Rows=512, Columns=512, PixelData=bytes(512 * 512 * 2))
    with pytest.raises(PixelDataRefused, match=r"12 slices of 512 x 512 pixels, 13 MB .* at most 1 MB"):
        read(folder, small)


def test_a_volume_names_contrast_and_series_of_a_bomb(folder, decoder):
    compress(folder, RLELossless)
    claim(folder / VICTIM, 1, 1)
    (series,) = load_study(folder).series
    with pytest.raises(PixelDataRefused, match=rf"^FLAIR \(series 3\): {VICTIM} was not decoded"):
        build_volume(Contrast.FLAIR, series, decoder)


# Decoders that hang, crash, or are killed


@pytest.mark.parametrize(("work", "told"), [(hang, "did not answer within 6 s"), (crash, "SIGSEGV")])
def test_a_file_that_takes_the_decoder_down_twice_is_named(folder, impatient, monkeypatch, work, told):
    compress(folder, RLELossless)
    monkeypatch.setattr(operators.decoder, "decode_frames", work)
    with pytest.raises(PixelDataRefused, match=rf"^{VICTIM} cannot be decoded within bounds: .*{told}"):
        read(folder, impatient)
    (folder / VICTIM).unlink()
    assert read(folder, impatient)[0].shape[0] == 11


@pytest.mark.parametrize(("work", "told"), [(die_once, "SIGKILL"), (hang_once, "did not answer within 6 s")])
def test_a_decoder_that_is_killed_or_stopped_in_mid_work_costs_nothing(
    folder, impatient, monkeypatch, caplog, work, told
):
    compress(folder, RLELossless)
    (before,) = read(folder, impatient)
    monkeypatch.setattr(operators.decoder, "decode_frames", work)
    (after,) = read(folder, impatient)
    np.testing.assert_array_equal(before, after)
    assert told in caplog.text


def test_a_decoder_that_is_stopped_between_studies_is_replaced(folder, impatient):
    compress(folder, RLELossless)
    (before,) = read(folder, impatient)
    os.kill(impatient.pid, signal.SIGKILL)
    np.testing.assert_array_equal(before, read(folder, impatient)[0])


def test_the_process_cannot_take_more_than_it_may(decoder):
    assert decoder._worker.run(allocate, DECODE_MB // 6) > 0
    with pytest.raises(RuntimeError, match="MemoryError"):
        decoder._worker.run(allocate, DECODE_MB)


def test_what_a_codec_prints_goes_nowhere(decoder, capfd):
    decoder._worker.run(fill_log)
    assert "Secret" not in "".join(capfd.readouterr())


def test_many_frames_leave_no_memory_behind(folder, decoder):
    compress(folder, JPEG2000Lossless)
    for _ in range(3):
        read(folder, decoder)
    before = psutil.Process(decoder.pid).memory_info().rss
    for _ in range(20):
        read(folder, decoder)
    assert psutil.Process(decoder.pid).memory_info().rss - before < 20_000_000


def test_the_process_imports_nothing_heavy(tmp_path):
    """As the command line starts it: the main module is loaded in it too."""
    heavy = ("torch", "monai", "highdicom", "holoscan", "openvino", "SimpleITK", "sqlalchemy", "pynetdicom")
    script = tmp_path / "main.py"
    script.write_text(
        "import sys\nimport app.cli\n"
        "from operators.decoder import ChildDecoder\n"
        "def loaded(names): return [name for name in names if name in sys.modules]\n"
        "if __name__ == '__main__':\n"
        "    decoder = ChildDecoder()\n"
        f"    print(decoder._worker.run(loaded, {heavy!r}))\n"
        "    decoder.stop()\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.strip() == "[]"


def test_stopping_ends_the_process(folder):
    made = ChildDecoder()
    compress(folder, RLELossless)
    read(folder, made)
    pid = made.pid
    made.stop()
    assert gone(pid)


# The heads of compressed frames

SOUND = Claim(64, 52, 1, 16)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name_of)
@pytest.mark.parametrize("length", [0, 1, 2, 10, 40])
def test_a_frame_without_a_head_is_a_value_error(syntax, length):
    with pytest.raises(ValueError, match=r"RLE header|JPEG"):
        contradiction(bytes(length), syntax, SOUND)


def test_random_heads_end_in_an_answer_or_a_value_error():
    random = np.random.default_rng(0)
    starts = {RLELossless: b"", JPEGBaseline8Bit: b"\xff\xd8\xff", JPEG2000Lossless: b"\0\0\0\x0cjP  "}
    for number in range(3_000):
        syntax = list(starts)[number % 3]
        frame = starts[syntax] + random.bytes(int(random.integers(0, 400)))
        with suppress(ValueError):
            assert isinstance(contradiction(frame, syntax, SOUND), str)


def test_boxes_and_filling_are_stepped_over():
    siz = b"\xff\x4f\xff\x51" + bytes([0, 41, 0, 0]) + (52).to_bytes(4, "big") + (64).to_bytes(4, "big") + bytes(24)
    stream = siz + bytes([0, 1, 11, 1, 1])
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x10ftyp" + bytes(8) + b"\0\0\0\0jp2c"
    assert contradiction(boxes + stream, JPEG2000Lossless, SOUND) == ""
    head = b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xff\xc3\0\x0b\x10" + b"\0\x40\0\x34" + b"\x01\x01\x11\0"
    assert contradiction(head, JPEGBaseline8Bit, SOUND) == ""
    assert "3 x 8 bits" in contradiction(head[:-9] + b"\x08\0\x40\0\x34\x03\x01\x11\0", JPEGBaseline8Bit, SOUND)


def test_two_threads_share_a_decoder(folder, decoder):
    compress(folder, RLELossless)
    (expected,) = read(folder, decoder)
    found = []
    threads = [threading.Thread(target=lambda: found.extend(read(folder, decoder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(one, expected) for one in found)
