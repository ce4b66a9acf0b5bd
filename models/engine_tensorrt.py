"""Run a network on an NVIDIA GPU by TensorRT: package `tensorrt`, or `tensorrt_rtx` where that is the one installed.

Both have the same interface. `tensorrt_rtx` builds an engine for a GPU that is not there, which the tests use.
"""

from __future__ import annotations

import hashlib
import importlib
import threading
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from cuda.bindings import runtime as cudart
from google.protobuf.message import DecodeError

from models.engine_base import FloatArray, ModelError
from models.engine_cache import EngineCache, EngineKey
from models.engine_cuda import CudaDevice, DeviceMemory, check, find_device
from models.engine_half import to_half

Precision = Literal["fp16", "fp32"]
PACKAGES = ("tensorrt", "tensorrt_rtx")
"""In the order they are looked for: `tensorrt` knows every data-centre GPU, `tensorrt_rtx` not all."""
BATCH = 32
"""Most slices a call; the engine takes any number up to it and is tuned for it."""
REMEDY = "install what requirements-gpu.txt names for this GPU, or set node.pipeline.engine to openvino"


def load_package() -> Any:
    """Import TensorRT, whichever package is here; raises ModelError with the remedy."""
    for name in PACKAGES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            continue
    raise ModelError(f"TensorRT is not installed: {REMEDY}")


def package_name(trt: Any) -> str:
    """Package and version, as the cache key and the report tell it."""
    return f"{trt.__name__} {trt.__version__}"


@cache
def _logger(trt: Any) -> Any:
    """One for the process: TensorRT keeps the first it is given."""
    return trt.Logger(trt.Logger.WARNING)


def read_network(name: str, path: Path, precision: Precision) -> bytes:
    """Return an ONNX file's content in a precision; raises ModelError where it is damaged."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"model {name} cannot be read: {path} is damaged or not ONNX") from error
    content = to_half(model) if precision == "fp16" else model
    return bytes(content.SerializeToString())


def parse(trt: Any, network: bytes) -> tuple[Any, Any]:
    """Return (builder, definition) of an ONNX file's content; raises ModelError where TensorRT cannot."""
    builder = trt.Builder(_logger(trt))
    # Types are the graph's in every version; before 11 `tensorrt` wants to be told.
    definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(definition, _logger(trt))
    if not parser.parse(network):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise ModelError(f"TensorRT cannot read the network: {reasons}")
    if definition.num_inputs != 1 or definition.num_outputs != 1:
        raise ModelError("the network must have one input and one output")
    return builder, definition


def build_engine(trt: Any, network: bytes, capability: tuple[int, int]) -> bytes:
    """Build an engine for one compute capability, for 1 to BATCH slices; raises ModelError where that fails."""
    builder, definition = parse(trt, network)
    image = definition.get_input(0)
    rest = tuple(image.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, (1, *rest), (BATCH, *rest), (BATCH, *rest))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    if hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(_listed(trt, capability), 0)
    plan = builder.build_serialized_network(definition, config)
    if plan is None:
        raise ModelError(
            f"{package_name(trt)} could not build an engine for compute capability {capability}; see above"
        )
    return bytes(plan)


def _listed(trt: Any, capability: tuple[int, int]) -> Any:
    """Return the package's own name of a compute capability; one newer than its list is asked for as that at hand.

    Raises ModelError for one that it leaves out: tensorrt_rtx 1.7 builds for Hopper (9.0) without complaint, and will
    not load there what it built (seen on an H100).
    """
    known = {
        int(name.removeprefix("SM")): value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    number = 10 * capability[0] + capability[1]
    if number in known:
        return known[number]
    if number > max(known):
        return trt.ComputeCapability.__members__["CURRENT"]
    told = f"{capability[0]}.{capability[1]}"
    raise ModelError(
        f"{package_name(trt)} does not run on GPUs of compute capability {told}: install package tensorrt in its "
        "place, as requirements-gpu.txt says, or set node.pipeline.engine to openvino"
    )


class TensorRtBackend:
    """One network's engine on this machine's first GPU."""

    def __init__(self, name: str, path: Path, cache_dir: Path, precision: Precision = "fp16") -> None:
        """Build the engine, or take it from the cache; raises ModelError with the remedy where it cannot be."""
        trt = load_package()
        device = find_device()
        if device is None:
            raise ModelError("no CUDA device answers: mend the NVIDIA driver, or set node.pipeline.engine to openvino")
        self.description = f"{package_name(trt)} on {device}, {precision}"
        key = engine_key(trt, path, device, precision)
        kept = EngineCache(cache_dir)
        self._runtime = trt.Runtime(_logger(trt))
        for _ in range(2):
            plan = kept.engine(key, lambda: build_engine(trt, read_network(name, path, precision), device.capability))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is not None:
                break
            kept.forget(key)
        else:
            raise ModelError(f"{package_name(trt)} refuses the engine it built for {device}; see above")
        self._runner = Runner(self._engine)

    @property
    def answer_shape(self) -> tuple[int | None, ...]:
        """As `NodeBackend` has it."""
        return self._runner.answer_shape

    def run(self, images: FloatArray) -> FloatArray:
        """Map (N, C, H, W), N at least 1, to the network's output, N first."""
        return self._runner.run(images)


def engine_key(trt: Any, path: Path, device: CudaDevice, precision: Precision) -> EngineKey:
    """Name all that a network's engine depends on."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return EngineKey(
        model_sha256=digest, device=str(device), package=package_name(trt), precision=precision, batch=BATCH
    )


class Runner:
    """An engine with its buffers on the GPU; one call at a time."""

    def __init__(self, engine: Any) -> None:
        self._lock = threading.Lock()
        self._engine = engine
        # The network has one of each, in this order: `parse` made sure of it.
        self._image, self._result = (engine.get_tensor_name(i) for i in range(2))
        self._in_shape = tuple(engine.get_tensor_shape(self._image))[1:]
        self._out_shape = tuple(engine.get_tensor_shape(self._result))[1:]
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ModelError("the GPU cannot hold the network, perhaps for want of memory; see above")
        self._stream = check(cudart.cudaStreamCreate())
        size = np.dtype(np.float32).itemsize
        self._images = DeviceMemory(BATCH * int(np.prod(self._in_shape)) * size)
        self._results = DeviceMemory(BATCH * int(np.prod(self._out_shape)) * size)
        self._context.set_tensor_address(self._image, self._images.address)
        self._context.set_tensor_address(self._result, self._results.address)

    @property
    def answer_shape(self) -> tuple[int | None, ...]:
        """Shape of the network's output; the number of slices is free."""
        return None, *(int(size) for size in self._out_shape)

    def run(self, images: FloatArray) -> FloatArray:
        """Map (N, C, H, W) to the network's output in parts of at most BATCH; raises ModelError where the GPU fails."""
        if images.shape[1:] != self._in_shape:
            raise ValueError(f"the network takes slices of {self._in_shape}, not {images.shape[1:]}")
        results = np.empty((len(images), *self._out_shape), np.float32)
        with self._lock:
            for start in range(0, len(images), BATCH):
                part = np.ascontiguousarray(images[start : start + BATCH], np.float32)
                self._context.set_input_shape(self._image, part.shape)
                self._images.fill(part, self._stream)
                if not self._context.execute_async_v3(int(self._stream)):
                    raise ModelError("the GPU refused the network; see above")
                self._results.read(results[start : start + BATCH], self._stream)
                check(cudart.cudaStreamSynchronize(self._stream))
        return results
