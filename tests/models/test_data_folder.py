"""Folders of slices as they come: labels in several spellings, slices by number, images that came without skull."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import frame
from models.brain import MASK_MARGIN_MM, BrainNotFound
from models.markers import data as marker_data
from models.training import data
from models.training.judge import network_view

ROOT = Path(__file__).parents[2]
SPELLINGS = [("True", True), ("yes", True), ("1", True), ("false", False), ("0", False), ("No", False)]


def rewritten(folder, word, encoding="utf-8"):
    with (folder / "labels.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([("case", "patient", "has_t1c"), *((f"case{i}", f"p{i}", word) for i in range(3))])
    return data.read_cases(folder)


@pytest.mark.parametrize(("word", "has_t1c"), SPELLINGS)
def test_yes_and_no_are_understood(folder, word, has_t1c):
    assert {case.has_t1c for case in rewritten(folder, word)} == {has_t1c}


def test_another_word_is_refused(folder):
    with pytest.raises(data.DataError, match=r"has_t1c of case0 is 'maybe'; it must be true, false or left empty"):
        rewritten(folder, "maybe")


def with_distances(folder, *words):
    """Rewrite the table with the distance of slices of each case."""
    rows = [(f"case{i}", f"p{i}", "true", word) for i, word in enumerate(words)]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "patient", "has_t1c", "slice_mm"), *rows])
    return data.read_cases(folder)


def test_the_distance_of_slices_counts_where_the_table_tells_it(folder, tmp_path, monkeypatch):
    seen = []
    correct = frame.correct_bias

    def watched(stack, mask, spacing_mm):
        seen.append(spacing_mm)
        return correct(stack, mask, spacing_mm)

    monkeypatch.setattr(frame, "correct_bias", watched)
    cases = with_distances(folder, "1.5", "", "5")
    assert [case.slice_mm for case in cases] == [1.5, data.ASSUMED_SLICE_MM, data.ASSUMED_SLICE_MM]
    for case in cases:
        prepared = data.prepare(case, tmp_path / "cache")
        assert prepared.spacing_mm == (case.slice_mm, *prepared.placement.pixel_mm) == seen[-1]
    # What was kept for one distance is not taken for another, and what was kept before the column still is.
    count = len(seen)
    for words, anew in ((("1.5", "5", ""), False), (("3", "", ""), True)):
        for case in with_distances(folder, *words):
            data.prepare(case, tmp_path / "cache")
        assert (len(seen) > count) is anew


@pytest.mark.parametrize("word", ["thick", "0", "-1", "inf", "155"])
def test_what_is_no_distance_of_slices_is_refused(folder, word):
    with pytest.raises(data.DataError, match=f"slice_mm of case1 is '{word}'; it must be mm between slices or left"):
        with_distances(folder, "", word, "")


def test_a_table_from_a_spreadsheet_is_read(folder):
    assert [case.name for case in rewritten(folder, "true", "utf-8-sig")] == ["case0", "case1", "case2"]


@pytest.mark.parametrize("column", ["empty", "absent"])
def test_where_the_table_is_silent_the_images_say_whether_there_is_a_t1c(folder, column):
    """The fixture's channels are all alike, as where FLAIR stands in for T1C."""
    r, c = np.mgrid[:256, :256]
    recoloured(folder / "case1", lambda image: image * np.stack([r >= 0, r >= 0, np.hypot(r - 99, c - 99) > 30], -1))
    recoloured(folder / "case2", lambda image: image * (1, 1, 0))
    rewritten(folder, "")
    if column == "absent":
        rows = list(csv.reader((folder / "labels.csv").open()))
        with (folder / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(row[:2] for row in rows)
    assert [case.has_t1c for case in data.read_cases(folder)] == [False, True, False]


def test_a_broken_slice_is_not_told_by_the_table(folder):
    """But where the case is read: the other cases go on."""
    for path in (folder / "case1").glob("*.webp"):
        path.write_bytes(b"no image")
    assert [case.name for case in rewritten(folder, "")] == ["case0", "case1", "case2"]


def test_a_lossy_copy_of_flair_is_no_t1c(folder):
    rng = np.random.default_rng(3)
    recoloured(folder / "case0", lambda image: np.clip(image + rng.normal(0, 2, image.shape), 0, 255))
    recoloured(folder / "case1", lambda image: np.clip(image + rng.normal(0, 30, image.shape), 0, 255))
    assert [case.has_t1c for case in rewritten(folder, "")] == [False, True, False]


def recoloured(case, change):
    for path in case.glob("*.webp"):
        image = np.asarray(Image.open(path).convert("RGB")).astype(float)
        Image.fromarray(change(image).astype(np.uint8)).save(path, lossless=True)


def test_slices_come_in_the_order_of_their_numbers(tmp_path):
    home = tmp_path / "case"
    home.mkdir()
    for number in range(1, 13):
        Image.fromarray(np.full((8, 8, 3), 10 * number, np.uint8)).save(home / f"{number}.webp", lossless=True)
        Image.fromarray(np.full((8, 8), 255 * (number == 2), np.uint8)).save(home / f"{number}_mask.png")
    images, tumour = data.Case("case", "p", "", "", has_t1c=True, folder=home).read()
    assert images[:, 0, 0, 0].tolist() == [10 * n for n in range(1, 13)]
    assert tumour.any(axis=(1, 2)).tolist() == [n == 2 for n in range(1, 13)]


@pytest.fixture
def with_skull(folder):
    """The first case with a bright ring, and noise around it: nothing there is background."""
    rng = np.random.default_rng(1)
    r, c = np.mgrid[:256, :256]
    away = np.hypot(r - 128, c - 120)
    ring = np.where((away > 80) & (away < 90), 200.0, 0.0)[..., None] + rng.uniform(1, 10, (256, 256, 1))
    recoloured(folder / "case0", lambda image: np.where(image > 20, image, ring))
    return data.read_cases(folder)[0]


def brain_disc(stack, _):
    r, c = np.mgrid[:256, :256]
    return np.broadcast_to(np.hypot(r - 128, c - 120) < 70, stack.shape)


def test_around_a_brain_that_came_without_skull_the_network_is_shown_nothing(folder, with_skull, tmp_path, monkeypatch):
    """As in the node: what lies around it is background alone, which no network has seen."""
    monkeypatch.setattr(frame, "brain_mask", brain_disc)
    bare = data.read_cases(folder)[1]
    for case, stripped in ((with_skull, False), (bare, True)):
        images, _ = case.read()
        found = data.outline(case, images, tmp_path / "cache")
        assert found.stripped is stripped
        assert found.margin_mm == (0.0 if stripped else MASK_MARGIN_MM)
        prepared = data.prepare(case, tmp_path / "cache")
        placement, brain = prepared.placement, found.mask
        channels = [frame.correct_bias(images[..., k].astype(np.float32), brain, spacing(placement)) for k in (2, 1)]
        seen = frame.network_input(channels, brain, placement, found.margin_mm)
        assert np.array_equal(seen.any(axis=1), network_view(prepared).any(axis=1))
    shown = [network_view(data.prepare(c, tmp_path / "cache")).any(axis=1).sum() for c in (with_skull, bare)]
    assert shown[0] > 1.05 * shown[1]


def spacing(placement):
    return (data.ASSUMED_SLICE_MM, *placement.pixel_mm)


def test_flair_may_have_come_without_skull_where_t1c_did_not(with_skull, tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "brain_mask", brain_disc)
    images, _ = with_skull.read()
    r, c = np.mgrid[:256, :256]
    smaller = np.hypot(r - 128, c - 120) < 67
    images[..., data.FLAIR] *= smaller.astype(np.uint8)
    found = data.outline(with_skull, images, tmp_path / "cache")
    assert found.stripped
    assert np.array_equal(found.mask, np.broadcast_to(smaller, found.mask.shape))


def test_where_t1c_shows_no_brain_another_sequence_does(with_skull, tmp_path, monkeypatch):
    asked = []

    def blank_fails(stack, spacing):
        asked.append(stack[..., 128, 128].max())
        if not stack.any():
            raise BrainNotFound("nothing there")
        return brain_disc(stack, spacing)

    monkeypatch.setattr(frame, "brain_mask", blank_fails)
    images, _ = with_skull.read()
    images[..., data.T1C] = 0
    assert data.outline(with_skull, images, tmp_path / "cache").mask.any()
    assert len(asked) == 2
    with pytest.raises(BrainNotFound, match="T1C, T1, FLAIR: nothing there"):
        data.outline(with_skull, np.zeros_like(images), tmp_path / "cache")
    with pytest.raises(BrainNotFound, match=r"^FLAIR, T1: nothing there"):
        data.outline(replace(with_skull, has_t1c=False), np.zeros_like(images), tmp_path / "cache")


def test_the_markers_networks_are_shown_as_much(folder, with_skull, tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "brain_mask", brain_disc)
    bare = data.read_cases(folder)[1]
    shown = []
    for case in (with_skull, bare):
        images, tumour = case.read()
        outlined = data.outline(case, images, tmp_path / "cache")
        shown.append(
            marker_data._to_frame(images, tumour, outlined, ("FLAIR",), case.slice_mm)["images"].any(axis=1).sum()
        )
    assert shown[0] > 1.05 * shown[1]


def test_trainings_side_by_side_prepare_the_same_cases(folder, tmp_path):
    """Each of them writes a file of its own; before, one took away what the other was writing."""
    code = (
        "import sys; from pathlib import Path; import numpy as np; from models.json_file import write_json\n"
        "from models.training import data\n"
        "cache = Path(sys.argv[1])\n"
        "for number in range(300):\n"
        "    content = np.full((8, 64, 64), number % 150)\n"
        "    found = data.kept(cache, f'case{number % 150}', [content], '', lambda: {'a': content})\n"
        "    assert (found['a'] == number % 150).all()\n"
        "    write_json(cache / 'settings.json', {'seed': 0})\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "cache")]
    side_by_side = [subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1][-500:], process.returncode) for process in side_by_side] == [("", 0)] * 3
    assert not list((tmp_path / "cache").glob("*.part"))


def marked(mode, palette=None, value=1):
    """A mask of 16 pixels in one of the forms that programs write."""
    drawn = np.zeros((8, 8), np.uint8)
    drawn[2:6, 2:6] = value
    if mode == "P":
        image = Image.fromarray(drawn, "P")
        image.putpalette(palette or [0, 0, 0] * 256)
        return image
    if mode in ("RGB", "RGBA", "LA"):
        colour = {"RGB": (value, 0, 0), "RGBA": (255, 255, 255, 0), "LA": (255, 0)}[mode]
        image = Image.new(mode, (8, 8), (0, 0, 0) if mode == "RGB" else colour)
        image.paste({"RGB": (value, 0, 0), "RGBA": (255, 0, 0, 255), "LA": (255, 255)}[mode], (2, 2, 6, 6))
        return image
    return Image.fromarray(drawn if mode == "L" else drawn.astype(np.uint16) if mode == "I;16" else drawn > 0)


FORMS = [
    ("L", None, 1), ("L", None, 255), ("1", None, 1), ("I;16", None, 1), ("P", None, 1),
    ("P", [255, 255, 255, 9, 0, 0], 1), ("RGB", None, 1), ("RGB", None, 255), ("RGBA", None, 1), ("LA", None, 1),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "palette", "value"), FORMS)
def test_a_mask_may_have_any_usual_form(mode, palette, value, tmp_path):
    home = tmp_path / "case"
    home.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(home / "001.WEBP", lossless=True)
    (home / "._001.webp").write_bytes(b"another system's own")
    marked(mode, palette, value).save(home / "001_mask.PNG")
    images, tumour = data.Case("case", "p", "", "", has_t1c=True, folder=home).read()
    assert len(images) == 1
    assert tumour.sum() == tumour[0, 2:6, 2:6].sum() == 16


def test_a_mask_the_other_way_about_is_refused(tmp_path):
    home = tmp_path / "case"
    home.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(home / "001.webp", lossless=True)
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(home / "001_mask.png")
    with pytest.raises(data.DataError, match="case: its masks mark 100% of all pixels"):
        data.Case("case", "p", "", "", has_t1c=True, folder=home).read()


def test_a_table_in_another_encoding_is_told(folder):
    (folder / "labels.csv").write_bytes("case,patient,site\ncase0,p0,Köln\n".encode("latin-1"))
    with pytest.raises(data.DataError, match=r"labels\.csv is not in UTF-8"):
        data.read_cases(folder)


@pytest.mark.parametrize(("word", "has_t1c"), [("1.0", True), ("0.0", False)])
def test_numbers_of_a_table_with_gaps_are_understood(folder, word, has_t1c):
    assert {case.has_t1c for case in rewritten(folder, word)} == {has_t1c}


def test_what_tables_write_for_not_known_is_silent(folder):
    assert {case.has_t1c for case in rewritten(folder, "NaN")} == {case.has_t1c for case in rewritten(folder, "")}
