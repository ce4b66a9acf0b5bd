"""The segmentation loss: focal loss as its paper defines it, and soft Dice over the batch.

Source: thesis section 4.4.2 (focal loss); T.-Y. Lin et al., "Focal Loss", ICCV 2017. Dice is ours: focal loss
alone leaves small tumours under-segmented.
"""

from __future__ import annotations

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from models.training.resize import shrink_labels

_DICE = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean over pixels of `(1 - p_t) ** gamma * cross-entropy`; logits (B, C, H, W), target (B, H, W)."""
    entropy = F.cross_entropy(logits, target, reduction="none")
    return ((1.0 - torch.exp(-entropy)) ** gamma * entropy).mean()


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's classes from the teacher's, mean over pixels (thesis eq. 4-10).

    Both are logits (B, C, H, W); what the two make of a pixel is summed over classes before the mean is taken.
    """
    told, learnt = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return F.kl_div(learnt, told, reduction="none", log_target=True).sum(dim=1).mean()


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal plus Dice loss; logits of a coarser scale meet the target at their own size."""
    target = shrink_labels(target, (logits.shape[-2], logits.shape[-1]))
    dice: Tensor = _DICE(logits, target[:, None])
    return focal_loss(logits, target) + dice
