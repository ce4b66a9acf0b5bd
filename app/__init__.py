"""The node: where studies come in and results go out.

Holoscan's libraries name libcudart.so.13 without saying where it is; loading it first lets them import on a
machine with no CUDA installed and no LD_LIBRARY_PATH set. Its Python loads CuPy, which wants a cache in the user's
home folder and fails without one; a service's user may have no home.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import shutil
import tempfile
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


def spare_cupy_the_home() -> None:
    """Give CuPy a folder that ends with this process, where its own in the home folder cannot be made."""
    if "CUPY_CACHE_DIR" in os.environ:
        return
    try:
        # As CuPy makes it. Nothing of the node is kept there.
        own = Path("~/.cupy/kernel_cache").expanduser()
        own.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        folder = tempfile.mkdtemp(prefix="glioma-node-cupy-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["CUPY_CACHE_DIR"] = folder  # child processes take the same


preload_cuda_runtime()
spare_cupy_the_home()

__version__ = "0.1.0"
