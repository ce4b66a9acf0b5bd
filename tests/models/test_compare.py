"""The comparison: costs, turns, variants of plans, and the tables, from tiny networks on made-up patients."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer import Typer
from typer.testing import CliRunner

from models import frame
from models.engine import ModelError
from models.json_file import write_json
from models.nasbranet import compare as comparison
from models.nasbranet import operator_table, tables, variants
from models.nasbranet.cost import Cost, Speed, cost, time_files, time_models
from models.nasbranet.earlier import EarlierRow, read_earlier
from models.nasbranet.latency_table import LatencyTable, keys_of
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import PLANS, SHIPPED_PLAN, NetworkPlan
from models.nasbranet.roster import Entry, ThesisFigures, roster
from models.nasbranet.space import SearchSpace
from models.nasbranet.tables import THESIS_SENSITIVITIES, Report, Row, relative_times
from models.training.data import Case, DataError
from models.training.folds import Study
from models.training.loop import Schedule
from tests.models.conftest import make_patients

THESIS = NetworkPlan.load("thesis")
CARDS = PLANS.parent / "cards"

CONVOLUTIONS = [  # 2 x kernel x channels in x channels out x places, and the weights
    (nn.Conv2d(2, 4, 3, padding=1), 2 * 9 * 2 * 4 * 8 * 6, 9 * 2 * 4 + 4),
    (nn.Conv2d(2, 4, 3, 2, padding=1, bias=False), 2 * 9 * 2 * 4 * 4 * 3, 9 * 2 * 4),
    (nn.Conv2d(2, 4, 1, groups=2, bias=False), 2 * 1 * 4 * 8 * 6, 4),
    (nn.ConvTranspose2d(2, 4, 2, 2, bias=False), 2 * 4 * 2 * 4 * 8 * 6, 4 * 2 * 4),
]


@pytest.mark.parametrize(("layer", "flops", "parameters"), CONVOLUTIONS)
def test_costs_are_those_counted_by_hand(layer, flops, parameters):
    found = cost(layer, (1, 2, 8, 6))
    assert (found.flops, found.parameters) == (flops, parameters)
    assert layer.training


def test_speed_is_the_median_with_its_spread():
    speed = Speed((10.0, 20.0, 20.0, 30.0, 500.0))
    assert speed.median == 20.0
    assert speed.quartiles == (20.0, 30.0)
    assert speed.frames_per_second == 50.0


def test_networks_are_timed_in_turns(monkeypatch):
    called = []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("models.nasbranet.timing.time.perf_counter", lambda: clock.now)

    class Timed:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def run(self, image):
            assert image.shape == (1, 2, 4, 4)
            called.append(self.name)
            clock.now += self.seconds

    models = {n: Timed(n, s) for n, s in (("a", 0.001), ("b", 0.002), ("c", 0.003))}
    found = time_models(models, (1, 2, 4, 4), rounds=20)
    turns = [called[i : i + 3] for i in range(0, len(called), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 2  # no network always follows the same one
    assert {n: round(Speed(times).median, 6) for n, times in found.items()} == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert all(len(times) == 20 for times in found.values())  # the warm rounds do not count


def test_times_on_different_engines_are_refused(monkeypatch, tmp_path):
    """Where a GPU takes one network and leaves the other to the CPU."""
    opened = lambda name, path, engine, cache: SimpleNamespace(engine=f"engine of {path.name}")  # noqa: E731
    monkeypatch.setattr("models.nasbranet.cost.Model", opened)
    with pytest.raises(ModelError, match="engine of a, engine of b"):
        time_files({"one": tmp_path / "b", "two": tmp_path / "a"}, (1, 2, 4, 4), 3)


def test_a_fixed_width_keeps_operators_and_scales():
    plan = variants.fixed_width(THESIS, 32)
    assert {c.expansion for b in plan.branches for c in b} == {plan.stem_expansion, plan.head_expansion} == {32}
    shape = [[(c.op, c.scale) for c in b] for b in THESIS.branches]
    assert [[(c.op, c.scale) for c in b] for b in plan.branches] == shape
    assert plan.shared == THESIS.shared
    assert plan.name != THESIS.name


def test_a_single_branch_is_the_one_that_sees_farthest():
    plan = variants.single_branch(THESIS)
    assert plan.branches == (THESIS.branches[1],)
    assert plan.shared == 0
    assert NASBraNet(plan).eval()(torch.zeros(1, 2, 32, 32)).shape == (1, 2, 32, 32)


def test_a_pruned_teacher_is_as_narrow_as_can_be():
    plan = variants.pruned(variants.fixed_width(THESIS, 48))
    assert {c.expansion for b in plan.branches for c in b} == {16}
    wide, narrow = (cost(NASBraNet(p), (1, 2, 32, 32)) for p in (THESIS, plan))
    assert narrow.flops < wide.flops
    assert narrow.parameters < wide.parameters


@pytest.mark.parametrize("name", variants.ablation(THESIS))
def test_the_kept_plans_are_what_the_published_plan_makes(name, tmp_path):
    plan = variants.ablation(THESIS)[name]
    assert NetworkPlan.load(PLANS / f"thesis_{name}.json") == plan
    variants.save(plan, tmp_path / "plan.json")
    assert NetworkPlan.load(tmp_path / "plan.json") == plan


def test_the_ablation_orders_costs_as_the_thesis_does():
    costs = {e.name: cost(e.make(), (1, 2, 64, 64)) for e in roster(THESIS, THESIS) if "4-6" in e.tables}
    assert costs["nasbranet"].flops < costs["single_32"].flops < costs["double_32"].flops
    assert costs["nasbranet"].parameters < costs["single_32"].parameters < costs["double_32"].parameters
    assert costs["nasbranet"] == costs["nasbranet_taught"]


def test_without_a_teacher_what_it_teaches_is_told_to_lack_it():
    entries = roster(THESIS, None)
    lacking = {"teacher", "teacher_pruned", "nasbranet_taught", "shipped_taught"}
    assert {e.name for e in entries if e.make is None} == lacking
    assert "teacher" not in [e.name for e in comparison.choose(entries, "all")]
    with pytest.raises(DataError, match=r"nasbranet_taught cannot be built.*--teacher"):
        comparison.choose(entries, "nasbranet_taught")
    with pytest.raises(DataError, match="no network resnet; there are unet"):
        comparison.choose(entries, "unet,resnet")


def test_the_teacher_comes_first_whenever_it_is_needed():
    assert [e.name for e in comparison.choose(roster(THESIS, THESIS), "nasbranet_taught,unet")] == [
        "unet",
        "teacher",
        "nasbranet_taught",
    ]


@pytest.mark.parametrize("plan", [THESIS, NetworkPlan.load(SHIPPED_PLAN)], ids=["thesis", "shipped"])
def test_the_plan_that_ships_takes_part_whatever_plan_is_compared(plan):
    entries = roster(plan, THESIS)
    names = [e.name for e in entries]
    assert names[names.index("nasbranet") + 1] == "shipped"
    assert names.index("teacher") < names.index("shipped_taught")
    alone, taught = (e for e in entries if e.name.startswith("shipped"))
    assert alone.plan == taught.plan == NetworkPlan.load(SHIPPED_PLAN)
    assert (alone.taught, taught.taught) == (False, True)
    assert alone.tables == taught.tables == ("4-5",)
    assert alone.thesis is taught.thesis is None


Key = namedtuple("Key", "op height width c_in c_out stride")


def test_operator_times_are_set_against_a_convolution_of_the_same_shape():
    small, large = (8, 8, 4, 4, 1), (16, 16, 4, 4, 1)
    entries = {
        Key("conv", *small): 2.0, Key("zoom", *small): 1.0, Key("conv", *large): 10.0, Key("zoom", *large): 8.0,
        Key("zoom", 99, 99, 1, 1, 2): 7.0,
    }  # fmt: skip
    assert relative_times(entries) == {"conv": (1.0, 2), "zoom": (pytest.approx(0.65), 2)}


def test_operators_cost_what_the_thesis_says_relative_to_a_convolution():
    plain, grouped, dilated, zoomed = operator_table.measure_operators(rounds=2, shape=(1, 16, 8, 8))
    assert plain.flops == 2 * 9 * 16 * 16 * 64
    assert grouped.flops == plain.flops // 2
    assert grouped.parameters == plain.parameters // 2
    assert (dilated.flops, dilated.parameters) == (plain.flops, plain.parameters)
    assert zoomed.flops == plain.flops // 4
    assert all(row.speed.median > 0 for row in (plain, grouped, dilated, zoomed))


def row(name, patients, done, **other):
    entry = Entry(name=name, label=name.upper(), make=None, tables=("4-5", "4-6"), **other)
    return Row(entry=entry, patients=patients, folds_done=done, folds=5, cost=None, speed=None)


def report_of(*rows):
    return Report(device={}, settings={}, rows=rows, operators=(), searched=None, sensitivities=None, command="run it")


def test_a_difference_is_taken_on_the_patients_both_were_judged_on():
    ours = row("nasbranet", {"p1": 0.9, "p2": 0.8, "p3": 0.1}, 5)
    shipped = row("shipped", {"p1": 0.6, "p2": 0.6, "p9": 0.9}, 5)
    other = row(
        "unet", {"p1": 0.8, "p2": 0.7, "p9": 1.0}, 2, thesis=ThesisFigures(dice_percent=75.6, frames_per_second=91.7)
    )
    report = report_of(ours, other, shipped)
    found = report.content()["table_4_5"][1]
    assert found["difference_to_nasbranet"]["mean"] == pytest.approx(-0.1)
    assert found["difference_to_shipped"]["mean"] == pytest.approx((0.2 + 0.1 + 0.1) / 3)
    assert found["dice"]["mean"] == pytest.approx(2.5 / 3)
    text = report.markdown()
    assert "| UNET | 0.833 (" in text
    assert "| -0.100 (-0.100 to -0.100) | +0.133 (+0.100 to +0.200) |" in text
    assert "75.6 %, 91.7" in text
    assert "run it --teacher PLAN --networks unet\n" in text


def test_the_cost_is_told_beside_the_speed():
    costly = replace(row("unet", {}, 0), cost=Cost(31_037_122, 73_704_931_328))
    text = report_of(costly).markdown()
    assert "| frames/s | ms (quartiles) | GFLOPs | parameters, M | resolution |" in text
    assert "| - | - | 73.70 | 31.04 | 224 x 224 |" in text


OF_BEFORE = {"mean": 0.7, "interval": [0.6, 0.8]}
APART = {"mean": -0.25, "interval": [-0.5, 0.0]}


def earlier(name, patients=(), **other):
    """A network's row as an earlier report has it: by patient, or, as older ones, only the summary."""
    summary = {"dice": OF_BEFORE, "patients": 2, "folds_done": 1, "difference_to_nasbranet": APART}
    content = {"name": name, "dice_by_patient": dict(patients), "flops": None, "parameters": None} | summary | other
    return EarlierRow.model_validate(content)


def taken(name, *arguments, **other):
    """A row of the tables that is an earlier report's."""
    kept = earlier(name, *arguments, **other)
    return replace(row(name, kept.dice_by_patient, kept.folds_done), earlier=kept)


def test_a_summary_of_an_earlier_run_keeps_its_difference_and_gives_none_to_others():
    report = report_of(taken("nasbranet"), taken("unet"), row("icnet", {"p1": 0.5}, 1))
    _, unet, icnet = report.content()["table_4_5"]
    assert (unet["dice"], unet["patients"], unet["folds_done"], unet["earlier"]) == (OF_BEFORE, 2, 1, True)
    assert (unet["difference_to_nasbranet"], unet["difference_to_shipped"]) == (APART, None)
    assert (icnet["difference_to_nasbranet"], icnet["earlier"]) == (None, False)
    text = report.markdown()
    assert "| UNET | 0.700 (0.600 to 0.800) | 2 | 1/5 (earlier run) | -0.250 (-0.500 to +0.000) | - |" in text
    assert "| UNET | 0.700 (0.600 to 0.800) | 1/5 (earlier run) |" in text, "table 4-6"
    assert "| ICNET | 0.500 (0.500 to 0.500) | 1 | 1/5 | - | - |" in text


def test_a_difference_to_a_network_that_was_trained_anew_since_is_not_told():
    _, unet = report_of(row("nasbranet", {"p1": 0.75}, 1), taken("unet")).content()["table_4_5"]
    assert unet["difference_to_nasbranet"] is None


def test_patients_of_an_earlier_run_are_paired_anew():
    ours = row("nasbranet", {"p1": 0.75, "p2": 0.75}, 1)
    _, unet, shipped = report_of(
        ours, taken("unet", {"p1": 0.5, "p2": 0.5}), taken("shipped", {"p2": 0.25, "p3": 0.5})
    ).content()["table_4_5"]
    assert unet["difference_to_nasbranet"]["mean"] == -0.25
    assert unet["difference_to_nasbranet"]["interval"] == [-0.25, -0.25]
    assert unet["difference_to_shipped"]["mean"] == 0.25, "of the one patient that both have"
    assert shipped["difference_to_nasbranet"]["mean"] == -0.5


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
    done = run("--networks", "unet", "--only", "1", "--rounds", "0")
    assert done.exit_code == 0, done.output
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
