"""What an architecture costs in time, by a table that was measured on the device at hand.

The expected time of a searched architecture is a sum over the lattice, differentiable in alpha, beta and gamma; a
test holds it against brute force over all paths.

Source: thesis section 4.3.3, tables 4-1 and 4-2, equation 4-9; FasterSeg (ICLR 2020), section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.nasbranet.architecture import Architecture, Widths
from models.nasbranet.latency_table import LatencyTable
from models.nasbranet.parts import Key, parts_of_plan, parts_of_student
from models.nasbranet.plan import NetworkPlan, Op
from models.nasbranet.space import OPS, SCALES, Node, SearchSpace


def expected_ms(space: SearchSpace, architecture: Architecture, widths: Widths, table: LatencyTable) -> Tensor:
    """Expected time of the student's three single-branch networks together: T_0 + T_1 + T_2 (ms).

    T_k adds, over the nodes on the way to output k, each feeder's own expected time and that of its mixed operator,
    weighted by beta; and stem, climb, merge and head, which the search does not change.
    """
    like = architecture.alpha
    totals: dict[Node, Tensor] = {Node(0, 0): torch.zeros((), device=like.device, dtype=like.dtype)}
    for node, feeders in space.feeders.items():
        terms = []
        for way, move in zip(architecture.ways_in(node), feeders, strict=True):
            found = [table[_key(space, move.start, node, op, widths)] for op in OPS]
            times = torch.tensor(found, dtype=like.dtype).to(like.device)
            own = widths.scale(move.start, widths.scale(node, (architecture.operators(move.start) * times).sum()))
            terms.append(way * (totals[move.start] + own))
        totals[node] = torch.stack(terms).sum()
    around = sum(table[key] for node in space.outputs for key in parts_of_student(space, node.level))
    return torch.stack([totals[node] for node in space.outputs]).sum() + around


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
    even = Architecture(space, searches_width=architecture.searches_width).to(architecture.alpha)
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
        self.to(operators.alpha)
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
    """Time of a plan's network by the table (ms): cells, shared ones once, stem, climb, merge and head."""
    total = sum(table[key] for key in parts_of_plan(plan, size))
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
