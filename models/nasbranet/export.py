"""From a trained network to the ONNX file the node runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from models import frame
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import NetworkPlan

WEIGHTS = Path(frame.__file__).parent / "weights" / "nasbranet" / "model.onnx"
"""The network that ships."""
_REMARKS = ("doc_string", "metadata_props")
"""Fields of ONNX messages that no engine reads; torch's exporter keeps stack traces there, with its machine's paths."""


class TumourProbability(nn.Module):
    """The network with its softmax: (B, C, H, W) to the tumour's probability (B, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return the probability of class 1."""
        return torch.softmax(self.network(image), dim=1)[:, 1]


def load_network(plan: NetworkPlan, checkpoint: Path) -> NASBraNet:
    """Build a plan's network with a checkpoint's weights, in evaluation mode."""
    network = NASBraNet(plan)
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["network"])
    return network.eval()


def export_onnx(network: nn.Module, path: Path) -> None:
    """Write a network as one ONNX file with a free batch size: `image` in, `tumour` out, both float32.

    Any network that maps (B, C, 224, 224) to logits will do; C is its plan's, or 2 where it has none.
    """
    plan = network.plan if isinstance(network, NASBraNet) else None
    shape = (plan.in_channels if plan else 2, frame.FRAME_SIZE, frame.FRAME_SIZE)
    about = {"frame": str(frame.VERSION)} | ({"plan": plan.name, "source": plan.source} if plan else {})
    write_onnx(TumourProbability(network), shape, path, "tumour", about)


def write_onnx(
    module: nn.Module, shape: tuple[int, ...], path: Path, output: str, about: Mapping[str, str] | None = None
) -> None:
    """Write any module as ONNX, whole or not at all: `image` (N, *shape) in, N free, `output` out; no remarks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.onnx.export(
        module.eval(),
        (torch.zeros(2, *shape),),
        part,
        input_names=["image"],
        output_names=[output],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    clean(part, about)
    part.replace(path)


def clean(path: Path, about: Mapping[str, str] | None = None) -> None:
    """Strip an ONNX file, in place, of all remarks but its producer; its metadata become `about`."""
    model = onnx.load(path)
    _strip(model)
    onnx.helper.set_model_props(model, dict(about or {}))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _strip(message: Message) -> None:
    """Clear the remarks of a message and of all that it holds."""
    for name in _REMARKS:
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if field.is_repeated else [value]:
                _strip(child)
