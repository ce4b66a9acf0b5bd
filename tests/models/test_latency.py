"""Expected time against brute force, the decoupled penalty, and the table itself."""

from __future__ import annotations

import json
import math
from itertools import combinations, pairwise

import pytest
import torch
from typer.testing import CliRunner

from models.nasbranet import measure
from models.nasbranet.__main__ import app
from models.nasbranet.architecture import Architecture
from models.nasbranet.cost import cost
from models.nasbranet.decode import decode
from models.nasbranet.latency import PenaltyWeights, expected_ms, penalty_ms, plan_ms, sensitivities
from models.nasbranet.latency_table import LatencyTable, MissingLatency, cell_keys, keys_of
from models.nasbranet.measure import measure_table, time_operator
from models.nasbranet.network import NASBraNet
from models.nasbranet.parts import Key, Part
from models.nasbranet.plan import NetworkPlan, Op
from models.nasbranet.space import OPS, Node, SearchSpace
from models.nasbranet.timing import WARM_RUNS


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


def paths_to(end):
    """Every way from stem to output: the cells that halve are what tells them apart. The last cell never does."""
    for halving in combinations(range(end.layer - 1), end.level):
        yield [Node(layer, sum(cell < layer for cell in halving)) for layer in range(end.layer + 1)]


def brute_force(space, architecture, widths, table):
    """Sum over every path to every output of its probability times its time."""
    total = 0.0
    for end in space.outputs:
        for nodes in paths_to(end):
            probability, time = 1.0, 0.0
            for start, node in pairwise(nodes):
                feeders = [move.start for move in space.feeders[node]]
                probability *= float(architecture.ways_in(node)[feeders.index(start)].detach())
                side, c_out = space.side(start), space.channels(node, widths.index[node])
                c_in = 8 if start.layer == 0 else space.channels(start, widths.index[start])
                for op, weight in zip(OPS, architecture.operators(start).tolist(), strict=True):
                    time += weight * table[Key(op, side, side, c_in, c_out, 1 + node.level - start.level)]
            total += probability * time
        total += around(space, end.level, table)
    return total


def around(space, level, table):
    """Stem, climb, merge and head of the student's branch that ends at a level, written out: stem 8, head 8 x scale."""
    size = space.size
    keys = [Key("stem", size, size, 2, 8, 2)]
    if level == 2:
        keys.append(Key("climb, narrow", size // 8, size // 8, 64, 32, 1))
        keys.append(Key("climb, refine", size // 4, size // 4, 32 + 32, 32, 1))
    if level >= 1:
        keys.append(Key("climb, narrow", size // 4, size // 4, 32, 16, 1))
        keys.append(Key("climb, refine", size // 2, size // 2, 16 + 16, 16, 1))
    keys.append(Key("merge", size // 2, size // 2, 16, 16, 1))
    keys.append(Key("head", size // 2, size // 2, 16, 16, 1))
    return sum(table[key] for key in keys)


@pytest.mark.parametrize("layers", [4, 6, 9, 16])
def test_expected_time_is_the_sum_over_all_paths(layers):
    # So short a lattice is never searched, and the settings refuse it; its time can still be counted.
    space = (
        space_of(layers)
        if layers >= 6
        else SearchSpace.model_construct(**space_of(6).model_dump() | {"layers": layers})
    )
    architecture, table = scrambled(space).double(), table_of(space)
    assert sum(1 for end in space.outputs for _ in paths_to(end)) == {4: 7, 6: 16, 9: 37, 16: 121}[layers]
    widths = architecture.sample(torch.Generator().manual_seed(3))
    expected = float(expected_ms(space, architecture, widths, table).detach())
    assert expected == pytest.approx(brute_force(space, architecture, widths, table), rel=1e-9)


def test_the_thesis_table_has_625_entries_for_cells_and_each_is_one_operator_at_one_shape():
    cells, every = cell_keys(SearchSpace()), keys_of(SearchSpace())
    assert len(cells) == 5 * (3 * 25 + 2 * 25) == 625
    assert {key.op for key in cells} == set(OPS)
    assert {key.op for key in every - cells} == set(Part)


def test_the_penalty_has_the_thesis_weights():
    assert PenaltyWeights() == PenaltyWeights(alpha=0.001, beta=0.997, gamma=0.002)
    space = space_of(6)
    architecture, table = scrambled(space), table_of(space)
    widths = architecture.sample(torch.Generator().manual_seed(0))
    terms = [
        float(penalty_ms(space, architecture, widths, table, PenaltyWeights(*one)).detach())
        for one in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    ]
    assert max(terms) - min(terms) > 0.01 * max(terms), "else the weights could be swapped unseen"
    whole = float(penalty_ms(space, architecture, widths, table).detach())
    assert whole == pytest.approx(0.001 * terms[0] + 0.997 * terms[1] + 0.002 * terms[2], rel=1e-6)


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


def test_an_interrupted_measurement_goes_on_and_another_begins_anew(tmp_path, monkeypatch):
    timed, stops_at = [], 7
    to = tmp_path / "table.json"

    def time_one(key, *_):
        if len(timed) == stops_at:
            raise KeyboardInterrupt
        timed.append(key)
        return 2.0

    def run(seconds):
        space = ("--layers", "6", "--expansions", "4,8", "--ends", "4,8,8", "--device", "cpu")
        return CliRunner().invoke(app, ["latency-table", "--to", str(to), *space, "--seconds", seconds])

    monkeypatch.setattr(measure, "time_operator", time_one)
    assert run("1").exit_code != 0
    assert not to.exists()
    stops_at = 12
    assert run("1").exit_code != 0
    assert len(set(timed)) == 12, "none twice"
    stops_at = None
    assert run("1").exit_code == 0
    whole = LatencyTable.load(to)
    assert (len(timed), set(timed)) == (len(whole.entries), set(whole.entries))
    assert SearchSpace.model_validate(whole.space).layers == 6
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]

    timed.clear()
    stops_at = 7
    assert run("1").exit_code != 0
    stops_at = None
    assert run("2").exit_code == 0
    assert len(timed) == 7 + len(whole.entries), "timed for longer, so none of the others count"


class Stream:
    """Stands for a CUDA stream, or for the context that works on one."""

    def __init__(self, calls):
        self.calls = calls

    def __enter__(self):
        self.calls.append("aside")

    def __exit__(self, *_):
        self.calls.append("back")

    def wait_stream(self, other):
        self.calls.append(f"after {other}")

    def synchronize(self):
        self.calls.append("waited")


class Capture:
    """Stands for CUDA's capture of a graph; its replay counts what was captured."""

    def __init__(self, graph):
        self.graph = graph

    def __enter__(self):
        self.graph.begun = len(self.graph.calls)

    def __exit__(self, *_):
        self.graph.held = self.graph.calls[self.graph.begun :]
        del self.graph.calls[self.graph.begun :]


@pytest.fixture
def gpu(monkeypatch):
    """CUDA's streams, graphs and events in outline: there is no GPU here. Returns what was done, in order."""
    calls = []

    class Graph:
        def __init__(self):
            self.calls, self.held = calls, []

        def replay(self):
            calls.append(("replay", tuple(self.held)))

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
            assert end.recorded == self.recorded + 1, "one replay lies between the two"
            replays = sum(call[0] == "replay" for call in calls)
            return measure.RUNS_A_GRAPH * (50.0 if replays <= WARM_RUNS else 2.0 + replays % 3)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(calls))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "what came before")
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    return calls


def test_a_gpu_is_timed_in_half_precision_without_the_launches(gpu):
    class Watched(torch.nn.Conv2d):
        def forward(self, x):
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            gpu.append((x.dtype, self.weight.dtype, channels_last, self.training))
            return x

    assert measure.time_on_cuda(Watched(4, 4, 3), (1, 4, 8, 6), 0.0, "cpu") == 3.0
    run = (torch.float16, torch.float16, True, False)
    assert gpu[: WARM_RUNS + 4] == ["after what came before", "aside", *[run] * WARM_RUNS, "back", "waited"]
    assert gpu[WARM_RUNS + 4 :] == [("replay", (run,) * measure.RUNS_A_GRAPH)] * (WARM_RUNS + 5)


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
    assert on_gpu.device["backend"] == "torch 2, CUDA graph"
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
    by_op = {key: 1.0 + OPS.index(Op(key.op)) if key.op in OPS else 7.0 for key in keys_of(space)}
    found = sensitivities(space, LatencyTable({}, by_op))
    assert found["operator"] == pytest.approx(3 * 6 * 4.0, rel=1e-4), "three outputs, six cells each, 5 against 1"
    assert found["width"] == pytest.approx(0.0, abs=1e-4)
    by_width = {key: float(key.c_out) for key in keys_of(space)}
    assert sensitivities(space, LatencyTable({}, by_width))["width"] > 1.0


def test_halving_counts_where_scales_differ_in_time():
    """The weight of halving is .55 against .45 in every node that two cells feed."""
    space, found = space_of(6), []
    coarse_is_slow = LatencyTable({}, {key: 10.0 if key.height < 16 else 1.0 for key in keys_of(space)})
    for share in (0.55, 0.45):
        architecture = Architecture(space, searches_width=True)
        with torch.no_grad():
            architecture.beta[..., 0], architecture.beta[..., 1] = math.log(share), math.log(1.0 - share)
        found.append(brute_force(space, architecture, architecture.fixed(1), coarse_is_slow))
    assert abs(found[0] - found[1]) > 1.0
    assert sensitivities(space, coarse_is_slow)["halving"] == pytest.approx(abs(found[0] - found[1]), rel=1e-4)


PLANS = [
    NetworkPlan.load(name) for name in ("thesis", "thesis_single_32", "found_small_student", "found_small_teacher")
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_a_plan_costs_what_its_network_does(plan, monkeypatch):
    """Cells, shared ones once, stem, climbs, merge and head: by FLOPs, which are the same on every machine."""
    monkeypatch.setattr(measure, "time_module", lambda module, shape, *_: float(cost(module, shape).flops))

    class Measured(dict):
        def __missing__(self, key):
            return time_operator(key, 0.0)

    work = LatencyTable({}, Measured())
    network = NASBraNet(plan)
    auxiliary = sum(
        cost(head, (1, branch[-1].channels, 64 // branch[-1].scale, 64 // branch[-1].scale)).flops
        for head, branch in zip(network.auxiliary, plan.branches, strict=True)
    )  # only training has these
    assert plan_ms(plan, work, 64) == cost(network, (1, 2, 64, 64)).flops - auxiliary


@pytest.mark.parametrize("searches_width", [True, False])
def test_whatever_is_read_off_a_space_has_its_time_in_the_table(searches_width):
    """Skips that are dropped leave the branch's last map at a scale of any width, or the stem's own."""
    space = SearchSpace(layers=12, expansions=(4, 8, 12), student_stem=4, student_head=8, teacher_stem=8, size=32)
    table = LatencyTable({}, dict.fromkeys(keys_of(space), 1.0))
    asked = set()
    for seed in range(40):
        architecture = scrambled(space, seed)
        architecture.searches_width = searches_width
        with torch.no_grad():
            architecture.alpha[..., OPS.index(Op.SKIP)] += 3.0
        for ends in ((2, 0), (2, 1)):
            plan = decode(architecture, ends, "found", "test")
            assert plan_ms(plan, table, 32) > 0.0
            asked |= {(branch[0].scale, plan.stem_expansion) for branch in plan.branches}
    assert 4 in {scale for scale, _ in asked} or not searches_width, "some branch keeps no cell at the stem's scale"
