"""U-Net: five levels of two 3x3 convolutions, max-pooling down, 2x2 up-convolutions, concatenated skips.

Source: O. Ronneberger et al., "U-Net", MICCAI 2015, arXiv:1505.04597, figure 1: widths 64 to 1024.

Of MONAI's networks BasicUNet is the one that has this form: `UNet` halves by strided convolutions inside residual
units, `DynUNet` halves by strided convolutions too, `AttentionUnet` and `FlexibleUNet` add or replace parts.
BasicUNet's finest up-convolution alone is other than the paper's (it keeps 128 channels where the paper halves to
64: 6 % more work at 224 x 224), so that one block is built anew from MONAI's own part.
Other than in the paper convolutions are padded, so that the output has the input's size, and are followed by batch
normalisation, without which no network of the comparison trains under the common schedule.
"""

from __future__ import annotations

from monai.networks.nets.basic_unet import BasicUNet, UpCat
from torch import Tensor

from models.training.network import SegmentationNetwork

WIDTHS = (64, 128, 256, 512, 1024)
"""Channels of the five levels, finest first."""


class UNet(SegmentationNetwork):
    """The classic U-Net; 31.0 M parameters at its published widths. It has no auxiliary output."""

    def __init__(self, in_channels: int = 2, classes: int = 2, widths: tuple[int, int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        finest, second = widths[:2]
        self.body = BasicUNet(
            2, in_channels, classes, (*widths, finest), act="relu", norm="batch", bias=False, upsample="deconv"
        )
        self.body.upcat_1 = UpCat(
            2, second, finest, finest, act="relu", norm="batch", bias=False, upsample="deconv", halves=True
        )

    def forward_all(self, image: Tensor) -> list[Tensor]:
        """Map (B, C, H, W) to [logits (B, classes, H, W)]; odd maps on the way are padded by MONAI's block."""
        return [self.body(image)]
