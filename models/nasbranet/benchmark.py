"""How long the network takes on this machine: engines against one another, and settings of the CPU's engine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from rich.console import Console

from models import frame
from models.engine import CACHE, ModelError
from models.engine_base import Backend, FloatArray
from models.engine_openvino import CpuSettings, Hint, OpenVinoBackend, Precision
from models.engine_tensorrt import TensorRtBackend
from models.json_file import write_json
from models.nasbranet.export import WEIGHTS, TumourProbability
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import SHIPPED_PLAN, NetworkPlan
from models.nasbranet.timing import device_header, take_turns

console = Console(stderr=True)
Weights = Annotated[Path, typer.Option(help="ONNX file")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="result file")]
Rounds = Annotated[int, typer.Option(min=1, help="timed rounds; every candidate has one turn in each")]


class TorchEager:
    """The architecture in torch, uncompiled, with fresh weights: what an engine's time is compared with."""

    def __init__(self, plan: NetworkPlan, precision: Literal["fp32", "fp16"]) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = torch.float16 if precision == "fp16" else torch.float32
        network: torch.nn.Module = TumourProbability(NASBraNet(plan)).eval().to(self._device, self._dtype)
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        where = torch.cuda.get_device_name() if self._device.type == "cuda" else "CPU"
        self.description = f"torch {torch.__version__} eager on {where}, {precision}"

    def run(self, images: FloatArray) -> FloatArray:
        """Map (N, C, H, W) to probabilities (N, H, W), from host memory to host memory as an engine does."""
        with torch.inference_mode():
            # To the device first: asked for both at once, torch casts on the CPU.
            image = torch.from_numpy(images).to(self._device).to(self._dtype, memory_format=torch.channels_last)
            result: FloatArray = self._network(image).float().cpu().numpy()
        return result


def noise(slices: int, channels: int = 2) -> FloatArray:
    """Make slices (slices, channels, 224, 224) to time a network on."""
    shape = (slices, channels, frame.FRAME_SIZE, frame.FRAME_SIZE)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def figures_of(seconds: list[float], slices: int) -> dict[str, float]:
    """Median and quartiles, in ms a slice."""
    low, median, high = (1000.0 * float(q) / slices for q in np.percentile(seconds, [25, 50, 75]))
    return {"ms_per_slice": round(median, 3), "quartile_1": round(low, 3), "quartile_3": round(high, 3)}


def benchmark(
    weights: Weights = WEIGHTS,
    json_file: JsonFile = None,
    rounds: Rounds = 20,
    batches: Annotated[str, typer.Option(help="slices a call, comma-separated")] = "1,32",
    engines: Annotated[str, typer.Option(help="of openvino, tensorrt, torch; those not possible here are said so")] = (
        "openvino,tensorrt,torch"
    ),
    plan: Annotated[str, typer.Option(help="the network's plan, for torch")] = SHIPPED_PLAN,
) -> dict[str, Any]:
    """Time the network on each engine of this machine, in ms a slice: median and quartiles, batch by batch."""
    backends, missing = _open(weights, engines.split(","), plan)
    sizes = [int(b) for b in batches.split(",")]
    images = {size: noise(size) for size in sizes}
    turns = {
        f"{b.description} | {size}": partial(b.run, images[size]) for b, size in itertools.product(backends, sizes)
    }
    seconds = take_turns(turns, rounds, console)
    result: dict[str, Any] = {"device": device_header(), "model": weights.parent.name, "rounds": rounds}
    result["engines"] = {
        b.description: {str(size): figures_of(seconds[f"{b.description} | {size}"], size) for size in sizes}
        for b in backends
    }
    result["not_run"] = missing
    for name, by_batch in result["engines"].items():
        told = ", ".join(
            f"batch {size}: {figures['ms_per_slice']:.2f} ms a slice" for size, figures in by_batch.items()
        )
        console.print(f"{name}: {told}", highlight=False)
    for name, reason in missing.items():
        console.print(f"{name}: not run: {reason}", highlight=False)
    if json_file is not None:
        write_json(json_file, result)
    return result


def _open(weights: Path, engines: list[str], plan: str) -> tuple[list[Backend], dict[str, str]]:
    """Open what can be opened; the reason for the rest."""
    openers: dict[str, list[Callable[[], Backend]]] = {
        "openvino": [
            lambda: OpenVinoBackend(weights.parent.name, weights, CpuSettings(precision="f32")),
            lambda: OpenVinoBackend(weights.parent.name, weights),
        ],
        "tensorrt": [lambda: TensorRtBackend(weights.parent.name, weights, CACHE.expanduser())],
        "torch": [lambda: TorchEager(NetworkPlan.load(plan), "fp32")],
    }
    if torch.cuda.is_available():
        openers["torch"].append(lambda: TorchEager(NetworkPlan.load(plan), "fp16"))
    opened: dict[str, Backend] = {}
    missing = {}
    for engine in engines:
        if engine not in openers:
            raise typer.BadParameter(f"no engine {engine!r}: {', '.join(openers)}")
        for opener in openers[engine]:
            try:
                backend = opener()
            except ModelError as error:
                missing[engine] = str(error)
            else:
                opened[backend.description] = backend
    return list(opened.values()), missing


def _timed(
    candidates: Sequence[CpuSettings], weights: Path, study: FloatArray, rounds: int
) -> dict[str, dict[str, float]]:
    """Time a study with each of some settings in turns, and print them, the fastest first."""
    turns = {str(c): partial(OpenVinoBackend(weights.parent.name, weights, c).run, study) for c in candidates}
    seconds = take_turns(turns, rounds, console)
    figures = {name: figures_of(times, len(study)) for name, times in seconds.items()}
    for name, figure in sorted(figures.items(), key=lambda item: item[1]["ms_per_slice"]):
        mark = " (ships)" if name == str(CpuSettings()) else ""
        console.print(f"{figure['ms_per_slice']:7.1f} ms a slice  {name}{mark}", highlight=False)
    return figures


def tune(
    weights: Weights = WEIGHTS,
    json_file: JsonFile = None,
    rounds: Rounds = 5,
    batches: Annotated[str, typer.Option(help="slices a call, comma-separated")] = "1,2,4,8,26",
    precisions: Annotated[str, typer.Option(help="f32, bf16 or both, comma-separated")] = "f32,bf16",
    threads: Annotated[str, typer.Option(help="CPU threads, comma-separated; 0: every core. Default: 1 to all")] = "",
    streams: Annotated[str, typer.Option(help="calls at once, comma-separated; 0: by the hint")] = "0,1,2,4",
    slices: Annotated[int, typer.Option(help="slices of a study: candidates are timed on all of them")] = 26,
) -> dict[str, Any]:
    """Time a whole study on the CPU with each batch size, hint and precision, the best with threads and streams too.

    What comes first is what should ship. All candidates of a stage take turns; the second begins with the first's best.
    """
    study = noise(slices)
    hints: tuple[Hint, ...] = ("LATENCY", "THROUGHPUT")
    chosen: list[Precision] = [p for p in ("f32", "bf16") if p in precisions.split(",")]
    candidates = [
        CpuSettings(batch=int(b), hint=hint, precision=precision)
        for precision, hint, b in itertools.product(chosen, hints, batches.split(","))
    ]
    figures = _timed(candidates, weights, study, rounds)
    best = min(candidates, key=lambda c: figures[str(c)]["ms_per_slice"])
    cores = os.cpu_count() or 1
    wanted = [int(n) for n in threads.split(",")] if threads else [0, *(n for n in (1, 2, 4, 8, 16) if n < cores)]
    shares = itertools.product(wanted, [int(n) for n in streams.split(",")])
    around = [best, *(replace(best, threads=t, streams=s) for t, s in shares if (t or s) and s <= (t or cores))]
    shared = _timed(around, weights, study, rounds)
    result = {
        "device": device_header(), "slices": slices, "rounds": rounds, "settings": figures,
        "threads_and_streams": shared, "best": min(shared, key=lambda name: shared[name]["ms_per_slice"]),
    }  # fmt: skip
    console.print(f"best: {result['best']}", highlight=False)
    if json_file is not None:
        write_json(json_file, result)
    return result
