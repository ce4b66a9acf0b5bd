"""Operators whose number of channels is chosen at every call: one weight, its first channels used.

Each output width has a batch normalisation of its own, because statistics differ between widths.

Source: J. Yu et al., "Slimmable neural networks", ICLR 2019; thesis section 4.3.2; FasterSeg (ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.nasbranet.ops import resize
from models.nasbranet.plan import Op


class SlimConvolution(nn.Module):
    """Convolution, batch normalisation and ReLU, at any of some widths."""

    def __init__(self, inputs: int, outputs: Sequence[int], kernel: int = 3, stride: int = 1) -> None:
        """`inputs`: most channels that come in; `outputs`: the numbers that may go out, rising."""
        super().__init__()
        self.widths, self.stride, self.padding = tuple(outputs), stride, kernel // 2
        self.weight = nn.Parameter(torch.empty(outputs[-1], inputs, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in outputs)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Map (B, C, H, W) with C at most `inputs` to (B, widths[width], H / stride, W / stride)."""
        weight = self.weight[: self.widths[width], : x.shape[1]]
        out: Tensor = self.norms[width](F.conv2d(x, weight, None, self.stride, self.padding))
        return F.relu(out)


class SlimConvolutions(nn.Module):
    """One or two 3x3 convolutions, the first with the cell's stride."""

    def __init__(self, inputs: int, outputs: Sequence[int], stride: int, repeats: int) -> None:
        super().__init__()
        first = SlimConvolution(inputs, outputs, stride=stride)
        rest = (SlimConvolution(outputs[-1], outputs) for _ in range(repeats - 1))
        self.body = nn.ModuleList([first, *rest])

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Map (B, C, H, W) to the chosen width, at the cell's stride."""
        for convolution in self.body:
            x = convolution(x, width)
        return x


class SlimZoom(nn.Module):
    """Zoomed convolution: halve, convolve, and return to the input's exact size unless the cell halves."""

    def __init__(self, inputs: int, outputs: Sequence[int], stride: int, repeats: int) -> None:
        super().__init__()
        self.stride = stride
        self.body = SlimConvolutions(inputs, outputs, 1, repeats)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Map (B, C, H, W) to the chosen width, at the cell's stride."""
        rows, columns = x.shape[-2:]
        half: Tensor = self.body(resize(x, ((rows + 1) // 2, (columns + 1) // 2)), width)
        return half if self.stride == 2 else resize(half, (rows, columns))


class SlimReduce(nn.Module):
    """A skip that halves: two strided 1x1 convolutions, one shifted by a pixel, joined."""

    def __init__(self, inputs: int, outputs: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(outputs)
        largest = outputs[-1]
        self.even = nn.Parameter(torch.empty(largest // 2, inputs, 1, 1))
        self.odd = nn.Parameter(torch.empty(largest - largest // 2, inputs, 1, 1))
        for weight in (self.even, self.odd):
            nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in outputs)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Map (B, C, H, W), H and W even, to (B, widths[width], H / 2, W / 2)."""
        wanted, entering = self.widths[width], x.shape[1]
        even = F.conv2d(x, self.even[: wanted // 2, :entering], None, 2)
        odd = F.conv2d(x[..., 1:, 1:], self.odd[: wanted - wanted // 2, :entering], None, 2)
        return F.relu(self.norms[width](torch.cat([even, odd], dim=1)))


def build_slim_op(op: Op, inputs: int, outputs: Sequence[int], stride: int) -> nn.Module:
    """Build one operator of the supernet; its skip is a 1x1 convolution, as widths may differ."""
    match op:
        case Op.SKIP if stride == 2:
            return SlimReduce(inputs, outputs)
        case Op.SKIP:
            return SlimConvolution(inputs, outputs, kernel=1)
        case Op.CONV | Op.CONV_X2:
            return SlimConvolutions(inputs, outputs, stride, 2 if op is Op.CONV_X2 else 1)
        case Op.ZOOM | Op.ZOOM_X2:
            return SlimZoom(inputs, outputs, stride, 2 if op is Op.ZOOM_X2 else 1)
