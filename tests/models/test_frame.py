import numpy as np
import pytest

from models import frame


@pytest.fixture
def ball():
    """A bright ball in a head-sized stack: (stack, mask, spacing)."""
    z, r, c = np.ogrid[:12, :200, :180]
    mask = ((z - 6) * 5.0) ** 2 + ((r - 90) * 0.8) ** 2 + ((c - 100) * 0.8) ** 2 < 60.0**2
    noise = np.random.default_rng(0).normal(0.0, 5.0, mask.shape)
    return np.where(mask, 100.0 + noise, 0.0).astype(np.float32), mask, (5.0, 0.8, 0.8)


def test_standardised_brain_has_mean_zero_and_deviation_one(ball):
    stack, mask, _ = ball
    scaled = frame.standardise(stack, mask)[mask]
    assert scaled.mean() == pytest.approx(0.0, abs=0.05)
    assert scaled.std() == pytest.approx(1.0, abs=0.1)


def test_normalisation_does_not_depend_on_scanner_units(ball):
    stack, mask, _ = ball
    np.testing.assert_allclose(frame.standardise(stack, mask), frame.standardise(stack * 37 + 11, mask), atol=1e-3)


def test_the_way_to_the_frame_and_back_keeps_place_and_size(ball):
    _, mask, spacing = ball
    placement = frame.place(mask, spacing[1:])
    framed = frame.to_frame(mask, placement)
    assert framed.shape == (12, frame.FRAME_SIZE, frame.FRAME_SIZE)
    area = (framed > 0.5).sum() * frame.FRAME_PIXEL_MM**2
    assert area == pytest.approx(mask.sum() * 0.8**2, rel=0.01)
    back = frame.from_frame(framed, placement, *mask.shape[1:]) > 0.5
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.99


def test_the_brain_is_centred_whatever_the_matrix(ball):
    _, mask, spacing = ball
    shifted = np.roll(mask, (15, -20), axis=(1, 2))
    views = [frame.to_frame(m, frame.place(m, spacing[1:])) for m in (mask, shifted)]
    np.testing.assert_allclose(*views, atol=1e-5)


def test_anisotropic_pixels_become_square():
    mask = np.zeros((1, 100, 100), bool)
    mask[0, 30:70, 40:60] = True  # 40 rows of 1 mm, 20 columns of 2 mm: a square
    view = frame.to_frame(mask, frame.place(mask, (1.0, 2.0)))[0] > 0.5
    rows, columns = np.nonzero(view)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)


def test_network_input_is_zero_outside_the_brain(ball):
    stack, mask, spacing = ball
    seen = frame.network_input([stack, stack], mask, frame.place(mask, spacing[1:]))
    assert seen.shape == (12, 2, frame.FRAME_SIZE, frame.FRAME_SIZE)
    assert not seen[:, :, :20].any()
    assert seen.any()


def test_bias_field_is_reduced(ball):
    _, mask, spacing = ball
    drift = np.linspace(0.6, 1.4, mask.shape[2], dtype=np.float32)
    corrected = frame.correct_bias(np.where(mask, 100.0 * drift, 0.0).astype(np.float32), mask, spacing)
    assert corrected[mask].std() / corrected[mask].mean() < 0.4 * (100 * drift * mask)[mask].std() / 100.0


def test_pixel_size_is_guessed_from_the_widest_section():
    mask = np.zeros((3, 256, 256), bool)
    mask[1, 40:200, 60:180] = True
    assert frame.estimate_pixel_mm(mask) ** 2 * 160 * 120 == pytest.approx(frame.WIDEST_SECTION_MM2)


def test_an_image_without_brain_says_so():
    with pytest.raises(frame.BrainNotFound):
        frame.brain_mask(np.zeros((10, 64, 64), np.float32), (5.0, 3.0, 3.0))


def test_slices_that_a_sequence_does_not_reach_tell_nothing_of_its_intensities():
    """FLAIR often ends above the cerebellum: what is not there would shift and flatten all the rest."""
    rng = np.random.default_rng(2)
    stack = rng.normal(100.0, 10.0, (10, 16, 16)).astype(np.float32)
    mask = np.ones(stack.shape, bool)
    expected = frame.standardise(stack[3:], mask[3:])
    stack[:3] = 0.0
    found = frame.standardise(stack, mask)
    assert np.array_equal(found[3:], expected)
    assert not found[:3].any()
    assert not frame.standardise(np.zeros_like(stack), mask).any()
