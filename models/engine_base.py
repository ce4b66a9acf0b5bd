"""What every engine is to its caller."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
EngineChoice = Literal["auto", "openvino", "tensorrt"]
"""`auto` is TensorRT where a CUDA device and the package are present, else OpenVINO."""


class ModelError(RuntimeError):
    """A model file or the engine for it is missing, damaged, or not of the expected form; the message says which."""


class Backend(Protocol):
    """A network made ready on one device; may be called from several threads."""

    @property
    def description(self) -> str:
        """Engine, version, device and precision, for logs and reports."""

    def run(self, images: FloatArray) -> FloatArray:
        """Map (N, C, H, W), N at least 1, to the network's output, N first, in float32."""


def run_slices(backend: Backend, images: FloatArray) -> FloatArray:
    """Map the slices of a study (slices, C, H, W) to (slices, H, W); one with no brain in it is zero."""
    seen = images.any(axis=(1, 2, 3))
    out = np.zeros((len(images), *images.shape[2:]), np.float32)
    if seen.any():
        out[seen] = backend.run(images[seen])
    return out
