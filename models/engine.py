"""Open a trained network by name and run it: OpenVINO on the CPU, one call for the node and for evaluation."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

BATCH = 4
"""Slices per call: enough to keep both of two cores busy, little enough to stay in their caches."""


class ModelError(RuntimeError):
    """A model file is missing, damaged, or not of the expected form; the message says which."""


class Model:
    """One ONNX network with one image input and one output, compiled for this machine."""

    def __init__(self, name: str, path: Path) -> None:
        if not path.is_file():
            raise ModelError(f"model {name} is missing: no file {path}")
        self.name, self.path = name, path
        try:
            self._compiled = ov.Core().compile_model(str(path), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        except RuntimeError as error:
            raise ModelError(f"model {name} cannot be read: {path} is damaged or not ONNX") from error
        if len(self._compiled.inputs) != 1 or len(self._compiled.outputs) != 1:
            raise ModelError(f"model {name} must have one input and one output")

    @cached_property
    def version(self) -> str:
        """First twelve hexadecimal digits of the file's SHA-256: what the model card calls it."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (N, C, H, W) to the network's output, N first."""
        request = self._compiled.create_infer_request()
        parts = [
            request.infer([np.ascontiguousarray(images[i : i + BATCH])])[0].copy() for i in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)

    def run_slices(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map the slices of a study (slices, C, H, W) to (slices, H, W); one with no brain in it is zero."""
        seen = images.any(axis=(1, 2, 3))
        out = np.zeros((len(images), *images.shape[2:]), np.float32)
        if seen.any():
            out[seen] = self.run(images[seen])
        return out


def open_model(name: str, models_dir: Path) -> Model:
    """Open `models_dir/<name>/model.onnx`; raises ModelError with the reason."""
    return Model(name, models_dir / name / "model.onnx")
