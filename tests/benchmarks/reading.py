"""Seconds from a folder of DICOM files to volumes, step by step.

python -m tests.benchmarks.reading                       a phantom of 4 x 155 slices, 240 x 240
python -m tests.benchmarks.reading --matrix 512 --syntax 1.2.840.10008.1.2.4.90
python -m tests.benchmarks.reading --study FOLDER        a study of your own
python -m tests.benchmarks.reading --child ...           encoded pixels decoded as the node does, in another process
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import app  # noqa: F401 - loads the CUDA runtime before anything imports Holoscan
from app.phantom import PhantomOptions, make_phantom
from operators.build_volumes import build_volume
from operators.decoder import ChildDecoder, Decoder
from operators.domain import Contrast
from operators.load_study import load_study
from operators.pixels import HERE
from operators.series_geometry import FEWEST_SLICES, slice_count


def seconds_of(folder: Path, decoder: Decoder) -> dict[str, float]:
    """Read a study once: headers, then every series as a volume."""
    begun = time.perf_counter()
    study = load_study(folder)
    loaded = time.perf_counter()
    volumes = [build_volume(Contrast.T1, s, decoder) for s in study.series if slice_count(s) >= FEWEST_SLICES]
    built = time.perf_counter()
    slices = sum(len(v.headers) for v in volumes)
    return {"slices": slices, "headers": loaded - begun, "volumes": built - loaded, "both": built - begun}


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, help="a study's folder, in place of a phantom")
    parser.add_argument("--slices", type=int, default=155)
    parser.add_argument("--matrix", type=int, default=240)
    parser.add_argument("--syntax", default=PhantomOptions.transfer_syntax, help="transfer syntax UID of the phantom")
    parser.add_argument("--enhanced", action="store_true", help="one multi-frame object a series")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--child", action="store_true", help="decode as the node does, in a process of its own")
    asked = parser.parse_args()
    decoder = ChildDecoder() if asked.child else HERE
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.study or Path(scratch)
        if asked.study is None:
            options = PhantomOptions(
                slices=asked.slices, thickness_mm=1, spacing_mm=1, rows=asked.matrix, columns=asked.matrix,
                pixel_mm=240 / asked.matrix, one_matrix=True, transfer_syntax=asked.syntax, enhanced=asked.enhanced,
            )  # fmt: skip
            make_phantom(folder, options)
        runs = [seconds_of(folder, decoder) for _ in range(asked.runs)]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{runs[0]['slices']:.0f} slices, {len(runs)} runs; first, fastest, median, slowest in seconds\n")
    for step in ("headers", "volumes", "both"):
        taken = [run[step] for run in runs]
        sys.stdout.write(
            f"{step:8} {taken[0]:6.2f} {min(taken):6.2f} {statistics.median(taken):6.2f} {max(taken):6.2f}\n"
        )
    sys.stdout.write(f"most memory held, phantom included: {peak_mb:.0f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
