"""Measure registration on phantoms that moved by up to 15 mm and 15 degrees, about any axis.

    python -m tests.benchmarks.registration --trials 12

Prints, for each pairing of slice stacks, how far points of the brain end from where they truly lie.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from app.phantom import Motion, PhantomOptions, PhantomTruth, Plane, phantom_image, phantom_truth
from operators.domain import Contrast
from operators.registration import Pyramid, register, to_image

THICK = PhantomOptions(rows=200, columns=200, pixel_mm=1.1, one_matrix=True)
THIN = replace(THICK, slices=150, thickness_mm=1.2, spacing_mm=1.2)
SAGITTAL = replace(THIN, plane=Plane.SAGITTAL)
CORONAL = replace(THIN, plane=Plane.CORONAL, rows=170)
SLAB = replace(THICK, slices=16)
NARROW = replace(THICK, rows=160, columns=144, tilt_degrees=(-12.0, 0.0, 5.0))
PAIRINGS = {
    "thick to thick": (THICK, replace(THICK, tilt_degrees=(-4.0, 0.0, 0.0))), "thin to thin": (THIN, THIN),
    "thick to thin": (THICK, THIN), "thin to thick": (THIN, THICK),
    "thick axial to sagittal 3-D": (THICK, SAGITTAL), "coronal 3-D to thick axial": (CORONAL, THICK),
    "to a slab of 16 slices": (THICK, SLAB), "to a narrow field, 12 degrees steeper": (THICK, NARROW),
}  # fmt: skip
BRAIN = np.array([[x, y, z] for x in (-50, 0, 50) for y in (-55, 10, 70) for z in (-25, 10, 50)], float)
"""Points of the phantom's brain, LPS mm."""


def random_motion(rng: np.random.Generator, shift_mm: float = 15.0, turn_degrees: float = 15.0) -> Motion:
    """Draw a movement about a random axis, from a third of the limits to the limits."""
    axis, way = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    turn = Rotation.from_rotvec(axis * rng.uniform(0.33, 1) * turn_degrees, degrees=True)
    return Motion(tuple(way * rng.uniform(0.33, 1) * shift_mm), tuple(turn.as_euler("xyz", degrees=True)))


def pyramid(truth: PhantomTruth, contrast: Contrast) -> Pyramid:
    """Take one sequence of a phantom, without the way over DICOM files."""
    made = Pyramid(to_image(phantom_image(truth, contrast), truth.grid(contrast).affine))
    _ = made.levels
    return made


def trial(fixed: Pyramid, options: PhantomOptions, contrast: Contrast, motion: Motion) -> tuple[float, float]:
    """Return the mean residual in mm and the seconds of one registration."""
    truth = phantom_truth(Path(), replace(options, contrasts=(contrast,), motion={contrast: motion}))
    moving = pyramid(truth, contrast)
    begun = time.perf_counter()
    found = register(fixed, moving)
    seconds = time.perf_counter() - begun
    off = found.matrix - motion.matrix
    return float(np.linalg.norm(BRAIN @ off[:3, :3].T + off[:3, 3], axis=1).mean()), seconds


def main() -> None:
    """Run the sweep and print a line a pairing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=12, help="registrations of each pairing")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    rng, every = np.random.default_rng(arguments.seed), []
    print(f"{'pairing':40} {'trials':>6} {'mean':>6} {'p95':>6} {'worst':>6} mm {'median s':>9}")
    for name, (mine, other) in PAIRINGS.items():
        fixed = pyramid(phantom_truth(Path(), replace(mine, motion={})), Contrast.T1C)
        contrasts = cycle([Contrast.FLAIR, Contrast.T2, Contrast.T1])
        drawn = [(next(contrasts), random_motion(rng)) for _ in range(arguments.trials)]
        with ThreadPoolExecutor(2) as pool:
            ended = np.array(list(pool.map(lambda d, o=other, f=fixed: trial(f, o, *d), drawn)))
        residual = ended[:, 0]
        every.extend(residual)
        print(
            f"{name:40} {len(residual):6d} {residual.mean():6.2f} {np.percentile(residual, 95):6.2f} "
            f"{residual.max():6.2f}    {np.median(ended[:, 1]):9.2f}", flush=True,
        )  # fmt: skip
    print(f"{'all':40} {len(every):6d} {np.mean(every):6.2f} {np.percentile(every, 95):6.2f} {max(every):6.2f}")


if __name__ == "__main__":
    main()
