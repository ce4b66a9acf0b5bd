"""The marker trainer on made-up patients: labels, splits, slices, pooling, resume, and the commands."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.progress import Progress
from typer.testing import CliRunner

from models.json_file import read_json
from models.markers import __main__ as command
from models.markers.cells import Cells
from models.markers.crossval import Study, fit, gather, run_fold
from models.markers.data import SliceSet, load_slices
from models.markers.export_command import difference
from models.markers.labels import MARKERS, find_marker, label_of_patients, read_subjects
from models.markers.metrics import by_site
from models.markers.outcomes import Outcome
from models.markers.pooling import AttentionPooling, MeanPooling, make_pooling
from models.markers.prediction import Prediction, total_loss
from models.markers.receptive_field import measure_cells
from models.markers.recipe import Recipe, Schedule, from_settings
from models.markers.roster import roster
from models.markers.slice_network import About
from models.markers.slices import SEQUENCES
from models.markers.trainer import MarkerTrainer, ask_patient, class_weights, load_weights, read_log
from models.markers.zoo import build
from models.training import data
from tests.models.conftest import MARKER_COLUMNS
from tests.models.support_markers import batch_of

SMALL = Schedule(epochs=2, batch=4, slices=2, pixels=32)
RECIPE = Recipe(network="resnet-mix", dropout=0.3)


@pytest.fixture
def study(marked):
    home, cache = marked
    marker, subjects = read_subjects(home, find_marker("idh"))
    return Study(marker=marker, subjects=subjects, recipe=RECIPE, schedule=SMALL, folds=2, cache=cache)


@pytest.fixture
def invoke(marked):
    """Call the command line on the made-up patients, with a network and an input as small as can be."""
    home, cache = marked
    always = ["--data", home, "--cache", cache, "--pixels", 32, "--slices", 2, "--batch", 4, "--folds", 2]

    def call(name, *arguments, trains=True):
        words = [name, *arguments, *(always if trains else [])]
        return CliRunner().invoke(command.app, [str(word) for word in words])

    return call


# Labels

LABELS = [
    ("idh", "Mutant", 1), ("idh", "WT", 0), ("idh", "", None), ("idh", "not done", None), ("codel", "non-codel", 0),
    ("grade", " G3 ", 1), ("mgmt", "Unmethylated", 0), ("idh", "mutant", 1), ("mgmt", "METHYLATED", 1),
    ("idh", "wt", 0),
]  # fmt: skip


@pytest.mark.parametrize(("marker", "value", "label"), LABELS)
def test_values_are_labels_or_unknown(marker, value, label):
    assert MARKERS[marker].label(value) == label


def test_a_spreadsheets_table_is_read_and_a_missing_t1_in_any_spelling(marked, tmp_path):
    with (marked[0] / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, word in zip(rows, ("no", "0", "False", "yes", "1", "True", "", "true"), strict=True):
        row["has_t1"], row["has_t1c"] = word, "true"
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, MARKER_COLUMNS)
        table.writeheader()
        table.writerows(rows)
    assert [s.has_t1 for s in read_subjects(tmp_path, find_marker("idh"))[1]] == [False] * 3 + [True] * 5


def test_proliferation_is_called_by_its_name_and_divided_at_the_median_patient(marked):
    marker, subjects = read_subjects(marked[0], find_marker("proliferation"))
    assert marker.title == "Proliferation (RNA surrogate of Ki-67)"
    assert marker.threshold == pytest.approx(0.35)
    assert label_of_patients(subjects) == {f"patient{i}": int(i > 3) for i in range(8)}
    fixed, subjects = read_subjects(marked[0], find_marker("proliferation", threshold=0.55))
    assert fixed.threshold == 0.55
    assert sum(label_of_patients(subjects).values()) == 2


def test_any_column_is_a_marker(marked):
    _, subjects = read_subjects(marked[0], find_marker("mine", "sex", "female"))
    assert [s.label for s in subjects] == [1, 0] * 4
    _, subjects = read_subjects(marked[0], find_marker("ki67", "proliferation_score", threshold=0.65))
    assert [s.label for s in subjects] == [0] * 7 + [1]


REFUSED = [
    (("nothing",), "no marker 'nothing'"),
    (("mine", "sex"), "--column wants"),
    (("mine", "sex", "female", 3.0), "--column wants"),
    (("idh", None, "WT"), "no marker 'idh' of our own"),
    (("idh", None, None, 1.0), "takes no threshold"),
    (("mine", "colour", "red"), "no column colour"),
    (("mine", "sex", "both"), "patients of both classes"),
    (("mine", "sex", None, 1.0), "is no number"),
]


@pytest.mark.parametrize(("words", "reason"), REFUSED)
def test_markers_that_cannot_be_trained_say_why(marked, words, reason):
    with pytest.raises(data.DataError, match=reason):
        read_subjects(marked[0], find_marker(*words))


def test_unknown_labels_leave_patients_out_and_contradictions_are_refused(marked, tmp_path):
    with (marked[0] / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["idh"], rows[3]["patient"] = "", "patient2"

    def written():
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, MARKER_COLUMNS)
            table.writeheader()
            table.writerows(rows)
        return read_subjects(tmp_path, find_marker("idh"))[1]

    with pytest.raises(data.DataError, match="patient2 have different labels"):
        written()
    rows[3]["idh"] = "Mutant"
    assert "patient0" not in label_of_patients(written())


# Splits


def test_a_split_keeps_patients_apart_and_classes_even(study):
    held = []
    for fold in range(2):
        train, out = study.split(fold)
        assert not {s.patient for s in train} & {s.patient for s in out}
        assert sum(s.label for s in out) == 2
        held += [s.patient for s in out]
    assert sorted(held) == sorted(s.patient for s in study.subjects)


def test_two_cases_of_a_patient_are_never_divided(study):
    second = [replace(s, case=replace(s.case, name=f"{s.case.name}b")) for s in study.subjects]
    twice = replace(study, subjects=[*study.subjects, *second])
    for fold in range(2):
        train, held = twice.split(fold)
        assert not {s.patient for s in train} & {s.patient for s in held}
        assert len(held) == 8


def test_the_trainer_refuses_a_split_that_shares_a_patient(study, tmp_path):
    train, held = study.split(0)
    again = replace(held[0], case=replace(held[0].case, name="second scan"))
    with Progress(disable=True) as progress, pytest.raises(data.DataError, match="1 patients are in training"):
        fit(study, [*train, again], held, tmp_path / "fold", progress)
    assert not (tmp_path / "fold").exists()


def test_the_trainer_refuses_to_go_on_with_another_split(study, tmp_path):
    train, held = study.split(0)
    (tmp_path / "split.json").write_text(json.dumps({"training": [held[0].case.name], "validation": []}))
    with Progress(disable=True) as progress, pytest.raises(data.DataError, match="another training"):
        fit(study, train, held, tmp_path, progress)


def test_a_fold_that_is_not_there_is_refused(study):
    with pytest.raises(data.DataError, match="no fold 2 of 2"):
        study.split(2)


def test_more_folds_than_patients_of_a_class_are_refused(study):
    with pytest.raises(data.DataError, match="4 patients of a class"):
        replace(study, folds=5).split(0)


# Slices and balance


def test_classes_weigh_alike_over_patients(study):
    three, one = [s for s in study.subjects if s.label][:3], [s for s in study.subjects if not s.label][:1]
    assert torch.allclose(class_weights([*three, *one]), torch.tensor([4 / 2, 4 / 6]))
    assert torch.allclose(class_weights([*three, *three, *one]), torch.tensor([4 / 2, 4 / 6])), "by patient, not case"
    with pytest.raises(data.DataError, match="both classes"):
        class_weights(three)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_every_patient_teaches_as_much_as_any_other(study, side_by_side):
    cases = [load_slices(s, study.cache, 32) for s in study.subjects[:3]]
    large = replace(cases[0], images=cases[0].images.repeat(5, 1, 1, 1), mask=cases[0].mask.repeat(5, 1, 1, 1))
    slices = SliceSet([large, *cases[1:]], 3, seed=0, side_by_side=side_by_side)
    drawn = [number for number, _ in slices.indices]
    assert sorted(drawn) == [0] * 3 + [1] * 3 + [2] * 3
    assert len({z for number, z in slices.indices if number == 0}) == 3, "none twice while there are others"
    assert (drawn in [[a] * 3 + [b] * 3 + [c] * 3 for a, b, c in np.ndindex(3, 3, 3)]) == side_by_side


def test_workers_do_not_draw_alike_and_the_first_draws_what_none_would(study):
    slices = SliceSet([load_slices(s, study.cache, 32) for s in study.subjects[:2]], 2, 0, side_by_side=True)
    found = []
    for number in (None, 0, 1, 2):
        slices.begin_epoch(1)
        if number is not None:
            slices.begin_worker(number)
        found.append(slices[0][0])
    assert torch.equal(found[0], found[1])
    assert not any(torch.equal(a, b) for i, a in enumerate(found[1:]) for b in found[1 : 1 + i])


def test_epochs_are_repeatable_and_differ(study):
    slices = SliceSet([load_slices(s, study.cache, 32) for s in study.subjects[:2]], 2, 0, side_by_side=True)
    first = slices[0][0]
    slices.begin_epoch(1)
    other = slices[0][0]
    slices.begin_epoch(0)
    assert torch.equal(first, slices[0][0])
    assert not torch.equal(first, other)


def test_only_slices_with_tumour_are_prepared_and_shrunk_by_area(study):
    full, small = (load_slices(study.subjects[0], study.cache, pixels) for pixels in (224, 112))
    assert full.images.shape == (2, 4, 224, 224)
    mean = full.images.float().unflatten(-1, (112, 2)).unflatten(-3, (112, 2)).mean(dim=(-1, -3))
    assert torch.allclose(small.images.float(), mean, atol=2e-3)
    assert 0 < small.batch().mask.mean() < 0.2
    assert set(small.batch().mask.unique().tolist()) == {0.0, 1.0}


def test_a_missing_sequence_is_masked_whatever_its_channel_holds(study):
    without = study.subjects[1]  # its T1C channel is a copy of FLAIR
    assert not without.case.has_t1c
    case = load_slices(without, study.cache, 32)
    assert [name for name, there in zip(SEQUENCES, case.present, strict=True) if there] == ["T1", "FLAIR"]
    assert not case.images[:, SEQUENCES.index("T1C")].any()
    slices = SliceSet([case], 8, 0, side_by_side=False)
    for index in range(8):
        images, _, present, _, label = slices[index]
        assert not images[~present].any(), "shifts of intensity make nothing of nothing"
        assert images[present].any(dim=2).any()
        assert label == 0
    garbage = case.images.clone()
    garbage[:, ~case.present] = 7.0
    classifier, cells = RECIPE.make(SMALL), Cells(first=(0.0, 0.0), step=32.0)
    assert ask_patient(classifier, [case], cells) == ask_patient(classifier, [replace(case, images=garbage)], cells)


def test_sex_and_age_reach_the_network(study):
    assert load_slices(study.subjects[0], study.cache, 32).metadata.tolist() == pytest.approx([1.0, 0.30])
    assert load_slices(study.subjects[2], study.cache, 32).metadata.tolist() == pytest.approx([1.0, 0.45])


# Pooling


def answer(logits, features=None):
    places = torch.zeros(len(logits), 3, 1, 1) if features is None else features[..., None, None]
    return Prediction(torch.tensor(logits), places, torch.zeros(2, 3))


def test_mean_pooling_is_the_mean_of_probabilities():
    found = MeanPooling().patient(answer([[0.0, 0.0], [0.0, np.log(3.0)]]))
    assert found.tolist() == pytest.approx([(0.5 + 0.25) / 2, (0.5 + 0.75) / 2])


def test_mean_pooling_keeps_the_sources_loss():
    prediction = build("kinet").train()(batch_of(4))
    target, weights = torch.tensor([0, 1, 1, 0]), torch.tensor([2.0, 0.7])
    loss, logits = MeanPooling().loss(prediction, target, weights)
    assert torch.allclose(loss, total_loss(prediction, target, weights))
    assert logits is prediction.logits


def test_attention_is_that_of_equation_9():
    torch.manual_seed(0)
    pooling = AttentionPooling(3, bag=2)
    h = torch.randn(2, 3)
    score = [
        pooling.score.weight[0]
        @ (torch.tanh(pooling.content.weight @ x + pooling.content.bias)
           * torch.sigmoid(pooling.gate.weight @ x + pooling.gate.bias))
        for x in h
    ]  # fmt: skip
    a = torch.exp(score[0]) / (torch.exp(score[0]) + torch.exp(score[1]))
    assert torch.allclose(pooling.weights(h), torch.stack([a, 1 - a]))
    # A linear classifier of the pooled features (equation 7) is the pooled logits of the slices.
    head = torch.nn.Linear(3, 2)
    prediction = Prediction(head(h), h[..., None, None], head.weight)
    assert torch.allclose(pooling.answers(prediction, 2)[0], head(a * h[0] + (1 - a) * h[1]), atol=1e-6)


def test_attention_weighs_bags_apart_and_learns():
    torch.manual_seed(0)
    pooling = AttentionPooling(3, bag=2)
    h, logits = torch.randn(4, 3), torch.randn(4, 2).tolist()
    loss, found = pooling.loss(answer(logits, h), torch.tensor([1, 1, 0, 0]), torch.ones(2))
    assert found.shape == (2, 2)
    assert torch.allclose(found[1], pooling.answers(answer(logits[2:], h[2:]), 2)[0])
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(found, torch.tensor([1, 0])))
    loss.backward()
    assert all(part.weight.grad.abs().sum() > 0 for part in (pooling.content, pooling.gate, pooling.score))


def test_attention_fits_every_network_and_other_poolings_are_refused():
    assert make_pooling("attention", build("late"), 2).content.in_features == 4 * 384
    with pytest.raises(ValueError, match="no pooling 'max'; there is mean, attention"):
        make_pooling("max", build("early"), 2)


# Training


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_resumed_training_ends_where_an_unbroken_one_does(study, tmp_path, monkeypatch, pooling):
    cases = [load_slices(s, study.cache, 32) for s in study.subjects]
    schedule = replace(SMALL, epochs=3, keep=(2,))

    def train(folder):
        classifier = replace(RECIPE, pooling=pooling).make(schedule)
        trainer = MarkerTrainer(classifier, cases, schedule, folder)
        resumed = trainer.resume()
        with Progress(disable=True) as progress:
            trainer.run(progress)
        return classifier.state_dict(), resumed

    unbroken, resumed = train(tmp_path / "a")
    assert not resumed
    save = MarkerTrainer._save_state
    with monkeypatch.context() as patch:
        patch.setattr(MarkerTrainer, "_save_state", lambda self: (self.epoch == 2 and 1 / 0) or save(self))
        with pytest.raises(ZeroDivisionError):
            train(tmp_path / "b")  # broken off in the second epoch, which has been logged
    again, resumed = train(tmp_path / "b")
    assert resumed
    for name, weights in unbroken.items():
        assert torch.equal(weights, again[name]), name
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")
    assert list(read_log(tmp_path / "a")) == [1, 2, 3]
    kept = torch.load(tmp_path / "b" / "epoch_002.pt", weights_only=True)["classifier"]
    assert any(not torch.equal(kept[name], again[name]) for name in kept)


def test_a_plain_marker_is_learnt(study, tmp_path):
    """Positive patients' tumours are dark in FLAIR alone: of those held out all are told apart."""
    clear = replace(study, schedule=replace(SMALL, epochs=10, batch=8, slices=8, peak_rate=3e-3),
                    recipe=Recipe(network="resnet-roi", dropout=0.0))  # fmt: skip
    with Progress(disable=True) as progress:
        run_fold(clear, 0, tmp_path / "fold_0", progress)
    outcome, done = gather(clear, tmp_path)
    assert done == 1
    positive = [p.probability for p in outcome.patients if p.label]
    negative = [p.probability for p in outcome.patients if not p.label]
    assert min(positive) > max(negative)


# Commands


def test_train_evaluate_and_export_from_the_command_line(invoke, tmp_path):
    out = tmp_path / "run"
    asked = ("train", "--out", out, "--marker", "idh", "--model", "resnet-mix", "--epochs", 1)
    done = invoke(*asked, "--only", 0)
    assert done.exit_code == 0, done.output
    assert len(Outcome.load(out / "outcomes.json").patients) == 4
    before = (out / "fold_0" / "last.pt").stat().st_mtime_ns
    done = invoke(*asked, "--final")
    assert done.exit_code == 0, done.output
    assert (out / "fold_0" / "last.pt").stat().st_mtime_ns == before, "what is done is not trained again"
    outcome = Outcome.load(out / "outcomes.json")
    assert {p.patient for p in outcome.patients} == {f"patient{i}" for i in range(8)}
    assert {p.fold for p in outcome.patients} == {0, 1}
    assert outcome.settings["title"] == "IDH mutation"
    assert "chance" in done.output

    judged = ("evaluate", "--run", out, "--json", tmp_path / "judged.json", "--plots", tmp_path / "plots")
    judged += ("--against", out / "outcomes.json")
    done = invoke(*judged, "--marker", "idh", trains=False)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "judged.json").read_text())
    assert found["auc"]["interval"][0] <= found["auc"]["value"] <= found["auc"]["interval"][1]
    assert found["beats_chance"] == (found["auc"]["interval"][0] > 0.5)
    assert sum(site["patients"] for site in found["sites"].values()) == 8
    same = found["against"]
    assert (same["patients"], same["difference"]["value"]) == (8, 0.0), "against itself"
    assert same["auc"] == same["other_auc"] == found["auc"]["value"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"roc.png", "reliability.png"}
    assert "not mgmt" in str(invoke(*judged, "--marker", "mgmt", trains=False).exception)

    done = invoke("export", "--run", out, "--to", tmp_path / "model.onnx", trains=False)
    assert done.exit_code == 0, done.output
    recipe, schedule = from_settings(read_json(out / "settings.json"))
    final, fold = (load_weights(recipe.make(schedule), out / name / "last.pt") for name in ("final", "fold_0"))
    assert difference(final.network.eval(), tmp_path / "model.onnx", 32) < 1e-3
    assert difference(fold.network.eval(), tmp_path / "model.onnx", 32) > 1e-3, "it is the one of all patients"
    about = About.load(tmp_path / "model.json")
    assert about.cells == measure_cells(final.network), "the node draws maps where this network looks"
    assert not list(tmp_path.glob("*.part*"))


def test_a_step_at_depth_50_from_the_command_line(marked, invoke, tmp_path):
    """The command of the sources' networks, with one step of eight slices: it trains, and the held-out are judged."""
    asked = ("--out", tmp_path, "--marker", "idh", "--model", "resnet-mix", "--size", 50, "--epochs", 1, "--only", 0)
    small = ("--data", marked[0], "--cache", marked[1], "--pixels", 32, "--slices", 2, "--batch", 8, "--folds", 2)
    done = invoke("train", *asked, *small, trains=False)
    assert done.exit_code == 0, done.output
    outcome = Outcome.load(tmp_path / "outcomes.json")
    assert (outcome.settings["size"], len(outcome.patients)) == ("50", 4)
    weights = tmp_path / "fold_0" / "last.pt"
    rate = torch.load(weights, map_location="cpu", weights_only=True)["rate"]
    weights.unlink()  # 280 MB
    assert rate["last_epoch"] == 1, "one step"


def test_a_run_of_other_settings_is_refused(invoke, tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"epochs": 7}))
    done = invoke("train", "--out", tmp_path, "--marker", "idh", "--epochs", 1)
    assert isinstance(done.exception, data.DataError)
    assert "another --out" in str(done.exception)


MISTAKES = [
    (["--model", "vgg"], "no marker network 'vgg'"),
    (["--without", "merge"], "only kinet has parts"),
    (["--model", "kinet", "--without", "hope"], "KiNet has no part hope"),
    (["--pooling", "max"], "no pooling 'max'"),
    (["--sequences", "T1,ADC"], "not ADC"),
    (["--batch", "1"], "two slices a step"),
    (["--pixels", "31"], "32 to 224 pixels a side, not 31"),
    (["--pixels", "256"], "32 to 224 pixels a side, not 256"),
]


@pytest.mark.parametrize(("words", "reason"), MISTAKES)
def test_mistakes_are_told_in_one_line_before_anything_is_written(marked, tmp_path, monkeypatch, capsys, words, reason):
    always = ["train", "--data", marked[0], "--out", tmp_path / "run", "--marker", "idh", *words]
    monkeypatch.setattr("sys.argv", ["markers", *map(str, always)])
    with pytest.raises(SystemExit) as ended:
        command.run()
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_comparison_shows_every_row_and_how_to_train_it(invoke, tmp_path):
    done = invoke("compare", "--out", tmp_path, "--folds-run", 0, "--epochs", 1)
    assert done.exit_code == 0, done.output
    text, content = (tmp_path / "compare.md").read_text(), json.loads((tmp_path / "compare.json").read_text())
    labels = [e.label for e in roster("3-2,3-3,5-2", "light", 0.0)]
    labels += [f"{n + 1} | {n // 4} | {n // 2 % 2} | {n % 2}" for n in range(8)]
    assert len(labels) == 6 + 4 + 4 + 8
    assert all(f"| {label} | not trained yet | " in text for label in labels)
    assert {name: len(content["tables"][name]) for name in ("3-2", "3-3", "5-2", "5-3")} == {
        "3-2": 6, "3-3": 4, "5-2": 4, "5-3": 8,
    }  # fmt: skip
    assert content["tables"]["3-2"][0]["sites"] == {}, "nobody is judged yet"
    assert list(content["tables"]["mgmt"]["epochs"]) == ["10", "20", "50", "100"]
    assert all(f"| {epoch} | - | - | " in text for epoch in (10, 20, 50, 100))
    assert "0.766, 0.734, 0.715, 0.842" in text
    assert "| 8 | 1 | 1 | 1 | not trained yet | - | - | 0/2 | 0.752, 0.788 |" in text
    for table in ("3-2", "3-3", "5-2", "5-3", "mgmt"):
        assert f"compare --data DIR --out OUT --tables {table} --size light --pixels 32" in text
    assert str(tmp_path) not in text


def test_a_comparison_trains_shares_runs_and_marks_chance(invoke, tmp_path, monkeypatch):
    asked = ("compare", "--out", tmp_path, "--epochs", 1, "--mgmt-epochs", "1,2")
    done = invoke(*asked, "--tables", "3-3,mgmt", "--folds-run", 1)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "idh").iterdir()} == {"resnest-mix", "late", "middle-a", "middle-b"}
    first = json.loads((tmp_path / "compare.json").read_text())["tables"]
    assert all(row["folds_done"] == 1 and row["performance"]["patients"] == 4 for row in first["3-3"])
    for row in first["3-3"]:
        judged = Outcome.load(tmp_path / "idh" / row["run"] / "outcomes.json")
        assert row["sites"] == by_site(judged), "of those whom it judged"
        assert sum(site["patients"] for site in row["sites"].values()) == 4
    mgmt = first["mgmt"]
    assert sum(site["patients"] for site in mgmt["epochs"]["2"]["sites"].values()) == 4
    assert mgmt["sites"] == mgmt["epochs"]["2"]["sites"], "the last epoch is the row's"
    assert list(mgmt["epochs"]) == ["1", "2"]
    assert mgmt["epochs"]["2"]["training_loss"] > 0
    assert len(mgmt["patients"]) == 4
    assert all(set(patient["mgmt_value"]) == {"1", "2"} for patient in mgmt["patients"])
    values = [patient["mgmt_value"] for patient in mgmt["patients"]]
    assert any(value["1"] != value["2"] for value in values), "the weights of each epoch are asked"
    assert (tmp_path / "mgmt_curves.png").exists()
    assert (tmp_path / "roc_3-3.png").exists()
    # Table 3-2's ResNeSt + MIX is table 3-3's early fusion: it is there already, the others are not.
    done = invoke(*asked, "--tables", "3-2", "--folds-run", 0)
    rows = json.loads((tmp_path / "compare.json").read_text())["tables"]["3-2"]
    assert [row["folds_done"] for row in rows] == [0, 0, 0, 0, 0, 1]
    line = next(x for x in (tmp_path / "compare.md").read_text().splitlines() if x.startswith("| ResNeSt + MIX"))
    assert ("no better than chance" in line) == (not rows[-1]["performance"]["beats_chance"])


def test_folds_copied_from_other_patients_are_refused(study, tmp_path):
    row = {"patient": "stranger", "site": "", "fold": 0, "label": 1, "probability": 0.5}
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "result.json").write_text(json.dumps({"last": [row]}))
    with pytest.raises(data.DataError, match="other patients or labels"):
        gather(study, tmp_path)
    shutil.rmtree(tmp_path / "fold_0")
    assert gather(study, tmp_path)[1] == 0


def test_kinets_rows_are_its_eight_ablations():
    entries = roster("5-3", "light", 0.0)
    parts = [entry.recipe.make(SMALL).network.parts for entry in entries]
    assert [(p.multi_scale, p.merge, p.metadata) for p in parts] == [
        tuple(bool(bit) for bit in bits) for bits in np.ndindex(2, 2, 2)
    ]
    assert len({entry.run for entry in entries}) == 8
    assert entries[-1].run == roster("5-2", "light", 0.0)[-1].run == "kinet"
    with pytest.raises(data.DataError, match="no table 9-9"):
        roster("3-2,9-9", "light", 0.0)
