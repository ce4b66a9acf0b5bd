"""Figures of marker models against hand-counted ones, where they are undefined, and the file of outcomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from models.markers.metrics import (
    OneClass,
    auc,
    bin_numbers,
    by_site,
    calibration_error,
    kappa,
    measure,
    measure_what_can_be,
    paired,
    resamples,
)
from models.markers.outcomes import Outcome, OutcomeError, PatientOutcome
from models.markers.plots import draw_curves, draw_reliability, draw_roc, mean_curve

LABELS, PROBABILITIES = [1, 1, 1, 0, 0], [0.9, 0.6, 0.4, 0.5, 0.1]


def outcome(labels=LABELS, probabilities=PROBABILITIES, sites="AABBB"):
    rows = zip(labels, probabilities, sites, strict=True)
    patients = tuple(PatientOutcome(f"p{i}", site, i % 2, y, p) for i, (y, p, site) in enumerate(rows))
    return Outcome("idh", "early", {"title": "IDH mutation"}, patients)


BY_HAND = {
    "accuracy": 3 / 5,  # .9 and .6 rightly positive, .1 rightly negative; .5 counts as positive
    "sensitivity": 2 / 3,
    "specificity": 1 / 2,
    "auc": 5 / 6,  # of six pairs only (.4, .5) stands the wrong way round
    "kappa": (3 / 5 - 13 / 25) / (1 - 13 / 25),  # 3/5 positive in truth and in answers
}


@pytest.mark.parametrize("name", BY_HAND)
def test_figures_are_those_counted_by_hand(name):
    assert measure(LABELS, PROBABILITIES, draws=10).figures[name].value == pytest.approx(BY_HAND[name])


def test_what_wants_a_class_that_is_not_there_is_none():
    assert measure_what_can_be(LABELS, PROBABILITIES, draws=10) == measure(LABELS, PROBABILITIES, draws=10).figures
    found = measure_what_can_be([1, 1, 1], [0.9, 0.6, 0.4], draws=50)
    assert {name for name, figure in found.items() if figure is None} == {"auc", "kappa", "specificity"}
    assert found["sensitivity"].value == found["accuracy"].value == pytest.approx(2 / 3)
    assert found["accuracy"].low < 2 / 3 < found["accuracy"].high
    assert found["ece"].value == pytest.approx((0.1 + 0.4 + 0.6) / 3), "each a bin of its own"
    assert measure_what_can_be([0], [0.2])["sensitivity"] is None
    assert set(measure_what_can_be([], []).values()) == {None}


def test_calibration_error_is_the_mean_gap_of_bins_of_equal_numbers():
    # Two bins, (.1, .2) with no positive and (.6, .9) with one: gaps .3 and .5, over four patients.
    found = calibration_error(np.array([0, 0, 1, 0]), np.array([0.1, 0.2, 0.6, 0.9]), bins=2)
    assert found == pytest.approx((0.3 + 0.5) / 4)


def test_equal_probabilities_are_one_bin_in_whatever_order():
    same = np.full(8, 0.5)
    assert set(bin_numbers(same)) == {0}
    assert calibration_error(np.array([0] * 4 + [1] * 4), same) == 0.0


def test_probabilities_fall_into_bins_of_equal_numbers():
    assert np.bincount(bin_numbers(np.arange(50) / 50, 5)).tolist() == [10] * 5


def test_area_and_kappa_are_the_librarys_on_ties_too():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, found = rng.integers(2, size=30), rng.integers(5, size=30) / 4
        truth[:2] = 0, 1
        assert auc(truth, found) == pytest.approx(roc_auc_score(truth, found))
        answers = (found > 0.5).astype(int)
        assert kappa(truth, answers) == pytest.approx(cohen_kappa_score(truth, answers))


def test_naming_one_class_always_is_worth_no_kappa():
    found = measure([1, 1, 1, 0], [0.9] * 4, draws=20).figures
    assert (found["kappa"].value, found["auc"].value, found["accuracy"].value) == (0.0, 0.5, 0.75)
    assert kappa(np.array([1, 1]), np.array([1, 1])) == 0.0


@pytest.mark.parametrize("labels", [[1, 1], [0, 0, 0], []])
def test_one_class_cannot_be_measured(labels):
    with pytest.raises(OneClass, match="one class only"):
        measure(labels, [0.5] * len(labels))


def test_resamples_of_one_class_are_drawn_anew():
    labels = np.array([1] + [0] * 9)
    rows = resamples(labels, 200, seed=0)
    assert len(rows) == 200
    assert all(0 < labels[row].sum() < 10 for row in rows)
    assert all((a == b).all() for a, b in zip(rows, resamples(labels, 200, seed=0), strict=True))
    assert any((a != b).any() for a, b in zip(rows, resamples(labels, 200, seed=1), strict=True))


def test_a_perfect_model_beats_chance_and_a_guess_does_not():
    labels = [0, 1] * 20
    perfect = measure(labels, [0.1 + 0.8 * y for y in labels], draws=200)
    assert (perfect.figures["auc"].low, perfect.figures["auc"].high) == (1.0, 1.0)
    assert perfect.beats_chance
    guess = measure(labels, np.random.default_rng(1).random(40), draws=200)
    assert guess.figures["auc"].low < 0.5 < guess.figures["auc"].high
    assert not guess.beats_chance
    worse = measure(labels, [0.9 - 0.8 * y for y in labels], draws=200)
    assert not worse.beats_chance


def test_intervals_narrow_with_patients():
    rng = np.random.default_rng(2)

    def width(count):
        labels = [0, 1] * (count // 2)
        found = measure(labels, np.clip(rng.normal([0.3 + 0.4 * y for y in labels], 0.3), 0, 1), draws=200)
        return found.figures["auc"].high - found.figures["auc"].low

    assert width(1000) < width(40) / 2


def test_another_threshold_is_used_and_told():
    found = measure(LABELS, PROBABILITIES, threshold=0.55, draws=10)
    assert found.figures["specificity"].value == 1.0
    assert found.content()["threshold"] == 0.55


def test_sites_with_one_class_have_no_area():
    found = by_site(outcome())
    assert (found["A"]["patients"], found["A"]["positives"], found["A"]["auc"]) == (2, 2, None)
    assert found["B"]["auc"] == 0.5
    assert found["B"]["accuracy"] == pytest.approx(1 / 3)
    assert found["B"]["confusion"] == {"tn": 1, "fp": 1, "fn": 1, "tp": 0}


def test_outcomes_survive_a_round_trip(tmp_path):
    outcome().save(tmp_path / "outcomes.json")
    assert Outcome.load(tmp_path / "outcomes.json") == outcome()
    content = json.loads((tmp_path / "outcomes.json").read_text())
    assert set(content) == {"marker", "model", "settings", "patients"}
    assert content["patients"][0] == {"patient": "p0", "site": "A", "fold": 0, "label": 1, "probability": 0.9}


BROKEN = [("{}", "holds no outcomes"), ("no json", "holds no outcomes"), (None, "train first")]


@pytest.mark.parametrize(("content", "reason"), BROKEN)
def test_another_file_is_refused(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "outcomes.json").write_text(content)
    with pytest.raises(OutcomeError, match=reason):
        Outcome.load(tmp_path / "outcomes.json")


@pytest.mark.parametrize("change", [{"label": 2}, {"probability": 1.1}, {"probability": float("nan")}])
def test_impossible_outcomes_are_refused(change):
    with pytest.raises(OutcomeError, match="p has label"):
        PatientOutcome(**{"patient": "p", "site": "", "fold": 0, "label": 1, "probability": 0.5} | change)


def test_a_patient_is_judged_once():
    twice = outcome().patients[:1] * 2
    with pytest.raises(OutcomeError, match="twice"):
        Outcome("idh", "early", {}, twice)


def test_pictures_are_drawn(tmp_path):
    draw_roc({"early": outcome()}, tmp_path / "deep" / "roc.png", "IDH mutation")
    draw_reliability(outcome(), tmp_path / "reliability.png", "IDH mutation")
    draw_curves({"fold_0": {1: (0.7, 0.5), 2: (0.6, 0.6)}}, tmp_path / "curves.png", "MGMT")
    for name in ("deep/roc", "reliability", "curves"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width >= 600


def test_curves_are_averaged_over_the_folds_that_have_an_epoch():
    assert mean_curve({"a": {1: (1.0, 0.0), 2: (0.5, 1.0)}, "b": {1: (0.0, 1.0)}}) == {1: (0.5, 0.5), 2: (0.5, 1.0)}


def test_outcomes_and_figures_need_no_torch():
    """Models of features and calibration write and read the same file, where torch need not be."""
    code = "import models.markers.outcomes, models.markers.metrics, sys; print('torch' in sys.modules, "
    code += "any(m.startswith('models.training') for m in sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_two_models_are_compared_on_the_patients_that_both_judged():
    rng = np.random.default_rng(0)
    labels = [1, 0] * 30
    good = [0.8 * y + 0.2 * float(rng.random()) for y in labels]
    poor = [float(rng.random()) for _ in labels]
    one, other = outcome(labels, good, "A" * 60), outcome(labels[:40], poor[:40], "A" * 40)
    found = paired(one, other)
    assert found.patients == 40
    assert found.one == pytest.approx(roc_auc_score(labels[:40], good[:40])) == 1.0
    assert found.other == pytest.approx(roc_auc_score(labels[:40], poor[:40]))
    assert found.difference.value == pytest.approx(found.one - found.other)
    assert 0 < found.difference.low < found.difference.value < found.difference.high
    assert paired(one, one).difference == paired(other, other).difference
    with pytest.raises(OutcomeError, match="different labels"):
        paired(one, outcome([1 - y for y in labels], good, "A" * 60))
    with pytest.raises(OutcomeError, match="codel"):
        paired(one, Outcome("codel", "early", {}, one.patients))
