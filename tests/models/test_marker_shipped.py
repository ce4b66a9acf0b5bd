"""`evaluate --data`: a model that ships, asked about a folder of patients as the node asks it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models import novelty
from models.markers import __main__ as command
from models.markers import found
from models.markers.calibration import Calibration
from models.markers.figure_model import ADULTS_ALONE, CALIBRATION, FigureModel
from models.markers.found import Finder
from models.markers.labels import Subject, find_marker, read_labelled
from models.markers.metrics import auc, measure
from models.markers.outcomes import Outcome, PatientOutcome
from models.markers.shipped import (
    NO_T1C,
    NO_TUMOUR,
    SECOND_CASE,
    Judged,
    Learnt,
    Report,
    judge_all,
    judge_case,
    learnt_from,
)
from models.markers.shipped_command import held_out, weights_of
from models.nasbranet.export import WEIGHTS
from models.refine import Refinement
from models.training import data
from operators.classify import Evidence, FigureClassifier, classify
from operators.domain import MarkerName

FIGURES = ("accuracy", "sensitivity", "specificity", "auc", "kappa", "ece", "coverage", "right_of_said")


class Network:
    """Finds what is bright on T1C, or nothing; counts how often it is asked."""

    version, engine, answer_shape = "0123456789ab", "none", ()
    asked, sure = 0, 0.99

    def __init__(self, name, path):
        self.name = name

    def run_slices(self, images):
        type(self).asked += 1
        return np.where(images[:, 0] > 1.5, self.sure, 0.0).astype(np.float32)


class Alike:
    """A reference that every image is like."""

    warn = 1.0

    def score(self, figures):
        return 0.0


@pytest.fixture(scope="module")
def learnt(marked, tmp_path_factory):
    """A model that learnt from the made-up patients, with its outcomes beside it."""
    folder = tmp_path_factory.mktemp("model")
    words = ["figures", "--marker", "idh", "--data", marked[0], "--out", folder, "--cache", marked[1], "--folds", 3]
    done = CliRunner().invoke(command.app, [str(word) for word in [*words, "--repeats", 1]])
    assert done.exit_code == 0, done.output
    change(folder, auc=0.9, auc_interval=(0.8, 1.0), coverage=0.6)
    return folder


@pytest.fixture
def network(monkeypatch, tmp_path):
    """Stand-ins for the segmenting network and for the images that it learnt from."""
    # Cases are prepared once for all tests, and outlined in each.
    fresh = type("Network", (Network,), {"engine": str(tmp_path)})
    monkeypatch.setattr(found, "Model", fresh)
    monkeypatch.setattr(novelty, "load_reference", lambda path: Alike())
    return fresh


def change(folder, **changed):
    """Change a model's calibration, and its outcomes so that they are still known to be its own."""
    known = Calibration.load(folder / CALIBRATION)
    (folder / CALIBRATION).write_text(known.model_copy(update=changed).model_dump_json())
    if "auc" in changed:
        outcome = Outcome.load(folder / "outcomes.json")
        spread = np.linspace(0.0, 1.0, len(outcome.patients))
        rows = [PatientOutcome(p.patient, p.site, 0, p.label, float(s))
                for p, s in zip(outcome.patients, spread, strict=True)]  # fmt: skip
        area = auc(np.array(outcome.labels), spread)
        Outcome("idh", "figures", outcome.settings, tuple(rows)).save(folder / "outcomes.json")
        known = Calibration.load(folder / CALIBRATION).model_copy(update={"auc": area})
        (folder / CALIBRATION).write_text(known.model_dump_json())


def relabelled(home, to, **columns):
    """Copy a data folder with some columns of labels.csv made by a function of a row and its number."""
    shutil.copytree(home, to)
    with (to / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, make in columns.items():
        for number, row in enumerate(rows):
            row[name] = make(number, row)
    with (to / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return to


@pytest.fixture
def evaluate(marked, learnt, network, tmp_path):
    """Call the command and read its file; by default the made-up patients and the model that learnt from them."""

    def call(*words, home=marked[0], model=learnt, marker="idh"):
        result = tmp_path / "result.json"
        given = ["evaluate", "--marker", marker, "--data", home, "--cache", marked[1], "--json", result]
        given += ["--model", model, *words]
        done = CliRunner().invoke(command.app, [str(word) for word in given])
        assert done.exit_code == 0, done.output + repr(done.exception)
        return json.loads(result.read_text()), done.output

    return call


def test_the_contract_is_written_and_its_figures_are_those_of_the_patients(evaluate, learnt):
    told, output = evaluate()
    patients = {p["patient"]: p for p in told["patients"]}
    assert set(patients) == {f"patient{i}" for i in range(8)} - {"patient1"}
    assert [(n["case"], n["reason"], n["label"]) for n in told["not_assessable"]] == [("case1", NO_T1C, 0)]
    labels, probabilities = zip(*((p["label"], p["probability"]) for p in told["patients"]), strict=True)
    expected = measure(labels, probabilities).figures
    for name, estimate in expected.items():
        assert told[name] == pytest.approx(estimate.value)
        assert told[f"{name}_interval"] == pytest.approx([estimate.low, estimate.high])
    said = [p for p in told["patients"] if p["verdict"] in {"altered", "unaltered"}]
    right = [p for p in said if (p["verdict"] == "altered") == bool(p["label"])]
    assert said, "a test of verdicts needs some"
    assert told["coverage"] == pytest.approx(len(said) / 8), "of all who have a label"
    assert told["right_of_said"] == pytest.approx(len(right) / len(said))
    assert (told["judged"], told["positives"], told["without_label"]) == (7, 4, 0)
    assert sum(site["patients"] for site in told["sites"].values()) == 7
    assert {p["site"] for p in told["patients"]} == set(told["sites"]) == {"A", "B"}
    model = FigureModel("idh", learnt)
    assert (told["model"], told["version"], told["outlines"]) == (model.name, model.version, "found")
    assert told["segmenter"]["version"] == Network.version
    assert told["stated"]["coverage"] == model.calibration.coverage
    for word in ("AUC", "an answer is given of", "not assessable, 1: no true T1"):
        assert word in output


def test_scores_and_verdicts_are_the_nodes_own(evaluate, marked, learnt, network):
    told, _ = evaluate()
    classifier = FigureClassifier(MarkerName.IDH, FigureModel("idh", learnt))
    _, subjects, _ = read_labelled(marked[0], find_marker("idh"))
    finder = Finder(WEIGHTS, marked[1])
    by_case = {p["case"]: p for p in told["patients"]}
    for subject in (s for s in subjects if s.case.has_t1c):
        sight = finder.see(data.prepare(subject.case, marked[1]))
        evidence = Evidence(sight.view, sight.tumour, subject.age_years)
        answer = classify(evidence, "", {MarkerName.IDH: classifier})[0]
        mine = by_case[subject.case.name]
        assert (mine["verdict"], mine["probability"]) == (answer.value.value, pytest.approx(answer.probability))


def test_whom_the_model_learnt_from_is_warned_of(evaluate):
    told, output = evaluate()
    assert told["held_out"] is False
    assert told["seen_in_training"] == [p["patient"] for p in told["patients"]]
    assert "7 of 7 patients judged taught the model" in told["warning"]
    assert f"warning: {told['warning']}" in output
    assert "unseen" not in told


def test_patients_who_are_new_are_told_apart(evaluate, learnt, marked, tmp_path):
    """Two of them have other names: with outlines by hand, nothing but the model can have seen them."""
    named = {"patient": lambda i, row: f"new{i}" if i in (4, 5) else row["patient"]}
    told, _ = evaluate("--outlines", "drawn", home=relabelled(marked[0], tmp_path / "mixed", **named))
    assert set(told["seen_in_training"]) == {f"patient{i}" for i in (0, 2, 3, 6, 7)}
    assert (told["unseen"]["judged"], told["unseen"]["positives"]) == (2, 1)
    assert (told["unseen"]["auc"] is None) is False
    everyone = relabelled(marked[0], tmp_path / "new", patient=lambda i, row: f"new{i}")
    told, output = evaluate("--outlines", "drawn", home=everyone)
    assert (told["held_out"], told["seen_in_training"], told["warning"]) == (True, [], None)
    assert "warning" not in output
    assert "unseen" not in told
    told, _ = evaluate(home=everyone)
    assert told["held_out"] is None, "no card tells of a network of this version"
    assert "nothing tells" in told["warning"]


def test_of_the_models_that_ship_it_is_known_whom_they_learnt_from():
    for marker, patients in (("idh", 76), ("codel", 77), ("mgmt", 77), ("proliferation", 72)):
        folder = weights_of(marker)
        known = learnt_from(marker, folder, Calibration.load(folder / CALIBRATION))
        assert len(known.by_model) == patients
        assert (known.threshold is None) == (marker != "proliferation"), "the threshold it learnt by"
    assert learnt_from("idh", folder, Calibration.load(folder / CALIBRATION)).by_model is None, "another model"
    assert len(known.with_network("81867ea62341").by_network) == 87, "ten of them by FLAIR alone"
    assert known.with_network("ffffffffffff").by_network is None


def test_an_outline_is_found_once(evaluate, network):
    told, _ = evaluate()
    asked = network.asked
    assert asked == 2 * 7, "each case as it is and in the mirror"
    assert evaluate()[0] == told
    assert network.asked == asked


def test_what_the_hand_drew_needs_no_network(evaluate, network, monkeypatch):
    monkeypatch.setattr(found, "Model", None)
    told, _ = evaluate("--outlines", "drawn")
    assert (told["outlines"], told["segmenter"], told["judged"]) == ("drawn", None, 7)


def test_where_no_tumour_is_found_there_is_nothing_to_ask(evaluate, network):
    network.sure = 0.2
    told, output = evaluate()
    assert {n["reason"] for n in told["not_assessable"]} == {NO_T1C, NO_TUMOUR}
    assert (told["judged"], told["patients"], told["coverage"]) == (0, [], 0.0)
    assert all(told[name] is None for name in FIGURES if name != "coverage")
    assert "no patient could be judged" in told["auc_reason"]
    assert told["auc_reason"] in output


def test_a_patient_whose_files_are_broken_costs_nobody_elses_answer(evaluate, marked, tmp_path):
    home = relabelled(marked[0], tmp_path / "broken")
    (home / "case3" / "001.webp").write_bytes(b"no image")
    told, _ = evaluate(home=home)
    assert {n["case"]: n["reason"] for n in told["not_assessable"]} == {
        "case1": NO_T1C,
        "case3": "case3/001.webp cannot be read as an image",
    }
    assert told["judged"] == 6


SILENT = [
    ({"warn": -1.0}, 0.99, "the images may be unlike those of training"),
    ({}, 0.6, "the outline is doubtful"),
    ({"warn": -1.0}, 0.6, "the images may be unlike those of training and the outline is doubtful"),
]


@pytest.mark.parametrize(("alike", "sure", "reason"), SILENT)
def test_what_the_node_would_not_read_is_judged_and_not_answered(evaluate, network, monkeypatch, alike, sure, reason):
    monkeypatch.setattr(novelty, "load_reference", lambda path: type("Reference", (Alike,), alike)())
    # A network that is never surer than this keeps nothing by the refinement that ships.
    kept = Refinement(low=0.3, high=0.5, doubtful=0.9 if sure < 0.9 else 0.0)
    monkeypatch.setattr(found, "load_refinement", lambda path: kept)
    network.sure = sure
    told, output = evaluate()
    assert {(p["verdict"], p["reason"]) for p in told["patients"]} == {("not assessed", reason)}
    assert (told["coverage"], told["right_of_said"]) == (0.0, None)
    assert told["auc"] is not None, "the score is judged all the same"
    assert f"verdict not assessed, 7: {reason}" in output


def test_a_model_no_better_than_chance_is_judged_and_answers_nothing(evaluate, learnt, tmp_path):
    weak = tmp_path / "weak"
    shutil.copytree(learnt, weak)
    change(weak, auc_interval=(0.4, 1.0))
    told, _ = evaluate(model=weak)
    assert {p["verdict"] for p in told["patients"]} == {"not assessed"}
    assert all("no model tells it better than chance" in p["reason"] for p in told["patients"])
    assert (told["coverage"], told["stated"]["auc_interval"]) == (0.0, [0.4, 1.0])
    assert told["auc"] == evaluate()[0]["auc"]


def test_of_a_child_nothing_is_said(evaluate, marked, tmp_path):
    young = relabelled(marked[0], tmp_path / "young", age=lambda i, row: "0.5" if i == 0 else "17" if i == 3 else "18")
    told, _ = evaluate(home=young)
    silent = {p["patient"] for p in told["patients"] if p["reason"] == ADULTS_ALONE}
    assert silent == {"patient0", "patient3"}


@pytest.mark.parametrize(("label", "kind", "without"), [("Mutant", "positive", "specificity"),
                                                        ("WT", "negative", "sensitivity")])  # fmt: skip
def test_patients_of_one_class_have_no_auc_and_the_reason_is_told(evaluate, marked, tmp_path, label, kind, without):
    told, output = evaluate(home=relabelled(marked[0], tmp_path / "one", idh=lambda i, row: label))
    assert told["auc"] is told["auc_interval"] is told["kappa"] is told[without] is told["beats_chance"] is None
    assert told["auc_reason"] == f"all 7 patients judged are {kind}: AUC and kappa need both classes"
    assert f"no AUC: {told['auc_reason']}" in output
    other = "sensitivity" if without == "specificity" else "specificity"
    right = np.mean([(p["probability"] >= 0.5) == (label == "Mutant") for p in told["patients"]])
    assert [told[other], told["accuracy"]] == pytest.approx([right, right])
    assert told["ece_interval"][0] <= told["ece_interval"][1]


def test_absent_labels_are_passed_over_and_counted(evaluate, marked, tmp_path):
    gaps = relabelled(marked[0], tmp_path / "gaps", idh=lambda i, row: "" if i in (0, 3, 5) else row["idh"])
    told, output = evaluate(home=gaps)
    assert told["without_label"] == 3
    assert {p["patient"] for p in told["patients"]} == {"patient2", "patient4", "patient6", "patient7"}
    assert "3 cases without a label are passed over" in output


def test_plots_are_drawn_where_they_can_be(evaluate, marked, tmp_path):
    evaluate("--plots", tmp_path / "plots")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"roc.png", "reliability.png"}
    one = relabelled(marked[0], tmp_path / "one", idh=lambda i, row: "WT")
    evaluate("--plots", tmp_path / "none", home=one)
    assert not (tmp_path / "none").exists()


def test_a_patient_is_judged_once_by_the_first_case_that_can_be(marked, tmp_path, network):
    columns = {
        "patient": lambda i, row: f"p{i // 2}",
        "idh": lambda i, row: "WT" if i > 3 else "Mutant",
        "has_t1c": lambda i, row: str(i not in (0, 1)),
    }
    two = relabelled(marked[0], tmp_path / "two", **columns)
    _, subjects, _ = read_labelled(two, find_marker("idh"))
    asked = []

    def judge(subject):
        asked.append(subject.case.name)
        return Judged(subject, 0.0, 0.5, "altered", "")

    results = list(judge_all(subjects, judge))
    assert asked == ["case0", "case2", "case4", "case6"]
    assert [r.reason for r in results if not isinstance(r, Judged)] == [SECOND_CASE] * 4
    # The first case has no T1C, and neither has the second.
    model = FigureModel("idh", weights_of("idh"))
    finder = Finder(WEIGHTS, marked[1])
    blind = list(judge_all(subjects[:3], lambda s: judge_case(s, model, finder, marked[1])))
    assert [getattr(r, "reason", "") for r in blind[:2]] == [NO_T1C, NO_T1C]
    assert isinstance(blind[2], Judged)


def test_figures_of_those_never_seen_leave_out_who_taught():
    def judged(name, label, probability):
        case = data.Case(name, name, "A", "", True, Path(name))
        return Judged(Subject(case, label, True, "", None), 0.0, probability, "altered", "")

    rows = [judged("a", 1, 0.9), judged("b", 0, 0.8), judged("c", 1, 0.3), judged("d", 0, 0.6)]
    told = held_out(Report(rows, []), Learnt(frozenset("ab"), frozenset("z")))
    assert (told["held_out"], told["seen_in_training"]) == (False, ["a", "b"])
    assert (told["unseen"]["auc"], told["unseen"]["judged"]) == (0.0, 2)
    told = held_out(Report(rows, []), Learnt(frozenset("a"), frozenset("b")))
    assert told["seen_in_training"] == ["a", "b"], "by either"


def refuse(capsys, monkeypatch, words):
    monkeypatch.setattr("sys.argv", ["markers", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        command.run()
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip()
    assert "error: " in told
    assert "Traceback" not in told
    return told.splitlines()[-1]


WRONG = [
    (["--marker", "idh"], "evaluate wants --data, to judge the model that ships, or --run"),
    (["--marker", "idh", "--data", "{home}", "--run", "{home}"], "evaluate wants --data"),
    (["--marker", "tert", "--data", "{home}"], "no model of tert ships; there is idh, codel, mgmt, proliferation"),
    (["--marker", "idh", "--data", "{tmp}"], "has no labels.csv"),
    (["--marker", "codel", "--data", "{home}"], "has no column codel_1p19q"),
    (["--marker", "1p/19q", "--data", "{home}"], "has no column codel_1p19q"),
    (["--marker", "idh", "--data", "{home}", "--model", "{tmp}"], "there is no {tmp}/model.skops"),
    (["--marker", "idh", "--data", "{home}", "--weights", "{tmp}/model.onnx"], "no file {tmp}/model.onnx"),
    (["--marker", "idh", "--data", "{home}", "--json", "{tmp}"], "cannot be written"),
    (["--marker", "idh", "--data", "{home}", "--json", "{home}/labels.csv/x.json"], "cannot be written"),
    (["--marker", "idh", "--data", "{home}", "--threshold", "2"], "--threshold is a probability"),
    (["--marker", "idh", "--data", "{home}", "--score-threshold", "2"], "is no score"),
    (["--marker", "idh", "--data", "{home}", "--against", "x"], "--against goes with --run"),
    (["--marker", "idh", "--data", "{home}", "--leave-out", "case"], "no patient of .* has a label of IDH mutation"),
    (["--marker", "idh", "--data", "{lost}"], "lacks the slices of 1 of its cases, case4 first"),
]


@pytest.mark.parametrize(("words", "reason"), WRONG)
def test_wrong_input_is_one_line_and_writes_nothing(marked, tmp_path, capsys, monkeypatch, words, reason):
    folder, lost = tmp_path / "empty", tmp_path / "lost"
    folder.mkdir()
    shutil.copytree(marked[0], lost)
    shutil.rmtree(lost / "case4")
    places = {"home": marked[0], "tmp": folder, "lost": lost}
    filled = [word.format(**places) for word in words]
    filled += [] if "--json" in filled else ["--json", str(folder / "result.json")]
    line = refuse(capsys, monkeypatch, [*filled, "--cache", tmp_path / "cache"])
    assert re.search(reason.format(**places), line), line
    assert not list(folder.iterdir())
    assert not list(marked[0].glob("*.json"))
