"""CentralNet: a central network fed, layer by layer, with weighted sums of its own and the side networks' maps.

Sources: thesis section 2.5, equations 2-3 and 2-4, and section 5.4.4; V. Vielzeuf et al., "CentralNet: a
Multilayer Approach for Multimodal Fusion", ECCV Workshops 2018, arXiv:1808.07275. What the thesis leaves open:
- It weighs the central network's own map at the first stage too (figure 5-5), so the central network has a
  stem of its own, on the channels of all sides.
- There are five sums: the inputs of the four stages, and the classifier's.
- The side losses' weights (beta in equation 2-4) are not given: 1.
- Weights begin "uniform": equal, and together 1. A missing sequence's map is left out of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.markers.backbone import STAGES, Backbone
from models.markers.batch import InputMode, SliceBatch, input_channels
from models.markers.fusion import PAIR
from models.markers.network import MarkerNetwork, PooledHead, Setup
from models.markers.prediction import Auxiliary, Prediction

SIDES = ("T1C", "FLAIR")
"""The sequences that have a network of their own (thesis section 5.2)."""


class StagedNetwork(nn.Module):
    """A stem, four stages and a classifier, to be called as a whole or one by one."""

    def __init__(self, backbone: Backbone, inputs: int, classes: int) -> None:
        super().__init__()
        self.stem = backbone.stem(inputs)
        self.stages = nn.ModuleList(backbone.stage(number) for number in STAGES)
        self.head = PooledHead(backbone.channels(STAGES[-1]), classes)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Map (B, inputs, H, W) to (the maps of the stem and the four stages, logits (B, classes))."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps, self.head(maps[-1])


class SideNetworks(nn.Module):
    """A network for each of `SIDES`, on the sequence and the tumour's outline."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(StagedNetwork(backbone, PAIR, classes) for _ in SIDES)

    def forward(self, batch: SliceBatch) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Map a batch to (five maps a side, zero where it is missing; each side's logits (B, classes))."""
        maps, logits = [], []
        for name, network in zip(SIDES, self.networks, strict=True):
            of_side, answer = network(input_channels(batch, InputMode.MIX, [name]))
            maps.append([x * batch.shown(name) for x in of_side])
            logits.append(answer)
        return maps, logits


def side_terms(logits: Sequence[Tensor], weights: Sequence[float], batch: SliceBatch) -> tuple[Auxiliary, ...]:
    """Return the sides' terms of the loss, each over the slices that have its sequence."""
    named = zip(SIDES, weights, logits, strict=True)
    return tuple(Auxiliary(name, weight, side, batch.shown(name).flatten() > 0) for name, weight, side in named)


class WeightedSum(nn.Module):
    """A learned weighted sum of maps of one shape (thesis equation 2-3); the first is the central network's."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((count,), 1 / count))

    def forward(self, central: Tensor, sides: Sequence[Tensor]) -> Tensor:
        """Map maps (B, C, h, w) to their sum."""
        total = self.weights[0] * central
        for weight, side in zip(self.weights[1:], sides, strict=True):
            total = total + weight * side
        return total


def check_sides(setup: Setup, name: str) -> None:
    """Refuse to build a network whose side sequences its setup leaves out."""
    if not set(SIDES) <= set(setup.sequences):
        raise ValueError(f"{name} reads {' and '.join(SIDES)}, but only {', '.join(setup.sequences)} may be read")


class CentralNet(MarkerNetwork):
    """T1C and FLAIR, each in a network of its own, and the central one between them."""

    def __init__(self, setup: Setup, side_weight: float = 1.0) -> None:
        check_sides(setup, "CentralNet")
        super().__init__(setup, SIDES)
        self.side_weights = [side_weight] * len(SIDES)
        self.sides = SideNetworks(setup.backbone, setup.classes)
        self.central = StagedNetwork(setup.backbone, PAIR * len(SIDES), setup.classes)
        self.sums = nn.ModuleList(WeightedSum(1 + len(SIDES)) for _ in (0, *STAGES))

    def predict(self, batch: SliceBatch) -> Prediction:
        """Answer a batch; the features are the last sum."""
        sides, logits = self.sides(batch)
        x = self.sums[0](self.central.stem(input_channels(batch, InputMode.MIX, self.sequences)), _level(sides, 0))
        for level, stage in zip(STAGES, self.central.stages, strict=True):
            x = self.sums[level](stage(x), _level(sides, level))
        terms = side_terms(logits, self.side_weights, batch)  # equation 2-4
        return Prediction(self.central.head(x), x, self.central.head.weight, auxiliary=terms)


def _level(sides: list[list[Tensor]], level: int) -> list[Tensor]:
    return [maps[level] for maps in sides]
