"""What every marker network answers, the loss made of it, and the class maps computed from it.

Class maps: where logits are linear in the mean of the last feature map, Grad-CAM's weights are that linear
map's own, so no gradient is needed and an exported network can draw them. R. Selvaraju et al., "Grad-CAM",
ICCV 2017, equations 1 and 2, and its section 3.1 on CAM; the thesis uses them in section 3.4.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Auxiliary:
    """One further term of the loss: another classifier's logits."""

    name: str
    weight: float
    logits: Tensor
    """(B, classes)."""
    counted: Tensor | None = None
    """(B,) bool: the slices that this classifier could see, or None for all."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A network's answer to a `SliceBatch` of B slices."""

    logits: Tensor
    """(B, classes): the decision, before softmax."""
    features: Tensor
    """(B, C, h, w): the last feature map."""
    head_weight: Tensor
    """(classes, C): how the logits change with the mean over places of each feature; exact in evaluation."""
    weight: float = 1.0
    """The decision's own weight in the source's loss."""
    auxiliary: tuple[Auxiliary, ...] = ()


def total_loss(prediction: Prediction, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the source's loss, a weighted sum of cross-entropies (thesis equations 2-4 and 5-1 to 5-3).

    `target` is (B,) of class numbers, `class_weights` (classes,). Each cross-entropy is a mean over the slices
    that its classifier could see, weighted by class.
    """
    loss = prediction.weight * F.cross_entropy(prediction.logits, target, class_weights)
    for term in prediction.auxiliary:
        loss = loss + term.weight * _cross_entropy(term, target, class_weights)
    return loss


def class_maps(prediction: Prediction) -> Tensor:
    """Return Grad-CAM's map of each class, (B, classes, h, w), not negative; zero where nothing speaks for it."""
    places = prediction.features.shape[-2] * prediction.features.shape[-1]
    return F.relu(class_scores(prediction)) / places


def class_scores(prediction: Prediction) -> Tensor:
    """Return what each place says for and against each class, (B, classes, h, w): `class_maps` before their ReLU."""
    return torch.einsum("bchw,kc->bkhw", prediction.features, prediction.head_weight)


def _cross_entropy(term: Auxiliary, target: Tensor, class_weights: Tensor | None) -> Tensor:
    if term.counted is None:
        return F.cross_entropy(term.logits, target, class_weights)
    counted = term.counted.to(term.logits.dtype)
    each = F.cross_entropy(term.logits, target, class_weights, reduction="none")
    share = counted if class_weights is None else counted * class_weights[target]
    # A batch of which no slice was seen costs nothing, rather than 0 / 0.
    return (each * counted).sum() / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
