"""Nobody is judged by a network whose beginning or whose teacher saw them: cross-validate, compare and train alike."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from models.json_file import write_json
from models.nasbranet import __main__ as command
from models.nasbranet import compare, crossval
from models.nasbranet import train as training
from models.training import data
from models.training.folds import Study, seen_by
from models.training.loop import Schedule
from tests.models.test_compare import tiny
from tests.models.test_training import small_plan

REFUSED = "1 patients are in training and in validation"


@pytest.fixture
def opened(folder, monkeypatch):
    """The folders whose weights were opened; nothing is trained or judged."""
    seen = []
    for module in (crossval, compare, training):
        monkeypatch.setattr(module, "load_network", lambda plan, path: seen.append(path.parent))
    monkeypatch.setattr(training, "NASBraNet", lambda plan: None)
    monkeypatch.setattr(training, "Trainer", lambda *_: SimpleNamespace(resume=lambda: False, run=lambda *_: None))
    monkeypatch.setattr(crossval, "run_fold", lambda *_: {})
    monkeypatch.setattr(crossval, "gather", lambda *_: {"dice_interval": (0, 0), "dice_mean": 0, "patients": 0})
    return seen


def held_out(folder, fold):
    """What a fold of three holds out, by name of case."""
    _, held = data.split(data.read_cases(folder), 3, fold, 0)
    return {case.name for case in held}


def trained(run, folder, without, **other):
    """A training's folder that saw every case but these."""
    names = {case.name for case in data.read_cases(folder)} - set(without)
    write_json(run / "split.json", {"training": sorted(names), "validation": sorted(without)} | other)
    return run


def invoke(*arguments):
    return CliRunner().invoke(command.app, [str(a) for a in arguments])


def plan_file(tmp_path):
    (tmp_path / "plan.json").write_text(small_plan().model_dump_json())
    return tmp_path / "plan.json"


def test_a_folds_teacher_saw_nobody_that_the_fold_judges(folder, tmp_path, opened):
    teacher, plan = tmp_path / "teacher", plan_file(tmp_path)
    for fold in range(3):
        trained(teacher / f"fold_{fold}", folder, held_out(folder, fold))
    arguments = ["cross-validate", "--data", folder, "--out", tmp_path / "cv", "--plan", plan, "--folds", 3]
    arguments += ["--teacher-run", teacher, "--teacher-plan", plan]
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    assert opened == [teacher / f"fold_{fold}" for fold in range(3)]
    trained(teacher / "fold_1", folder, held_out(folder, 0))
    done = invoke(*arguments, "--only", 1)
    assert isinstance(done.exception, data.DataError)
    assert REFUSED in str(done.exception)
    assert len(opened) == 3, "not opened"


@pytest.mark.parametrize("option", ["--init", "--teacher"])
def test_what_a_training_begins_with_saw_nobody_that_watches_it(option, folder, tmp_path, opened):
    run, plan = tmp_path / "before", plan_file(tmp_path)
    arguments = ["train", "--data", folder, "--plan", plan, "--teacher-plan", plan, "--cache", tmp_path / "cache"]
    arguments += ["--folds", 3, "--fold", 1, option, run / "last.pt" if option == "--init" else run]
    trained(run, folder, held_out(folder, 1))
    assert invoke(*arguments, "--out", tmp_path / "good").exit_code == 0
    assert opened == [run]
    for number, other in enumerate(({}, {"seen_before": sorted(held_out(folder, 1))})):
        trained(run, folder, held_out(folder, 1 if other else 0), **other)
        done = invoke(*arguments, "--out", tmp_path / f"bad{number}")
        assert isinstance(done.exception, data.DataError), other
        assert REFUSED in str(done.exception)
        assert not (tmp_path / f"bad{number}").exists()
    (run / "split.json").unlink()
    assert "holds no training" in str(invoke(*arguments, "--out", tmp_path / "bad").exception)
    assert opened == [run]


def test_a_training_that_judges_nobody_tells_who_was_seen_before_it(folder, tmp_path, opened):
    """Else it would hide them from the guard of what begins from it."""
    first, plan = trained(tmp_path / "first", folder, []), plan_file(tmp_path)
    within = tmp_path / "within.json"
    write_json(within, {"training": ["case0"]})
    arguments = ["train", "--data", folder, "--plan", plan, "--cache", tmp_path / "cache", "--folds", 0]
    done = invoke(*arguments, "--within", within, "--init", first / "last.pt", "--out", tmp_path / "second")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "second" / "split.json").read_text())["training"] == ["case0"]
    assert seen_by(tmp_path / "second") == ["case0", "case1", "case2"]


def test_a_comparisons_teacher_that_was_copied_from_elsewhere_is_refused(folder, tmp_path, opened):
    study = Study(cases=data.read_cases(folder), folds=3, schedule=Schedule())
    entries = [tiny("teacher"), tiny("nasbranet_taught", taught=True)]
    trained(tmp_path / "teacher" / "fold_0", folder, held_out(folder, 0))
    compare._taught_by(study, entries, 0, tmp_path)
    trained(tmp_path / "teacher" / "fold_1", folder, held_out(folder, 2))
    with pytest.raises(data.DataError, match=REFUSED):
        compare._taught_by(study, entries, 1, tmp_path)
    assert opened == [tmp_path / "teacher" / "fold_0"]


def test_a_training_goes_on_only_with_the_patients_it_began_with(folder, tmp_path, opened):
    arguments = ["train", "--data", folder, "--plan", plan_file(tmp_path), "--cache", tmp_path / "cache"]
    arguments += ["--out", tmp_path / "net", "--folds", 3]
    assert invoke(*arguments, "--fold", 1).exit_code == 0
    assert invoke(*arguments, "--fold", 1).exit_code == 0
    assert "another training, validation" in str(invoke(*arguments, "--fold", 2).exception)
    (tmp_path / "net" / "last.pt").touch()  # what is left of a training that was broken off
    assert "another epochs" in str(invoke(*arguments, "--fold", 1, "--epochs", "1x1").exception)
    assert "another plan" in str(invoke(*arguments, "--fold", 1, "--plan", "thesis").exception)
    assert "another batch" in str(invoke(*arguments, "--fold", 1, "--batch", 4).exception)
    assert invoke(*arguments, "--fold", 1, "--workers", 2).exit_code == 0, "who reads the slices changes nothing"


def test_a_trainings_batch_and_workers_reach_its_schedule(folder, tmp_path, opened, monkeypatch):
    asked = []
    done = SimpleNamespace(resume=lambda: False, run=lambda *_: None)
    monkeypatch.setattr(training, "Trainer", lambda network, slices, schedule, *_: asked.append(schedule) or done)
    arguments = ["train", "--data", folder, "--plan", plan_file(tmp_path), "--cache", tmp_path / "cache", "--folds", 3]
    assert invoke(*arguments, "--out", tmp_path / "a").exit_code == 0
    assert invoke(*arguments, "--out", tmp_path / "b", "--batch", 3, "--workers", 0).exit_code == 0
    assert [(schedule.batch, schedule.workers) for schedule in asked] == [(8, 1), (3, 0)]


IMPOSSIBLE = [
    (["--folds", 3, "--fold", 3], "there is no fold 3; folds are 0 to 2"),
    (["--folds", 3, "--fold", -1], "there is no fold -1; folds are 0 to 2"),
    (["--folds", 4], "--folds must be from 2 to the number of patients, 3; not 4"),
    (["--folds", 3, "--epochs", "3x"], "--epochs is epochs x image scale .*; not '3x'"),
]


@pytest.mark.parametrize(("asked", "told"), IMPOSSIBLE)
def test_a_training_that_cannot_be_is_refused_before_anything_is_written(asked, told, folder, tmp_path, opened):
    arguments = ["train", "--data", folder, "--plan", plan_file(tmp_path), "--cache", tmp_path / "cache"]
    refused = invoke(*arguments, "--out", tmp_path / "net", *asked).exception
    assert isinstance(refused, data.DataError)
    assert re.fullmatch(told, str(refused))
    assert not (tmp_path / "net").exists()
