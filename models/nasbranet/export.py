"""From a trained network to the ONNX file the node runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models import frame
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import NetworkPlan
from models.training.data import DataError
from models.training.onnx_file import write_onnx

WEIGHTS = Path(frame.__file__).parent / "weights" / "nasbranet" / "model.onnx"
"""The network that ships."""


class TumourProbability(nn.Module):
    """The network with its softmax: (B, C, H, W) to the tumour's probability (B, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return the probability of class 1."""
        return torch.softmax(self.network(image), dim=1)[:, 1]


def load_network(plan: NetworkPlan, checkpoint: Path) -> NASBraNet:
    """Build a plan's network with a checkpoint's weights, in evaluation mode.

    Raises DataError where the checkpoint is of another plan.
    """
    network = NASBraNet(plan)
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["network"]
    try:
        network.load_state_dict(weights)
    except RuntimeError:  # torch names every layer that differs
        raise DataError(f"{checkpoint} is a network of another plan than {plan.name}; say which (--plan)") from None
    return network.eval()


def export_onnx(network: nn.Module, path: Path) -> None:
    """Write a network as one ONNX file with a free batch size: `image` in, `tumour` out, both float32.

    Any network that maps (B, C, 224, 224) to logits will do; C is its plan's, or 2 where it has none.
    """
    plan = network.plan if isinstance(network, NASBraNet) else None
    shape = (plan.in_channels if plan else 2, frame.FRAME_SIZE, frame.FRAME_SIZE)
    about = {"frame": str(frame.VERSION)} | ({"plan": plan.name, "source": plan.source} if plan else {})
    write_onnx(TumourProbability(network), {"image": shape}, path, ["tumour"], about)
