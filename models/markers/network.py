"""What the trainer and the exporter expect of a marker network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.markers.backbone import Backbone
from models.markers.batch import SequenceDropout, SliceBatch, check_sequences
from models.markers.prediction import Prediction
from models.markers.slices import SEQUENCES


@dataclass(frozen=True)
class Setup:
    """What all networks are built from."""

    backbone: Backbone
    classes: int = 2
    sequences: tuple[str, ...] = SEQUENCES
    """What the network may read. Leave out what the training set never has: parts that never learnt must not
    speak at a hospital that has it."""
    dropout: float = 0.0
    """Probability with which training hides a sequence."""
    seed: int = 0
    """Of the hiding."""


class MarkerNetwork(nn.Module):
    """A network that maps a `SliceBatch` to a `Prediction`; slices of at least 32 x 32 pixels.

    A slice that has none of the sequences it reads gets an answer too, which means nothing: ask `present` first.
    """

    def __init__(self, setup: Setup, sequences: Sequence[str] | None = None) -> None:
        super().__init__()
        self.classes = setup.classes
        self.sequences = check_sequences(setup.sequences if sequences is None else sequences)
        """What the network reads, in the order of `SEQUENCES`."""
        self.dropout = SequenceDropout(setup.dropout, setup.seed)

    @abstractmethod
    def predict(self, batch: SliceBatch) -> Prediction:
        """Answer a batch in which nothing is present that the network does not read."""

    def forward(self, batch: SliceBatch) -> Prediction:
        """Answer a batch."""
        return self.predict(self.dropout(batch.only(self.sequences)))


class PooledHead(nn.Linear):
    """Global average, then a fully connected layer: (B, C, h, w) to logits (B, classes)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits."""
        return super().forward(input.mean(dim=(2, 3)))
