"""Four-stage networks as parts: a stem, then stages of bottlenecks, each to be built by itself for any input.

Fusion networks join maps between stages, so that a stage's input is wider than the stage before it gives;
library networks come whole, which is why these are our own.

Source: K. He et al., "Deep Residual Learning", CVPR 2016, figure 5 and table 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4
"""A bottleneck's output is this many times its inner width."""
STAGES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Design:
    """The sizes of a four-stage network."""

    stem: int
    """Channels of the stem's output."""
    inner: tuple[int, int, int, int]
    """Inner width of each stage's bottlenecks."""
    blocks: tuple[int, int, int, int]
    """Bottlenecks of each stage."""


DEPTH_50 = Design(stem=64, inner=(64, 128, 256, 512), blocks=(3, 4, 6, 3))
"""ResNet-50's and ResNeSt-50's (He et al., table 1)."""
LIGHT = Design(stem=32, inner=(16, 32, 64, 96), blocks=(1, 1, 1, 1))
"""Ours: the same parts, few and narrow, to be trained on a CPU with under a hundred patients."""


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Build a padded convolution and its batch normalisation; He's initialisation, as in ResNet."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Build a padded convolution, its batch normalisation and a ReLU."""
    return nn.Sequential(conv_bn(inputs, outputs, kernel, stride), nn.ReLU(inplace=True))


class Bottleneck(nn.Module):
    """1x1 to the inner width, a middle layer that may halve the map, 1x1 to four times as wide; plus a shortcut."""

    def __init__(self, inputs: int, inner: int, middle: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.enter = conv_bn_relu(inputs, inner)
        self.middle = middle
        self.leave = conv_bn(inner, EXPANSION * inner)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 inner, H / stride, W / stride)."""
        return F.relu(self.leave(self.middle(self.enter(x))) + self.shortcut(x))


@dataclass(frozen=True)
class Backbone(ABC):
    """Builds the parts of one kind of network in one size."""

    design: Design

    @abstractmethod
    def stem(self, inputs: int) -> nn.Module:
        """Build what maps (B, inputs, H, W) to (B, `channels(0)`, H/4, W/4)."""

    @abstractmethod
    def middle(self, inner: int, stride: int) -> nn.Module:
        """Build a bottleneck's middle layer, ReLU included."""

    @abstractmethod
    def shortcut(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        """Build the shortcut of a bottleneck that changes its input's shape."""

    def channels(self, stage: int) -> int:
        """Return the channels that a stage gives, 1 to 4; stage 0 is the stem."""
        return EXPANSION * self.design.inner[stage - 1] if stage else self.design.stem

    def stage(self, number: int, inputs: int | None = None) -> nn.Sequential:
        """Build stage 1 to 4, for the stage before it or for `inputs` channels; all but stage 1 halve the map."""
        inner, outputs = self.design.inner[number - 1], self.channels(number)
        before = self.channels(number - 1) if inputs is None else inputs
        blocks: list[nn.Module] = []
        for index in range(self.design.blocks[number - 1]):
            stride = 2 if index == 0 and number > 1 else 1
            changes = stride > 1 or before != outputs
            shortcut = self.shortcut(before, outputs, stride) if changes else nn.Identity()
            blocks.append(Bottleneck(before, inner, self.middle(inner, stride), shortcut))
            before = outputs
        return nn.Sequential(*blocks)
