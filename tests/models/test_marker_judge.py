"""Trained folds judged again: what is on record is measured anew, and never by other weights or on other patients."""

from __future__ import annotations

import csv
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from models.json_file import read_json, write_json
from models.markers import __main__ as command
from models.markers.cells import Cells
from models.markers.crossval import load
from models.markers.hidden_command import ask, having, hideable
from models.markers.judge_command import open_run
from models.markers.metrics import auc
from models.markers.receptive_field import measure_cells
from models.markers.slices import SEQUENCES
from models.markers.trainer import ask_patient, load_weights
from models.training.data import DataError

SMALL = ["--pixels", 64, "--slices", 2, "--batch", 4, "--folds", 2, "--epochs", 1]


def call(*words):
    return CliRunner().invoke(command.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def trained(marked, tmp_path_factory):
    """Both folds of a training, and one fold of a comparison's network whose weights are kept on the way."""
    home, cache = marked
    out = tmp_path_factory.mktemp("trained")
    where = ["--data", home, "--cache", cache, *SMALL]
    asked = ("train", "--out", out / "idh", "--marker", "idh", "--model", "resnet-mix", "--leave-out", "case7", *where)
    done = call(*asked)
    assert done.exit_code == 0, done.output
    asked = ("compare", "--out", out / "all", "--tables", "mgmt", "--mgmt-epochs", "1,2", "--folds-run", 1, *where)
    done = call(*asked)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def runs(trained, tmp_path):
    """A copy to spoil: the training's folder and that of the comparison's network."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs" / "idh", tmp_path / "runs" / "all" / "mgmt" / "mgmt"


def records(run):
    return {path.relative_to(run): read_json(path) for path in sorted(run.rglob("*.json"))}


def misplace(run):
    """Write wrong attention into every record, as one measured with other centres would be."""
    for path in run.rglob("*.json"):
        content = read_json(path)
        rows = content.get("patients", []) if "model" in content else [r for v in content.values() for r in listed(v)]
        for row in rows:
            row["attention"] = {"inside": 0.5, "around": 0.5, "covered": 0.5}
        if rows:
            write_json(path, content)


def listed(value):
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def judged(marked, *runs):
    words = [word for run in runs for word in ("--run", run)]
    return call("judge", *words, "--data", marked[0], "--cache", marked[1])


def test_records_are_measured_anew_and_nothing_is_trained(marked, runs):
    before = [records(run) for run in runs]
    weights = [path for run in runs for path in run.rglob("*.pt")]
    written = [path.stat().st_mtime_ns for path in weights]
    for run in runs:
        misplace(run)
    assert [records(run) for run in runs] != before
    changed = {
        name for run, old in zip(runs, before, strict=True) for name, new in records(run).items() if new != old[name]
    }
    assert {str(name) for name in changed} == {
        "fold_0/result.json", "fold_1/result.json", "outcomes.json", "outcomes_001.json", "outcomes_002.json",
    }  # fmt: skip
    done = judged(marked, *runs)
    assert done.exit_code == 0, done.output
    assert "2 of 2 folds judged again" in done.output
    assert "1 of 2 folds judged again" in done.output
    assert [records(run) for run in runs] == before
    assert [path.stat().st_mtime_ns for path in weights] == written


def test_attention_on_record_is_that_of_where_each_folds_network_looks(marked, runs):
    found = open_run(runs[0], *marked)
    classifier = load_weights(found.study.recipe.make(found.study.schedule), found.fold(0) / "last.pt")
    cells = measure_cells(classifier.network)
    rows = {row["patient"]: row for row in read_json(found.fold(0) / "result.json")["last"]}
    with Progress(disable=True) as progress:
        cases = load(found.study, found.folds[0], progress)
    assert {case.subject.patient for case in cases} == set(rows)
    in_equal_parts = Cells(first=(15.5, 15.5), step=32.0)
    compared = 0
    for case in cases:
        probability, attention = ask_patient(classifier, [case], cells)
        row = rows[case.subject.patient]
        assert row["probability"] == pytest.approx(probability, abs=1e-5)
        if attention is None:  # an untrained network may have nothing to say for its answer
            assert row["attention"] is None
            continue
        compared += 1
        assert row["attention"] == pytest.approx(asdict(attention), abs=1e-5)
        _, elsewhere = ask_patient(classifier, [case], in_equal_parts)
        assert abs(row["attention"]["inside"] - elsewhere.inside) > 1e-3
    assert compared


def test_a_fold_that_is_not_done_and_outcomes_that_are_not_gathered_stay_so(marked, runs):
    run = runs[0]
    (run / "outcomes.json").unlink()
    (run / "fold_1" / "result.json").unlink()
    done = judged(marked, run)
    assert done.exit_code == 0, done.output
    assert not (run / "outcomes.json").exists()
    assert not (run / "fold_1" / "result.json").exists()


def without_weights(run):
    (run / "fold_1" / "last.pt").unlink()


def without_an_epochs_weights(run):
    (run / "fold_0" / "epoch_001.pt").unlink()


def with_another_folds_weights(run):
    shutil.copy(run / "fold_0" / "last.pt", run / "fold_1" / "last.pt")
    result = read_json(run / "fold_1" / "result.json")
    for row in result["last"]:
        row["probability"] = 1.0 - row["probability"] / 4
    write_json(run / "fold_1" / "result.json", result)


def with_a_stranger(run):
    split = read_json(run / "fold_1" / "split.json")
    write_json(run / "fold_1" / "split.json", split | {"training": [*split["training"], "case99"]})


def with_a_shared_patient(run):
    split = read_json(run / "fold_1" / "split.json")
    write_json(run / "fold_1" / "split.json", split | {"training": [*split["training"], split["validation"][0]]})


def of_another_frame(run):
    write_json(run / "settings.json", read_json(run / "settings.json") | {"frame": "1"})


def unfinished(run):
    for path in run.rglob("result.json"):
        path.unlink()


REFUSED = [
    (0, without_weights, r"no .*fold_1.last\.pt; without its weights"),
    (1, without_an_epochs_weights, r"no .*fold_0.epoch_001\.pt; without its weights"),
    (0, with_another_folds_weights, "fold_1: a probability differs by .* other weights or images"),
    (0, with_a_stranger, "lacks 1 of the 8 cases"),
    (0, with_a_shared_patient, "1 patients are in training and in validation"),
    (0, of_another_frame, "trained with another frame than"),
    (1, unfinished, "no fold that is done"),
]


@pytest.mark.parametrize(("which", "spoil", "reason"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_judged_is_refused_and_left_alone(marked, runs, which, spoil, reason):
    run = runs[which]
    spoil(run)
    before = records(run)
    done = judged(marked, run)
    assert isinstance(done.exception, DataError)
    with pytest.raises(DataError, match=reason):
        raise done.exception
    assert records(run) == before


def test_other_labels_are_refused(marked, runs, tmp_path):
    other = tmp_path / "data"
    shutil.copytree(marked[0], other)
    with (other / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["idh"] = "WT"
    with (other / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    done = call("judge", "--run", runs[0], "--data", other, "--cache", marked[1])
    assert "trained with another positives" in str(done.exception)


def test_a_folder_that_is_no_run_is_told_in_a_line(marked, tmp_path, monkeypatch, capsys):
    words = ["judge", "--run", tmp_path, "--data", marked[0]]
    monkeypatch.setattr("sys.argv", ["markers", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        command.run()
    assert ended.value.code == 2
    assert "settings.json" in capsys.readouterr().err


def test_a_hidden_sequence_is_told_over_those_who_have_it_and_nothing_is_written(marked, runs, tmp_path):
    before = [records(run) for run in runs]
    words = ["hidden", "--run", runs[0], "--data", marked[0], "--cache", marked[1], "--json", tmp_path / "hidden.json"]
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert [records(run) for run in runs] == before
    (told,) = read_json(tmp_path / "hidden.json").values()
    found = open_run(runs[0], *marked)
    assert set(told) == {"none", *hideable(found)} > {"none", "FLAIR"}
    assert "T2" not in told, "nobody has one"
    assert told["none"]["patients"] == 7
    with Progress(disable=True) as progress:
        whole, without = ask(found, SEQUENCES, progress), ask(found, ["T1", "T1C", "T2"], progress)
    assert whole.probabilities == pytest.approx(
        [p["probability"] for p in before[0][Path("outcomes.json")]["patients"]]
    )
    having_it = having(found, "FLAIR")
    assert len(having_it) == 7
    alone = [replace(s, has_t1=False, case=replace(s.case, has_t1c=False)) for s in found.folds[0]]
    assert having(replace(found, folds={0: alone}), "FLAIR") == set(), "they would have nothing left"
    one, other = ({p.patient: p for p in outcome.patients if p.patient in having_it} for outcome in (without, whole))
    assert one.keys() == other.keys()
    assert told["FLAIR"]["patients"] == len(having_it)
    labels = np.array([p.label for p in one.values()])
    for outcome, key in ((one, "auc"), (other, "other_auc")):
        probabilities = np.array([p.probability for p in outcome.values()])
        assert told["FLAIR"][key] == pytest.approx(auc(labels, probabilities))
    assert one != other


def test_what_is_hidden_is_not_seen(marked, runs):
    """Whatever stands in a hidden channel, the answer is the same."""
    found = open_run(runs[0], *marked)
    with Progress(disable=True) as progress:
        held = load(found.study, found.folds[0], progress)
    (case, *_) = [case for case in held if case.present.sum() > 1]
    classifier = load_weights(found.study.recipe.make(found.study.schedule), found.fold(0) / "last.pt")
    cells = measure_cells(classifier.network)
    other = replace(case, images=case.images.clone())
    other.images[:, SEQUENCES.index("FLAIR")] = 3.0
    shown = [name for name in SEQUENCES if name != "FLAIR"]
    assert ask_patient(classifier, [case], cells, shown) == ask_patient(classifier, [other], cells, shown)
    assert ask_patient(classifier, [case], cells) != ask_patient(classifier, [other], cells)
