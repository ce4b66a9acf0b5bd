"""KiNet: two side branches, a main branch that reads their shallow maps, classifiers at every scale, metadata.

Source: thesis sections 5.2, 5.3 and 5.4.4, figure 5-2 (of which only the text is at hand). What it leaves open:
- How maps of equal width come to 1:2:1 and 1:4:1: a 1x1 convolution narrows each side's map to a half, then a
  quarter, of the main branch's, so that the main branch stays the backbone's size.
- What "classification results" are joined with the metadata: the four stages' logits, two numbers added.
- Section 5.3.2 prints the weights .35, .25, .40 for T1C, FLAIR, main; section 5.4.4 prints .35, .40, .25 for
  T1C, main, FLAIR: the same. (5-1) misprints cross-entropy's second term; the usual one is meant.
- A side whose sequence is missing hands zeros to the main branch and adds nothing to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.markers.backbone import STAGES, Backbone, conv_bn_relu
from models.markers.batch import InputMode, SliceBatch, input_channels
from models.markers.centralnet import SIDES, SideNetworks, check_sides, side_terms
from models.markers.fusion import PAIR
from models.markers.network import MarkerNetwork, PooledHead, Setup
from models.markers.prediction import Auxiliary, Prediction

SIDE_WEIGHTS = (0.35, 0.25)
"""alpha 1 and 2 of equation 5-3: T1C's and FLAIR's."""
MAIN_WEIGHT = 0.40
"""alpha 3 of equation 5-3."""
STAGE_WEIGHTS = (0.025, 0.025, 0.2, 0.35)
"""beta 1 to 4 of equation 5-2."""
JOINED_WEIGHT = 0.4
"""beta 5 of equation 5-2."""
RATIOS = (2, 4)
"""How many times a side's channels the main branch has in the inputs of stages 1 and 2 (section 5.4.4)."""
METADATA = 2
"""Sex and age."""


@dataclass(frozen=True)
class Parts:
    """What the ablation of table 5-3 switches off."""

    multi_scale: bool = True
    """The losses of the stages' own classifiers; the classifiers stay."""
    merge: bool = True
    """The main branch's own images, Merge-IN; without them stage 1 reads the two sides alone."""
    metadata: bool = True
    """Sex and age beside the stages' logits."""


class Join(nn.Module):
    """Side : main : side by channels, as 1 : `ratio` : 1 with a main map as wide as the sides'."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(conv_bn_relu(channels, channels // ratio) for _ in SIDES)

    def forward(self, main: Tensor | None, sides: Sequence[Tensor]) -> Tensor:
        """Join maps (B, C, h, w) to (B, C + 2 C / ratio, h, w); the sides' share alone without a main map."""
        first, second = (narrow(side) for narrow, side in zip(self.narrow, sides, strict=True))
        return torch.cat([first, second] if main is None else [first, main, second], dim=1)


class MainBranch(nn.Module):
    """The main branch: joins with the sides before stages 1 and 2, a classifier after every stage."""

    def __init__(self, backbone: Backbone, classes: int, *, merge: bool) -> None:
        super().__init__()
        self.stem = backbone.stem(PAIR * len(SIDES)) if merge else None
        self.joins = nn.ModuleList(Join(backbone.channels(n), ratio) for n, ratio in enumerate(RATIOS))
        self.stages = nn.ModuleList(backbone.stage(n, stage_input(backbone, n, merge=merge)) for n in STAGES)
        self.heads = nn.ModuleList(PooledHead(backbone.channels(n), classes) for n in STAGES)

    def forward(self, merged: Tensor, sides: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
        """Map Merge-IN (B, 4, H, W) and the sides' maps to (each stage's logits, the last map)."""
        x = self.joins[0](None if self.stem is None else self.stem(merged), [maps[0] for maps in sides])
        logits: list[Tensor] = []
        for number, stage, head in zip(STAGES, self.stages, self.heads, strict=True):
            x = stage(x)
            logits.append(head(x))
            if number < len(RATIOS):
                x = self.joins[number](x, [maps[number] for maps in sides])
        return logits, x


class KiNet(MarkerNetwork):
    """The thesis's network for Ki-67, from T1C, FLAIR and metadata."""

    def __init__(self, setup: Setup, parts: Parts | None = None) -> None:
        check_sides(setup, "KiNet")
        super().__init__(setup, SIDES)
        self.parts = parts or Parts()
        self.sides = SideNetworks(setup.backbone, setup.classes)
        self.main = MainBranch(setup.backbone, setup.classes, merge=self.parts.merge)
        joined = len(STAGES) * setup.classes + METADATA * int(self.parts.metadata)
        self.joined = nn.Linear(joined, setup.classes)

    def predict(self, batch: SliceBatch) -> Prediction:
        """Answer a batch; the features are the main branch's last map."""
        sides, side_logits = self.sides(batch)
        scales, features = self.main(input_channels(batch, InputMode.MIX, self.sequences), sides)
        metadata = [batch.metadata] if self.parts.metadata else []
        logits = self.joined(torch.cat([*scales, *metadata], dim=1))
        terms = (*side_terms(side_logits, SIDE_WEIGHTS, batch), *self._scale_terms(scales))  # equation 5-3
        return Prediction(logits, features, self.head_weight(), MAIN_WEIGHT * JOINED_WEIGHT, terms)

    def head_weight(self) -> Tensor:
        """Return how the decision changes with stage 4's pooled map, through that stage's logits: (classes, C)."""
        last = (len(STAGES) - 1) * self.classes
        return self.joined.weight[:, last : last + self.classes] @ self.main.heads[-1].get_parameter("weight")

    def _scale_terms(self, scales: list[Tensor]) -> tuple[Auxiliary, ...]:
        """Return the stages' part of equation 5-2."""
        if not self.parts.multi_scale:
            return ()
        numbered = zip(STAGES, STAGE_WEIGHTS, scales, strict=True)
        return tuple(Auxiliary(f"s{number}", MAIN_WEIGHT * weight, logits) for number, weight, logits in numbered)


def stage_input(backbone: Backbone, number: int, *, merge: bool = True) -> int:
    """Return the channels that enter a stage of the main branch."""
    before = backbone.channels(number - 1)
    sides = len(SIDES) * (before // RATIOS[number - 1]) if number <= len(RATIOS) else 0
    return sides + (before if merge or number > 1 else 0)
