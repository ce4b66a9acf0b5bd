"""The novelty score: what it is blind to, what it sees, and that its file is read or refused."""

import numpy as np
import pytest
from scipy import ndimage

from models.novelty import NoveltyError, feature_names, features, load_reference
from models.training.data import DataError
from models.training.novelty_fit import CHANNELS, fit_reference


def view(seed: int, slices: int = 6) -> np.ndarray:
    """A head-like input: an ellipse of tissue-sized blobs, the second channel half like the first."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:96, :96] - 47.5
    inside = np.hypot(rows / (40 + rng.uniform(-2, 2)), columns / (32 + rng.uniform(-2, 2))) < 1
    one, two = ndimage.gaussian_filter(rng.standard_normal((2, slices, 96, 96)), (0, 0, 3, 3)) * 8
    depth = ndimage.distance_transform_edt(inside)
    images = np.stack([one + 0.03 * depth, one * 0.5 + two - 0.02 * depth], axis=1)
    return (images * inside).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    return fit_reference(np.array([features(view(seed)) for seed in range(40)]))


def test_every_figure_has_a_name():
    assert len(features(view(0))) == len(feature_names(CHANNELS)) == len(set(feature_names(CHANNELS)))


def test_limits_come_from_cases_left_out(reference):
    scores = [reference.score(features(view(seed))) for seed in range(40)]
    assert max(scores) < reference.warn < reference.stop == pytest.approx(2 * reference.warn, rel=1e-3)


def test_new_cases_of_the_kind_pass(reference):
    scores = np.array([reference.score(features(view(seed))) for seed in range(100, 120)])
    assert (scores < reference.warn).mean() >= 0.9


SPOILT = {
    "noise": lambda v: (v + np.random.default_rng(0).normal(0, 1, v.shape)) * (v != 0),
    "blur": lambda v: ndimage.gaussian_filter(v, (0, 0, 3, 3)) * (v != 0),
    "channels swapped": lambda v: v[:, ::-1],
    "one image as both": lambda v: v[:, [0, 0]],
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_spoilt_inputs_score_high(reference, spoil):
    spoilt = np.ascontiguousarray(spoil(view(200)), np.float32)
    assert reference.score(features(spoilt)) > reference.warn


def test_the_oddest_figure_is_named(reference):
    turned = np.ascontiguousarray(np.rot90(view(201), axes=(2, 3)))
    assert "length to width" in reference.oddest(features(turned))


def test_an_empty_input_is_an_error():
    with pytest.raises(ValueError, match="no brain"):
        features(np.zeros((3, 2, 32, 32), np.float32))


def test_constant_channels_have_figures():
    inside = view(0) != 0
    assert np.isfinite(features(inside.astype(np.float32))).all()


def test_few_cases_describe_nothing():
    with pytest.raises(DataError, match=r"3 cases are too few .*: 10 are needed"):
        fit_reference(np.zeros((3, 30)))


def test_a_reference_comes_back_from_its_file(reference, tmp_path):
    reference.save(tmp_path / "inputs" / "x.json")
    assert load_reference(tmp_path / "inputs" / "x.json") == reference


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"names": 3}'])
def test_a_damaged_reference_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(NoveltyError, match="make it anew"):
        load_reference(tmp_path / "x.json")
