"""Time preprocessing step by step, as the node runs it: in the worker process.

    PYTHONPATH=. python tests/benchmarks/preprocessing.py STUDY [STUDY ...] --runs 3

With no study, a phantom of 4 x 26 slices and one of 4 x 155 at 1 mm are made. The network's input is timed with it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from app.phantom import PhantomOptions, make_phantom
from operators import cleaning
from operators.build_volumes import build_volumes
from operators.domain import Volumes
from operators.load_study import load_study
from operators.native import Worker
from operators.network_view import view_of
from operators.preprocess import preprocess
from operators.select_series import select_series

PHANTOMS = {
    "4x26": PhantomOptions(),
    "4x155": PhantomOptions(
        slices=155, thickness_mm=1, spacing_mm=1, rows=240, columns=240, pixel_mm=1.0, one_matrix=True
    ),
}


def volumes_of(folder: Path) -> Volumes:
    """Read a study as the node does."""
    return build_volumes(select_series(load_study(folder)))


def measure(name: str, volumes: Volumes, worker: Worker, runs: int) -> None:
    """Print wall-clock seconds of the whole and of each step."""
    shape = max((source.volume.spatial_shape for source in volumes.values()), key=lambda s: s[0])
    for _ in range(runs):
        begun = time.perf_counter()
        stack = preprocess(volumes, lambda t1c, others: worker.run(cleaning.clean, t1c, others))
        cleaned = time.perf_counter()
        view_of(stack)
        framed = time.perf_counter()
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in stack.seconds.items())
        print(f"{name} {shape}: to network input {framed - begun:.2f} s (framing {framed - cleaned:.2f}); {steps}")


def main() -> None:
    """Measure every study that is named, or the phantoms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    worker = Worker(cleaning.warm_up)
    begun = time.perf_counter()
    worker.start()
    worker.run(time.time)
    print(f"worker ready after {time.perf_counter() - begun:.1f} s")
    try:
        for study in arguments.studies:
            measure(study.name, volumes_of(study), worker, arguments.runs)
        if not arguments.studies:
            for name, options in PHANTOMS.items():
                with tempfile.TemporaryDirectory() as folder:
                    make_phantom(Path(folder), options)
                    measure(f"phantom {name}", volumes_of(Path(folder)), worker, arguments.runs)
    finally:
        worker.stop()


if __name__ == "__main__":
    main()
