"""Fair times on a machine whose speed drifts, and what machine they were taken on.

Candidates take turns, round after round in an order drawn anew, and medians are compared: what else the machine does
meanwhile then slows all of them alike.
"""

from __future__ import annotations

import os
import platform
import random
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from rich.console import Console
from rich.progress import track

from models.engine_cuda import find_device
from models.engine_openvino import core

WARM_ROUNDS = 3
"""Turns that do not count: the first calls of an engine are slower."""
WARM_RUNS = 10
"""Runs that do not count, before one thing is timed."""


def take_turns(
    candidates: Mapping[str, Callable[[], object]], rounds: int, console: Console | None = None, seed: int = 0
) -> dict[str, list[float]]:
    """Call each candidate once a round; returns the seconds of each call that counts. Progress goes to the console."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    order, dealer = list(candidates), random.Random(seed)
    for turn in track(range(WARM_ROUNDS + rounds), "measuring", console=console, disable=console is None):
        dealer.shuffle(order)
        for name in order:
            begun = time.perf_counter()
            candidates[name]()
            if turn >= WARM_ROUNDS:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def captured(run: Callable[[], object], times: int = 1) -> Callable[[], None]:
    """Capture some runs of the GPU's work as one CUDA graph; returns the call that replays it, without waiting for it.

    A replay leaves no gap between kernels. Launched one by one from Python, a small network's kernels take less time
    than their launches: on an H100 that hid what width and operator cost (docs/nasbranet.md).
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # capture wants a warm-up on another stream; libraries choose their kernels in it
        for _ in range(WARM_RUNS):
            run()
    aside.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return graph.replay


def device_header() -> dict[str, Any]:
    """Say what machine figures come from: processor and its instructions for networks, cores, load, GPU."""
    flags = set(re.findall(r"[a-z0-9_]+", _processor_flags()))
    return {
        "processor": core().get_property("CPU", "FULL_DEVICE_NAME"),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile"}),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": str(find_device()) if find_device() else None,
        "openvino": ov.get_version().split("-")[0],
        "torch": torch.__version__,
        "system": platform.platform(terse=True),
    }


def _processor_flags() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line for line in lines if line.startswith("flags")), "")
