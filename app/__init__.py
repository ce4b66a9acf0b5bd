"""The node: where studies come in and results go out.

Holoscan's libraries name libcudart.so.13 without saying where it is; loading it first lets them import on a
machine with no CUDA installed and no LD_LIBRARY_PATH set.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path


def preload_cuda_runtime() -> bool:
    """Load the CUDA runtime of the nvidia-cuda-runtime wheel into this process; say whether it was there."""
    found = importlib.util.find_spec("nvidia")
    for root in (found.submodule_search_locations or []) if found else []:
        library = Path(root) / "cu13" / "lib" / "libcudart.so.13"
        if library.exists():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return True
    return False


preload_cuda_runtime()

__version__ = "0.1.0"
