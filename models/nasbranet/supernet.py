"""The supernet: every candidate of the lattice at once, with the weights that teacher and student share.

A node's map is the sum of its feeders' mixed operators, mixed where they enter the node, as equation 4-3 has it.
Cells are shared; stem, climb and heads are each architecture's own.

Source: thesis sections 4.3.1, 4.3.2 and 4.3.4; FasterSeg (ICLR 2020), whose heads and climb these are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.nasbranet.architecture import Architecture, Widths
from models.nasbranet.network import Climb
from models.nasbranet.ops import conv_bn_relu
from models.nasbranet.slimmable import build_slim_op
from models.nasbranet.space import OPS, SCALES, Move, Node, SearchSpace

HEADS = ((0,), (1,), (2,), (0, 2), (1, 2))
"""Branches that each head reads; the pairs are the two-branch networks that the search decides between."""


class MixedOperator(nn.Module):
    """The five operators of one move, weighted."""

    def __init__(self, space: SearchSpace, move: Move) -> None:
        super().__init__()
        inputs = space.channels(move.start, space.widest)
        outputs = [space.channels(move.end, width) for width in range(len(space.expansions))]
        self.candidates = nn.ModuleList(build_slim_op(op, inputs, outputs, move.stride) for op in OPS)

    def forward(self, x: Tensor, width: int, weights: Tensor) -> Tensor:
        """Map the cell's input to the weighted sum of its operators at a width of the node that it feeds."""
        terms = (weight * op(x, width) for weight, op in zip(weights, self.candidates, strict=True))
        total: Tensor = sum(terms, start=torch.zeros((), device=x.device))
        return total


class Surroundings(nn.Module):
    """What an architecture has for itself: stem, climb to the finest scale, and five heads."""

    def __init__(self, stem: int, head: int, in_channels: int, classes: int) -> None:
        super().__init__()
        fine, middle, coarse = (head * scale for scale in SCALES)
        self.stem = conv_bn_relu(in_channels, stem * SCALES[0], stride=2)
        self.climb_middle = Climb(middle, fine, fine)
        self.climb_coarse = nn.ModuleList([Climb(coarse, middle, middle), Climb(middle, fine, fine)])
        self.heads = nn.ModuleList(
            nn.Sequential(conv_bn_relu(fine * len(read), fine), nn.Conv2d(fine, classes, 1)) for read in HEADS
        )

    def read(self, ends: list[Tensor]) -> list[Tensor]:
        """Map the three outputs, finest first, to the logits of every head, at half the image's side."""
        fine, middle, coarse = ends
        climbed = [fine, self.climb_middle(middle, fine), self.climb_coarse[0](coarse, middle)]
        climbed[2] = self.climb_coarse[1](climbed[2], fine)
        return [
            head(torch.cat([climbed[i] for i in read], dim=1)) for head, read in zip(self.heads, HEADS, strict=True)
        ]


class Supernet(nn.Module):
    """The lattice with shared weights, and the two architectures searched in it."""

    def __init__(self, space: SearchSpace, in_channels: int = 2, classes: int = 2) -> None:
        super().__init__()
        self.space = space
        self.teacher = Architecture(space, searches_width=False)
        self.student = Architecture(space, searches_width=True)
        self.cells = nn.ModuleDict({_name(move): MixedOperator(space, move) for move in space.moves})
        self.around_teacher = Surroundings(space.teacher_stem, space.expansions[-1], in_channels, classes)
        self.around_student = Surroundings(space.student_stem, space.student_head, in_channels, classes)

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Return alpha, beta and gamma of both; the teacher's width is not searched."""
        found = [*self.teacher.parameters(), *self.student.parameters()]
        return [p for p in found if p.requires_grad]

    def weights(self) -> list[nn.Parameter]:
        """Return everything else that is learnt."""
        searched = {id(p) for p in [*self.teacher.parameters(), *self.student.parameters()]}
        return [p for p in self.parameters() if id(p) not in searched]

    def forward(self, image: Tensor, architecture: Architecture, widths: Widths) -> list[Tensor]:
        """Map (B, C, H, W), sides divisible by 16, to five logits (B, classes, H / 2, W / 2), as HEADS lists them."""
        around = self.around_teacher if architecture is self.teacher else self.around_student
        maps: dict[Node, Tensor] = {Node(0, 0): around.stem(image)}
        for node, feeders in self.space.feeders.items():
            parts = [
                way * self.cells[_name(move)](maps[move.start], widths.index[node], architecture.operators(move.start))
                for way, move in zip(architecture.ways_in(node), feeders, strict=True)
            ]
            maps[node] = widths.scale(node, torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0])
        return around.read([maps[node] for node in self.space.outputs])


def _name(move: Move) -> str:
    """A module's name may hold no dot."""
    return f"{move.start.layer}_{move.start.level}_{move.end.level}"
