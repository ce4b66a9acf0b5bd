"""ResNeSt: bottlenecks whose middle layer is split attention.

Source: H. Zhang et al., "ResNeSt: Split-Attention Networks", arXiv:2004.08955, equations as numbered in its
section 3. Sizes that the paper leaves open are those of its released ResNeSt-50 "2s1x64d": radix 2, one
cardinal group, three 3x3 convolutions as stem, attention of a quarter of the splits' channels but at least 32.
The bias before the attention's normalisation is left out: the normalisation removes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.markers.backbone import Backbone, conv_bn, conv_bn_relu

REDUCTION = 4
NARROWEST_ATTENTION = 32


def radix_softmax(logits: Tensor, radix: int, cardinality: int) -> Tensor:
    """Weigh the splits against one another, channel by channel (equation 3).

    Maps (B, radix C), cardinal group after cardinal group, to (B, radix, C), which sums to one over the splits;
    with a single split each channel is a gate of its own, by the sigmoid.
    """
    grouped: Tensor = logits.unflatten(1, (cardinality, radix, -1)).transpose(1, 2)  # (B, radix, K, C / K)
    weights = torch.softmax(grouped, dim=1) if radix > 1 else torch.sigmoid(grouped)
    return weights.flatten(2)


class SplitAttention(nn.Module):
    """A grouped 3x3 convolution to `radix` splits, and their sum weighted by attention.

    Needs more than one slice while training: the attention's normalisation sees one value a channel and slice.
    """

    def __init__(self, inputs: int, outputs: int, radix: int = 2, cardinality: int = 1) -> None:
        super().__init__()
        self.radix, self.cardinality = radix, cardinality
        hidden = max(outputs * radix // REDUCTION, NARROWEST_ATTENTION)
        # Radix-major, as in the paper's appendix: split after split, and in each all cardinal groups.
        self.splits = conv_bn(inputs, outputs * radix, 3, groups=radix * cardinality)
        self.squeeze = conv_bn(outputs, hidden, groups=cardinality)
        self.excite = nn.Conv2d(hidden, outputs * radix, 1, groups=cardinality)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        splits = F.relu(self.splits(x)).unflatten(1, (self.radix, -1))  # (B, radix, C_out, H, W)
        means = splits.sum(dim=1).mean(dim=(2, 3), keepdim=True)  # (B, C_out, 1, 1), equation 1
        logits = self.excite(F.relu(self.squeeze(means))).flatten(1)  # (B, radix C_out)
        weights = radix_softmax(logits, self.radix, self.cardinality)
        mixed: Tensor = (weights[..., None, None] * splits).sum(dim=1)  # equation 2
        return mixed

    def extra_repr(self) -> str:
        """Show radix and cardinality in the network's printed form."""
        return f"radix={self.radix}, cardinality={self.cardinality}"


@dataclass(frozen=True)
class ResNeSt(Backbone):
    """Builds ResNeSt's parts."""

    radix: int = 2
    cardinality: int = 1

    def stem(self, inputs: int) -> nn.Module:
        """Build three 3x3 convolutions in place of the 7x7 one, and the pooling (section 3.2)."""
        half = self.design.stem // 2
        return nn.Sequential(
            conv_bn_relu(inputs, half, 3, 2), conv_bn_relu(half, half, 3), conv_bn_relu(half, self.design.stem, 3),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip

    def middle(self, inner: int, stride: int) -> nn.Module:
        """Build split attention; halving is a 3x3 average after it, which loses no place (section 3.2)."""
        attention = SplitAttention(inner, inner, self.radix, self.cardinality)
        return nn.Sequential(attention, nn.AvgPool2d(3, stride, 1)) if stride > 1 else attention

    def shortcut(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        """Build a 2x2 average where the map halves, then a 1x1 convolution (section 3.2)."""
        project = conv_bn(inputs, outputs)
        if stride == 1:
            return project
        # Odd sizes round up, as the 3x3 average does; the padding is not averaged in.
        return nn.Sequential(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False), project)
