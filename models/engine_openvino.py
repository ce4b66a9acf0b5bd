"""Run a network on the CPU by OpenVINO.

How many slices a call takes and how calls share the cores was chosen by measurement: docs/engines.md.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov

from models.engine_base import FloatArray, ModelError

Hint = Literal["LATENCY", "THROUGHPUT"]
Precision = Literal["f32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class CpuSettings:
    """How the CPU is put to work; `python -m models.nasbranet tune` measures others on the machine at hand."""

    batch: int = 1
    """Slices a call."""
    hint: Hint = "THROUGHPUT"
    """LATENCY: all cores on one call. THROUGHPUT: several calls at once, each on a share of the cores."""
    precision: Precision = "bf16"
    """Of the arithmetic; bf16 only where the processor has instructions for it, else f32."""
    threads: int = 0
    """CPU threads of all calls together; 0: every core."""
    streams: int = 0
    """Calls at once; 0: as many as the hint makes of it."""

    def __str__(self) -> str:
        shares = [f"{n} {what}" for n, what in ((self.threads, "threads"), (self.streams, "streams")) if n]
        return ", ".join([f"{self.hint.lower()} hint, batch {self.batch}, {self.precision}", *shares])


@lru_cache(maxsize=1)
def core() -> ov.Core:
    """Give the process's one OpenVINO core, which is never dropped.

    On processors with AVX-512 each core gives its thread a stack for signal handlers, and puts the one before it back
    when it goes. Of two cores the later one puts back what the earlier one has freed by then, and the next signal that
    Python handles, the end of any child process, is a segmentation fault (seen in OpenVINO 2026.4.1).
    """
    return ov.Core()


def _compile(name: str, path: Path, settings: CpuSettings) -> tuple[ov.CompiledModel, Precision]:
    """Make a network ready; raises ModelError where it cannot be read."""
    # Said outright: left to itself OpenVINO takes bf16 wherever the processor has it, and tells nobody.
    bf16 = settings.precision == "bf16" and "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision: Precision = "bf16" if bf16 else "f32"
    options: dict[str, Any] = {"PERFORMANCE_HINT": settings.hint, "INFERENCE_PRECISION_HINT": precision}
    if settings.threads:
        options["INFERENCE_NUM_THREADS"] = settings.threads
    if settings.streams:
        options["NUM_STREAMS"] = settings.streams
    try:
        return core().compile_model(str(path), "CPU", options), precision
    except RuntimeError as error:
        raise ModelError(f"model {name} cannot be read: {path} is damaged or not ONNX") from error


class OpenVinoBackend:
    """One network compiled for this machine's processor."""

    def __init__(self, name: str, path: Path, settings: CpuSettings | None = None) -> None:
        """`path` is ONNX or OpenVINO's own form; raises ModelError where it cannot be read."""
        self.settings = settings or CpuSettings()
        self._compiled, self._precision = _compile(name, path, self.settings)
        if len(self._compiled.inputs) != 1 or len(self._compiled.outputs) != 1:
            raise ModelError(f"model {name} must have one input and one output")
        # Not AsyncInferQueue: its callbacks want the interpreter's lock, and a queue that is dropped while the last
        # callback returns waits for it with that lock held, for ever (seen in OpenVINO 2026.4.1).
        count = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [self._compiled.create_infer_request() for _ in range(count)]
        self._lock = threading.Lock()

    @cached_property
    def description(self) -> str:
        """For example "OpenVINO 2026.4.1 on CPU, bf16"."""
        version = ov.get_version().split("-")[0]
        return f"OpenVINO {version} on CPU, {self._precision}"

    @property
    def answer_shape(self) -> tuple[int | None, ...]:
        """As `NodeBackend` has it."""
        shape = self._compiled.outputs[0].get_partial_shape()
        if shape.rank.is_dynamic:
            return ()
        return tuple(None if size.is_dynamic else int(size.get_length()) for size in shape)

    def run(self, images: FloatArray) -> FloatArray:
        """Map (N, C, H, W), N at least 1, to the network's output, N first; one call at a time."""
        batch = self.settings.batch
        parts: list[FloatArray] = []
        under_way: deque[Any] = deque()
        with self._lock:
            idle = list(self._requests)
            for start in range(0, len(images), batch):
                request = idle.pop() if idle else _finished(under_way, parts)
                request.start_async([np.ascontiguousarray(images[start : start + batch])])
                under_way.append(request)
            while under_way:
                _finished(under_way, parts)
        return np.concatenate(parts)


class NamedNetwork:
    """A small network of several inputs and outputs, each with a name; one call at a time."""

    def __init__(self, name: str, path: Path, settings: CpuSettings) -> None:
        """Raises ModelError where the file cannot be read."""
        self._name = name
        self._compiled, _ = _compile(name, path, settings)
        self._request = self._compiled.create_infer_request()
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Map arrays by input name to arrays by output name; raises ModelError where the network does not run."""
        with self._lock:
            try:
                found = self._request.infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})
            except RuntimeError as error:
                raise ModelError(f"model {self._name} does not run on what it is given") from error
            # One tensor may have several names: the exporter's own beside the one it was told.
            return {name: np.array(found[o], np.float32) for o in self._compiled.outputs for name in o.get_names()}


def _finished(under_way: deque[Any], parts: list[FloatArray]) -> Any:
    """Wait for the oldest request, keep what it found, and return it."""
    request = under_way.popleft()
    request.wait()
    parts.append(request.get_output_tensor().data.astype(np.float32))
    return request
