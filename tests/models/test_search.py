"""The search itself, on a lattice and data small enough to finish in seconds."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from torch.nn import functional as F

from models.nasbranet import __main__ as command
from models.nasbranet import search_command
from models.nasbranet.architecture import START
from models.nasbranet.latency import plan_ms
from models.nasbranet.latency_table import LatencyTable, keys_of
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import Op
from models.nasbranet.search import Groups, Search, SearchSettings, head_loss, score
from models.nasbranet.space import SearchSpace
from models.training import data
from models.training.augment import Slices
from models.training.losses import distillation_loss, focal_loss
from tests.models.test_training import cases

ROOT = Path(__file__).parents[2]
SPACE = SearchSpace(layers=6, expansions=(4, 8), student_stem=4, student_head=8, teacher_stem=8)
SETTINGS = SearchSettings(warm_up=1, epochs=1, batch=2, steps=2, scale=0.25, time_weight=1.0, architecture_rate=0.05)


def slow_convolutions():
    slow = (Op.CONV, Op.CONV_X2)
    times = {k: (9.0 if k.op in slow else 1.0) + 0.001 * (k.c_in + k.height) for k in keys_of(SPACE)}
    return LatencyTable({"device": "test"}, times)


@pytest.fixture
def groups(folder, tmp_path):
    first, second, third = (data.prepare(c, tmp_path / "cache") for c in data.read_cases(folder))
    return Groups(Slices([first], 0.5, 0), Slices([second], 0.5, 1), [third])


def run(groups, out, settings=SETTINGS, stop=None):
    search = Search(SPACE, groups, slow_convolutions(), settings, out)
    search.resume()
    with Progress(disable=True) as progress:
        if stop is not None:
            while search.epoch < stop:
                search._epoch(progress, searching=search.epoch >= settings.warm_up)
                search.epoch += 1
            search._save()
            return search, []
        return search, search.run(progress)


def test_warm_up_leaves_the_architecture_alone_and_search_moves_it(groups, tmp_path):
    search, _ = run(groups, tmp_path / "s", stop=1)
    assert all(bool((p == START).all()) for p in search.net.architecture_parameters())
    before = {name: p.detach().clone() for name, p in search.net.named_parameters()}
    search, _ = run(groups, tmp_path / "s", stop=2)
    moved = {name for name, p in search.net.named_parameters() if not torch.equal(p, before[name])}
    assert {"teacher.alpha", "teacher.beta", "student.alpha", "student.beta", "student.gamma"} <= moved
    assert "teacher.gamma" not in moved, "a teacher's width is not searched"


def test_warm_up_trains_what_both_architectures_have_for_themselves(groups, tmp_path):
    """Defect 6 of the released code: only the teacher's stem and heads learnt."""
    search = Search(SPACE, groups, slow_convolutions(), SETTINGS, tmp_path / "s")
    before = {name: p.detach().clone() for name, p in search.net.named_parameters()}
    with Progress(disable=True) as progress:
        search._epoch(progress, searching=False)
    for part in ("around_teacher.stem", "around_teacher.heads", "around_student.stem", "around_student.heads"):
        assert any(n.startswith(part) and not torch.equal(p, before[n]) for n, p in search.net.named_parameters()), part


def test_a_resumed_search_ends_where_an_unbroken_one_does(groups, tmp_path):
    unbroken, found = run(groups, tmp_path / "a")
    run(groups, tmp_path / "b", stop=1)
    resumed, again = run(groups, tmp_path / "b")
    for (name, a), b in zip(unbroken.net.state_dict().items(), resumed.net.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5), name
    assert [c.plan for c in found] == [c.plan for c in again]


def test_each_candidate_is_scored_by_its_own_accuracy_and_time(groups, tmp_path, monkeypatch):
    """Defect 5 of the released code: the teacher's branches were chosen on the student's score."""
    told = {"teacher": [0.11, 0.12, 0.13, 0.14, 0.15], "student": [0.21, 0.22, 0.23, 0.25, 0.24]}

    def judge(search, architecture):
        return told["teacher" if architecture is search.net.teacher else "student"]

    monkeypatch.setattr(Search, "_judge", judge)
    _search, candidates = run(groups, tmp_path / "s")
    assert {(c.role, c.pair): c.dice for c in candidates} == {
        ("teacher", (2, 0)): 0.14, ("teacher", (2, 1)): 0.15, ("student", (2, 0)): 0.25, ("student", (2, 1)): 0.24,
    }, "of the role's own fused heads, 0 with 2 and 1 with 2"  # fmt: skip
    for c in candidates:
        assert c.plan.stem_expansion == {"teacher": SPACE.teacher_stem, "student": SPACE.student_stem}[c.role]
        assert [branch[-1].scale for branch in c.plan.branches] == [2 ** (level + 1) for level in c.pair]
        assert c.ms == pytest.approx(plan_ms(c.plan, slow_convolutions(), SPACE.size))
        assert c.score == pytest.approx(c.dice * (c.ms / 8.3) ** -0.07)
        assert NASBraNet(c.plan)(torch.zeros(1, 2, 32, 32)).shape == (1, 2, 32, 32)
    assert len({c.ms for c in candidates}) > 2, "times that tell the networks apart"
    assert [c.score for c in candidates] == sorted((c.score for c in candidates), reverse=True)
    with (tmp_path / "s" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["epoch"] for r in rows] == ["1", "2", "2", "2", "2"]
    assert json.loads((tmp_path / "s" / "settings.json").read_text())["space"]["layers"] == 6


def test_time_alone_drives_the_student_to_fast_operators(groups, tmp_path, monkeypatch):
    from models.nasbranet import search as module
    from models.nasbranet.latency import PenaltyWeights, penalty_ms

    only_operators = PenaltyWeights(1.0, 0.0, 0.0)
    monkeypatch.setattr(module, "penalty_ms", lambda *a: penalty_ms(*a, only_operators))
    settings = replace(SETTINGS, warm_up=0, time_weight=100.0)
    search, _ = run(groups, tmp_path / "s", settings)
    slow = [list(Op).index(op) for op in (Op.CONV, Op.CONV_X2)]
    for cell in SPACE.cells:
        weights = search.net.student.operators(cell)
        assert float(weights[slow].sum()) < 0.4, f"they began at .4 in {cell}"


def test_the_score_pays_for_speed_as_the_thesis_has_it():
    settings = SearchSettings()
    assert score(0.8, 8.3, settings) == pytest.approx(0.8)
    assert score(0.8, 16.6, settings) / 0.8 == pytest.approx(0.953, abs=1e-3)
    assert score(0.8, 4.15, settings) / 0.8 == pytest.approx(1.050, abs=1e-3)


def test_the_loss_is_focal_and_counts_every_head():
    logits, target = [torch.randn(2, 2, 4, 4) for _ in range(3)], torch.randint(2, (2, 4, 4))
    assert torch.allclose(head_loss(logits, target), sum(focal_loss(x, target) for x in logits))


def test_distillation_is_nothing_between_equals_and_the_mean_over_pixels_else():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert float(distillation_loss(teacher, teacher)) == pytest.approx(0.0, abs=1e-6)
    p, q = F.softmax(teacher, 1), F.softmax(student, 1)
    assert torch.allclose(distillation_loss(student, teacher), (p * (p.log() - q.log())).sum(1).mean(), atol=1e-6)


def test_no_patient_is_in_two_groups(monkeypatch):
    seen = []
    monkeypatch.setattr(data, "prepare", lambda case, cache: seen.append(case) or case)
    monkeypatch.setattr(search_command, "Slices", lambda part, *_: part)
    with Progress(disable=True) as progress:
        parts = search_command.make_groups(cases(40, per_patient=2), 0, None, progress)
    patients = [{c.patient for c in part} for part in parts]
    assert not (patients[0] & patients[1])
    assert not (patients[0] & patients[2])
    assert not (patients[1] & patients[2])
    assert [len(part) for part in parts] == pytest.approx([16, 16, 8], abs=4)


ARGUMENTS = ["--layers", "6", "--expansions", "4,8", "--ends", "4,8,8"]


def call(monkeypatch, capsys, *arguments):
    """The command line as a shell runs it: (status, what it says)."""
    monkeypatch.setattr(sys, "argv", ["nasbranet", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run()
    return ended.value.code, capsys.readouterr().err


def test_a_table_that_lacks_a_shape_is_refused_before_anything_is_prepared(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search_command, "make_groups", lambda *_: pytest.fail("went on without the table"))
    table, kept = tmp_path / "t.json", slow_convolutions()
    lost = max(kept.entries)
    LatencyTable(kept.device, {k: ms for k, ms in kept.entries.items() if k != lost}).save(table)
    arguments = ["search", "--data", folder, "--out", tmp_path / "o", "--table", table]
    status, said = call(monkeypatch, capsys, *arguments, *ARGUMENTS)
    assert status == 2
    assert said.splitlines() == [
        f"error: {table} lacks 1 of {len(kept.entries)} shapes of this space, as {lost}; "
        "run `latency-table` with the same --layers, --expansions and --ends"
    ]
    assert not (tmp_path / "o").exists()
    status, said = call(monkeypatch, capsys, *arguments, "--layers", "6", "--expansions", "8", "--ends", "8,8,8")
    assert (status, "shapes of this space" in said) == (2, True), "a table of another space altogether"


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"device": {}}', '{"device": {}, "entries": [["conv", "x"]]}'])
def test_a_file_that_is_no_table_is_named(content, folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "t.json").write_text(content)
    arguments = ["search", "--data", folder, "--out", tmp_path / "o", "--table", tmp_path / "t.json"]
    status, said = call(monkeypatch, capsys, *arguments, *ARGUMENTS)
    assert (status, said.splitlines()) == (
        2, [f"error: {tmp_path}/t.json is no latency table; make one by `latency-table`"],
    )  # fmt: skip


def test_a_search_made_otherwise_is_not_gone_on_with(groups, tmp_path):
    Search(SPACE, groups, slow_convolutions(), SETTINGS, tmp_path / "s")
    made_with = (tmp_path / "s" / "settings.json").read_text()
    table = slow_convolutions()
    dearer = LatencyTable(table.device, table.entries | {max(table.entries): 2.0})
    others = {
        "seed": (SPACE, groups, table, replace(SETTINGS, seed=1)),
        "target_ms": (SPACE, groups, table, replace(SETTINGS, target_ms=20.0)),
        "table": (SPACE, groups, dearer, SETTINGS),
        "device, table": (SPACE, groups, replace(table, device={"device": "another"}), SETTINGS),
        "space": (SPACE.model_copy(update={"student_head": 4}), groups, table, SETTINGS),
        "cases": (SPACE, Groups(groups.architecture, groups.weights, groups.judges), table, SETTINGS),
    }
    for name, parts in others.items():
        with pytest.raises(data.DataError, match=f"holds results of another {name};"):
            Search(*parts, tmp_path / "s")
    assert (tmp_path / "s" / "settings.json").read_text() == made_with
    Search(SPACE, groups, slow_convolutions(), SETTINGS, tmp_path / "s")


def test_a_search_runs_on_a_device_that_is_not_the_cpu(tmp_path):
    """What is made on the CPU and used on the device fails there as on CUDA: draws, times, uniform weights."""
    program = [sys.executable, "-W", "ignore", "-m", "tests.models.support_search_on_device", str(tmp_path / "s")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("4 networks read off")


def test_an_architecture_is_judged_with_its_own_statistics(groups, tmp_path):
    """Teacher and student share batch normalisation: what the one leaves there must not judge the other."""
    search, _ = run(groups, tmp_path / "s", stop=2)
    torch.manual_seed(0)
    expected = search._judge(search.net.student)
    for layer in search.net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.fill_(50.0)
    torch.manual_seed(0)
    assert search._judge(search.net.student) == expected
    assert {m.momentum for m in search.net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}
