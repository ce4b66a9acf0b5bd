"""The segmentation loss: focal loss as its paper defines it, and soft Dice over the batch.

Source: thesis section 4.4.2 (focal loss); T.-Y. Lin et al., "Focal Loss", ICCV 2017. Dice is ours: focal loss
alone leaves small tumours under-segmented.
"""

from __future__ import annotations

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn import functional as F

_DICE = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean over pixels of `(1 - p_t) ** gamma * cross-entropy`; logits (B, C, H, W), target (B, H, W)."""
    entropy = F.cross_entropy(logits, target, reduction="none")
    return ((1.0 - torch.exp(-entropy)) ** gamma * entropy).mean()


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal plus Dice loss; logits of a coarser scale meet the target at their own size."""
    if logits.shape[-2:] != target.shape[-2:]:
        scaled = F.interpolate(target[:, None].float(), size=logits.shape[-2:], mode="nearest-exact")
        target = scaled[:, 0].long()
    dice: Tensor = _DICE(logits, target[:, None])
    return focal_loss(logits, target) + dice
