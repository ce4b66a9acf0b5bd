"""What every engine is to its caller."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class ModelError(RuntimeError):
    """A model file or the engine for it is missing, damaged, or not of the expected form; the message says which."""


class Backend(Protocol):
    """A network made ready on one device; may be called from several threads."""

    @property
    def description(self) -> str:
        """Engine, version, device and precision, for logs and reports."""

    def run(self, images: FloatArray) -> FloatArray:
        """Map (N, C, H, W), N at least 1, to the network's output, N first, in float32."""


class NodeBackend(Backend, Protocol):
    """What the node wants to know beside."""

    @property
    def answer_shape(self) -> tuple[int | None, ...]:
        """Shape of the network's output; None where a size is free, () where nothing is known."""


def run_slices(backend: Backend, images: FloatArray) -> FloatArray:
    """Map the slices of a study (slices, C, H, W) to the network's output, slices first.

    That is (slices, H, W), or (slices, channels, H, W) of a network that tells parts apart. A slice with no brain in it
    is not asked about: it is zero.
    """
    seen = images.any(axis=(1, 2, 3))
    if not seen.any():
        return np.zeros((len(images), *images.shape[2:]), np.float32)
    found = backend.run(images[seen])
    out = np.zeros((len(images), *found.shape[1:]), np.float32)
    out[seen] = found
    return out
