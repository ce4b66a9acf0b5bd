"""From probabilities to lesions, and how far the outcome can be trusted."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from models.refine import Refinement, RefinementError, expected_dice, load_refinement
from models.training import refine_fit
from models.training.metrics import dice
from models.training.refine_fit import Held, choose

ONE_ML = (10.0, 10.0, 10.0)
"""Spacing at which a voxel is a millilitre."""


def blobs(*parts):
    """Probabilities on 4 x 12 x 12 voxels: (slice, row, column, side, probability) each."""
    found = np.zeros((4, 12, 12), np.float32)
    for z, r, c, side, p in parts:
        found[z, r : r + side, c : c + side] = p
    return found


def test_by_default_nothing_is_changed():
    probability = np.random.default_rng(0).random((4, 12, 12)).astype(np.float32)
    plain = Refinement()
    assert np.array_equal(plain.mask(probability, ONE_ML), probability > 0.5)
    assert np.array_equal(plain.apply(probability, ONE_ML) > 0.5, probability > 0.5)


def test_what_is_unsure_stays_where_it_touches_what_is_sure_also_on_the_next_slice():
    found = blobs((1, 2, 2, 3, 0.9), (2, 2, 2, 3, 0.4), (3, 8, 8, 3, 0.6))
    mask = Refinement(low=0.3, high=0.8).mask(found, ONE_ML)
    assert mask[1, 2:5, 2:5].all()
    assert mask[2, 2:5, 2:5].all(), "touches the sure slice below"
    assert not mask[3].any(), "never sure"


def test_what_is_too_small_goes():
    found = blobs((1, 2, 2, 4, 0.9), (3, 9, 9, 2, 0.9))
    mask = Refinement(smallest_ml=5.0).mask(found, ONE_ML)
    assert mask[1].sum() == 16
    assert not mask[3].any()


def test_refined_probabilities_lie_on_the_side_of_the_mask():
    found = blobs((1, 2, 2, 4, 0.9), (2, 2, 2, 4, 0.4), (3, 9, 9, 2, 0.9))
    refinement = Refinement(low=0.3, high=0.8, smallest_ml=5.0)
    refined = refinement.apply(found, ONE_ML)
    assert np.array_equal(refined > 0.5, refinement.mask(found, ONE_ML))
    assert refined.dtype == np.float32
    assert refined[1, 2, 2] == np.float32(0.9), "what lies right already is not moved"


def test_the_mirror_image_is_asked_and_turned_back():
    asked = []

    def segment(images):
        asked.append(images)
        return images[:, 0] * np.linspace(0, 1, images.shape[-1], dtype=np.float32)  # surer on the right

    images = np.ones((2, 2, 4, 5), np.float32)
    images[..., 0] = 2.0
    both = Refinement(flips=True).probabilities(segment, images)
    assert len(asked) == 2
    assert np.array_equal(asked[1], images[..., ::-1])
    ramp = np.linspace(0, 1, 5)
    assert both[0, 0] == pytest.approx(images[0, 0, 0] * (ramp + ramp[::-1]) / 2)


def test_expected_dice_is_what_a_calibrated_map_would_have():
    rng = np.random.default_rng(0)
    probability = np.clip(rng.normal(0.2, 0.3, (20, 64, 64)), 0, 1).astype(np.float32)
    mask = probability > 0.5
    truths = [rng.random(probability.shape) < probability for _ in range(5)]
    observed = np.mean([2 * (mask & t).sum() / (mask.sum() + t.sum()) for t in truths])
    assert expected_dice(probability, mask) == pytest.approx(observed, abs=0.01)
    assert expected_dice(np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 3), bool)) == 1.0


def test_confidence_is_read_off_the_calibration():
    refinement = Refinement(expected=(0.5, 1.0), observed=(0.3, 0.9))
    sure = blobs((1, 2, 2, 4, 1.0))
    assert refinement.confidence(sure, sure > 0.5) == pytest.approx(0.9)
    assert refinement.confidence(sure * 0, sure > 2) == 1.0, "nothing found is not calibrated"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"low": 0.8, "high": 0.5}', "above high"),
        ('{"expected": [0.5], "observed": []}', "as many observed"),
        ('{"flipps": true}', "flipps"),
        ("nonsense", "JSON"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path, text, reason):
    path = tmp_path / "net.refinement.json"
    path.write_text(text)
    with pytest.raises(RefinementError, match=reason) as caught:
        load_refinement(path)
    assert "\n" not in str(caught.value)


def test_without_a_file_probabilities_stay_as_they_are(tmp_path):
    assert load_refinement(tmp_path / "absent.json") == Refinement()
    with pytest.raises(ValidationError):
        Refinement(low=2.0)


def patients(count, speckle):
    """Patients whose lesion is found well or badly, with false specks on one slice, in five folds."""
    rng = np.random.default_rng(1)
    made = []
    for i in range(count):
        truth = np.zeros((4, 40, 40), bool)
        truth[1:3, 8:24, 8:24] = True
        sure = 0.42 + 0.5 * (i % 10) / 10
        found = np.where(truth, np.clip(rng.normal(sure, 0.15, truth.shape), 0, 1), 0.05).astype(np.float32)
        if speckle:
            found[3, 30:33, 30:33] = 0.95
        made.append(Held(f"p{i}", i % 5, np.stack([found, found]), truth, (5.0, 1.0, 1.0)))
    return made


def test_specks_are_found_to_be_worth_dropping_and_the_report_is_nested():
    choice = choose(patients(20, speckle=True))
    assert choice.refinement.smallest_ml > 0
    assert choice.nested > choice.plain
    assert choice.refinement.patients == 20
    assert set(choice.parts) == {"mirror images", "hysteresis", "dropping"}
    assert choice.parts["mirror images"] == 0.0, "they are not used here"
    assert choice.parts["dropping"] > 0.0, "the specks come back without it"


def test_where_nothing_pays_nothing_is_changed():
    clean = [
        Held(c.name, c.fold, np.stack([c.truth * 0.9] * 2).astype(np.float32), c.truth, c.spacing_mm)
        for c in patients(10, False)
    ]
    choice = choose(clean)
    refinement = choice.refinement
    assert set(choice.parts.values()) == {0.0}
    assert (refinement.flips, refinement.low, refinement.high, refinement.smallest_ml) == (False, 0.5, 0.5, 0.0)


def test_confidence_follows_the_dice_of_patients_it_was_not_fitted_on():
    choice = choose(patients(40, speckle=False), doubtful=0.95)
    assert choice.correlation > 0.7
    assert choice.calibration_error < 0.08
    assert choice.warned > 0
    assert choice.warned_rightly >= choice.warned - 2


def test_scores_are_those_of_the_masks_themselves():
    options = [Refinement(low=low, high=0.7, smallest_ml=ml) for low in (0.3, 0.5) for ml in (0.0, 0.2)]
    for case in patients(6, speckle=True):
        direct = [dice(option.mask(case.maps[0], case.spacing_mm), case.truth) for option in options]
        assert refine_fit._scores(case, options) == pytest.approx(direct)
