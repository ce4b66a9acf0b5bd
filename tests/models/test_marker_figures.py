"""Figures of a tumour, the model that reads them, its calibration and its abstention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.model_selection import StratifiedKFold
from typer.testing import CliRunner

from models.markers import __main__ as command
from models.markers import figure_fit, figures_command, labels, learning_curve
from models.markers.calibration import Calibration, CalibrationError, Verdict, rank, to_score
from models.markers.figure_fit import Patient, calibrate, choose, fit, held_out, nested_calibration
from models.markers.figure_model import (
    CALIBRATION,
    INPUTS,
    MODEL,
    TRUSTED,
    FigureModel,
    FigureModelError,
    ensemble_score,
    with_age,
)
from models.markers.figure_table import read_table, write_table
from models.markers.image_features import NoTumour, describe, feature_names
from models.markers.learning_curve import learn_from_fewer, thinned
from models.markers.outcomes import Outcome
from models.training import data


def head(slices=10, size=64, seed=0):
    """A round brain of noise, T1C and FLAIR, zero outside."""
    z, y, x = np.ogrid[:slices, :size, :size]
    brain = (y - 32) ** 2 + (x - 32) ** 2 + 0 * z <= 28**2
    view = np.random.default_rng(seed).normal(0, 0.3, (slices, 2, size, size)).astype(np.float32)
    return view * brain[:, None], brain


def ball(centre, radius, shape=(10, 64, 64)):
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return (4 * (z - centre[0])) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2


def named(view, tumour):
    return dict(zip(feature_names(), describe(view, tumour), strict=True))


def test_place_and_size_are_shares_of_the_brain():
    view, brain = head()
    tumour = ball((7, 20, 44), 8)
    found = named(view, tumour)
    assert found["share of brain"] == pytest.approx(tumour.sum() / brain.sum())
    assert found["height"] == pytest.approx(0.7)
    assert found["front to back"] == pytest.approx((20 - 4) / 57)
    assert found["off midline"] == pytest.approx((44 - 4) / 57 - 0.5)
    assert found["other side's share"] == 0.0
    assert named(view, ball((5, 32, 32), 8))["other side's share"] == pytest.approx(0.5, abs=0.05)


def test_neither_side_nor_slice_spacing_matters():
    view, _ = head()
    tumour = ball((5, 24, 44), 9)
    here = describe(view, tumour)
    assert describe(view[..., ::-1], tumour[..., ::-1]) == pytest.approx(here, abs=0.02)
    doubled = describe(np.repeat(view, 2, axis=0), np.repeat(tumour, 2, axis=0))
    assert doubled == pytest.approx(here, abs=0.03)


def test_enhancement_mismatch_and_edges_are_seen():
    view, _ = head()
    tumour = ball((5, 32, 44), 12)
    core = ball((5, 32, 44), 6)
    plain = named(view, tumour)
    bright = view.copy()
    bright[:, 0][core] = 4.0
    enhancing = named(bright, tumour)
    assert plain["enhancing share"] == 0.0
    assert enhancing["enhancing share"] == pytest.approx(core.sum() / tumour.sum())
    assert enhancing["T1C core against edge"] > 1.0 > abs(plain["T1C core against edge"])
    mismatch = view.copy()
    mismatch[:, 1][tumour] = 3.0
    mismatch[:, 1][core] = -1.0
    seen = named(mismatch, tumour)
    assert seen["dark share on FLAIR"] == pytest.approx(core.sum() / tumour.sum())
    assert seen["FLAIR core against edge"] < -1.0
    assert seen["FLAIR against rim"] > 1.0
    ragged = tumour & (np.random.default_rng(0).random(tumour.shape) > 0.3)
    assert named(view, ragged)["raggedness"] > 2 * plain["raggedness"]


def test_a_tumour_of_one_pixel_is_described_and_none_is_an_error():
    view, _ = head()
    one = np.zeros(view[:, 0].shape, bool)
    one[5, 32, 40] = True
    assert np.isfinite(describe(view, one)).all()
    with pytest.raises(NoTumour):
        describe(view, np.zeros_like(one))
    outside = np.zeros_like(one)
    outside[5, 0, 0] = True
    with pytest.raises(NoTumour):
        describe(view, outside)


@pytest.mark.parametrize(
    ("age", "read"), [(44.0, 44.0), (None, np.nan), (0.0, np.nan), (999.0, np.nan), (-3.0, np.nan)]
)
def test_an_absurd_age_is_not_known(age, read):
    view, _ = head()
    assert np.array_equal(with_age(describe(view, ball((5, 32, 44), 9)), age)[-1:], [read], equal_nan=True)
    assert len(with_age(describe(view, ball((5, 32, 44), 9)), age)) == len(INPUTS)


def patients(count=60, signal=2.0, seed=0):
    """Made-up figures of which the first speaks for the label."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        drawn = rng.normal(size=len(INPUTS))
        drawn[0] += signal * (i % 3 == 0)
        made.append(Patient(f"p{i}", "A", i % 3 == 0, drawn, drawn + rng.normal(0, 0.1, len(INPUTS))))
    return made


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """One candidate of each kind, quick to fit."""
    few = {name: make for name, make in figure_fit.CANDIDATES.items() if "trees" not in name}
    monkeypatch.setattr(figure_fit, "CANDIDATES", few)


def auc(scores, everyone):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score([p.altered for p in everyone], scores)


def test_held_out_scores_find_a_signal_and_none_where_there_is_none():
    told = patients(signal=3.0)
    found = held_out(told, repeats=2)
    assert auc(found.scores, told) > 0.85
    assert sum(found.chosen.values()) == 10
    assert 0.3 < auc(held_out(none := patients(90, signal=0.0), repeats=2).scores, none) < 0.7


def test_no_patient_is_judged_by_a_model_that_saw_them(monkeypatch):
    everyone, seen = patients(30), []
    original = figure_fit.fit

    def spy(teachers, name):
        seen.append({p.name for p in teachers})
        return original(teachers, name)

    def judged(model, judges):
        assert not seen[-1] & {p.name for p in judges}
        return np.zeros(len(judges))

    monkeypatch.setattr(figure_fit, "fit", spy)
    monkeypatch.setattr(figure_fit, "score", judged)
    held_out(everyone, repeats=1)
    assert len(seen) == (5 + 5 * 5) * len(figure_fit.CANDIDATES)


def test_each_patient_weighs_the_same_whether_found_or_not():
    everyone = patients(12)
    unseen = [Patient(p.name, p.site, p.altered, p.drawn) for p in everyone]
    name = choose(everyone)
    same = fit([Patient(p.name, p.site, p.altered, p.drawn, p.drawn) for p in everyone], name)
    rows = np.array([p.drawn for p in everyone])
    assert np.allclose(fit(unseen, name).predict_proba(rows), same.predict_proba(rows))


def test_a_class_with_too_few_patients_is_refused():
    with pytest.raises(ValueError, match="3 patients of one class are too few for 5 folds"):
        held_out(patients(9))


def test_calibration_is_right_on_average_and_rises():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, 4000)
    altered = rng.random(4000) < 1 / (1 + np.exp(-(0.5 * scores + 1)))
    found = calibrate(scores, altered, 0.9, 0.8, (0.7, 0.9))
    assert found.slope == pytest.approx(0.5, abs=0.06)
    assert found.intercept == pytest.approx(1.0, abs=0.1)
    assert found.probability(1.0) == pytest.approx(1 / (1 + np.exp(-1.5)), abs=0.03)


def test_a_score_that_tells_the_contrary_leaves_the_prior():
    scores, altered = np.array([3.0, 2.0, 1.0, -1.0] * 5), np.array([False, False, False, True] * 5)
    found = calibrate(scores, altered, 0.9, 0.3, (0.1, 0.5))
    assert found.probability(-9.0) == pytest.approx(found.probability(9.0), abs=0.01)
    assert found.probability(0.0) == pytest.approx(0.27, abs=0.03)
    assert not found.beats_chance


def test_verdicts_keep_the_stated_coverage_of_each_class():
    rng = np.random.default_rng(1)
    altered = np.arange(3000) % 4 == 0
    scores = rng.normal(0, 1, 3000) + 2.0 * altered
    _, verdicts = nested_calibration(scores, altered, 0.9)
    said = np.array(verdicts)
    assert (said[altered] != "unaltered").mean() == pytest.approx(0.9, abs=0.02)
    # The rare answer is not given either where the common one is the likelier: more of the common keep theirs.
    assert 0.92 < (said[~altered] != "altered").mean() < 0.97
    assert 0.3 < (said != "indeterminate").mean() < 0.9


def calibration(**changed):
    given = {
        "slope": 1.0, "intercept": 0.0, "coverage": 0.8, "altered": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
        "unaltered": tuple(-x for x in range(9, 0, -1)), "auc": 0.9, "auc_interval": (0.8, 1.0),
    }  # fmt: skip
    return Calibration(**(given | changed))


def test_what_is_thinkable_decides_the_verdict():
    known = calibration()
    assert rank(known.altered, 1.0, low_is_strange=True) == pytest.approx(0.2)
    assert known.verdict(5.0) is Verdict.ALTERED
    assert known.verdict(-5.0) is Verdict.UNALTERED
    assert known.verdict(0.0) is Verdict.INDETERMINATE, "strange to both"
    mixed = calibration(unaltered=known.altered)
    assert mixed.verdict(5.0) is Verdict.INDETERMINATE, "thinkable of both"
    rare = calibration(intercept=-6.0)
    assert rare.verdict(5.0) is Verdict.INDETERMINATE, "the other is ruled out, and is still the likelier"
    assert rare.open_between() == (pytest.approx(rare.probability(-1.0)), pytest.approx(0.5))


def test_a_model_comes_back_as_it_was_kept_and_damage_is_one_clear_error(tmp_path):
    everyone = patients()
    model = fit(everyone, next(iter(figure_fit.CANDIDATES)))
    skops.io.dump(model, tmp_path / MODEL)
    (tmp_path / CALIBRATION).write_text(calibration().model_dump_json())
    kept = FigureModel("idh", tmp_path)
    view, _ = head()
    tumour = ball((5, 32, 44), 9)
    expected = to_score(model.predict_proba(with_age(describe(view, tumour), None)[None])[:, 1])[0]
    assert kept.score(describe(view, tumour), None) == pytest.approx(expected)
    assert len(kept.version) == 12
    (tmp_path / CALIBRATION).write_text("{}")
    with pytest.raises(FigureModelError, match="the model of marker idh cannot be read"):
        FigureModel("idh", tmp_path)
    with pytest.raises(CalibrationError, match="train the marker anew"):
        Calibration.load(tmp_path / CALIBRATION)
    (tmp_path / MODEL).write_bytes(b"no model")
    with pytest.raises(FigureModelError):
        FigureModel("idh", tmp_path)


def test_forests_are_kept_without_pickle(tmp_path, monkeypatch):
    monkeypatch.undo()
    model = fit(patients(30), "extremely randomised trees")
    skops.io.dump(model, tmp_path / MODEL)
    assert set(skops.io.get_untrusted_types(file=tmp_path / MODEL)) <= set(TRUSTED)
    rows = np.array([p.drawn for p in patients(30)])
    again = skops.io.load(tmp_path / MODEL, trusted=list(TRUSTED))
    assert np.array_equal(again.predict_proba(rows), model.predict_proba(rows))


def test_an_ensemble_is_the_weighted_mean_of_its_members_log_odds(tmp_path):
    everyone = patients()
    models = [fit(everyone, name) for name in figure_fit.CANDIDATES]
    skops.io.dump([[1.0, models[0]], [3.0, models[1]]], tmp_path / MODEL)
    (tmp_path / CALIBRATION).write_text(calibration().model_dump_json())
    view, _ = head()
    figures = describe(view, ball((5, 32, 44), 9))
    one, other = (float(to_score(m.predict_proba(with_age(figures, 50.0)[None])[0, 1])) for m in models)
    assert abs(one - other) > 0.01
    assert FigureModel("idh", tmp_path).score(figures, 50.0) == pytest.approx((one + 3 * other) / 4)
    for wrong in ([], [[0.0, models[0]]], [[1.0, "no model"]], [models[0]]):
        skops.io.dump(wrong, tmp_path / MODEL)
        with pytest.raises(FigureModelError):
            FigureModel("idh", tmp_path)


def test_what_ships_is_calibrated_by_held_out_scores_of_its_own_kinds(monkeypatch):
    everyone, (first, second) = patients(30), figure_fit.CANDIDATES
    monkeypatch.setattr(figure_fit, "choose", lambda teachers, seed: first if seed else second)
    weights, members = figure_fit.ensemble(everyone, repeats=3)
    assert weights == {first: 2, second: 1}
    rows = np.array([p.judged_by for p in everyone])
    single = [figure_fit.score(fit(everyone, name), everyone) for name in (first, first, second)]
    assert np.allclose(ensemble_score(members, rows), np.mean(single, axis=0))
    judged = held_out(everyone, repeats=2)
    assert judged.chosen == {first: 5, second: 5}
    assert np.allclose(judged.scores, (judged.of_each[second][0] + judged.of_each[first][1]) / 2), "as folds chose"
    expected = (2 * judged.of_each[first] + judged.of_each[second]) / 3
    assert np.allclose(judged.averaged(weights), expected), "as it ships"
    train, test = next(StratifiedKFold(5, shuffle=True, random_state=0).split(rows, figure_fit.labels_of(everyone)))
    members = [(weight, fit([everyone[i] for i in train], name)) for name, weight in weights.items()]
    assert np.allclose(judged.averaged(weights)[0, test], ensemble_score(members, rows[test]))


def test_the_command_writes_what_the_node_opens(marked, tmp_path):
    """Made-up patients: judged, calibrated, kept, and read back as the node reads them."""
    folder, cache = marked
    ran = CliRunner().invoke(
        command.app,
        [str(a) for a in ("figures", "--marker", "idh", "--data", folder, "--out", tmp_path / "idh", "--cache", cache)]
        + ["--folds", "3", "--repeats", "2"],
    )
    assert ran.exit_code == 0, ran.output
    summary = json.loads((tmp_path / "idh" / "figures.json").read_text())
    outcome = Outcome.load(tmp_path / "idh" / "outcomes.json")
    assert len(outcome.patients) == 7, "who has no T1C is not judged"
    assert sum(summary["settings"]["chosen"].values()) == 6
    assert summary["auc"]["interval"][0] <= summary["auc"]["value"] <= summary["auc"]["interval"][1]
    kept = FigureModel("idh", tmp_path / "idh")
    assert len(kept.calibration.altered) + len(kept.calibration.unaltered) == 7
    shipped = Outcome.load(tmp_path / "idh" / "shipped" / "outcomes.json")
    assert shipped.settings["shipped"] == summary["model"]
    assert sum(summary["model"].values()) == 2, "one choice a repeat"
    assert kept.calibration.auc == summary["auc"]["value"]
    view, _ = head()
    assert np.isfinite(kept.score(describe(view, ball((5, 32, 44), 9)), 50.0))


def test_a_table_of_figures_stands_for_the_images(marked, tmp_path, monkeypatch):
    folder, cache = marked
    common = ["figures", "--marker", "idh", "--data", folder, "--folds", "3", "--repeats", "2"]
    ran = CliRunner().invoke(command.app, [str(w) for w in [*common, "--out", tmp_path / "images", "--cache", cache]])
    assert ran.exit_code == 0, ran.output
    monkeypatch.setattr(figures_command, "read_patient", lambda *_: pytest.fail("the images are read"))
    table = tmp_path / "images" / "figures.csv"
    again = [*common, "--from", table, "--out", tmp_path / "table"]
    ran = CliRunner().invoke(command.app, [str(w) for w in again])
    assert ran.exit_code == 0, ran.output
    one, other = (Outcome.load(tmp_path / way / "outcomes.json") for way in ("images", "table"))
    assert [(p.patient, p.site, p.label) for p in one.patients] == [
        (p.patient, p.site, p.label) for p in other.patients
    ]
    assert one.probabilities == pytest.approx(other.probabilities, abs=5e-3), "but for six digits"
    assert table.read_text() == (tmp_path / "table" / "figures.csv").read_text()
    refused = CliRunner().invoke(command.app, [str(w) for w in [*again, "--segmentation", tmp_path]])
    assert isinstance(refused.exception, data.DataError)
    table.write_text(table.read_text().replace("raggedness", "roundness"))
    refused = CliRunner().invoke(command.app, [str(w) for w in again])
    assert isinstance(refused.exception, data.DataError)


def test_a_table_keeps_both_outlines_or_the_drawn_one_alone(tmp_path):
    everyone = patients(4)
    everyone[1] = Patient("p1", "A", False, everyone[1].drawn)
    subjects = [
        labels.Subject(data.Case(f"c{i}", f"p{i}", "A", "G2", True, tmp_path), int(i % 3 == 0), True, "", 40.0 + i)
        for i in range(5)
    ]
    write_table(tmp_path / "figures.csv", everyone)
    found = read_table(tmp_path / "figures.csv", subjects)
    assert [p.name for p in found] == ["p0", "p1", "p2", "p3"], "whom the table does not know is left out"
    assert found[1].found is None
    for p, q in zip(found, everyone, strict=True):
        assert p.altered == q.altered
        assert p.drawn[:-1] == pytest.approx(q.drawn[:-1], rel=1e-5)
        assert p.judged_by[:-1] == pytest.approx(q.judged_by[:-1], rel=1e-5)
    assert found[2].drawn[-1] == 42.0, "age comes from the data folder"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("marker", "folder"), [("idh", "idh"), ("codel", "1p19q"), ("mgmt", "mgmt"), ("proliferation", "proliferation")]
)
def test_the_shipped_model_comes_from_the_kept_table(shared, marker, folder, monkeypatch):
    """The same answers from the members' kinds fitted anew to the committed figures."""
    monkeypatch.undo()
    root = Path(figure_fit.__file__).parents[1]
    question = labels.find_marker(marker)
    _, subjects = labels.read_subjects(shared / "data" / "tcga_lgg", question, ["FG_6692"])
    everyone = read_table(root / "cards" / "markers" / "figures.csv", subjects)
    kept = FigureModel(marker, root / "weights" / "markers" / folder)
    assert len(everyone) == len(kept.calibration.altered) + len(kept.calibration.unaltered)
    told = json.loads((root / "cards" / "markers" / f"{marker}.figures.json").read_text())
    members = [(weight, fit(everyone, name)) for name, weight in told["model"].items()]
    rows = np.array([p.judged_by for p in everyone])[::10]
    found = [kept.score(row[:-1], row[-1]) for row in rows]
    assert found == pytest.approx(ensemble_score(members, rows), abs=1e-6)
    scores = np.array([*kept.calibration.altered, *kept.calibration.unaltered])
    answers = np.arange(len(scores)) < len(kept.calibration.altered)
    slope, intercept = figure_fit.platt(scores, answers)
    assert (kept.calibration.slope, kept.calibration.intercept) == pytest.approx((slope, intercept), abs=1e-3)
    assert figures_command.area(answers.astype(int), scores) == pytest.approx(told["shipped"]["auc"], abs=2e-3)


def test_verdicts_are_summed_up():
    found = figures_command.said(
        ["altered", "unaltered", "indeterminate", "altered"], np.array([True, True, False, False])
    )
    assert found == {
        "altered_said": 2, "altered_right": 1, "unaltered_said": 1, "unaltered_right": 0, "said": 0.75,
        "right_of_said": pytest.approx(1 / 3), "covered": 0.5, "covered_altered": 0.5,
        "covered_unaltered": 0.5,
    }  # fmt: skip


def test_the_rule_of_a_kept_calibration_is_judged_on_its_own_patients(tmp_path):
    """Scores that tell the classes apart but for one of ten: nothing is said of what looks like both."""
    kept, result = tmp_path / "calibration.json", tmp_path / "abstention.json"
    apart = calibration(
        coverage=0.8, altered=(-5.0, *np.linspace(3, 4, 9)), unaltered=(*np.linspace(-6, -5, 9), 3.5), intercept=1.0
    )
    kept.write_text(apart.model_dump_json())
    ran = CliRunner().invoke(command.app, ["abstention", "--calibration", str(kept), "--json", str(result)])
    assert ran.exit_code == 0, ran.output
    found = json.loads(result.read_text())
    assert (found["patients"], found["coverage"]) == (20, 0.8)
    assert found["altered_said"] + found["unaltered_said"] == round(20 * found["said"])
    assert found["altered_said"] - found["altered_right"] <= 1
    assert found["covered_altered"] >= 0.8
    kept.write_text("{}")
    ran = CliRunner().invoke(command.app, ["abstention", "--calibration", str(kept)])
    assert isinstance(ran.exception, CalibrationError)


def test_a_patient_with_two_cases_is_refused():
    with pytest.raises(data.DataError, match="two cases"):
        figures_command.refuse_twins([patients(3)[0], patients(3)[0]])


def test_fewer_patients_to_learn_from_tell_less_and_the_last_point_is_the_full_judgement():
    told = patients(60, signal=1.5)
    few, full = learn_from_fewer(told, (0.2, 1.0), repeats=2)
    assert (few.learnt_from, full.learnt_from) == (9.0, 48.0)
    assert few.auc.value < full.auc.value
    assert full.auc.value == pytest.approx(auc(held_out(told, repeats=2).scores, told))


def test_a_smaller_share_is_a_part_of_a_greater_one_and_keeps_both_classes():
    labels = np.array([int(i % 5 == 0) for i in range(40)])
    rows = np.arange(30)
    half, all_of_them = (set(thinned(rows, labels, share, (0, 1))) for share in (0.5, 1.0))
    assert half < all_of_them == set(rows)
    assert sum(labels[list(half)]) == 3
    assert sum(labels[thinned(rows, labels, 0.01, (0, 1))]) == 2


def test_no_held_out_patient_teaches_a_smaller_share(monkeypatch):
    everyone, seen = patients(30), []
    monkeypatch.setattr(learning_curve, "fit", lambda teachers, name: seen.append({p.name for p in teachers}))
    monkeypatch.setattr(learning_curve, "choose", lambda teachers, seed: "")

    def judged(model, judges):
        assert not seen[-1] & {p.name for p in judges}
        return np.linspace(0, 1, len(judges))

    monkeypatch.setattr(learning_curve, "score", judged)
    learn_from_fewer(everyone, (0.5, 1.0), repeats=1)
    assert len(seen) == 10


def test_the_learning_curve_is_told_and_drawn(marked, tmp_path):
    folder, cache = marked
    words = ["learning-curve", "--marker", "idh", "--data", folder, "--out", tmp_path, "--cache", cache, "--folds", "3"]
    ran = CliRunner().invoke(command.app, [str(word) for word in [*words, "--repeats", "1", "--shares", "1,.5"]])
    assert ran.exit_code == 0, ran.output
    told = json.loads((tmp_path / "learning.json").read_text())
    assert [point["share"] for point in told["points"]] == [0.5, 1.0]
    assert (tmp_path / "learning.png").stat().st_size > 5000
    for wrong in ("0,1", "some"):
        refused = CliRunner().invoke(command.app, [str(word) for word in [*words, "--shares", wrong]])
        assert isinstance(refused.exception, data.DataError)
