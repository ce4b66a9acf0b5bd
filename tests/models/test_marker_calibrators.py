"""Temperature, Platt and isotonic regression, each judged on patients on whom it was not fitted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit
from typer.testing import CliRunner

from models.markers import __main__ as command
from models.markers import calibrators
from models.markers.calibration import LIMIT, Calibration
from models.markers.calibrators import CALIBRATORS, SHIPPED, compare_calibrators
from models.markers.metrics import measure, wide_calibration_error


def made(count=3000, slope=1.0, intercept=0.0, seed=0):
    """Scores whose log odds are slope x score + intercept, and who is altered."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, count)
    return scores, rng.random(count) < expit(slope * scores + intercept)


def test_each_way_finds_what_it_can_and_not_what_it_cannot():
    at = np.array([-2.0, 0.0, 2.0])
    plain, shifted = made(slope=0.5), made(slope=0.5, intercept=1.5)
    for way in CALIBRATORS.values():
        assert way(*plain)(at) == pytest.approx(expit(0.5 * at), abs=0.08)
    for name, way in CALIBRATORS.items():
        right = way(*shifted)(at) == pytest.approx(expit(0.5 * at + 1.5), abs=0.08)
        assert right is (name != "temperature"), "a temperature shifts nothing: a score of 0 stays one half"


def test_isotonic_never_falls_and_is_never_certain():
    told = CALIBRATORS["isotonic"](*made(40, slope=3.0))(np.linspace(-9, 9, 50))
    assert (np.diff(told) >= 0).all()
    assert (told.min(), told.max()) == (LIMIT, 1 - LIMIT)


def test_another_way_is_clearly_better_only_by_evidence():
    found = compare_calibrators(*made(200), deals=2, draws=200)
    assert not any(judged.clearly_better for judged in found.values()), "Platt is the truth here"
    scores = np.linspace(-4, 4, 1500)
    altered = np.random.default_rng(0).random(1500) < np.where(scores < 2, 0.05, 0.95)
    found = compare_calibrators(scores, altered, deals=2, draws=200)
    assert found["isotonic"].clearly_better, "a step is no logistic function"
    assert not found[SHIPPED].clearly_better
    assert found[SHIPPED].against_shipped["brier"].value == 0.0


def test_few_patients_have_a_calibration_error_though_their_probabilities_are_true():
    few, many = (compare_calibrators(*made(count), deals=1, draws=200)[SHIPPED] for count in (70, 3000))
    assert few.by_chance["ece"].value > 3 * many.by_chance["ece"].value
    assert few.by_chance["ece"].low < few.figures["ece"].value < few.by_chance["ece"].high


def test_nobody_is_judged_by_what_their_own_answer_taught(monkeypatch):
    scores, altered = np.arange(40.0), np.arange(40) % 2 == 0
    taught, judged = [], []

    def spy(train, _):
        taught.append(set(train))

        def tell(new):
            assert not taught[-1] & set(new)
            judged.extend(new)
            return np.full(len(new), 0.5)

        return tell

    monkeypatch.setattr(calibrators, "CALIBRATORS", {SHIPPED: spy})
    found = compare_calibrators(scores, altered, deals=3, draws=20)
    assert sorted(judged) == sorted([*scores] * 3)
    assert found[SHIPPED].figures["brier"].value == 0.25
    assert found[SHIPPED].figures["log_loss"].value == pytest.approx(np.log(2))


def test_bins_of_equal_width_are_counted_by_hand():
    # (.05, .09) one altered; (.55) not; (1.0) altered and in the last bin.
    found = wide_calibration_error(np.array([0, 1, 0, 1]), np.array([0.05, 0.09, 0.55, 1.0]))
    assert found == pytest.approx((abs(1 - 0.14) + 0.55 + 0.0) / 4)


def test_the_calibration_error_is_told_by_three_conventions():
    scores, altered = made(80)
    told = measure(altered.astype(int).tolist(), expit(scores).tolist(), draws=50).content()
    assert told["ece"]["value"] < told["ece_10"]["value"], "more bins see more of the noise"
    assert told["ece_10_wide"]["interval"][0] < told["ece_10_wide"]["interval"][1]


def test_the_command_judges_kept_calibrations(tmp_path):
    scores, altered = made(60)
    known = Calibration(
        slope=1.0, intercept=0.0, coverage=0.9, altered=tuple(scores[altered]), unaltered=tuple(scores[~altered]),
        auc=0.9, auc_interval=(0.8, 1.0),
    )  # fmt: skip
    words = ["calibrators", "--deals", "1", "--json", str(tmp_path / "found.json")]
    for marker in ("idh", "mgmt"):
        (tmp_path / marker).mkdir()
        (tmp_path / marker / "calibration.json").write_text(known.model_dump_json())
        words += ["--calibration", str(tmp_path / marker / "calibration.json")]
    ran = CliRunner().invoke(command.app, words)
    assert ran.exit_code == 0, ran.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["markers"]) == {"idh", "mgmt"}
    assert set(found["markers"]["idh"]) == {"patients", *CALIBRATORS}
    assert found["markers"]["idh"]["isotonic"]["less_shipped"]["brier"]["interval"][0] < 0.1
