"""Networks for IDH: where the sequences meet.

Source: thesis section 3.3.2 and figure 3-1, of which only the text is at hand. What it leaves open:
- Early fusion is the plain network; with MIX input it is also table 3-2's best and table 3-3's early one.
- Middle fusion joins "before the block structure": the shallow encoder of a sequence is a stem of its own, and
  the joined maps enter stage 1. `join_before` moves the meeting to a later stage.
- Middle B's further path reads the four encoders' stems joined and reduced by a 1x1 convolution to one stem's
  channels, and is joined as a fifth map.
- The map of a sequence that is missing is zero where the maps are joined.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.markers.backbone import STAGES, Backbone, conv_bn_relu
from models.markers.batch import InputMode, SliceBatch, input_channels
from models.markers.network import MarkerNetwork, PooledHead, Setup
from models.markers.prediction import Prediction

PAIR = InputMode.MIX.channels(1)
"""Channels of one sequence with the tumour's outline."""


def stages(backbone: Backbone, first: int, last: int, inputs: int | None = None) -> nn.Sequential:
    """Build stages `first` to `last`, the first for `inputs` channels; none where `last` is before `first`."""
    numbers = range(first, last + 1)
    return nn.Sequential(*(backbone.stage(n, inputs if n == first else None) for n in numbers))


class EarlyFusion(MarkerNetwork):
    """One network on all channels (sections 3.3.1 and 3.3.2)."""

    def __init__(self, setup: Setup, mode: InputMode = InputMode.MIX) -> None:
        super().__init__(setup)
        self.mode = mode
        self.stem = setup.backbone.stem(mode.channels(len(self.sequences)))
        self.stages = stages(setup.backbone, STAGES[0], STAGES[-1])
        self.head = PooledHead(setup.backbone.channels(STAGES[-1]), setup.classes)

    def predict(self, batch: SliceBatch) -> Prediction:
        """Answer a batch."""
        features = self.stages(self.stem(input_channels(batch, self.mode, self.sequences)))  # (B, C, H/32, W/32)
        return Prediction(self.head(features), features, self.head.weight)


class LateFusion(MarkerNetwork):
    """One network a sequence with the tumour's outline; their last maps joined before one fully connected layer."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        backbone = setup.backbone
        self.networks = nn.ModuleList(
            nn.Sequential(backbone.stem(PAIR), stages(backbone, STAGES[0], STAGES[-1])) for _ in self.sequences
        )
        self.head = PooledHead(len(self.sequences) * backbone.channels(STAGES[-1]), setup.classes)

    def predict(self, batch: SliceBatch) -> Prediction:
        """Answer a batch; the features are the networks' maps joined, (B, sequences C, H/32, W/32)."""
        maps = [
            network(input_channels(batch, InputMode.MIX, [name])) * batch.shown(name)
            for name, network in zip(self.sequences, self.networks, strict=True)
        ]
        features = torch.cat(maps, dim=1)
        return Prediction(self.head(features), features, self.head.weight)


class MiddleFusion(MarkerNetwork):
    """A shallow encoder a sequence, their maps joined before a stage; Middle B has a joint path beside them."""

    def __init__(self, setup: Setup, *, joint: bool = False, join_before: int = 1) -> None:
        super().__init__(setup)
        if join_before not in STAGES:
            raise ValueError(f"sequences meet before stage 1, 2, 3 or 4, not {join_before}")
        backbone, count = setup.backbone, len(self.sequences)
        self.stems = nn.ModuleList(backbone.stem(PAIR) for _ in self.sequences)
        self.encoders = nn.ModuleList(stages(backbone, 1, join_before - 1) for _ in self.sequences)
        self.joint = _joint_path(backbone, count, join_before) if joint else None
        joined = (count + int(joint)) * backbone.channels(join_before - 1)
        self.stages = stages(backbone, join_before, STAGES[-1], joined)
        self.head = PooledHead(backbone.channels(STAGES[-1]), setup.classes)

    def predict(self, batch: SliceBatch) -> Prediction:
        """Answer a batch."""
        shown = [batch.shown(name) for name in self.sequences]
        shallow = [
            stem(input_channels(batch, InputMode.MIX, [name])) * there
            for name, stem, there in zip(self.sequences, self.stems, shown, strict=True)
        ]  # (B, stem, H/4, W/4) each
        maps: list[Tensor] = [
            encoder(x) * there for encoder, x, there in zip(self.encoders, shallow, shown, strict=True)
        ]
        if self.joint is not None:
            maps.append(self.joint(torch.cat(shallow, dim=1)))
        features = self.stages(torch.cat(maps, dim=1))  # (B, C, H/32, W/32)
        return Prediction(self.head(features), features, self.head.weight)


def _joint_path(backbone: Backbone, count: int, join_before: int) -> nn.Sequential:
    """Build Middle B's path: the joined stems reduced to one stem's channels, then stages like the others'."""
    stem = backbone.channels(0)
    return nn.Sequential(conv_bn_relu(count * stem, stem), stages(backbone, 1, join_before - 1))
