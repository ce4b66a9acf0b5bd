"""What every marker network reads: tumour slices of up to four sequences, and what is known of the patient.

A sequence may be missing, at training as at inference: public sets lack T2, and a hospital's study may lack
any. `present` says which are there; whatever the others' pixels hold, no network sees it.

Sources: thesis section 3.3.1 (IMG, ROI, MIX) and section 5.2 (metadata vector).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.markers.slices import SEQUENCES


class InputMode(Enum):
    """What a network is shown of the slices (thesis section 3.3.1).

    The thesis calls ROI's channels and MIX's further ones alike "four mask images"; of one tumour outline that would
    make ROI four times the same channel, so ROI's are the images within the tumour, and MIX's are the outline itself.
    """

    IMG = "img"
    """The images: one channel a sequence."""
    ROI = "roi"
    """The images within the tumour: one channel a sequence."""
    MIX = "mix"
    """Images and outline: two channels a sequence, all images first; a missing sequence has no outline either."""

    def channels(self, sequences: int) -> int:
        """Return how many channels a number of sequences makes."""
        return 2 * sequences if self is InputMode.MIX else sequences


@dataclass(frozen=True, eq=False)
class SliceBatch:
    """B slices with tumour, on the frame (`models.frame`)."""

    images: Tensor
    """(B, 4, H, W) float, mean-variance normalised per sequence, zero where missing."""
    mask: Tensor
    """(B, 1, H, W) float, 1 in the tumour, 0 elsewhere."""
    present: Tensor
    """(B, 4) bool: which sequences there are."""
    metadata: Tensor
    """(B, 2) float: sex and age as `encode_metadata` gives them."""

    def __post_init__(self) -> None:
        count, rows, columns = self.images.shape[0], self.images.shape[-2], self.images.shape[-1]
        expected = {
            "images": (count, len(SEQUENCES), rows, columns),
            "mask": (count, 1, rows, columns),
            "present": (count, len(SEQUENCES)),
            "metadata": (count, 2),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"{name} of a slice batch has shape {found}, not {shape}")

    def only(self, sequences: Sequence[str]) -> SliceBatch:
        """Return the batch with every other sequence missing."""
        kept = torch.tensor([name in sequences for name in SEQUENCES], device=self.present.device)
        return replace(self, present=self.present & kept)

    def shown(self, sequence: str) -> Tensor:
        """Say where one sequence is present: (B, 1, 1, 1), 1 or 0, to multiply maps with."""
        found = self.present[:, SEQUENCES.index(sequence)]
        return found.to(self.images.dtype)[:, None, None, None]


def check_sequences(sequences: Sequence[str]) -> tuple[str, ...]:
    """Return sequences in the order of `SEQUENCES`.

    Raises `ValueError` where there is none, or one that is not of them.
    """
    unknown = [name for name in sequences if name not in SEQUENCES]
    if unknown or not sequences:
        raise ValueError(f"a network reads some of {', '.join(SEQUENCES)}, not {', '.join(unknown) or 'none of them'}")
    return tuple(name for name in SEQUENCES if name in sequences)


def input_channels(batch: SliceBatch, mode: InputMode, sequences: Sequence[str]) -> Tensor:
    """Make a network's input (B, `mode.channels(len(sequences))`, H, W); missing sequences are zero."""
    indices = [SEQUENCES.index(name) for name in sequences]
    shown = batch.present[:, indices, None, None]
    # `where`, not a product: what stands in a missing channel may be NaN.
    images = torch.where(shown, batch.images[:, indices], 0.0)
    if mode is InputMode.IMG:
        return images
    if mode is InputMode.ROI:
        return images * batch.mask
    return torch.cat([images, shown * batch.mask], dim=1)


def drop_sequences(present: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Drop each present sequence of (B, 4) with a probability, but never the last one of a slice."""
    draws = torch.rand(present.shape, generator=generator).to(present.device)
    kept = present & (draws >= probability)
    luckiest = F.one_hot(draws.masked_fill(~present, -1.0).argmax(dim=1), present.shape[1]).bool()
    return torch.where(kept.any(dim=1, keepdim=True), kept, present & luckiest)


class SequenceDropout(nn.Module):
    """Hides sequences at random while training, so that a network learns to do without any; nothing otherwise."""

    def __init__(self, probability: float, seed: int = 0) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"a sequence is dropped with a probability from 0 to below 1, not {probability}")
        self.probability = probability
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, batch: SliceBatch) -> SliceBatch:
        """Return the batch with fewer sequences present; in evaluation the batch itself."""
        if not self.training or self.probability == 0.0:
            return batch
        return replace(batch, present=drop_sequences(batch.present, self.probability, self.generator))

    def extra_repr(self) -> str:
        """Show the probability in the network's printed form."""
        return f"probability={self.probability}"
