"""The comparison's command: trains, resumes, refuses and collects, with tiny networks on made-up patients."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from models import frame
from models.json_file import write_json
from models.nasbranet import compare as comparison
from models.nasbranet import operator_table, tables
from models.nasbranet.earlier import read_earlier
from models.nasbranet.latency_table import LatencyTable, keys_of
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import PLANS, NetworkPlan
from models.nasbranet.roster import Entry, ThesisFigures
from models.nasbranet.space import SearchSpace
from models.nasbranet.tables import THESIS_SENSITIVITIES
from models.training.data import Case, DataError
from models.training.folds import Study
from models.training.loop import Schedule
from tests.models.conftest import make_patients

THESIS = NetworkPlan.load("thesis")
CARDS = PLANS.parent / "cards"


def tiny(name, op="conv", **other):
    """The smallest network that a plan allows."""
    branch = [{"op": op, "scale": s, "expansion": 2} for s in (2, 4)]
    plan = NetworkPlan.model_validate(
        {
            "name": name, "source": "test", "in_channels": 2, "classes": 2, "stem_expansion": 2, "head_expansion": 2,
            "shared": 0, "branches": [branch],
        }
    )  # fmt: skip
    return Entry(name=name, label=name, make=partial(NASBraNet, plan), tables=("4-5", "4-6"), plan=plan, **other)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four patients of two sites, two slices each, a square tumour on one; deepbet replaced by a threshold."""
    monkeypatch.setattr(frame, "brain_mask", lambda stack, spacing: stack > 20)
    home = tmp_path / "data"
    home.mkdir()
    return make_patients(home, 4, 2, sites="AB")


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """Call the command with a roster of tiny networks; returns what it exits with."""
    entries = [
        tiny("unet", thesis=ThesisFigures(dice_percent=75.6, frames_per_second=91.7)),
        tiny("nasbranet"), tiny("teacher"), tiny("nasbranet_taught", taught=True),
        Entry(name="lost", label="lost", make=None, tables=("4-6",), lacks="nobody has it"),
    ]  # fmt: skip
    monkeypatch.setattr(comparison, "roster", lambda plan, teacher: entries)
    measure = partial(operator_table.measure_operators, shape=(1, 4, 8, 8))
    monkeypatch.setattr(comparison, "measure_operators", measure)
    app = Typer(pretty_exceptions_enable=False)
    app.command()(comparison.compare)
    always = ["--data", folder, "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--folds", "2"]
    always += ["--epochs", "1x0.5", "--batch", "1", "--workers", "0"]

    def call(*arguments):
        return CliRunner().invoke(app, [str(a) for a in (*always, *arguments)])

    return call


def test_a_comparison_trains_resumes_and_tells_what_is_missing(run, tmp_path):
    out = tmp_path / "out"
    done = run("--networks", "unet", "--folds-run", "1", "--rounds", "2", "--engine", "openvino")
    assert done.exit_code == 0, done.output
    content = json.loads((out / "compare.json").read_text())
    unet, ours, *_ = content["table_4_5"]
    assert (unet["folds_done"], unet["patients"]) == (1, 2)
    assert unet["dice"]["mean"] == pytest.approx(sum(unet["dice_by_patient"].values()) / 2)
    assert 0.0 <= unet["dice"]["interval"][0] <= unet["dice"]["mean"] <= unet["dice"]["interval"][1] <= 1.0
    assert ours["dice"] is None
    ready, lacking = content["commands"]
    assert ready.endswith("--networks unet,nasbranet,teacher,nasbranet_taught")
    assert lacking.endswith("--teacher PLAN --networks lost")
    assert str(tmp_path) not in ready + lacking + (out / "compare.md").read_text()
    assert unet["frames_per_second"] == pytest.approx(1000 / unet["milliseconds"]["median"])
    assert unet["flops"] == ours["flops"] > 0
    assert content["table_4_2"] is None
    assert "OpenVINO" in content["device"]["engine"]
    assert [r["name"] for r in content["table_4_6"]][-1] == "lost"
    text = (out / "compare.md").read_text()
    assert all(f"## Table {n}" in text for n in ("4-1", "4-2", "4-5", "4-6"))
    assert "| nasbranet | not run | 0 | 0/2 |" in text
    assert "| lost | nobody has it | 0/2 | - | - | - | - |" in text
    assert "not measured: give a latency table" in text

    before = (out / "unet" / "fold_0" / "last.pt").stat().st_mtime_ns
    done = run("--networks", "unet,nasbranet", "--folds-run", "2", "--rounds", "0")
    assert done.exit_code == 0, done.output
    assert (out / "unet" / "fold_0" / "last.pt").stat().st_mtime_ns == before
    content = json.loads((out / "compare.json").read_text())
    assert content["commands"][0].endswith("--networks teacher,nasbranet_taught")
    unet, ours, *_ = content["table_4_5"]
    assert (unet["folds_done"], unet["patients"]) == (2, 4)
    # The same network under two names, from the same seed, on the same folds: no difference at all.
    assert unet["difference_to_nasbranet"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    assert unet["frames_per_second"] is None


def test_one_fold_alone_can_be_trained(run, tmp_path):
    done = run("--networks", "unet", "--only", "1")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / "compare.json").exists(), "others may train beside it: no times, and no tables yet"
    assert run("--folds-run", "0", "--rounds", "0").exit_code == 0
    assert [path.name for path in sorted((tmp_path / "out" / "unet").glob("fold_*"))] == ["fold_1"]
    unet = json.loads((tmp_path / "out" / "compare.json").read_text())["table_4_5"][0]
    assert (unet["folds_done"], unet["patients"]) == (1, 2)
    done = run("--networks", "unet", "--only", "2", "--rounds", "0")
    assert "there is no fold 2" in str(done.exception)


def test_a_patient_imaged_twice_counts_once(tmp_path):
    cases = [Case(f"case{i}", "AAB"[i], "", "", True, tmp_path) for i in range(3)]
    study = Study(cases=cases, schedule=Schedule(stages=((1, 1.0),)))
    for fold, scores in ((1, {"case0": 0.5, "case1": 0.7}), (4, {"case2": 0.9})):
        write_json(tmp_path / "unet" / f"fold_{fold}" / "result.json", {"cases": scores, "stages": [[1, 1.0]]})
    patients, done = comparison.collect(study, tiny("unet"), tmp_path)
    assert patients == {"A": pytest.approx(0.6), "B": 0.9}
    assert done == 2


def test_results_of_other_settings_are_refused(run):
    assert run("--folds-run", "0", "--rounds", "0").exit_code == 0
    done = run("--folds-run", "0", "--rounds", "0", "--seed", "1")
    assert isinstance(done.exception, DataError)
    assert "another seed" in str(done.exception)


def test_results_of_another_plan_are_refused_even_where_that_network_is_not_trained_now(run, tmp_path):
    assert run("--networks", "nasbranet", "--folds-run", "0", "--rounds", "0").exit_code == 0
    path = tmp_path / "out" / "nasbranet" / "network.json"
    path.write_text(path.read_text().replace('"zoom"', '"skip"').replace('"conv"', '"zoom"'))
    assert "another plan" in str(run("--networks", "unet", "--folds-run", "0", "--rounds", "0").exception)


def test_a_fold_of_another_schedule_is_refused(run, tmp_path):
    assert run("--networks", "unet", "--folds-run", "1", "--rounds", "0").exit_code == 0
    path = tmp_path / "out" / "unet" / "fold_0" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stages": [[36, 1.0]]}))
    assert "another schedule" in str(run("--folds-run", "0", "--rounds", "0").exception)


def test_the_taught_learn_from_the_teacher_of_their_own_fold(run, tmp_path, monkeypatch):
    opened = []
    load = comparison.load_network
    monkeypatch.setattr(comparison, "load_network", lambda plan, path: opened.append(path) or load(plan, path))
    done = run("--networks", "nasbranet_taught,nasbranet", "--folds-run", "2", "--rounds", "0")
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    assert opened == [out / "teacher" / f"fold_{fold}" / "last.pt" for fold in (0, 1)]
    taught, alone = (
        torch.load(out / name / "fold_0" / "last.pt", weights_only=True)["network"]
        for name in ("nasbranet_taught", "nasbranet")
    )
    assert any(not torch.equal(taught[key], alone[key]) for key in alone)


SPACE = SearchSpace(layers=6, expansions=(16, 24), student_head=16, teacher_stem=24, size=32)
RELATIVE = {"skip": 0.25, "conv": 1.0, "zoom": 0.5, "conv x2": 2.0, "zoom x2": 0.75}


@pytest.fixture
def measured(tmp_path):
    """A latency table of a small space, where an operator's time is the same everywhere; and the space, as files."""
    times = {key: RELATIVE.get(str(key.op), 3.0) for key in keys_of(SPACE)}
    header = {"device": "Some CPU", "backend": "openvino 1", "threads": 1, "date": "2030-01-02"}
    LatencyTable(header, times).save(tmp_path / "table.json")
    (tmp_path / "space.json").write_text(SPACE.model_dump_json())
    return tmp_path / "table.json", tmp_path / "space.json"


def test_a_latency_table_fills_table_4_2(run, tmp_path, measured):
    table, space = measured
    done = run("--folds-run", "0", "--rounds", "0", "--latency-table", table, "--space", space)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "| zoom x2 | 0.75 | " in text
    assert "| conv x2 | 2.00 | " in text
    # Three outputs, each reached through six cells: all slowest against all fastest. Widths change nothing here.
    assert f"| operator | {3 * 6 * (2.0 - 0.25):.3f} | 10.42 |" in text
    assert "| width | 0.000 | 5.54 |" in text
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert set(content["table_4_2"]) == set(THESIS_SENSITIVITIES)
    assert content["latency_table"]["device"]["date"] == "2030-01-02"
    assert content["latency_table"]["space"] == SPACE.model_dump(mode="json")
    assert content["latency_table"]["digest"] == LatencyTable.load(table).digest
    told = (
        "measured for 6 layers and 2 widths (chi 16, 24), 20 shapes of each operator (not the thesis's space, which "
        "has 16, 5 and 125), on: device Some CPU, backend openvino 1, threads 1, date 2030-01-02"
    )
    assert text.count(told) == 2, "of either table"
    assert "| zoom x2 | 0.75 | 20 |" in text


def test_a_table_that_says_its_space_needs_no_other_file(run, tmp_path, measured):
    times = LatencyTable.load(measured[0])
    replace(times, space=SPACE.model_dump(mode="json")).save(tmp_path / "says.json")
    done = run("--folds-run", "0", "--rounds", "0", "--latency-table", tmp_path / "says.json")
    assert done.exit_code == 0, done.output
    assert "6 layers and 2 widths" in (tmp_path / "out" / "compare.md").read_text()


def test_the_thesis_space_is_told_as_such():
    told = tables._measured_for({"space": SearchSpace().model_dump(mode="json"), "device": {"device": "x"}})
    assert "16 layers and 5 widths (chi 16, 24, 32, 40, 48), 125 shapes of each operator (the thesis's space)" in told


def test_a_table_of_another_space_is_refused(run, measured):
    done = run("--folds-run", "0", "--rounds", "0", "--latency-table", measured[0])
    assert isinstance(done.exception, DataError)
    assert "another search space" in str(done.exception)


@pytest.fixture
def before(run, tmp_path, measured):
    """The report of an earlier run, which trained unet's first fold and looked up the search's table."""
    table, space = measured
    looked_up = ("--latency-table", table, "--space", space)
    done = run("--networks", "unet", "--folds-run", "1", "--rounds", "0", *looked_up)
    assert done.exit_code == 0, done.output
    return (tmp_path / "out" / "compare.json").rename(tmp_path / "before.json")


COLLECT = ("--folds-run", "0", "--rounds", "0")


OF_BEFORE = {"mean": 0.7, "interval": [0.6, 0.8]}


def rewrite(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_tables_outlive_the_folders_of_their_trainings(run, tmp_path, before):
    out = tmp_path / "out"
    told = (out / "compare.md").read_text()
    out.rename(tmp_path / "lost")
    done = run(*COLLECT, "--earlier", before)
    assert done.exit_code == 0, done.output
    was, now = json.loads(before.read_text()), json.loads((out / "compare.json").read_text())
    for table in ("table_4_1_searched", "table_4_2", "latency_table", "commands"):
        assert now[table] == was[table]
    for table in ("table_4_5", "table_4_6"):
        assert now[table] == [kept | {"earlier": kept["name"] == "unet"} for kept in was[table]]
    assert (out / "compare.md").read_text().replace(" (earlier run)", "") == told
    assert not (out / "unet" / "fold_0").exists()

    again = run(*COLLECT, "--earlier", (out / "compare.json").rename(tmp_path / "again.json"))
    assert again.exit_code == 0, again.output
    assert json.loads((out / "compare.json").read_text()) == now


def test_a_row_of_this_run_wins_over_the_earlier_one(run, tmp_path, before):
    content = json.loads(before.read_text())
    unet, *others = content["table_4_5"]
    rewrite(before, table_4_5=[unet | {"dice": OF_BEFORE, "dice_by_patient": {}, "folds_done": 2}, *others])
    assert run(*COLLECT, "--earlier", before).exit_code == 0
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["table_4_5"][0] == unet


def test_a_latency_table_that_is_given_wins_over_the_earlier_one(run, tmp_path, before, measured):
    rewrite(before, table_4_2={"operator": 1.0, "halving": 2.0, "width": 3.0})
    now = tmp_path / "out" / "compare.json"
    assert run(*COLLECT, "--earlier", before, "--latency-table", measured[0], "--space", measured[1]).exit_code == 0
    assert json.loads(now.read_text())["table_4_2"]["width"] == 0.0
    assert run(*COLLECT, "--earlier", before).exit_code == 0
    assert json.loads(now.read_text())["table_4_2"]["width"] == 3.0


NO_REPORT = ["", "{}", "[]", '{"settings": {}, "table_4_5": 3}', None]


@pytest.mark.parametrize("content", NO_REPORT)
def test_what_is_no_earlier_report_is_refused_before_anything_is_written(run, tmp_path, content):
    path = tmp_path / "before.json"
    if content is not None:
        path.write_text(content)
    done = run(*COLLECT, "--earlier", path)
    assert isinstance(done.exception, DataError)
    assert str(done.exception) == f"{path} is no compare.json of an earlier run"
    assert not (tmp_path / "out").exists()


def test_an_earlier_report_of_other_settings_is_refused(run, tmp_path, before):
    settings = json.loads(before.read_text())["settings"]
    rewrite(before, settings=settings | {"batch": 8, "epochs": "36x1"})
    done = run(*COLLECT, "--earlier", before)
    assert isinstance(done.exception, DataError)
    assert str(done.exception) == f"{before} holds results of another batch, epochs"


def test_an_earlier_report_of_another_plan_is_refused(run, before, monkeypatch):
    monkeypatch.setattr(comparison, "roster", lambda plan, teacher: [tiny("unet", op="conv x2")])
    done = run(*COLLECT, "--earlier", before)
    assert isinstance(done.exception, DataError)
    assert "unet of" in str(done.exception)
    assert "is another network, of another plan" in str(done.exception)


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.compare*.json")), ids=lambda path: path.name)
def test_the_reports_beside_the_cards_can_be_gone_on_with(path):
    kept = json.loads(path.read_text())
    found = read_earlier(path, kept["settings"], {})
    assert found.rows.keys() == {row["name"] for t in ("table_4_5", "table_4_6") for row in kept[t] if row["dice"]}
    assert found.of_latency_table()["latency_table"] == kept["latency_table"]


def test_early_stopping_is_part_of_the_settings_and_of_the_command_only_where_it_is_asked_for():
    plain, stopped = Study(cases=()), Study(cases=(), inner_folds=4, schedule=Schedule(patience=3))
    assert not {"patience", "inner_folds"} & comparison._settings(plain).keys(), "older folders are gone on with"
    assert comparison._settings(stopped) | {"patience": 3, "inner_folds": 4} == comparison._settings(stopped)
    assert "--patience 3 --inner-folds 4" in comparison._command(stopped, "thesis", None, ())
    assert "--patience" not in comparison._command(plain, "thesis", None, ())
