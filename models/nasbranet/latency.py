"""How long operators take on the device at hand, and what that makes an architecture cost.

The table is measured once and kept as JSON with the device in its header; a shape that it does not hold is an error,
not a guess. The expected time of a searched architecture is a sum over the lattice, differentiable in alpha, beta and
gamma; a test holds it against brute force over all paths.

Source: thesis section 4.3.3, tables 4-1 and 4-2, equation 4-9; FasterSeg (ICLR 2020), section 3.3.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from models.engine_openvino import core
from models.nasbranet.architecture import Architecture, Widths
from models.nasbranet.ops import build_op
from models.nasbranet.plan import NetworkPlan, Op
from models.nasbranet.space import OPS, SCALES, Node, SearchSpace
from models.nasbranet.timing import device_header


class Key(NamedTuple):
    """One operator at one shape."""

    op: str
    height: int
    width: int
    c_in: int
    c_out: int
    stride: int


class MissingLatency(KeyError):
    """The table has no entry for a shape; it must be measured, never guessed."""


@dataclass(frozen=True)
class LatencyTable:
    """Median milliseconds of every operator at every shape of a space, on one device."""

    device: Mapping[str, str | int]
    entries: Mapping[Key, float]

    def __getitem__(self, key: Key) -> float:
        """Look up the milliseconds; raises MissingLatency with the remedy."""
        try:
            return self.entries[key]
        except KeyError:
            raise MissingLatency(f"{key} was not measured; run `latency-table` for this space and device") from None

    def save(self, path: Path) -> None:
        """Write header and entries as JSON, whole or not at all."""
        rows = [[*key, round(value, 5)] for key, value in sorted(self.entries.items())]
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"device": dict(self.device), "columns": [*Key._fields, "ms"], "entries": rows}
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a table that `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["device"], {Key(*row[:-1]): float(row[-1]) for row in content["entries"]})


def keys_of(space: SearchSpace) -> set[Key]:
    """Every operator and shape that the lattice can ask for."""
    found = set()
    for move in space.moves:
        side = space.side(move.start)
        entering = _widths_in(space, move.start)
        leaving = [space.channels(move.end, w) for w in range(len(space.expansions))]
        found |= {Key(op, side, side, i, o, move.stride) for op in OPS for i in entering for o in leaving}
    return found


def measure_table(
    keys: Iterable[Key], seconds: float, advance: Callable[[], None] = lambda: None, threads: int = 1
) -> LatencyTable:
    """Time every key on OpenVINO on this machine's CPU for about `seconds` each (ms, batch 1, median)."""
    entries = {}
    for key in sorted(keys):
        entries[key] = time_operator(key, seconds, threads)
        advance()
    return LatencyTable(_measured_on(threads), entries)


def _measured_on(threads: int) -> dict[str, str | int]:
    header = device_header()
    return {
        "device": header["processor"], "backend": f"openvino {header['openvino']}", "threads": threads,
        "dtype": "float32", "batch": 1, "system": header["system"],
    }  # fmt: skip


def time_operator(key: Key, seconds: float, threads: int = 1) -> float:
    """Median milliseconds of one operator, batch 1."""
    op = build_op(Op(key.op), key.c_in, key.c_out, key.stride)
    if isinstance(op, nn.Identity):
        return 0.0  # the final network has nothing there
    return time_module(op, (1, key.c_in, key.height, key.width), seconds, threads)


def time_module(module: nn.Module, shape: tuple[int, ...], seconds: float, threads: int = 1) -> float:
    """Median milliseconds of any module on OpenVINO: ten runs to warm up, then as many as fit into `seconds`."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    with torch.no_grad():
        converted = ov.convert_model(module.eval(), example_input=torch.zeros(shape), input=[list(shape)])
    request = core().compile_model(converted, "CPU", settings).create_infer_request()
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    for _ in range(10):
        request.infer([image], share_inputs=True)
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < 5 or time.perf_counter() < until:
        begun = time.perf_counter()
        request.infer([image], share_inputs=True)
        taken.append(1000.0 * (time.perf_counter() - begun))
    return median(taken)


def expected_ms(space: SearchSpace, architecture: Architecture, widths: Widths, table: LatencyTable) -> Tensor:
    """Expected time of the three single-branch networks together, stem and heads apart: T_0 + T_1 + T_2 (ms).

    T_k adds, over the nodes on the way to output k, each feeder's own expected time and that of its mixed operator,
    weighted by beta.
    """
    totals: dict[Node, Tensor] = {Node(0, 0): torch.zeros(())}
    for node, feeders in space.feeders.items():
        terms = []
        for way, move in zip(architecture.ways_in(node), feeders, strict=True):
            times = torch.tensor([table[_key(space, move.start, node, op, widths)] for op in OPS])
            own = widths.scale(move.start, widths.scale(node, (architecture.operators(move.start) * times).sum()))
            terms.append(way * (totals[move.start] + own))
        totals[node] = torch.stack(terms).sum()
    return torch.stack([totals[node] for node in space.outputs]).sum()


@dataclass(frozen=True)
class PenaltyWeights:
    """Shares of operator, halving and width in the time penalty (thesis equation 4-9)."""

    alpha: float = 0.001
    beta: float = 0.997
    gamma: float = 0.002


def penalty_ms(
    space: SearchSpace,
    architecture: Architecture,
    widths: Widths,
    table: LatencyTable,
    weights: PenaltyWeights = PenaltyWeights(),
) -> Tensor:
    """Expected time, decoupled: in each term two of alpha, beta and gamma are held uniform or at the widest."""
    even = Architecture(space, searches_width=architecture.searches_width)
    even.requires_grad_(False)
    widest = architecture.fixed(space.widest)
    only_alpha, only_beta = _Mix(architecture, even), _Mix(even, architecture)
    return (
        weights.alpha * expected_ms(space, only_alpha, widest, table)
        + weights.beta * expected_ms(space, only_beta, widest, table)
        + weights.gamma * expected_ms(space, even, widths, table)
    )


class _Mix(Architecture):
    """Operators of one architecture, ways of another."""

    def __init__(self, operators: Architecture, ways: Architecture) -> None:
        super().__init__(operators.space, searches_width=False)
        self._operators, self._ways = (operators,), (ways,)  # in tuples, so that they are no submodules

    def operators(self, cell: Node) -> Tensor:
        return self._operators[0].operators(cell)

    def ways_in(self, node: Node) -> Tensor:
        return self._ways[0].ways_in(node)


def sensitivities(space: SearchSpace, table: LatencyTable) -> dict[str, float]:
    """How much operator, halving and width can change the expected time (ms; thesis table 4-2).

    Operator: every cell slowest against every cell fastest, the rest uniform and widest. Halving: the weight of
    halving .55 against .45. Width: all widest against all narrowest.
    """
    architecture = Architecture(space, searches_width=True)
    widest, narrowest = architecture.fixed(space.widest), architecture.fixed(0)
    with torch.no_grad():
        base = float(expected_ms(space, architecture, widest, table))
        narrow = float(expected_ms(space, architecture, narrowest, table))
        extremes = []
        for pick in (max, min):
            chosen = Architecture(space, searches_width=True)
            chosen.alpha.fill_(-1e9)
            for cell in space.cells:
                times = [_cell_ms(space, cell, op, widest, table) for op in OPS]
                chosen.alpha[cell.layer, cell.level, times.index(pick(times))] = 0.0
            extremes.append(float(expected_ms(space, chosen, widest, table)))
        ways = []
        for share in (0.55, 0.45):
            architecture.beta[..., 0], architecture.beta[..., 1] = np.log(share), np.log(1.0 - share)
            ways.append(float(expected_ms(space, architecture, widest, table)))
    return {"operator": extremes[0] - extremes[1], "halving": abs(ways[0] - ways[1]), "width": base - narrow}


def plan_ms(plan: NetworkPlan, table: LatencyTable, size: int = 224) -> float:
    """Time of a plan's cells by the table, shared ones once (ms); stem, climb and head are not in it."""
    total = 0.0
    for number, branch in enumerate(plan.branches):
        inputs, scale = plan.stem_expansion * SCALES[0], SCALES[0]
        for position, cell in enumerate(branch):
            if number == 0 or position >= plan.shared:
                side = size // scale
                total += table[Key(cell.op, side, side, inputs, cell.channels, cell.scale // scale)]
            inputs, scale = cell.channels, cell.scale
    return total


def _cell_ms(space: SearchSpace, cell: Node, op: Op, widths: Widths, table: LatencyTable) -> float:
    """Time of an operator in all moves of one cell."""
    moves = [move for move in space.moves if move.start == cell]
    return sum(table[_key(space, cell, move.end, op, widths)] for move in moves)


def _key(space: SearchSpace, start: Node, end: Node, op: Op, widths: Widths) -> Key:
    side = space.side(start)
    first = start.layer == 0
    entering = space.student_stem * SCALES[0] if first else space.channels(start, widths.index[start])
    return Key(op, side, side, entering, space.channels(end, widths.index[end]), 1 + end.level - start.level)


def _widths_in(space: SearchSpace, node: Node) -> list[int]:
    if node.layer == 0:
        return [space.student_stem * SCALES[0]]
    return [space.channels(node, width) for width in range(len(space.expansions))]
