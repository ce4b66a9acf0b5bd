"""The search space as a lattice: which nodes there are, what leads from one to the next, how wide each may be.

Node (l, j) is the feature map that enters cell l at scale 2 ** (j + 1). Its cell offers to keep the scale, to node
(l + 1, j), or to halve the map, to node (l + 1, j + 1). The last layer only keeps, and ends in an output a scale.

Source: thesis section 4.3.1 and equations 4-1 to 4-8; the lattice is FasterSeg's (ICLR 2020) with scales 2, 4, 8.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.nasbranet.plan import Op

SCALES = (2, 4, 8)
OPS = tuple(Op)
"""Order of the operators in every array of the search."""


class Node(NamedTuple):
    """A feature map of the lattice."""

    layer: int
    level: int
    """Index into SCALES."""


class Move(NamedTuple):
    """One way through a cell: from the node that enters it to the node it feeds."""

    start: Node
    end: Node

    @property
    def stride(self) -> int:
        """2 where the move halves the map."""
        return 1 + self.end.level - self.start.level


class SearchSpace(BaseModel):
    """Size of the lattice; the defaults are the thesis's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    layers: int = Field(default=16, ge=6, description="L: cells from stem to head")
    expansions: tuple[int, ...] = Field(default=(16, 24, 32, 40, 48), description="chi: channels are chi x scale")
    student_stem: int = Field(default=16, gt=0, description="chi of the student's stem; one of the expansions")
    student_head: int = Field(default=32, gt=0, description="chi of the student's last cells; one of the expansions")
    teacher_stem: int = Field(default=48, gt=0, description="chi of the teacher's stem; one of the expansions")
    size: int = Field(default=224, description="side of the images whose time is looked up, in pixels")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if list(self.expansions) != sorted(set(self.expansions)):
            raise ValueError(f"expansions must rise: {self.expansions}")
        ends = {self.student_stem, self.student_head, self.teacher_stem}
        if not ends <= set(self.expansions):  # else a decoded network could ask for shapes that nobody timed
            raise ValueError(f"stems and head {sorted(ends)} must be among the expansions {self.expansions}")
        if self.size % 16:
            raise ValueError(f"image size {self.size} is not divisible by 16")
        return self

    @property
    def widest(self) -> int:
        """Index of the largest expansion."""
        return len(self.expansions) - 1

    @cached_property
    def cells(self) -> tuple[Node, ...]:
        """Nodes that enter a cell, layer by layer."""
        return tuple(Node(layer, level) for layer in range(self.layers) for level in range(min(layer, 2) + 1))

    @cached_property
    def moves(self) -> tuple[Move, ...]:
        """Every way through every cell, in the order data flow."""
        found = []
        for node in self.cells:
            found.append(Move(node, Node(node.layer + 1, node.level)))
            if node.level < len(SCALES) - 1 and node.layer < self.layers - 1:
                found.append(Move(node, Node(node.layer + 1, node.level + 1)))
        return tuple(found)

    @cached_property
    def feeders(self) -> dict[Node, tuple[Move, ...]]:
        """The one or two moves that lead to each node; the one from above comes first."""
        into: dict[Node, list[Move]] = {}
        for move in self.moves:
            into.setdefault(move.end, []).append(move)
        return {node: tuple(sorted(moves, key=lambda m: m.start.level)) for node, moves in into.items()}

    @cached_property
    def outputs(self) -> tuple[Node, ...]:
        """Where the last layer ends, finest scale first."""
        return tuple(Node(self.layers, level) for level in range(len(SCALES)))

    def side(self, node: Node) -> int:
        """Side of a node's map in pixels."""
        return self.size // SCALES[node.level]

    def channels(self, node: Node, width: int) -> int:
        """Channels of a node at a width, given as index into the expansions."""
        return self.expansions[width] * SCALES[node.level]
