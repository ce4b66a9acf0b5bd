"""The measuring of the latency table: one operator after another on the device at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median

import numpy as np
import torch
from torch import nn

from models.engine_openvino import core
from models.nasbranet.latency_table import Key, LatencyTable
from models.nasbranet.ops import build_op
from models.nasbranet.plan import Op
from models.nasbranet.timing import device_header


def measure_table(
    keys: Iterable[Key], seconds: float, advance: Callable[[], None] = lambda: None, threads: int = 1
) -> LatencyTable:
    """Time every key on OpenVINO on this machine's CPU for about `seconds` each (ms, batch 1, median)."""
    entries = {}
    for key in sorted(keys):
        entries[key] = time_operator(key, seconds, threads)
        advance()
    return LatencyTable(_measured_on(threads), entries)


def _measured_on(threads: int) -> dict[str, str | int]:
    header = device_header()
    return {
        "device": header["processor"], "backend": f"openvino {header['openvino']}", "threads": threads,
        "dtype": "float32", "batch": 1, "system": header["system"],
    }  # fmt: skip


def time_operator(key: Key, seconds: float, threads: int = 1) -> float:
    """Median milliseconds of one operator, batch 1."""
    op = build_op(Op(key.op), key.c_in, key.c_out, key.stride)
    if isinstance(op, nn.Identity):
        return 0.0  # the final network has nothing there
    return time_module(op, (1, key.c_in, key.height, key.width), seconds, threads)


def time_module(module: nn.Module, shape: tuple[int, ...], seconds: float, threads: int = 1) -> float:
    """Median milliseconds of any module on OpenVINO: ten runs to warm up, then as many as fit into `seconds`."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    with torch.no_grad():
        converted = ov.convert_model(module.eval(), example_input=torch.zeros(shape), input=[list(shape)])
    request = core().compile_model(converted, "CPU", settings).create_infer_request()
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    for _ in range(10):
        request.infer([image], share_inputs=True)
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < 5 or time.perf_counter() < until:
        begun = time.perf_counter()
        request.infer([image], share_inputs=True)
        taken.append(1000.0 * (time.perf_counter() - begun))
    return median(taken)
