"""Figures of image quality against images whose noise, ghosts and cuts are known."""

import numpy as np
import pytest

from operators.image_figures import (
    background_share,
    cut_share,
    noise_deviation,
    otsu_foreground,
    saturated_share,
    without_spots,
)


@pytest.fixture
def head():
    """Two slices of a smooth disc of 100, in air of 1."""
    rows, columns = np.mgrid[:128, :128] - 63.5
    disc = np.where(np.hypot(rows, columns) < 40, 100.0 + 10.0 * np.sin(rows / 9.0), 1.0)
    return np.stack([disc, disc]).astype(np.float32)


def test_the_foreground_is_the_head(head):
    assert np.array_equal(otsu_foreground(head), head > 50)
    assert not otsu_foreground(np.full((2, 8, 8), 3.0, np.float32)).any()


@pytest.mark.parametrize("bright", [700.0, 65535.0])
def test_a_spot_takes_the_threshold_from_nobody(head, bright):
    """One voxel at the end of 16 bits made the rest of the head air: "FLAIR's signal is 1 times its noise"."""
    expected = otsu_foreground(head)
    head[0, 60, 60] = bright
    assert np.array_equal(otsu_foreground(head), expected)
    assert saturated_share(head, otsu_foreground(head)) < 0.001
    assert head.max() == bright


def test_an_image_without_spots_comes_as_it_is(head):
    assert without_spots(head) is head
    bright = head.copy()
    bright[0, 50:54, 50:54] = 500.0
    assert without_spots(bright) is bright
    assert without_spots(np.zeros_like(head)).max() == 0.0


@pytest.mark.parametrize("deviation", [2.0, 5.0, 10.0])
def test_noise_is_measured(head, deviation):
    noisy = head + np.random.default_rng(0).normal(0.0, deviation, head.shape).astype(np.float32)
    assert noise_deviation(noisy, head > 50) == pytest.approx(deviation, rel=0.1)


def test_clipping_is_measured(head):
    noisy = head + np.random.default_rng(0).normal(0.0, 1.0, head.shape).astype(np.float32)
    assert saturated_share(noisy, head > 50) < 0.001
    assert saturated_share(np.minimum(noisy, 100.0), head > 50) > 0.3


def test_a_ghost_shows_in_the_air(head):
    assert background_share(head, head > 50) == pytest.approx(0.01, abs=0.005)
    ghost = head + 0.2 * np.roll(head, 60, axis=1)
    assert background_share(ghost, head > 50) > 0.05


def test_nothing_is_said_of_blanked_air(head):
    assert background_share(np.where(head > 50, head, 0.0), head > 50) is None


def test_nothing_is_said_where_the_head_fills_the_image():
    full = np.full((1, 64, 64), 100.0, np.float32)
    assert background_share(full, full > 50) is None


def test_a_brain_cut_at_the_top():
    brain = np.zeros((5, 10, 10), bool)
    brain[1:4] = True
    assert cut_share(brain) == 0.0
    assert cut_share(brain[:4]) == 1.0
