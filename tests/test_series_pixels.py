"""The look at a few slices: it answers on heads, keeps silent on anything else, and never raises."""

from __future__ import annotations

import numpy as np
import pytest
from support_phantom import T1, header_series, small_phantom

from operators.load_study import load_study
from operators.series_pixels import agent_points, contrast_points, look, look_at, pair_points

FINE = {"rows": 112, "columns": 112, "pixel_mm": 2.0, "slices": 20, "spacing_mm": 6.5, "thickness_mm": 5.0}
RNG = np.random.default_rng(3)
SHAPE = (5, 96, 96)
ROW, COLUMN = np.mgrid[-1:1:96j, -1:1:96j]
NO_HEADS = {
    "noise": RNG.normal(100, 20, SHAPE),
    "nothing": np.zeros(SHAPE),
    "one value": np.full(SHAPE, 7.0),
    "not numbers": np.full(SHAPE, np.nan),
    "a thumbnail": RNG.normal(100, 20, (5, 32, 32)),
    "a flat disc": np.where(np.hypot(ROW, COLUMN) < 0.7, 100.0, 0.0)[None].repeat(5, 0),
    "a corner": np.where((ROW < -0.9) & (COLUMN < -0.9), 100.0, 0.0)[None].repeat(5, 0),
    "a ramp": np.broadcast_to(ROW + 1, SHAPE),
    "text": np.where(RNG.random(SHAPE) > 0.9, 4095.0, 0.0),
}


@pytest.mark.parametrize("planes", NO_HEADS.values(), ids=NO_HEADS)
def test_what_is_no_head_gets_no_answer(planes):
    assert look(np.asarray(planes, np.float32)) is None


def test_a_series_without_files_gets_no_answer():
    assert look_at(header_series(1, "t1", **T1)) is None


@pytest.fixture(scope="module")
def phantom_looks():
    folder = small_phantom(**FINE).folder
    return {series.number: look_at(series) for series in load_study(folder).series}


def test_the_phantoms_contrasts_are_not_confused(phantom_looks):
    truth = {1: "T1", 2: "T2", 3: "FLAIR", 4: "T1"}
    seen = {number: contrast_points(found) for number, found in phantom_looks.items() if found}
    assert len(seen) >= 3
    assert all(set(points) <= {truth[number]} for number, points in seen.items())
    assert seen[2]["T2"] > 0


def test_brightness_and_its_unit_do_not_matter():
    folder = small_phantom(**FINE).folder
    from operators.pixels import read_planes

    planes = read_planes(load_study(folder).series[0], [4, 5, 6])
    assert look(planes).features == pytest.approx(look(planes * 37.0).features, rel=1e-4)


def test_of_two_the_order_turns_the_answer(phantom_looks):
    one, other = phantom_looks[1], phantom_looks[4]
    assert pair_points(one, other) == -pair_points(other, one)
    assert pair_points(one, one) == 0


@pytest.mark.shared
def test_the_real_studys_enhanced_t1_is_told_from_the_plain_one(shared):
    found = {s.number: look_at(s) for s in load_study(shared / "data" / "studies" / "TCGA-FG-6692").series}
    assert pair_points(found[4], found[1]) > 2
    assert contrast_points(found[2]).get("T2", 0) > 2
    assert agent_points(found[1]) <= 0 <= agent_points(found[4])
    assert set(contrast_points(found[3])) <= {"FLAIR"}
