"""The operators a cell is made of; each convolution is followed by batch normalisation and ReLU.

Zoomed convolution works at half size: twice the reach for less time, at the price of fine edges.

Source: thesis section 4.3.2 and table 4-1; W. Chen et al., "FasterSeg", ICLR 2020, arXiv:1912.10917.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.nasbranet.plan import Op


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a map bilinearly to an exact size, so that odd sizes survive a way down and up."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Build a padded convolution without bias, its batch normalisation and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Convolutions(nn.Module):
    """One or two 3x3 convolutions, the first with the cell's stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, repeats: int) -> None:
        super().__init__()
        first = conv_bn_relu(inputs, outputs, stride=stride)
        self.body = nn.Sequential(first, *(conv_bn_relu(outputs, outputs) for _ in range(repeats - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        result: Tensor = self.body(x)
        return result


class Zoom(nn.Module):
    """Zoomed convolution: halve, convolve, and return to the input's size unless the cell halves."""

    def __init__(self, inputs: int, outputs: int, stride: int, repeats: int) -> None:
        super().__init__()
        self.stride = stride
        self.body = Convolutions(inputs, outputs, 1, repeats)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        height, width = x.shape[-2:]
        half: Tensor = self.body(resize(x, ((height + 1) // 2, (width + 1) // 2)))
        return half if self.stride == 2 else resize(half, (height, width))


class FactorizedReduce(nn.Module):
    """A skip that halves: two strided 1x1 convolutions, one shifted by a pixel, joined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W), H and W even, to (B, C_out, H / 2, W / 2)."""
        return F.relu(self.norm(torch.cat([self.even(x), self.odd(x[..., 1:, 1:])], dim=1)))


def build_op(op: Op, inputs: int, outputs: int, stride: int) -> nn.Module:
    """Build one operator; a skip that keeps its size is the identity where the widths agree."""
    match op:
        case Op.SKIP if stride == 2:
            return FactorizedReduce(inputs, outputs)
        case Op.SKIP:
            return nn.Identity() if inputs == outputs else conv_bn_relu(inputs, outputs, kernel=1)
        case Op.CONV | Op.CONV_X2:
            return Convolutions(inputs, outputs, stride, 2 if op is Op.CONV_X2 else 1)
        case Op.ZOOM | Op.ZOOM_X2:
            return Zoom(inputs, outputs, stride, 2 if op is Op.ZOOM_X2 else 1)
