"""What moved a marker's answer: gains that add up, a median where nothing is known, and every figure in one group."""

from __future__ import annotations

import json
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import models
from models.markers import __main__ as command
from models.markers import labels
from models.markers.figure_fit import Patient
from models.markers.figure_model import CALIBRATION, INPUTS, MODEL, FigureModel
from models.markers.figure_table import write_table
from models.markers.image_features import feature_names
from models.markers.influence import GROUP_OF_INPUT, GROUPS, influences
from models.training.data import DataError

SHIPPED = Path(models.__file__).parent / "weights/markers"
GROUPED = ("a", "b", "a", "c")
ROW = np.array([2.0, -1.0, 0.5, 3.0])
MEDIANS = np.array([1.0, 0.0, 0.0, -1.0])


def filled(rows):
    return np.where(np.isnan(rows), MEDIANS, rows)


def entangled(rows):
    """Log odds to which no figure adds alone."""
    a, b, c, d = filled(rows).T
    return a * b + np.sin(c) * d + 0.1 * d**2 + 0.7


def test_of_a_linear_model_each_group_adds_what_its_figures_do():
    weights = np.array([0.5, -2.0, 1.0, 0.25])
    gains = influences(lambda rows: filled(rows) @ weights + 4.0, ROW, GROUPED)
    each = weights * (ROW - MEDIANS)
    assert gains == pytest.approx({"a": each[0] + each[2], "b": each[1], "c": each[3]})


def test_gains_are_the_mean_over_every_order_and_add_up_to_the_answer():
    gains = influences(entangled, ROW, GROUPED)
    orders = list(permutations("abc"))
    by_hand = dict.fromkeys("abc", 0.0)
    for order in orders:
        row = np.full(4, np.nan)
        for group in order:
            before = entangled(row[None])[0]
            row = np.where(np.array(GROUPED) == group, ROW, row)
            by_hand[group] += (entangled(row[None])[0] - before) / len(orders)
    assert gains == pytest.approx(by_hand)
    assert sum(gains.values()) == pytest.approx(entangled(ROW[None])[0] - entangled(np.full((1, 4), np.nan))[0])


def test_the_model_is_asked_once():
    asked = []

    def score(rows):
        asked.append(rows.shape)
        return entangled(rows)

    influences(score, ROW, GROUPED)
    assert asked == [(8, 4)]


def test_what_is_not_known_moves_nothing():
    unknown = np.where(np.array(GROUPED) == "b", np.nan, ROW)
    assert influences(entangled, unknown, GROUPED)["b"] == 0.0


def test_every_figure_is_told_under_one_name():
    assert len(GROUP_OF_INPUT) == len(INPUTS) == len(feature_names()) + 1
    named = dict(zip(INPUTS, GROUP_OF_INPUT, strict=True))
    assert named["age"] == "age"
    assert named["enhancing share"] == "enhancement"
    assert all("FLAIR" in group for name, group in named.items() if name.startswith("FLAIR "))
    assert len(GROUPS) == len(set(GROUPS)) == 9


@pytest.mark.parametrize("marker", ["idh", "1p19q", "proliferation"])
def test_the_factors_of_what_ships_multiply_to_the_odds_it_tells(marker):
    model = FigureModel(marker, SHIPPED / marker)
    figures = np.random.default_rng(5).normal(0.3, 0.5, len(feature_names()))
    factors = model.influences(figures, 71.0)
    told, unknown = (
        model.calibration.probability(model.score(row, age))
        for row, age in ((figures, 71.0), (np.full(len(figures), np.nan), None))
    )
    assert set(factors) == set(GROUPS)
    assert np.prod(list(factors.values())) == pytest.approx(told / (1 - told) / (unknown / (1 - unknown)))
    assert factors["age"] != pytest.approx(1.0)
    assert model.influences(figures, None)["age"] == 1.0, "an age that is not known moves nothing"


@pytest.fixture
def plain(tmp_path):
    """A model that takes no figures that are not known."""
    rows = np.random.default_rng(2).normal(size=(20, len(INPUTS)))
    skops.io.dump(LogisticRegression().fit(rows, rows[:, 0] > 0), tmp_path / MODEL)
    shutil.copy(SHIPPED / "idh" / CALIBRATION, tmp_path / CALIBRATION)
    return tmp_path


def test_a_model_that_takes_no_unknown_figures_answers_all_the_same(plain):
    model, figures = FigureModel("idh", plain), np.zeros(len(feature_names()))
    assert np.isfinite(model.score(figures, 50.0))
    assert model.influences(figures, 50.0) == {}


def test_an_older_patient_is_less_likely_idh_mutant_by_age():
    """As the disease is: the direction of the one figure whose effect is known beforehand."""
    model = FigureModel("idh", SHIPPED / "idh")
    figures = np.full(len(feature_names()), np.nan)
    assert model.influences(figures, 70.0)["age"] < 1.0 < model.influences(figures, 28.0)["age"]


@pytest.fixture
def asked(marked, tmp_path):
    """What the command is called with: made-up figures of the made-up patients, and the model that ships."""
    home, _ = marked
    rng = np.random.default_rng(1)
    _, subjects = labels.read_subjects(home, labels.find_marker("idh"), [])
    everybody = [Patient(s.patient, "A", False, rng.normal(0.3, 0.5, len(INPUTS))) for s in subjects]
    write_table(tmp_path / "figures.csv", everybody)
    words = ["influences", "--marker", "idh", "--data", home, "--from", tmp_path / "figures.csv"]
    return [str(word) for word in [*words, "--model", SHIPPED / "idh"]]


def test_the_command_tells_every_patients_factors_and_draws_them(asked, tmp_path):
    ran = CliRunner().invoke(command.app, [*asked, "--json", f"{tmp_path}/x.json", "--plot", f"{tmp_path}/x.png"])
    assert ran.exit_code == 0, ran.output
    told = json.loads((tmp_path / "x.json").read_text())
    assert len(told["patients"]) == 8
    factors = np.array([[patient[group] for group in GROUPS] for patient in told["patients"].values()])
    typical = np.exp(np.abs(np.log(factors)).mean(axis=0))
    assert typical == pytest.approx([told["typical_factor"][group] for group in GROUPS], rel=1e-3)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_of_other_patients_is_refused(asked):
    ran = CliRunner().invoke(command.app, [*asked, "--leave-out", "case"])
    assert isinstance(ran.exception, DataError)


def test_a_model_that_cannot_tell_what_moves_it_is_refused(asked, plain):
    ran = CliRunner().invoke(command.app, [*asked[:-1], str(plain)])
    assert isinstance(ran.exception, DataError)
    assert "nothing tells what moves it" in str(ran.exception)
