"""What is searched: operators (alpha), where to halve (beta) and widths (gamma), for teacher and student.

All three start at 1e-3, that is uniform. Entries of nodes that do not exist are there and never read.

Source: thesis equations 4-3 to 4-8; Gumbel-softmax: E. Jang et al., ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.nasbranet.space import OPS, SCALES, Node, SearchSpace

START = 1e-3


@dataclass(frozen=True)
class Widths:
    """The width of every node in one pass, and the factor that carries the gradient to gamma."""

    index: Mapping[Node, int]
    factor: Mapping[Node, Tensor]
    """1 in value; only for nodes whose width was drawn."""

    def scale(self, node: Node, value: Tensor) -> Tensor:
        """Multiply by the node's factor, if it has one."""
        return value * self.factor[node] if node in self.factor else value


class Architecture(nn.Module):
    """One architecture's parameters over a space."""

    def __init__(self, space: SearchSpace, *, searches_width: bool) -> None:
        super().__init__()
        self.space, self.searches_width = space, searches_width
        shape = (space.layers, len(SCALES))
        self.alpha = nn.Parameter(torch.full((*shape, len(OPS)), START))
        self.beta = nn.Parameter(torch.full((space.layers + 1, len(SCALES), 2), START))
        self.gamma = nn.Parameter(torch.full((*shape, len(space.expansions)), START), requires_grad=searches_width)

    def operators(self, cell: Node) -> Tensor:
        """Weights of a cell's five operators, their sum 1."""
        return F.softmax(self.alpha[cell.layer, cell.level], dim=0)

    def ways_in(self, node: Node) -> Tensor:
        """Weights of a node's feeders [from above, from the same scale], their sum 1; of a lone feeder, 1."""
        if len(self.space.feeders[node]) == 1:
            return torch.ones(1, device=self.beta.device)
        return F.softmax(self.beta[node.layer, node.level], dim=0)

    def fixed(self, width: int) -> Widths:
        """Give every node one width; the last layer's outputs have the head's."""
        return Widths(self._with_ends(dict.fromkeys(self.space.cells, width)), {})

    def likeliest(self) -> Widths:
        """Give every node its most probable width."""
        chosen = {n: int(self.gamma[n.layer, n.level].argmax()) for n in self.space.cells}
        return Widths(self._with_ends(chosen), {}) if self.searches_width else self.fixed(self.space.widest)

    def random(self, generator: torch.Generator) -> Widths:
        """Draw every node's width evenly."""
        drawn = torch.randint(len(self.space.expansions), (len(self.space.cells),), generator=generator)
        return Widths(self._with_ends(dict(zip(self.space.cells, drawn.tolist(), strict=True))), {})

    def sample(self, generator: torch.Generator, temperature: float = 1.0) -> Widths:
        """Draw every node's width by gamma, once for its feeders and its consumer alike (straight-through Gumbel)."""
        if not self.searches_width:
            return self.fixed(self.space.widest)
        index: dict[Node, int] = {}
        factor: dict[Node, Tensor] = {}
        for node in self.space.cells[1:]:  # the first node has the stem's width
            row = one_hot(self.gamma[node.layer, node.level], generator, temperature)
            index[node] = int(row.detach().argmax())
            factor[node] = row[index[node]]
        return Widths(self._with_ends(index), factor)

    def _with_ends(self, chosen: dict[Node, int]) -> dict[Node, int]:
        head = self.space.expansions.index(self.space.student_head) if self.searches_width else self.space.widest
        return chosen | dict.fromkeys(self.space.outputs, head)


def one_hot(logits: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
    """Draw a one-hot row by its logits; its gradient is that of the soft draw."""
    # On the CPU, where the generator is: its state is kept, and the draws are the same on every device.
    noise = -torch.empty(logits.shape).exponential_(generator=generator).log().to(logits.device)
    soft = F.softmax((F.log_softmax(logits, dim=0) + noise) / temperature, dim=0)
    hard = torch.zeros_like(soft)
    hard[soft.argmax()] = 1.0
    return hard - soft.detach() + soft
