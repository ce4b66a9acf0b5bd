"""From a trained marker network to one ONNX file: probabilities and class maps, no gradients needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from models import frame
from models.markers.batch import SEQUENCES, SliceBatch
from models.markers.network import MarkerNetwork
from models.markers.prediction import class_maps
from models.nasbranet.export import clean

INPUTS = ("images", "mask", "present", "metadata")
OUTPUTS = ("probabilities", "maps")


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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    many = len(SEQUENCES)
    shapes = ((2, many, size, size), (2, 1, size, size), (2, many), (2, 2))
    slices = torch.export.Dim("slices", min=1, max=1024)
    torch.onnx.export(
        WithMaps(network).eval(),
        tuple(torch.ones(*shape) for shape in shapes),
        part,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamic_shapes=tuple({0: slices} for _ in shapes),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    clean(part, {"frame": str(frame.VERSION), "sequences": " ".join(network.sequences)} | dict(about or {}))
    part.replace(path)
