"""The CUDA device of this machine, and memory on it, through NVIDIA's own Python bindings: no torch."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from models.engine_base import FloatArray, ModelError


@dataclass(frozen=True)
class CudaDevice:
    """A GPU: what an engine is built for."""

    name: str
    capability: tuple[int, int]
    """Compute capability, (major, minor)."""

    def __str__(self) -> str:
        return f"{self.name} ({self.capability[0]}.{self.capability[1]})"


def find_device() -> CudaDevice | None:
    """Return the first CUDA device, or None where there is no driver or no device."""
    status, count = cudart.cudaGetDeviceCount()
    if status != cudart.cudaError_t.cudaSuccess or not count:
        return None
    properties = check(cudart.cudaGetDeviceProperties(0))
    return CudaDevice(bytes(properties.name).split(b"\0")[0].decode(), (properties.major, properties.minor))


def driver_version() -> str:
    """Return the newest CUDA that the driver supports, as "13.0"; "none" where there is no driver."""
    number = int(check(cudart.cudaDriverGetVersion()))
    return f"{number // 1000}.{number % 1000 // 10}" if number else "none"


def check(answer: tuple[Any, ...]) -> Any:
    """Return what a call of the CUDA runtime gave; raises ModelError where its status is not success."""
    status, *values = answer
    if status != cudart.cudaError_t.cudaSuccess:
        raise ModelError(f"the GPU reports {_reason(status)}")
    return values[0] if values else None


def _reason(status: Any) -> str:
    _, text = cudart.cudaGetErrorString(status)
    return f"{text.decode()} (CUDA error {int(status)})"


class DeviceMemory:
    """Bytes on the GPU; freed with this object."""

    def __init__(self, size: int) -> None:
        self.address = int(check(cudart.cudaMalloc(size)))
        self.size = size
        weakref.finalize(self, cudart.cudaFree, self.address)

    def fill(self, array: FloatArray, stream: Any) -> None:
        """Copy a contiguous array to the GPU, in the stream's order."""
        self._copy(self.address, array.ctypes.data, array, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def read(self, array: FloatArray, stream: Any) -> None:
        """Copy from the GPU into a contiguous array, in the stream's order; it is filled once the stream is done."""
        self._copy(array.ctypes.data, self.address, array, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def _copy(self, to: int, source: int, array: NDArray[Any], kind: Any, stream: Any) -> None:
        if array.nbytes > self.size or not array.flags.c_contiguous:
            raise ValueError(f"{array.nbytes} bytes do not fit {self.size} on the GPU, or are not contiguous")
        check(cudart.cudaMemcpyAsync(to, source, array.nbytes, kind, stream))
