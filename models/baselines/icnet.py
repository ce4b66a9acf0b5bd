"""ICNet: one image at three sizes, the deep network on the smallest, cascade feature fusion on the way back.

Source: H. Zhao et al., "ICNet for Real-Time Semantic Segmentation on High-Resolution Images", ECCV 2018,
arXiv:1704.08545; the network itself as in the authors' released evaluation model (hszhao/ICNet,
icnet_cityscapes.prototxt), that is after their compression to half the kernels, which is the ICNet whose speed
they report. Widths, strides, dilations and the *summed* (not concatenated) pyramid pooling are from there. The
network before compression (a whole PSPNet50 on the smallest image) is `ICNet(kept=1.0)`.

How it departs from that file:
- batch normalisation stands after each convolution (there it is merged into the weights);
- pyramid pooling tiles the map by `n // bins` for any size (there the sizes are written for 33 x 65);
- no weights are given: training begins at random, where the authors begin from ImageNet;
- the auxiliary losses have the trainer's common weight (0.2 each), where the authors take 0.4 and 0.16.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.training.network import SegmentationNetwork

PYRAMID = (1, 2, 3, 6)
"""Bins a side of the pooled maps (PSPNet, CVPR 2017)."""
FUSED = 128
"""Channels of a cascade feature fusion's output."""


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Build a padded convolution and its batch normalisation."""
    padding = kernel // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(outputs)
    )


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample bilinearly; corners are aligned, as in the authors' interpolation layer."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class Bottleneck(nn.Module):
    """ResNet's bottleneck: 1x1 (with the stride, as in PSPNet's Caffe model), dilated 3x3, 1x1, shortcut."""

    def __init__(self, inputs: int, inner: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        outputs = 4 * inner
        self.body = nn.Sequential(
            conv_bn(inputs, inner, 1, stride), nn.ReLU(inplace=True),
            conv_bn(inner, inner, 3, 1, dilation), nn.ReLU(inplace=True),
            conv_bn(inner, outputs, 1),
        )  # fmt: skip
        self.shortcut = nn.Identity() if inputs == outputs and stride == 1 else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 inner, H / stride, W / stride)."""
        return F.relu(self.body(x) + self.shortcut(x))


class PyramidPooling(nn.Module):
    """Add to each place the means of its surroundings at four sizes."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        size = (x.shape[-2], x.shape[-1])
        total = x
        for bins in PYRAMID:
            # Tiles of a fixed size, not adaptive ones, so that engines find plain pooling; a small map has fewer.
            tiles = [min(bins, side) for side in size]
            stride = [side // n for side, n in zip(size, tiles, strict=True)]
            kernel = [side - (n - 1) * step for side, n, step in zip(size, tiles, stride, strict=True)]
            total = total + resize(F.avg_pool2d(x, kernel, stride), size)
        return total


class CascadeFusion(nn.Module):
    """Cascade feature fusion: the coarse map at twice the size, convolved with holes, plus the fine one.

    Source: ICNet, section 3.3 and figure 3; the classifier on the coarse map only guides training.
    """

    def __init__(self, coarse: int, fine: int, classes: int) -> None:
        super().__init__()
        self.dilated = conv_bn(coarse, FUSED, 3, dilation=2)
        self.project = conv_bn(fine, FUSED, 1)
        self.guide = nn.Conv2d(coarse, classes, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C1, H/2, W/2) and (B, C2, H, W) to (fused (B, 128, H, W), guiding logits (B, classes, H, W))."""
        coarse = resize(coarse, (fine.shape[-2], fine.shape[-1]))
        return F.relu(self.dilated(coarse) + self.project(fine)), self.guide(coarse)


class ICNet(SegmentationNetwork):
    """The image cascade network: 6.7 M parameters with half the deep branch's kernels, 26 M with all of them."""

    def __init__(self, in_channels: int = 2, classes: int = 2, kept: float = 0.5) -> None:
        super().__init__()
        a, b, c, d = (round(kept * width) for width in (64, 128, 256, 512))  # ResNet-50's inner widths
        # The branches of 1/2 and 1/4 size share their beginning, which therefore runs once (section 3.2).
        self.beginning = nn.Sequential(
            *_stem(in_channels, a), nn.MaxPool2d(3, 2, 1), *_stage(2 * a, a, blocks=3), Bottleneck(4 * a, b, stride=2)
        )
        self.deep = nn.Sequential(
            *_stage(4 * b, b, blocks=3),
            *_stage(4 * b, c, blocks=6, dilation=2),
            *_stage(4 * c, d, blocks=3, dilation=4),
            PyramidPooling(), conv_bn(4 * d, d, 1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.shallow = nn.Sequential(
            conv_bn(in_channels, 32, 3, 2), nn.ReLU(inplace=True),
            conv_bn(32, 32, 3, 2), nn.ReLU(inplace=True),
            conv_bn(32, 64, 3, 2), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.fuse_quarter = CascadeFusion(d, 4 * b, classes)
        self.fuse_half = CascadeFusion(FUSED, 64, classes)
        self.head = nn.Conv2d(FUSED, classes, 1)

    def forward_all(self, image: Tensor) -> list[Tensor]:
        """Map (B, C, H, W) to logits (B, classes, H, W) and the guiding logits at 1/8 and 1/16 size."""
        half = self.beginning(resize(image, _half(image)))  # (B, 4b, H/16, W/16)
        quarter = self.deep(resize(half, _half(half)))  # (B, d, H/32, W/32)
        x, guide_coarse = self.fuse_quarter(quarter, half)  # (B, 128, H/16, W/16)
        x, guide_fine = self.fuse_half(x, self.shallow(image))  # (B, 128, H/8, W/8)
        logits = self.head(resize(x, (2 * x.shape[-2], 2 * x.shape[-1])))  # (B, classes, H/4, W/4)
        return [resize(logits, (image.shape[-2], image.shape[-1])), guide_fine, guide_coarse]


def _stem(inputs: int, width: int) -> list[nn.Module]:
    """Three 3x3 convolutions, the first with stride 2, in place of ResNet's 7x7 (as in PSPNet)."""
    layers: list[nn.Module] = []
    for before, after, stride in ((inputs, width, 2), (width, width, 1), (width, 2 * width, 1)):
        layers += [conv_bn(before, after, 3, stride), nn.ReLU(inplace=True)]
    return layers


def _stage(inputs: int, inner: int, blocks: int, dilation: int = 1) -> list[nn.Module]:
    first = Bottleneck(inputs, inner, 1, dilation)
    return [first, *(Bottleneck(4 * inner, inner, 1, dilation) for _ in range(blocks - 1))]


def _half(x: Tensor) -> tuple[int, int]:
    """Half a map's size, rounded up as strided convolutions do."""
    return (x.shape[-2] + 1) // 2, (x.shape[-1] + 1) // 2
