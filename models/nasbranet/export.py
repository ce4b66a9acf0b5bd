"""From a trained network to the ONNX file the node runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models import frame
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import NetworkPlan


class TumourProbability(nn.Module):
    """The network with its softmax: (B, C, H, W) to the tumour's probability (B, H, W)."""

    def __init__(self, network: NASBraNet) -> None:
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


def export_onnx(network: NASBraNet, path: Path) -> None:
    """Write the network as one ONNX file with a free batch size: `image` in, `tumour` out."""
    example = torch.zeros(2, network.plan.in_channels, frame.FRAME_SIZE, frame.FRAME_SIZE)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.onnx.export(
        TumourProbability(network).eval(),
        (example,),
        part,
        input_names=["image"],
        output_names=["tumour"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    part.replace(path)
