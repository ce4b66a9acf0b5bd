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

from models.nasbranet import search as module
from models.nasbranet import search_command
from models.nasbranet.architecture import START, Architecture
from models.nasbranet.latency import PenaltyWeights, plan_ms
from models.nasbranet.latency_table import LatencyTable
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import Op
from models.nasbranet.search import CONSTANT_BEFORE, Groups, Search, head_loss
from models.nasbranet.search_settings import SearchSettings, score
from models.training import data
from models.training.augment import Slices
from models.training.losses import distillation_loss, focal_loss
from tests.models.support_search import SPACE, slow_convolutions
from tests.models.test_training import cases

ROOT = Path(__file__).parents[2]
SETTINGS = SearchSettings(warm_up=1, epochs=1, batch=2, steps=2, scale=0.25, time_weight=1.0, architecture_rate=0.05)


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


@pytest.mark.parametrize("searching", [False, True])
def test_both_phases_train_what_each_architecture_has_for_itself(groups, tmp_path, searching):
    """Defect 6 of the released code: only the teacher's stem and heads learnt in warm-up, some passes missed them."""
    search = Search(SPACE, groups, slow_convolutions(), SETTINGS, tmp_path / "s")
    before = {name: p.detach().clone() for name, p in search.net.named_parameters()}
    with Progress(disable=True) as progress:
        search._epoch(progress, searching=searching)
    for part in ("stem", "heads", "climb_middle", "climb_coarse"):
        for role in ("around_teacher", "around_student"):
            own = [n for n in before if n.startswith(f"{role}.{part}")]
            moved = dict(search.net.named_parameters())
            assert any(not torch.equal(moved[n], before[n]) for n in own), (role, part)


def test_each_step_has_the_widest_the_narrowest_and_drawn_passes_and_the_teacher_at_its_only_width(groups, tmp_path):
    search = Search(SPACE, groups, slow_convolutions(), SETTINGS, tmp_path / "s")
    inner = SPACE.cells[1:]
    for searching in (False, True):
        passes = [
            (a is search.net.teacher, {w.index[n] for n in inner}) for a, w in search._passes(searching=searching)
        ]
        assert len(passes) == 4
        assert passes.count((True, {SPACE.widest})) == 1, "widest is what the teacher is"
        assert sum(teacher for teacher, _ in passes) == 1
        assert (False, {0}) in passes
        assert ((False, {SPACE.widest}) in passes) or not searching, "in warm-up the teacher's is the widest pass"


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


def test_time_alone_drives_the_student_to_fast_operators(groups, tmp_path):
    settings = replace(SETTINGS, warm_up=0, time_weight=100.0, penalty=PenaltyWeights(1.0, 0.0, 0.0))
    search, _ = run(groups, tmp_path / "s", settings)
    slow = [list(Op).index(op) for op in (Op.CONV, Op.CONV_X2)]
    for cell in SPACE.cells:
        weights = search.net.student.operators(cell).detach()
        assert float(weights[slow].sum()) < 0.4, f"they began at .4 in {cell}"


def test_lambda_stays_unless_frames_a_second_are_to_be_held():
    assert SearchSettings().held(0.01, 1000.0) == 0.01
    holding = SearchSettings(hold_fps=(155.0, 175.0))
    assert holding.held(0.01, 1000.0 / 154) == 0.02, "too slow: time weighs more"
    assert holding.held(0.01, 1000.0 / 176) == 0.005
    assert holding.held(0.01, 1000.0 / 160) == 0.01
    for wrong in ((175.0, 155.0), (0.0, 1.0)):
        with pytest.raises(data.DataError, match="the lower first"):
            SearchSettings(hold_fps=wrong)


def test_lambda_doubles_each_epoch_of_a_slow_student_and_a_resumed_search_goes_on_with_it(
    groups, tmp_path, monkeypatch
):
    monkeypatch.setattr(Search, "_judge", lambda *_: [0.5] * 5)
    asked = []
    monkeypatch.setattr(module, "penalty_ms", lambda space, student, *_: asked.append(1) or student.alpha.sum() * 0)
    settings = replace(SETTINGS, warm_up=0, epochs=3, steps=1, hold_fps=(1e6, 2e6))
    search, _ = run(groups, tmp_path / "s", settings)
    assert (search.time_weight, len(asked)) == (8.0, 3)
    again = Search(SPACE, groups, slow_convolutions(), settings, tmp_path / "s")
    assert again.resume()
    assert again.time_weight == 8.0
    with (tmp_path / "s" / "log.csv").open() as file:
        assert [row["lambda"] for row in csv.DictReader(file)][::4] == ["1", "2", "4"], "what each epoch ran with"


def test_the_temperature_falls_from_the_first_to_the_last_epoch_of_the_search():
    settings = SearchSettings(warm_up=2, epochs=3, temperature=(4.0, 1.0))
    assert [settings.temperature_at(epoch) for epoch in (0, 2, 3, 4, 9)] == pytest.approx([4.0, 4.0, 2.0, 1.0, 1.0])
    assert SearchSettings().temperature_at(40) == 1.0
    with pytest.raises(data.DataError, match="above 0"):
        SearchSettings(temperature=(1.0, 0.0))


def test_draws_and_learning_rates_are_the_settings(groups, tmp_path, monkeypatch):
    temperatures, rates = [], []
    monkeypatch.setattr(Search, "_judge", lambda *_: [0.5] * 5)
    sample = Architecture.sample
    monkeypatch.setattr(Architecture, "sample", lambda self, draws, t: temperatures.append(t) or sample(self, draws, t))
    move = Search._move_weights

    def watched(search, *batch, **how):
        rates.append(search.weights.param_groups[0]["lr"])
        return move(search, *batch, **how)

    monkeypatch.setattr(Search, "_move_weights", watched)
    how = {"warm_up": 2, "epochs": 2, "steps": 1, "temperature": (4.0, 1.0)}
    run(groups, tmp_path / "s", replace(SETTINGS, **how, weight_rate=(0.2, 0.1), rate_decay=0.5))
    assert rates == pytest.approx([0.2, 0.1, 0.1, 0.05])
    assert sorted(set(temperatures), reverse=True) == [4.0, 1.0]


def test_optimizers_gradients_and_empty_slices_are_the_settings(groups, tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda _, limit: limits.append(limit))
    how = {"momentum": 0.8, "weight_decay": 1e-3, "gradient_limit": 2.0, "adam_betas": (0.9, 0.99)}
    search, _ = run(groups, tmp_path / "s", replace(SETTINGS, **how), stop=1)
    assert (search.weights.defaults["momentum"], search.weights.defaults["weight_decay"]) == (0.8, 1e-3)
    assert search.architecture.defaults["betas"] == (0.9, 0.99)
    assert set(limits) == {2.0}
    monkeypatch.setattr(data, "prepare", lambda case, cache: case)
    monkeypatch.setattr(search_command, "Slices", lambda part, share, seed: (share, seed))
    with Progress(disable=True) as progress:
        made = search_command.make_groups(cases(40), SearchSettings(empty_share=0.4, seed=7), None, progress)
    assert made[:2] == ((0.4, 7), (0.4, 8))
    for wrong in ((1.0, 0.999), (0.5, -0.1)):
        with pytest.raises(data.DataError, match="below 1"):
            SearchSettings(adam_betas=wrong)


def test_the_defaults_are_those_of_the_thesis_and_of_fastersegs_code():
    settings = SearchSettings()
    assert (settings.momentum, settings.weight_decay, settings.gradient_limit) == (0.9, 5e-4, 5.0)
    assert (settings.adam_betas, settings.empty_share) == ((0.5, 0.999), 0.2)


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
        parts = search_command.make_groups(cases(40, per_patient=2), SearchSettings(), None, progress)
    patients = [{c.patient for c in part} for part in parts]
    assert not (patients[0] & patients[1])
    assert not (patients[0] & patients[2])
    assert not (patients[1] & patients[2])
    assert [len(part) for part in parts] == pytest.approx([16, 16, 8], abs=4)


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


def test_a_search_from_before_some_constants_were_settings_is_gone_on_with(groups, tmp_path):
    Search(SPACE, groups, slow_convolutions(), SETTINGS, tmp_path / "s")
    path = tmp_path / "s" / "settings.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in CONSTANT_BEFORE}
    path.write_text(json.dumps(kept))
    Search(SPACE, groups, slow_convolutions(), SETTINGS, tmp_path / "s")
    with pytest.raises(data.DataError, match="another momentum;"):
        Search(SPACE, groups, slow_convolutions(), replace(SETTINGS, momentum=0.5), tmp_path / "s")


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
