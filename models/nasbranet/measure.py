"""The measuring of the latency table: one operator after another on the device at hand.

On the CPU by OpenVINO, the engine that the node runs there, but in single precision and one call at a time: what an
operator costs beside others, not what the node takes, which computes in bfloat16 where it can. On an NVIDIA GPU by
torch in half precision, the node's there, between CUDA events, as a CUDA graph of many runs: launched one by one, the
operators of an H100 all took as long as their launches, which TensorRT's engine does not have.
The graph's way is tested by stand-ins only; what ran on a GPU was the way before, launch by launch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch import nn

from models.engine_cuda import driver_version
from models.engine_openvino import core
from models.nasbranet.latency_table import LatencyTable
from models.nasbranet.parts import Key, build_timed
from models.nasbranet.timing import WARM_RUNS, captured, device_header

Device = Literal["cpu", "cuda"]
RUNS_A_GRAPH = 20
"""Runs of an operator in one graph: the clock between events is no finer than half a microsecond, a run takes a few."""


def device_at_hand() -> Device:
    """Return `cuda` where torch has a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def measure_table(
    keys: Iterable[Key],
    seconds: float,
    threads: int = 1,
    device: Device = "cpu",
    begun: Mapping[Key, float] | None = None,
    keep: Callable[[LatencyTable], None] = lambda so_far: None,
) -> LatencyTable:
    """Time every key on a device for about `seconds` each (ms, batch 1, median), but for those that are in `begun`.

    `keep` is given the table after each one, so that what was measured outlives an interruption.
    """
    header, entries = measured_on(threads, device), dict(begun or {})
    table = LatencyTable(header, entries)
    for key in sorted(set(keys) - set(entries)):
        entries[key] = time_operator(key, seconds, threads, device)
        table = LatencyTable(header, dict(entries))
        keep(table)
    return table


def measured_on(threads: int, device: Device) -> dict[str, str | int]:
    """Say where, by what and when a table is measured."""
    header, today = device_header(), datetime.now(UTC).date().isoformat()
    common = {"batch": 1, "torch": header["torch"], "system": header["system"], "date": today}
    if device == "cuda":
        backend = f"torch {header['torch']}, CUDA graph"
        driver = {"cuda": str(torch.version.cuda), "driver": driver_version()}
        return {"device": header["gpu"], "backend": backend, "dtype": "float16"} | driver | common
    backend = f"openvino {header['openvino']}"
    return {"device": header["processor"], "backend": backend, "threads": threads, "dtype": "float32"} | common


def time_operator(key: Key, seconds: float, threads: int = 1, device: Device = "cpu") -> float:
    """Median milliseconds of one operator, batch 1."""
    op = build_timed(key)
    if isinstance(op, nn.Identity):
        return 0.0  # the final network has nothing there
    shape = (1, key.c_in, key.height, key.width)
    return time_on_cuda(op, shape, seconds) if device == "cuda" else time_module(op, shape, seconds, threads)


def time_module(module: nn.Module, shape: tuple[int, ...], seconds: float, threads: int = 1) -> float:
    """Median milliseconds of any module on OpenVINO: warm up, then as many runs as fit into `seconds`."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    with torch.no_grad():
        converted = ov.convert_model(module.eval(), example_input=torch.zeros(shape), input=[list(shape)])
    request = core().compile_model(converted, "CPU", settings).create_infer_request()
    image = np.random.default_rng(0).standard_normal(shape, np.float32)

    def run() -> float:
        begun = time.perf_counter()
        request.infer([image], share_inputs=True)
        return 1000.0 * (time.perf_counter() - begun)

    return _median(run, seconds)


def time_on_cuda(module: nn.Module, shape: tuple[int, ...], seconds: float, device: str = "cuda") -> float:
    """Median milliseconds of any module on a GPU in half precision, channels last."""
    placed = module.eval().to(device, torch.float16)
    placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(shape).to(device, torch.float16, memory_format=torch.channels_last)

    with torch.inference_mode():
        replay = captured(partial(placed, image), RUNS_A_GRAPH)

        def run() -> float:
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            replay()
            ended.record()
            ended.synchronize()
            return float(begun.elapsed_time(ended)) / RUNS_A_GRAPH

        return _median(run, seconds)


def _median(run: Callable[[], float], seconds: float) -> float:
    """Run to warm up, then for about `seconds` and at least five times; `run` tells its milliseconds."""
    for _ in range(WARM_RUNS):
        run()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < 5 or time.perf_counter() < until:
        taken.append(run())
    return median(taken)
