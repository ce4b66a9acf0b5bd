"""What the segmenting network sees of a stack: the frame of models.frame, as in training."""

from __future__ import annotations

from dataclasses import dataclass

from models import frame
from models.brain import margin_mm
from operators.domain import BoolArray, Contrast, FloatArray, Stack
from operators.errors import UnusableImage

CHANNELS = (Contrast.T1C, Contrast.FLAIR)
"""Order of the network's input channels."""


@dataclass(frozen=True, eq=False)
class NetworkView:
    """The network's input of one study, and where it lies on the stack."""

    images: FloatArray
    """(slices, channels, rows, columns), zero outside the brain."""
    placement: frame.Placement


def shown_of(stack: Stack) -> BoolArray:
    """Say which voxels of a stack a network is shown: the brain and a margin in-plane."""
    return frame.widen(stack.brain, stack.spacing_mm[1:], margin_mm(stripped=stack.stripped))


def channel_of(stack: Stack, contrast: Contrast, placement: frame.Placement) -> FloatArray:
    """Frame one more of a stack's sequences as `view_of` does its two: (slices, rows, columns)."""
    framed = frame.network_input([stack.images[contrast]], stack.brain, placement, margin_mm(stripped=stack.stripped))
    return framed[:, 0]


def view_of(stack: Stack) -> NetworkView:
    """Frame a stack; raises UnusableImage where no brain is seen."""
    if not stack.brain.any():
        raise UnusableImage("no brain is seen on T1C")
    placement = frame.place(stack.brain, stack.spacing_mm[1:])
    channels = [stack.images[c] for c in CHANNELS]
    margin = margin_mm(stripped=stack.stripped)
    return NetworkView(frame.network_input(channels, stack.brain, placement, margin), placement)
