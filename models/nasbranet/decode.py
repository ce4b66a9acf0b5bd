"""Read a network off a searched architecture: operators, halvings, widths, what the branches share.

Halvings are placed by beta alone. The most probable whole path would not do: a node at the finest scale has one
feeder, so late halvings would win whatever was learnt.

Source: thesis section 4.3.6; FasterSeg (ICLR 2020), whose placing of the halvings (allowed cells, distance, number
of cells kept) this is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch

from models.nasbranet.architecture import Architecture
from models.nasbranet.plan import CellPlan, NetworkPlan, Op
from models.nasbranet.space import OPS, SCALES, Node, SearchSpace

DISTANCE = 3
"""Halvings lie at least this many cells apart."""


@dataclass(frozen=True)
class Step:
    """One cell of a decoded path, before skips are dropped."""

    node: Node
    """The node that enters the cell."""
    end: Node
    op: Op
    second: Op
    """What the cell is if it must work and `op` is a skip."""
    skip_weight: float
    expansion: int

    @property
    def halves(self) -> bool:
        """Whether the map is half as large behind the cell."""
        return self.end.level > self.node.level


def decode(architecture: Architecture, ends: Sequence[int], name: str, source: str) -> NetworkPlan:
    """Make a plan of branches that end at these levels (indices into SCALES), for example (2, 0) or (2, 1)."""
    paths = [_steps(architecture, path_to(architecture, end), allow_skip=architecture.searches_width) for end in ends]
    shared = _shared(paths)
    kept = _without_skips(architecture.space, paths, shared)
    common = {step.node for step in paths[0][:shared]}  # by node: a skip that had to stay is another step by now
    space = architecture.space
    searched = architecture.searches_width
    return NetworkPlan(
        name=name, source=source, in_channels=2, classes=2,
        stem_expansion=space.student_stem if searched else space.teacher_stem,
        head_expansion=space.student_head if searched else space.expansions[-1],
        shared=sum(step.node in common for step in kept[0]),
        branches=tuple(
            tuple(CellPlan(op=s.op, scale=SCALES[s.end.level], expansion=s.expansion) for s in path) for path in kept
        ),
    )  # fmt: skip


def path_to(architecture: Architecture, end: int) -> list[Node]:
    """List the nodes that enter the cells of the branch that ends at a level; the last cell's output follows."""
    layers = architecture.space.layers
    halvings = _halvings(architecture, end)
    level, nodes = 0, []
    for layer in range(layers):
        nodes.append(Node(layer, level))
        level += layer in halvings
    return [*nodes, Node(layers, level)]


def _halvings(architecture: Architecture, count: int) -> tuple[int, ...]:
    """Choose the cells that halve: the largest product of beta for halving into the nodes that they feed."""
    layers = architecture.space.layers
    # As in the original: not at the very beginning, and with two cells left behind the last halving.
    allowed = range(min(2, layers - 3), layers - 2)
    distance = min(DISTANCE, max(1, len(allowed) - 1))
    candidates = [
        places for places in combinations(allowed, count) if all(b - a >= distance for a, b in pairwise(places))
    ]

    def weight(places: tuple[int, ...]) -> float:
        product = 1.0
        for level, layer in enumerate(places):
            product *= float(architecture.ways_in(Node(layer + 1, level + 1))[0])
        return product

    with torch.no_grad():
        return max(candidates, key=weight)


def _steps(architecture: Architecture, nodes: Sequence[Node], *, allow_skip: bool) -> list[Step]:
    """Read operator and width of every cell on a path."""
    space, widths = architecture.space, architecture.likeliest()
    steps = []
    for node, end in pairwise(nodes):
        weights = architecture.operators(node).detach()
        ranked = [OPS[i] for i in weights.argsort(descending=True).tolist()]
        working = [op for op in ranked if op is not Op.SKIP]
        op = ranked[0] if allow_skip else working[0]
        skip = float(weights[OPS.index(Op.SKIP)])
        steps.append(Step(node, end, op, working[0], skip, space.expansions[widths.index[end]]))
    return steps


def _shared(paths: Sequence[Sequence[Step]]) -> int:
    """Count the leading cells at which all paths sit at one node and make one move; never the last cell."""
    count = 0
    for steps in zip(*(path[:-1] for path in paths), strict=True):
        if any(step != steps[0] for step in steps):
            break
        count += 1
    return count if len(paths) > 1 else 0


def _without_skips(space: SearchSpace, paths: Sequence[Sequence[Step]], shared: int) -> list[list[Step]]:
    """Drop the cells that do nothing, most skip-like first, as far as each branch can spare them."""
    kept = [list(path) for path in paths]
    for step in sorted(paths[0][:shared], key=lambda s: -s.skip_weight):
        if _can_go(step) and all(_can_spare(space, path, step) for path in kept):
            for path in kept:
                path.remove(step)
    for path in kept:
        for step in sorted((s for s in path if s not in paths[0][:shared]), key=lambda s: -s.skip_weight):
            if _can_go(step) and _can_spare(space, path, step):
                path.remove(step)
    return [[_at_work(step) for step in path] for path in kept]


def _can_go(step: Step) -> bool:
    return step.op is Op.SKIP and not step.halves


def _can_spare(space: SearchSpace, path: Sequence[Step], step: Step) -> bool:
    """Whether enough cells stay in all, and one that works behind every halving."""
    rest = [s for s in path if s != step]
    if len(rest) < round(space.layers / 3) + 2 * path[-1].end.level or step == path[-1]:
        return False
    behind: list[int] = [0]
    for s in rest:
        if s.halves:
            behind.append(0)
        else:
            behind[-1] += 1
    return all(cells >= 1 for cells in behind[1:])


def _at_work(step: Step) -> Step:
    """Give a skip that had to stay its next best operator."""
    if not _can_go(step):
        return step
    return Step(step.node, step.end, step.second, step.second, step.skip_weight, step.expansion)
