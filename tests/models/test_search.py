"""The search itself, on a lattice and data small enough to finish in seconds."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from rich.progress import Progress
from torch.nn import functional as F
from typer.testing import CliRunner

from models.nasbranet import __main__ as command
from models.nasbranet import search_command
from models.nasbranet.architecture import START
from models.nasbranet.latency import LatencyTable, keys_of
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import Op
from models.nasbranet.search import Groups, Search, SearchSettings, head_loss, score
from models.nasbranet.space import SearchSpace
from models.training import data
from models.training.augment import Slices
from models.training.losses import distillation_loss, focal_loss
from tests.models.test_training import cases

SPACE = SearchSpace(layers=6, expansions=(4, 8), student_stem=4, student_head=8, teacher_stem=8)
SETTINGS = SearchSettings(warm_up=1, epochs=1, batch=2, steps=2, scale=0.25, time_weight=1.0, architecture_rate=0.05)


def slow_convolutions():
    return LatencyTable({"device": "test"}, {k: 9.0 if k.op in (Op.CONV, Op.CONV_X2) else 1.0 for k in keys_of(SPACE)})


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


def test_each_candidate_is_scored_by_its_own_accuracy_and_time(groups, tmp_path):
    """Defect 5 of the released code: the teacher's branches were chosen on the student's score."""
    _search, candidates = run(groups, tmp_path / "s")
    assert {(c.role, c.pair) for c in candidates} == {(r, p) for r in ("teacher", "student") for p in ((2, 0), (2, 1))}
    for c in candidates:
        assert c.score == pytest.approx(score(c.dice, c.ms, SETTINGS))
        assert c.ms > 0
        assert NASBraNet(c.plan)(torch.zeros(1, 2, 32, 32)).shape == (1, 2, 32, 32)
    assert [c.score for c in candidates] == sorted((c.score for c in candidates), reverse=True)
    with (tmp_path / "s" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["epoch"] for r in rows] == ["1", "2", "2", "2", "2"]
    assert json.loads((tmp_path / "s" / "settings.json").read_text())["space"]["layers"] == 6


def test_time_alone_drives_the_student_to_fast_operators(groups, tmp_path, monkeypatch):
    from dataclasses import replace

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


def test_the_command_refuses_a_table_of_another_space(folder, tmp_path):
    (tmp_path / "t.json").write_text('{"device": {}, "columns": [], "entries": []}')
    arguments = ["search", "--data", str(folder), "--out", str(tmp_path / "o"), "--table", str(tmp_path / "t.json")]
    done = CliRunner().invoke(command.app, [*arguments, "--layers", "6", "--expansions", "8", "--ends", "8,8,9"])
    assert done.exit_code != 0


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
