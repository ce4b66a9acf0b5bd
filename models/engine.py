"""Open a trained network by name and run it: one call for the node and for evaluation, whatever the engine.

TensorRT on an NVIDIA GPU, OpenVINO on the CPU; docs/engines.md tells of both, and of what was measured.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property
from pathlib import Path

from models import engine_tensorrt
from models.engine_base import FloatArray, ModelError, NodeBackend, run_slices
from models.engine_choice import EngineChoice
from models.engine_cuda import find_device
from models.engine_openvino import OpenVinoBackend

__all__ = ["EngineChoice", "Model", "ModelError", "open_model"]

LOGGER = logging.getLogger(__name__)
CACHE = Path("~/.cache/glioma-node/engines")
"""Where engines are kept that nobody gave a folder for; the node gives its own."""


class Model:
    """One ONNX network with one image input and one output, ready on this machine."""

    def __init__(self, name: str, path: Path, engine: EngineChoice = "auto", cache_dir: Path | None = None) -> None:
        """`cache_dir` keeps engines built for a GPU. Raises ModelError with the reason, and the remedy where one is."""
        if not path.is_file():
            raise ModelError(f"model {name} is missing: no file {path}")
        self.name, self.path = name, path
        self._backend = _open_backend(name, path, engine, cache_dir or CACHE.expanduser())
        LOGGER.info("model %s %s runs on %s", name, self.version, self.engine)

    @cached_property
    def version(self) -> str:
        """First twelve hexadecimal digits of the file's SHA-256: what the model card calls it."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]

    @property
    def engine(self) -> str:
        """Engine, version, device and precision, for example "OpenVINO 2026.4.1 on CPU, bf16"."""
        return self._backend.description

    @property
    def answer_shape(self) -> tuple[int | None, ...]:
        """Shape of the network's output, slices first; None where a size is free, () where nothing is known."""
        return self._backend.answer_shape

    def run(self, images: FloatArray) -> FloatArray:
        """Map (N, C, H, W) to the network's output, N first; N is at least 1."""
        return self._backend.run(images)

    def run_slices(self, images: FloatArray) -> FloatArray:
        """Map the slices of a study (slices, C, H, W) as `engine_base.run_slices` does."""
        return run_slices(self._backend, images)


def open_model(name: str, models_dir: Path, engine: EngineChoice = "auto", cache_dir: Path | None = None) -> Model:
    """Open `models_dir/<name>/model.onnx`; raises ModelError with the reason."""
    return Model(name, models_dir / name / "model.onnx", engine, cache_dir)


def _open_backend(name: str, path: Path, engine: EngineChoice, cache_dir: Path) -> NodeBackend:
    """Open the engine asked for; `auto` falls back on the CPU, and says why where a GPU is left idle."""
    if engine == "tensorrt":
        return engine_tensorrt.TensorRtBackend(name, path, cache_dir)
    if engine == "auto":
        device = None
        try:
            device = find_device()
            if device is not None:
                return engine_tensorrt.TensorRtBackend(name, path, cache_dir)
        except ModelError as error:
            LOGGER.warning("model %s runs on the CPU, not on %s: %s", name, device or "the GPU", error)
    return OpenVinoBackend(name, path)
