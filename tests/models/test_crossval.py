"""Cross-validation, the choice of post-processing and the card's figures, from end to end on made-up patients."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from models.engine import Model
from models.nasbranet import __main__ as command
from models.nasbranet import crossval
from models.nasbranet.export import WEIGHTS
from models.refine import REFINEMENT, Refinement, load_refinement
from models.training import data, folds
from models.training.augment import Slices
from models.training.folds import Study, read_prediction
from models.training.loop import Schedule
from tests.models.conftest import make_patients
from tests.models.test_training import cases, small_plan


def invoke(*arguments):
    return CliRunner().invoke(command.app, [str(a) for a in arguments])


@pytest.fixture
def done(folder, tmp_path):
    """Three folds of a tiny network on three patients, one with FLAIR alone beside them."""
    with (folder / "labels.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["case9", "patient9", "False", "A", "G2"])
    (folder / "case9").symlink_to(folder / "case0")
    plan = tmp_path / "small.json"
    plan.write_text(small_plan().model_dump_json())
    arguments = ["cross-validate", "--data", folder, "--out", tmp_path / "cv", "--plan", plan, "--folds", 3]
    arguments += ["--epochs", "1x0.5", "--cache", tmp_path / "cache"]
    ran = invoke(*arguments)
    assert ran.exit_code == 0, ran.output
    return tmp_path / "cv", arguments


def test_every_patient_is_judged_once_by_a_network_that_never_saw_them(done, folder):
    cv, _ = done
    result = json.loads((cv / "result.json").read_text())
    assert set(result["cases"]) == {"case0", "case1", "case2"}
    assert result["folds_done"] == 3
    for fold in range(3):
        parts = json.loads((cv / f"fold_{fold}" / "split.json").read_text())
        assert not set(parts["training"]) & set(parts["validation"])
        assert "case9" in parts["training"], "who has no T1C teaches in every fold"
        kept = read_prediction(cv / f"fold_{fold}" / "predictions" / f"{parts['validation'][0]}.npz")
        assert kept.shape == (2, 4, 224, 224)
        assert 0.0 <= kept.min() <= kept.max() <= 1.0


def test_a_second_call_trains_nothing(done):
    cv, arguments = done
    before = {path: path.stat().st_mtime_ns for path in cv.glob("fold_*/*.pt")}
    assert invoke(*arguments).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in cv.glob("fold_*/*.pt")} == before


OTHERWISE = [(["--epochs", "2x0.5"], "epochs"), (["--peak-rate", 0.1], "peak_rate"), (["--batch", 4], "batch")]


@pytest.mark.parametrize(("changed", "told"), OTHERWISE)
def test_folds_trained_in_another_way_are_not_mixed(done, changed, told):
    cv, arguments = done
    assert f"{cv} holds results of another {told}; choose another --out" in str(invoke(*arguments, *changed).exception)


def test_a_training_that_does_not_say_how_it_was_made_is_not_gone_on_with(done):
    cv, arguments = done
    (cv / "settings.json").unlink()
    assert f"{cv} holds a training that does not say how it was made" in str(invoke(*arguments).exception)
    assert not (cv / "settings.json").exists()


def test_fewer_slices_than_a_batch_are_told(done, tmp_path):
    cv, arguments = done
    again = [tmp_path / "again" if a == cv else a for a in arguments]
    refused = invoke(*again, "--batch", 64).exception
    assert "slices an epoch are fewer than a batch of 64 (--batch)" in str(refused)
    assert invoke(*again, "--batch", 4, "--only", 0).exit_code == 0, "what was refused binds nothing"


def test_how_many_processes_read_slices_does_not_tell_folds_apart(done):
    _, arguments = done
    assert invoke(*arguments, "--workers", 2).exit_code == 0


def test_batch_and_workers_reach_the_training(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(crossval, "run_fold", lambda study, *_: asked.append(study.schedule))
    monkeypatch.setattr(crossval, "gather", lambda *_: {"dice_interval": (0, 0), "dice_mean": 0, "patients": 0})
    arguments = ["cross-validate", "--data", folder, "--folds", 2, "--only", 0, "--epochs", "1x0.5"]
    assert invoke(*arguments, "--out", tmp_path / "a").exit_code == 0
    assert invoke(*arguments, "--out", tmp_path / "b", "--batch", 3, "--workers", 0).exit_code == 0
    assert [(schedule.batch, schedule.workers) for schedule in asked] == [(8, 1), (3, 0)]


IMPOSSIBLE = [
    (["--folds", 3, "--only", 3], "there is no fold 3; folds are 0 to 2"),
    (["--folds", 3, "--only", 0, "--only", -1], "there is no fold -1; folds are 0 to 2"),
    (["--folds", 4], "--folds must be from 2 to the number of patients, 3; not 4"),
    (["--folds", 1], "--folds must be from 2 to the number of patients, 3; not 1"),
    (["--leave-out", "case"], "--folds must be from 2 to the number of patients, 0; not 5"),
]


@pytest.mark.parametrize(("asked", "told"), IMPOSSIBLE)
def test_a_fold_that_cannot_be_is_refused_before_anything_is_written(asked, told, folder, tmp_path):
    refused = invoke("cross-validate", "--data", folder, "--out", tmp_path / "cv", *asked).exception
    assert isinstance(refused, data.DataError)
    assert str(refused) == told
    assert not (tmp_path / "cv").exists()


def test_a_patient_with_two_cases_counts_once():
    with pytest.raises(data.DataError, match="patients, 2; not 3"):
        folds.check_folds(cases(4, per_patient=2), 3, [])
    folds.check_folds(cases(4, per_patient=2), 2, [0, 1])


def test_a_fold_that_was_broken_off_says_where_it_goes_on(done, tmp_path, monkeypatch):
    _, arguments = done
    arguments = [tmp_path / "broken" if a == tmp_path / "cv" else a for a in arguments]
    arguments += ["--only", 1, "--epochs", "2x0.25"]
    epoch = folds.Trainer._epoch

    def breaks(trainer, progress):
        if trainer.epoch == 1:
            raise OSError("broken off")
        return epoch(trainer, progress)

    with monkeypatch.context() as patch:
        patch.setattr(folds.Trainer, "_epoch", breaks)
        first = invoke(*arguments)
    assert not (tmp_path / "broken" / "fold_1" / "result.json").exists()
    second = invoke(*arguments)
    assert second.exit_code == 0, second.output
    third = invoke(*arguments)
    said = "fold 1: resuming after epoch 1 of 2"
    assert [ran.output.count(said) for ran in (first, second, third)] == [0, 1, 0], "nothing of one begun or done"
    assert "resuming" not in third.output


def test_weights_of_another_plan_are_told_as_such_and_bind_nothing(done, tmp_path):
    cv, arguments = done
    again = [tmp_path / "again" if a == cv else a for a in arguments]
    refused = str(invoke(*again, "--plan", "thesis", "--start-from", cv).exception)
    assert "fold_0/last.pt is a network of another plan than thesis" in refused
    assert "--plan" in refused
    assert not (tmp_path / "again").exists(), "the right plan can still be trained there"


def test_a_second_cycle_begins_with_each_folds_own_weights(done, tmp_path):
    cv, arguments = done
    again = [tmp_path / "again" if a == cv else a for a in arguments]
    still = [*again, "--start-from", cv, "--peak-rate", 1e-9]
    assert invoke(*still).exit_code == 0
    for fold in range(3):
        first, second = (torch.load(run / f"fold_{fold}/last.pt")["network"] for run in (cv, tmp_path / "again"))
        weights = [key for key in first if key.endswith("weight")]
        assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in weights)
    assert json.loads((tmp_path / "again" / "result.json").read_text())["started_from"] == "cv"


def test_weights_that_saw_a_held_out_patient_are_refused(done, tmp_path):
    cv, arguments = done
    other = [{cv: tmp_path / "other", 3: 2}.get(a, a) if not isinstance(a, str) else a for a in arguments]
    ran = invoke(*other, "--start-from", cv)
    assert ran.exit_code != 0
    assert "patients are in training and in validation" in str(ran.exception) + ran.output
    ran = invoke(*other, "--start-from", tmp_path / "nothing")
    assert "holds no training" in str(ran.exception) + ran.output


def test_post_processing_is_chosen_and_figures_are_written(done, folder, tmp_path):
    cv, _ = done
    chosen = tmp_path / "inputs" / "net.refinement.json"
    chosen.parent.mkdir()
    shared = ["--data", folder, "--run", cv, "--cache", tmp_path / "cache"]
    ran = invoke("refine", *shared, "--to", chosen)
    assert ran.exit_code == 0, ran.output
    assert Refinement.load(chosen).patients == 3
    out, worst = tmp_path / "card", tmp_path / "worst"
    out.mkdir()
    ran = invoke("report", *shared, "--out", out, "--refinement", chosen, "--worst", worst)
    assert ran.exit_code == 0, ran.output
    figures = json.loads((out / "nasbranet.crossval.json").read_text())
    assert set(figures["patients"]) == {"patient0", "patient1", "patient2"}
    assert figures["dice_mean"] == pytest.approx(np.mean(list(figures["patients"].values())), abs=1e-3)
    assert "| G2 | 3 |" in ran.output
    with Image.open(out / "nasbranet.crossval.png") as picture:
        assert picture.width > 800
    assert len(list(worst.glob("*.png"))) == 3


def test_what_is_not_told_where_to_go_stays_in_the_runs_folder(done, folder, tmp_path):
    """Before, it overwrote what ships: its post-processing, weights and figures."""
    cv, _ = done
    shared = ["--data", folder, "--run", cv, "--cache", tmp_path / "cache"]
    assert invoke("report", *shared).exit_code == 0
    figures = json.loads((cv / "nasbranet.crossval.json").read_text())
    assert figures["refinement"]["patients"] == load_refinement(REFINEMENT).patients, "none was chosen here yet"
    before = REFINEMENT.read_bytes()
    assert invoke("refine", *shared).exit_code == 0
    assert Refinement.load(cv / "refinement.json").patients == 3
    assert REFINEMENT.read_bytes() == before
    assert invoke("report", *shared).exit_code == 0
    figures = json.loads((cv / "nasbranet.crossval.json").read_text())
    assert figures["refinement"]["patients"] == 3


def test_an_exported_network_stays_in_its_folder(done, monkeypatch):
    cv, arguments = done
    monkeypatch.setattr(command, "_difference", lambda *_: 0.0)  # after an epoch a network is sure of nothing
    before = WEIGHTS.read_bytes()
    ran = invoke("export", "--run", cv / "fold_0", "--plan", arguments[arguments.index("--plan") + 1])
    assert ran.exit_code == 0, ran.output
    assert Model("fold_0", cv / "fold_0" / "model.onnx").answer_shape[1:] == (224, 224)
    assert WEIGHTS.read_bytes() == before


def test_without_a_finished_fold_nothing_is_chosen(folder, tmp_path):
    with pytest.raises(data.DataError, match="cross-validate first"):
        CliRunner().invoke(
            command.app, ["refine", "--data", str(folder), "--run", str(tmp_path)], catch_exceptions=False
        )


def test_who_teaches_by_flair_alone_is_never_judged():
    everyone = cases(20)
    study = Study(cases=data.usable(everyone), helpers=data.flair_only(everyone), schedule=Schedule())
    for fold in range(5):
        training, held = study.split(fold)
        assert all(case.has_t1c for case in held)
        assert {c.name for c in everyone if not c.has_t1c} <= {c.name for c in training}


def test_a_helper_who_is_also_judged_is_refused():
    everyone = cases(20, per_patient=2)  # c3 has no T1C, and c2 is the same patient
    study = Study(cases=data.usable(everyone), helpers=data.flair_only(everyone))
    judged = [fold for fold in range(5) if "c2" in {c.name for c in data.split(study.cases, 5, fold, 0)[1]}]
    with pytest.raises(data.DataError, match="1 patients"):
        study.split(judged[0])


def test_a_case_without_t1c_is_prepared_from_flair_alone(folder, tmp_path):
    case = data.Case("case0", "p", "A", "G2", False, folder / "case0")
    prepared = data.prepare(case, tmp_path / "cache")
    assert not prepared.images[:, 0].any()
    assert prepared.images[:, 1].any()


def test_patience_watches_part_of_the_training_patients_and_never_those_held_out(folder, tmp_path, monkeypatch):
    """Two folds of six patients: three train, of whom one watches; it never teaches."""
    (tmp_path / "more").mkdir()
    home = make_patients(tmp_path / "more", 6, 4)
    plan = tmp_path / "small.json"
    plan.write_text(small_plan().model_dump_json())
    taught, watched = [], []
    monkeypatch.setattr(
        folds, "Slices", lambda cases, *a: taught.append({c.case.name for c in cases}) or Slices(cases, *a)
    )
    told = iter([0.9, *[0.1] * 9])
    monkeypatch.setattr(
        folds, "judge", lambda _, cases: watched.append({c.case.name for c in cases}) or {"x": next(told)}
    )
    arguments = ["cross-validate", "--data", home, "--out", tmp_path / "cv", "--plan", plan, "--folds", 2, "--only", 0]
    arguments += ["--epochs", "40x0.25", "--batch", 4, "--cache", tmp_path / "cache"]
    arguments += ["--patience", 1, "--inner-folds", 3]
    ran = invoke(*arguments)
    assert ran.exit_code == 0, ran.output
    split = json.loads((tmp_path / "cv" / "fold_0" / "split.json").read_text())
    assert watched == [set(split["watching"])] * 2, "stopped at the second, which was worse"
    assert len(split["watching"]) == 1
    assert taught == [set(split["training"]) - set(split["watching"])]
    assert not set(split["watching"]) & set(split["validation"])
    with (tmp_path / "cv" / "fold_0" / "log.csv").open() as log:
        assert [row["epoch"] for row in csv.DictReader(log)][-1] == "10", "of forty"
    assert json.loads((tmp_path / "cv" / "fold_0" / "result.json").read_text())["patience"] == 1


@pytest.mark.parametrize("other", [{"inner_folds": 3}, {"schedule": Schedule(patience=2)}])
def test_patience_and_inner_folds_go_together(other):
    with pytest.raises(data.DataError, match="go together"):
        Study(cases=cases(20), **other)


def test_without_inner_folds_all_training_patients_teach_and_with_them_a_patient_is_on_one_side():
    everyone = cases(40, per_patient=2)
    training, _ = Study(cases=data.usable(everyone)).split(0)
    assert Study(cases=()).inner_split(training) == (training, [])
    learning, watching = Study(cases=(), inner_folds=4, schedule=Schedule(patience=2)).inner_split(training)
    assert {c.patient for c in learning} | {c.patient for c in watching} == {c.patient for c in training}
    assert not {c.patient for c in learning} & {c.patient for c in watching}
    helper = data.Case("h", watching[0].patient, "A", "G2", False, None)
    again, watching = Study(cases=(), inner_folds=4, schedule=Schedule(patience=2)).inner_split([*training, helper])
    assert helper not in again + watching, "the same patient without a T1C does not teach either"
