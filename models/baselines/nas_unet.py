"""NAS-Unet: a U of searched cells, DownSC on the way down and UpSC on the way up.

Source: Y. Weng et al., "NAS-Unet: Neural Architecture Search for Medical Image Segmentation", IEEE Access 7, 2019,
doi:10.1109/ACCESS.2019.2908991. The cells are those that the authors' repository trains by name `NASUNET`
(tianbaochou/NasUnet, models/geno_types.py and geno_searched.py, found on PASCAL VOC 2012, four nodes a cell); the
operations' contents, the stem and the wiring are from util/prim_ops_set.py and models/nas_unet.py there. The
paper prints the cells as a figure only, which was not at hand: that the released genotype is the printed one rests
on the repository's own statement.

Width and depth: the authors' settings differ from data set to data set; taken are those stored for their MR data
set (configs/nas_unet/nas_unet_promise12.yml: 30 channels, 5 cells down, widths not doubled), which make 0.76 M
parameters; the paper's abstract says "about 0.8 M".

How it departs from the released code: an up-convolution gives its target's size at once, where the code gives one
pixel less and stretches that by the nearest neighbour; its unused auxiliary head is left out. Neither makes the
baseline slower or worse.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.training.network import SegmentationNetwork

Cell = tuple[tuple[str, int], ...]
"""Two (operation, state) pairs a node; states 0 and 1 are the cell's inputs, 2 and on its nodes."""

DOWN: Cell = (
    ("down_dil_conv", 1), ("down_cweight", 0),
    ("down_cweight", 0), ("down_cweight", 1),
    ("down_cweight", 0), ("conv", 3),
    ("down_cweight", 0), ("conv", 4),
)  # fmt: skip
"""DownSC: input 0 is the map before the last, halved to the last one's size; nodes are of half that size."""
UP: Cell = (
    ("cweight", 0), ("up_cweight", 1),
    ("conv", 2), ("up_cweight", 1),
    ("up_cweight", 1), ("conv", 3),
    ("up_cweight", 1), ("conv", 4),
)  # fmt: skip
"""UpSC: input 0 is the skip of twice the size of input 1; nodes are of that size."""
CHANNELS = 30
"""Channels of a node; a cell puts out four nodes."""
DEPTH = 5
"""Down cells; there is one up cell more."""


def normalise(channels: int) -> nn.GroupNorm:
    """Build group normalisation, sixteen channels a group where that divides, else one group for all."""
    return nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels)


class Prepare(nn.Module):
    """ReLU, 1x1 convolution, normalisation: what brings a cell's input to the cell's width."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(inputs, outputs, 1, stride, bias=False), normalise(outputs)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        result: Tensor = self.body(x)
        return result


class ChannelWeight(nn.Module):
    """Weigh each channel by what its mean tells (squeeze and excitation, with a bottleneck of 16)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.weigh = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        weights: Tensor = self.weigh(x.mean(dim=(2, 3)))
        return x * weights[:, :, None, None]


class Operation(nn.Module):
    """One operation of a cell, by its name in the genotype; `down_` halves and `up_` doubles the map.

    `conv`: 3x3 convolution, normalisation, ReLU; `dil_conv`: the same with holes (dilation 2); `cweight`: channel
    weights, and where the size changes a 3x3 convolution and normalisation behind them, without ReLU.
    """

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        kind = name.removeprefix("down_").removeprefix("up_")
        self.weigh = ChannelWeight(channels) if kind == "cweight" else None
        self.up = name.startswith("up_")
        self.conv: nn.Conv2d | nn.ConvTranspose2d | None = None
        self.after: nn.Module = nn.Identity()
        if name == "cweight":
            return
        if self.up:
            self.conv = nn.ConvTranspose2d(channels, channels, 3, 2, padding=1, bias=False)
        else:
            dilation = 2 if kind == "dil_conv" else 1
            stride = 2 if name.startswith("down_") else 1
            self.conv = nn.Conv2d(channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False)
        norm = normalise(channels)
        self.after = norm if kind == "cweight" else nn.Sequential(norm, nn.ReLU(inplace=True))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map (B, C, h, w) to (B, C, *size), `size` being the cell's output size."""
        if self.weigh is not None:
            x = self.weigh(x)
        if isinstance(self.conv, nn.ConvTranspose2d):
            x = self.conv(x, output_size=list(size))
        elif self.conv is not None:
            x = self.conv(x)
        result: Tensor = self.after(x)
        return result


class SearchedCell(nn.Module):
    """A cell: two inputs, four nodes each the sum of two operations, the nodes concatenated."""

    def __init__(self, cell: Cell, inputs: tuple[int, int], channels: int, *, down: bool) -> None:
        super().__init__()
        self.down, self.sources = down, [source for _, source in cell]
        self.prepare = nn.ModuleList(
            [Prepare(inputs[0], channels, 2 if down else 1), Prepare(inputs[1], channels)]
        )  # fmt: skip
        self.operations = nn.ModuleList(Operation(name, channels) for name, _ in cell)
        self.out_channels = channels * len(cell) // 2

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map inputs 0 and 1 to (B, 4 channels, h, w): half the size of input 1 going down, input 0's going up."""
        states = [self.prepare[0](first), self.prepare[1](second)]
        height, width = second.shape[-2:]
        size = ((height + 1) // 2, (width + 1) // 2) if self.down else (first.shape[-2], first.shape[-1])
        for i in range(0, len(self.sources), 2):
            one = self.operations[i](states[self.sources[i]], size)
            other = self.operations[i + 1](states[self.sources[i + 1]], size)
            states.append(one + other)
        return torch.cat(states[2:], dim=1)


class NasUnet(SegmentationNetwork):
    """The U of searched cells; 0.76 M parameters. It has no auxiliary output."""

    def __init__(self, in_channels: int = 2, classes: int = 2, channels: int = CHANNELS, depth: int = DEPTH) -> None:
        super().__init__()
        wide = 4 * channels
        self.stem_full = nn.Sequential(nn.Conv2d(in_channels, wide, 1, bias=False), normalise(wide))
        self.stem_half = nn.Sequential(nn.Conv2d(in_channels, wide, 3, 2, padding=1, bias=False), normalise(wide))
        # Every map is 4 * channels wide: the stems by design, the cells by their four nodes.
        self.down = nn.ModuleList(SearchedCell(DOWN, (wide, wide), channels, down=True) for _ in range(depth))
        self.up = nn.ModuleList(SearchedCell(UP, (wide, wide), channels, down=False) for _ in range(depth + 1))
        self.head = nn.Conv2d(wide, classes, 1, bias=False)

    def forward_all(self, image: Tensor) -> list[Tensor]:
        """Map (B, C, H, W) to [logits (B, classes, H, W)]."""
        maps = [self.stem_full(image), self.stem_half(image)]  # (B, 4c, H, W), (B, 4c, H/2, W/2)
        for cell in self.down:
            maps.append(cell(maps[-2], maps[-1]))  # each half the size of the one before
        x = maps.pop()
        for cell in self.up:
            x = cell(maps.pop(), x)
        return [self.head(x)]
