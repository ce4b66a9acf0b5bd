"""The thesis's table 4-1 for the machine at hand: what kinds of 3x3 convolution cost in time, work and reach.

Measured as the networks are: exported, on the node's engine, in turns. The thesis gives 1 x 256 x 32 x 64 input
on a GTX 1080 Ti; grouped and dilated convolution are in the table to show why the search does not offer them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from models.engine import EngineChoice
from models.nasbranet.cost import Speed, cost, time_files
from models.nasbranet.ops import resize
from models.training.onnx_file import write_onnx

SHAPE = (1, 256, 32, 64)
"""The thesis's input."""


@dataclass(frozen=True)
class OperatorRow:
    """One operator of the table; the thesis's own time beside ours."""

    name: str
    speed: Speed
    flops: int
    parameters: int
    reach: int
    """Field of view, times that of the plain convolution."""
    thesis_ms: float


class ZoomedConvolution(nn.Module):
    """Halve, convolve, return: the table's operator is the bare convolution, without normalisation and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W), H and W even, to the same shape."""
        height, width = x.shape[-2:]
        return resize(self.conv(resize(x, (height // 2, width // 2))), (height, width))


def operators(channels: int = SHAPE[1]) -> dict[str, tuple[nn.Module, int, float]]:
    """Build the table's operators: name to (module, relative reach, the thesis's ms)."""
    return {
        "conv 3x3": (nn.Conv2d(channels, channels, 3, padding=1, bias=False), 1, 0.15),
        "grouped conv (2 groups)": (nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False), 1, 0.13),
        "dilated conv (rate 2)": (nn.Conv2d(channels, channels, 3, padding=2, dilation=2, bias=False), 2, 0.25),
        "zoomed conv": (ZoomedConvolution(channels), 2, 0.09),
    }


def measure_operators(
    rounds: int = 100, engine: EngineChoice = "auto", shape: tuple[int, int, int, int] = SHAPE
) -> list[OperatorRow]:
    """Time the operators in turns; the file format is the networks' own, so the engine does as it does for them."""
    built = operators(shape[1])
    with TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"operator{number}.onnx" for number, name in enumerate(built)}
        for name, (module, _, _) in built.items():
            write_onnx(module, {"image": shape[1:]}, files[name], ["out"])
        speeds = time_files(files, shape, rounds, engine)
    costs = {name: cost(module, shape) for name, (module, _, _) in built.items()}
    return [
        OperatorRow(name, speeds[name], costs[name].flops, costs[name].parameters, reach, thesis_ms)
        for name, (_, reach, thesis_ms) in built.items()
    ]
