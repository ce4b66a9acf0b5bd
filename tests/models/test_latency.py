"""Expected time against brute force, the decoupled penalty, and the table itself."""

from __future__ import annotations

import json
from itertools import pairwise, product

import pytest
import torch

from models.nasbranet import measure
from models.nasbranet.architecture import Architecture
from models.nasbranet.cost import cost
from models.nasbranet.latency import PenaltyWeights, expected_ms, penalty_ms, plan_ms, sensitivities
from models.nasbranet.latency_table import Key, LatencyTable, MissingLatency, keys_of
from models.nasbranet.measure import measure_table, time_operator
from models.nasbranet.plan import NetworkPlan, Op
from models.nasbranet.space import OPS, Node, SearchSpace


def space_of(layers):
    return SearchSpace(layers=layers, expansions=(4, 8), student_stem=4, student_head=8, teacher_stem=8, size=32)


def table_of(space):
    """Times that differ for every key."""
    generator = torch.Generator().manual_seed(0)
    keys = sorted(keys_of(space))
    return LatencyTable(
        {"device": "test"}, dict(zip(keys, torch.rand(len(keys), generator=generator).tolist(), strict=True))
    )


def scrambled(space, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = Architecture(space, searches_width=True)
    with torch.no_grad():
        for parameter in (made.alpha, made.beta, made.gamma):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


def brute_force(space, architecture, widths, table):
    """Sum over every path to every output of its probability times its time."""
    total = 0.0
    for end in space.outputs:
        for steps in product((0, 1), repeat=space.layers):
            levels = [0]
            for step in steps:
                levels.append(levels[-1] + step)
            if levels[-1] != end.level or steps[-1] or any(lv > 2 for lv in levels):
                continue
            nodes = [Node(i, lv) for i, lv in enumerate(levels)]
            probability, time = 1.0, 0.0
            for start, node in pairwise(nodes):
                feeders = space.feeders[node]
                way = [f.start for f in feeders].index(start)
                probability *= float(architecture.ways_in(node)[way].detach())
                side, entering = (
                    space.side(start),
                    8 if start.layer == 0 else space.channels(start, widths.index[start]),
                )
                for op, weight in zip(OPS, architecture.operators(start).tolist(), strict=True):
                    key = Key(
                        op, side, side, entering, space.channels(node, widths.index[node]), 1 + way_stride(start, node)
                    )
                    time += weight * table[key]
            total += probability * time
    return total


def way_stride(start, node):
    return node.level - start.level


@pytest.mark.parametrize("layers", [6, 9])
def test_expected_time_is_the_sum_over_all_paths(layers):
    space = space_of(layers)
    architecture, table = scrambled(space), table_of(space)
    widths = architecture.sample(torch.Generator().manual_seed(3))
    expected = float(expected_ms(space, architecture, widths, table).detach())
    assert expected == pytest.approx(brute_force(space, architecture, widths, table), rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "moved"),
    [((1.0, 0.0, 0.0), "alpha"), ((0.0, 1.0, 0.0), "beta"), ((0.0, 0.0, 1.0), "gamma")],
)
def test_each_term_of_the_penalty_moves_its_own_parameters_only(weights, moved):
    space = space_of(6)
    architecture, table = scrambled(space), table_of(space)
    widths = architecture.sample(torch.Generator().manual_seed(0))
    penalty_ms(space, architecture, widths, table, PenaltyWeights(*weights)).backward()
    for name in ("alpha", "beta", "gamma"):
        gradient = getattr(architecture, name).grad
        touched = gradient is not None and bool(gradient.abs().sum() > 0)
        assert touched == (name == moved), name


def test_the_penalty_draws_toward_the_faster_operator():
    space = space_of(6)
    table = LatencyTable({}, {key: 1.0 if key.op == Op.CONV else 5.0 for key in keys_of(space)})
    architecture = Architecture(space, searches_width=True)
    penalty_ms(space, architecture, architecture.fixed(1), table, PenaltyWeights(1.0, 0.0, 0.0)).backward()
    gradient = architecture.alpha.grad[0, 0]
    for op, slope in zip(OPS, gradient.tolist(), strict=True):
        assert (slope < 0) == (op is Op.CONV), "descent raises the fast operator alone"


def test_a_shape_that_was_not_measured_is_an_error():
    table = LatencyTable({}, {})
    with pytest.raises(MissingLatency, match="latency-table"):
        table[Key("conv", 8, 8, 4, 4, 1)]


def test_a_table_comes_back_as_it_was_saved(tmp_path):
    table = table_of(space_of(6))
    table.save(tmp_path / "t.json")
    back = LatencyTable.load(tmp_path / "t.json")
    assert back.device == table.device
    assert back.entries == pytest.approx(table.entries, abs=1e-5)
    assert json.loads((tmp_path / "t.json").read_text())["columns"][0] == "op"


def test_operators_are_measured_for_real():
    keys = {Key(op, 56, 56, 48, 48, 1) for op in OPS}
    table = measure_table(keys, 0.02)
    assert table.entries.keys() == keys
    assert {key.op for key, ms in table.entries.items() if not ms > 0.0} == {Op.SKIP}, "the network has nothing there"
    assert time_operator(Key(Op.SKIP, 56, 56, 48, 64, 1), 0.02) > 0.0, "widths differ: a 1x1 convolution"
    assert "openvino" in table.device["backend"]


def test_a_gpu_is_timed_between_events_in_half_precision_after_warming_up(monkeypatch):
    """By a stand-in for CUDA's events: there is no GPU here."""
    calls = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.recorded = self.waited = None

        def record(self):
            self.recorded = len(calls)

        def synchronize(self):
            self.waited = True

        def elapsed_time(self, end):
            assert end.waited, "the clock is read before the GPU is done"
            assert end.recorded == self.recorded + 1, "one run lies between the two"
            return 50.0 if len(calls) <= measure.WARM_RUNS else 2.0 + len(calls) % 3

    class Watched(torch.nn.Conv2d):
        def forward(self, x):
            calls.append(
                (x.dtype, self.weight.dtype, x.is_contiguous(memory_format=torch.channels_last), self.training)
            )
            return x

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert measure.time_on_cuda(Watched(4, 4, 3), (1, 4, 8, 6), 0.0, "cpu") == 3.0
    assert set(calls) == {(torch.float16, torch.float16, True, False)}
    assert len(calls) == measure.WARM_RUNS + 5


def test_a_gpus_table_says_so_and_is_timed_there(monkeypatch):
    key = Key("conv", 8, 8, 4, 4, 1)
    monkeypatch.setattr(measure, "device_header", lambda: measured_device)
    measured_device = {"torch": "2", "system": "s", "gpu": "Some GPU (8.9)", "processor": "p", "openvino": "1"}
    monkeypatch.setattr(measure, "driver_version", lambda: "13.0")
    monkeypatch.setattr(measure, "time_on_cuda", lambda *_: 7.0)
    monkeypatch.setattr(measure, "time_module", lambda *_: 8.0)
    on_gpu, on_cpu = (measure_table([key], 0.0, device=device) for device in ("cuda", "cpu"))
    assert (on_gpu[key], on_cpu[key]) == (7.0, 8.0)
    assert (on_gpu.device["device"], on_gpu.device["dtype"]) == ("Some GPU (8.9)", "float16")
    assert on_gpu.device["backend"] == "torch 2 eager, CUDA events"
    assert on_gpu.device["driver"] == "13.0"
    assert (on_cpu.device["device"], on_cpu.device["backend"], on_cpu.device["threads"]) == ("p", "openvino 1", 1)
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert measure.device_at_hand() == ("cuda" if available else "cpu")


def test_operators_are_told_apart_by_name(monkeypatch):
    """Defect 1 of the released code: zoom x2 was charged what plain conv x2 takes."""
    monkeypatch.setattr(measure, "time_module", lambda module, shape, *_: float(cost(module, shape).flops))
    work = {op: time_operator(Key(op, 56, 56, 48, 48, 1), 1.0) for op in OPS}
    plain = 2.0 * 9 * 48 * 48 * 56 * 56
    assert work == pytest.approx(
        {Op.SKIP: 0.0, Op.CONV: plain, Op.CONV_X2: 2 * plain, Op.ZOOM: plain / 4, Op.ZOOM_X2: plain / 2}
    )


def test_sensitivities_see_what_the_table_holds():
    space = space_of(6)
    flat = sensitivities(space, LatencyTable({}, dict.fromkeys(keys_of(space), 2.0)))
    assert flat == pytest.approx({"operator": 0.0, "halving": 0.0, "width": 0.0}, abs=1e-4)
    by_op = {key: 1.0 + OPS.index(Op(key.op)) for key in keys_of(space)}
    found = sensitivities(space, LatencyTable({}, by_op))
    assert found["operator"] == pytest.approx(3 * 6 * 4.0, rel=1e-4), "three outputs, six cells each, 5 against 1"
    assert found["width"] == pytest.approx(0.0, abs=1e-4)
    by_width = {key: float(key.c_out) for key in keys_of(space)}
    assert sensitivities(space, LatencyTable({}, by_width))["width"] > 1.0


def test_a_plan_costs_its_cells_and_shared_ones_once():
    plan = NetworkPlan.load("thesis")
    scales = [c.scale for branch in plan.branches for c in branch]
    keys, inputs = {}, 32
    for branch in plan.branches:
        inputs, scale = 32, 2
        for cell in branch:
            keys[Key(cell.op, 224 // scale, 224 // scale, inputs, cell.channels, cell.scale // scale)] = 1.0
            inputs, scale = cell.channels, cell.scale
    assert plan_ms(plan, LatencyTable({}, keys)) == len(scales) - plan.shared
