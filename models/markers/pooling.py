"""From slices to the patient: the mean of their probabilities, or attention that is learnt.

Sources: the MGMT paper's table 2 and thesis section 3.4 (mean); M. Ilse, J. Tomczak, M. Welling, "Attention-based
Deep Multiple Instance Learning", ICML 2018, arXiv:1802.04712, equations 7 and 9 (gated attention).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.markers.batch import SliceBatch
from models.markers.mgmt import patient_value
from models.markers.network import MarkerNetwork
from models.markers.prediction import Auxiliary, Prediction, total_loss
from models.markers.slices import SEQUENCES

POOLINGS = ("mean", "attention")
HIDDEN = 64
"""Width of the attention's hidden layer; the paper's is 128, for bags of hundreds."""


class Pooling(nn.Module):
    """Makes one answer of several slices' answers."""

    def __init__(self, bag: int) -> None:
        super().__init__()
        self.bag = bag
        """How many slices of a patient stand side by side in a training batch; 1: slices are taught one by one."""

    @abstractmethod
    def answers(self, prediction: Prediction, bag: int) -> Tensor:
        """Return logits (B / bag, classes) of B slices, bag after bag."""

    @abstractmethod
    def patient(self, prediction: Prediction) -> Tensor:
        """Return a patient's probability of each class, (classes,), from all their slices."""

    def loss(self, prediction: Prediction, target: Tensor, class_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the source's loss, its decision made by bags, and the bags' logits; `target` is (B,).

        A network's further classifiers learn slice by slice all the same.
        """
        logits, truth = self.answers(prediction, self.bag), target[:: self.bag]
        sides = total_loss(replace(prediction, weight=0.0), target, class_weights)
        return sides + prediction.weight * F.cross_entropy(logits, truth, class_weights), logits


class MeanPooling(Pooling):
    """The mean over slices of their probabilities."""

    def __init__(self) -> None:
        super().__init__(bag=1)

    def answers(self, prediction: Prediction, bag: int) -> Tensor:
        """Return the slices' logits."""
        return prediction.logits

    def patient(self, prediction: Prediction) -> Tensor:
        """Return the mean probability."""
        return patient_value(prediction.logits.softmax(dim=1))


class AttentionPooling(Pooling):
    """Gated attention over a patient's slices.

    The slices' logits are weighed, not their features: with a linear classifier on pooled features, which all
    networks here have, it is the same as equation 7, and KiNet's metadata keep their place.
    """

    def __init__(self, features: int, bag: int) -> None:
        super().__init__(bag)
        self.content = nn.Linear(features, HIDDEN)  # V of equation 9
        self.gate = nn.Linear(features, HIDDEN)  # U
        self.score = nn.Linear(HIDDEN, 1, bias=False)  # w

    def weights(self, features: Tensor) -> Tensor:
        """Map slices' pooled features (..., slices, C) to weights (..., slices) that sum to one (equation 9)."""
        hidden = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))
        weights: Tensor = self.score(hidden)[..., 0].softmax(dim=-1)
        return weights

    def answers(self, prediction: Prediction, bag: int) -> Tensor:
        """Return each bag's logits."""
        features = prediction.features.mean(dim=(2, 3)).unflatten(0, (-1, bag))  # (bags, bag, C)
        logits = prediction.logits.unflatten(0, (-1, bag))  # (bags, bag, classes)
        pooled: Tensor = (self.weights(features)[..., None] * logits).sum(dim=1)
        return pooled

    def patient(self, prediction: Prediction) -> Tensor:
        """Return the bag's probabilities."""
        return self.answers(prediction, len(prediction.logits))[0].softmax(dim=-1)


class PatientClassifier(nn.Module):
    """A marker network and its pooling, trained and kept together."""

    def __init__(self, network: MarkerNetwork, pooling: Pooling) -> None:
        super().__init__()
        self.network, self.pooling = network, pooling


def make_pooling(name: str, network: MarkerNetwork, bag: int) -> Pooling:
    """Build a pooling by name for a network; raises `ValueError` where there is none of it."""
    if name not in POOLINGS:
        raise ValueError(f"no pooling {name!r}; there is {', '.join(POOLINGS)}")
    if name == "mean":
        return MeanPooling()
    return AttentionPooling(_features(network), bag)


def _features(network: MarkerNetwork) -> int:
    """Ask a network how many features its last map has, with a blank slice."""
    blank = torch.zeros(1, len(SEQUENCES), 32, 32)
    batch = SliceBatch(blank, blank[:, :1], torch.ones(1, len(SEQUENCES), dtype=torch.bool), torch.zeros(1, 2))
    training = network.training
    with torch.no_grad():
        found: int = network.eval()(batch).features.shape[1]
    network.train(training)
    return found


def in_single_precision(prediction: Prediction) -> Prediction:
    """Return a prediction in float32, as losses and softmax want it."""
    terms = tuple(Auxiliary(t.name, t.weight, t.logits.float(), t.counted) for t in prediction.auxiliary)
    logits, features = prediction.logits.float(), prediction.features.float()
    return replace(prediction, logits=logits, features=features, auxiliary=terms)
