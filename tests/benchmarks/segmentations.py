"""Seconds that the segmentations of one study take to be written: T1C's and FLAIR's, on their own grids.

python -m tests.benchmarks.segmentations                     24 x 512 x 512, and 155 x 240 x 240
python -m tests.benchmarks.segmentations --rounds 9

The first round of a process pays for what it loads, and is told apart. Processor time is what a busy machine does not
change; the time that passes holds waiting for the disk too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from operators.domain import REQUIRED, TumourMap
from operators.stage import Job
from operators.write_seg import write_segs
from tests.support_results import MADE_AT, job_of, source_of

STUDIES = {(24, 512, 512): (6.0, 0.45, 0.45), (155, 240, 240): (1.0, 1.0, 1.0)}
"""Planes, rows and columns; and their spacing in mm."""


def job_with_tumour(folder: Path, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Job:
    """A job whose tumour fills the middle third along each axis."""
    job = job_of(folder, *(source_of(c, spacing=spacing_mm, shape=shape) for c in REQUIRED), semi_axes_mm=None)
    probability = np.zeros(job.stack.geometry.spatial_shape, np.float32)
    probability[tuple(slice(size // 3, 2 * size // 3) for size in probability.shape)] = 0.9
    job.tumour = TumourMap(job.stack.geometry, probability, "nasbranet", "1")
    return job


def main() -> int:
    """Print a line for each study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    for shape, spacing_mm in STUDIES.items():
        with tempfile.TemporaryDirectory() as folder:
            job, taken = job_with_tumour(Path(folder), shape, spacing_mm), []
            for _ in range(rounds + 1):
                passed, processor = time.perf_counter(), time.process_time()
                write_segs(job, "1.0.0", MADE_AT)
                taken.append((time.process_time() - processor, time.perf_counter() - passed))
            first, (least, shortest) = taken[0], map(min, zip(*taken[1:], strict=True))
            size = " x ".join(map(str, shape))
            print(f"two of {size}: {least:.2f} s of a processor, {shortest:.2f} s passed; the first {first[0]:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
