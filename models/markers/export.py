"""From a trained marker network to one ONNX file: probabilities and class maps, no gradients needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from models import frame
from models.markers.batch import SliceBatch
from models.markers.network import MarkerNetwork
from models.markers.prediction import class_maps
from models.markers.slices import INPUTS, OUTPUTS, SEQUENCES
from models.training.onnx_file import write_onnx


class WithMaps(nn.Module):
    """A marker network on plain tensors, as an engine runs it."""

    def __init__(self, network: MarkerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, mask: Tensor, present: Tensor, metadata: Tensor) -> tuple[Tensor, Tensor]:
        """Map `SliceBatch`'s tensors, `present` as 0 or 1 in float32, to (B, classes) and (B, classes, h, w)."""
        prediction = self.network(SliceBatch(images, mask, present > 0.5, metadata))
        return torch.softmax(prediction.logits, dim=1), class_maps(prediction)


def export_onnx(
    network: MarkerNetwork, path: Path, about: Mapping[str, str] | None = None, size: int = frame.FRAME_SIZE
) -> None:
    """Write a network as one ONNX file, whole or not at all: a free number of slices of `size` squared, float32."""
    many = len(SEQUENCES)
    shapes = ((many, size, size), (1, size, size), (many,), (2,))
    described = {"frame": str(frame.VERSION), "sequences": " ".join(network.sequences)} | dict(about or {})
    write_onnx(WithMaps(network), dict(zip(INPUTS, shapes, strict=True)), path, OUTPUTS, described)
