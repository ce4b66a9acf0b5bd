"""Seconds and memory that a study pays for the picture of where the IDH network looked, beside the rest of it.

python -m tests.benchmarks.attention              26 x 256 x 256, and 155 x 240 x 240; tumour on every slice
python -m tests.benchmarks.attention --rounds 9

The first round of a process pays for what it loads, and is told apart. Processor time is what a busy machine does not
change. Memory is the process's resident set: what opening the network adds to it, and what asking it adds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from app.config import load_settings
from app.process import open_networks
from models.engine_openvino import core
from operators.attention import look
from operators.attention_picture import render_attention
from operators.classify import evidence_of
from operators.domain import REQUIRED, Contrast, TumourMap
from operators.network_view import view_of
from operators.stage import Job
from tests.support_results import job_of, source_of

STUDIES = {(26, 256, 256): (5.0, 0.9, 0.9), (155, 240, 240): (1.0, 1.0, 1.0)}
"""Planes, rows and columns; and their spacing in mm."""


def job_with_tumour(folder: Path, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Job:
    """A job of T1, T1C and FLAIR with tumour on the middle of every slice."""
    job = job_of(folder, *(source_of(c, spacing=spacing_mm, shape=shape) for c in REQUIRED), semi_axes_mm=None)
    job.stack.images[Contrast.T1] = job.stack.images[Contrast.T1C]
    probability = np.zeros(job.stack.geometry.spatial_shape, np.float32)
    probability[:, shape[1] // 3 : 2 * shape[1] // 3, shape[2] // 3 : 2 * shape[2] // 3] = 0.9
    job.tumour = TumourMap(job.stack.geometry, probability, "nasbranet", "1")
    return job


def resident_mb() -> float:
    """Memory of this process."""
    with Path("/proc/self/status").open() as told:
        return int(next(line for line in told if line.startswith("VmRSS")).split()[1]) / 1024


def taken(do: Callable[[], object]) -> tuple[float, float]:
    """Processor time and passed time of a call, in seconds."""
    passed, processor = time.perf_counter(), time.process_time()
    do()
    return time.process_time() - processor, time.perf_counter() - passed


def main() -> int:
    """Print a line for each study, and one of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    core()
    before = resident_mb()
    networks = open_networks(load_settings())
    print(f"opening: {resident_mb() - before:.0f} MB")
    for shape, spacing_mm in STUDIES.items():
        with tempfile.TemporaryDirectory() as folder:
            job = job_with_tumour(Path(folder), shape, spacing_mm)
            view = view_of(job.stack)
            tumour = evidence_of(view, job.tumour, None).tumour
            size = " x ".join(map(str, shape))
            before, stack = resident_mb(), job.stack
            ask = partial(look, networks, stack, view, tumour, ("F", 51.0))
            maps = [taken(ask) for _ in range(rounds + 1)]
            print(f"{size}, {tumour.any(axis=(1, 2)).sum()} slices with tumour: {resident_mb() - before:.0f} MB more")
            ((found,), _) = ask()
            drawn = [taken(partial(render_attention, found, stack, job.tumour)) for _ in range(rounds + 1)]
            for name, each in (("map", maps), ("picture", drawn)):
                processor, passed = map(min, zip(*each[1:], strict=True))
                first = f"the first {each[0][0]:.2f} and {each[0][1]:.2f} s"
                print(f"  {name}: {processor:.2f} s of a processor, {passed:.2f} s passed; {first}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
