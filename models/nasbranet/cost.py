"""What networks cost: parameters, FLOPs, and time on the backend that the node runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import frame
from models.engine import EngineChoice, Model, ModelError
from models.nasbranet.export import export_onnx
from models.nasbranet.timing import take_turns

INPUT = (1, 2, frame.FRAME_SIZE, frame.FRAME_SIZE)
"""One slice of T1C and FLAIR."""


@dataclass(frozen=True)
class Cost:
    """Size and work of a network."""

    parameters: int
    """All of them, those of auxiliary heads included (they are under 1 % in every network here)."""
    flops: int
    """For one input; a multiplication and an addition count as two (thesis table 4-6 in G)."""


@dataclass(frozen=True)
class Speed:
    """Times of one network in ms for each call of one slice."""

    milliseconds: tuple[float, ...]
    engine: str = ""
    """Engine, version, device and precision."""

    @property
    def median(self) -> float:
        """Median time in ms."""
        return float(np.median(self.milliseconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile in ms."""
        low, high = np.percentile(self.milliseconds, (25, 75))
        return float(low), float(high)

    @property
    def frames_per_second(self) -> float:
        """Slices a second at the median time."""
        return 1000.0 / self.median


def cost(network: nn.Module, shape: tuple[int, ...] = INPUT) -> Cost:
    """Count a network's parameters and, by torch's own counter, its FLOPs (convolutions and matrix products)."""
    device = next(network.parameters()).device
    was_training = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(shape, device=device))
    network.train(was_training)
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops())


def time_networks(
    networks: Mapping[str, nn.Module], rounds: int = 50, engine: EngineChoice = "auto"
) -> dict[str, Speed]:
    """Export every network and time all of them on one engine, one slice a call, in interleaved rounds."""
    with TemporaryDirectory() as folder:
        for name, network in networks.items():
            export_onnx(network.eval(), Path(folder) / f"{name}.onnx")
        return time_files({name: Path(folder) / f"{name}.onnx" for name in networks}, INPUT, rounds, engine)


def time_files(
    files: Mapping[str, Path], shape: tuple[int, ...], rounds: int, engine: EngineChoice = "auto"
) -> dict[str, Speed]:
    """Open ONNX files on one engine and time them in turns.

    Raises ModelError where they run on different engines, as when a GPU takes some of them only.
    """
    with TemporaryDirectory() as cache:
        models = {name: Model(name, path, engine, Path(cache)) for name, path in files.items()}
        engines = {model.engine for model in models.values()}
        if len(engines) > 1:
            raise ModelError(f"times on different engines do not compare: {', '.join(sorted(engines))}")
        times = time_models(models, shape, rounds)
    return {name: Speed(values, models[name].engine) for name, values in times.items()}


def time_models(models: Mapping[str, Model], shape: tuple[int, ...], rounds: int) -> dict[str, tuple[float, ...]]:
    """Time opened models on noise of one shape, in turns; ms per call."""
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    seconds = take_turns({name: partial(model.run, image) for name, model in models.items()}, rounds)
    return {name: tuple(1000.0 * value for value in values) for name, values in seconds.items()}
