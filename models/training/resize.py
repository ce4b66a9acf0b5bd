"""Slices and labels at a share of their size."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def shrink_pair(image: Tensor, target: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Bring images (B, C, H, W) and labels (B, H, W) to about `scale` of their side, kept divisible by 16."""
    if scale == 1.0:
        return image, target
    size = (round(image.shape[-2] * scale / 16) * 16, round(image.shape[-1] * scale / 16) * 16)
    return F.interpolate(image, size=size, mode="bilinear", antialias=True), shrink_labels(target, size)


def shrink_labels(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring labels (B, H, W) to a size, each pixel the label nearest to it."""
    if target.shape[-2:] == size:
        return target
    return F.interpolate(target[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
