"""What is done to the images of a study, as arrays alone, so that the worker process can do it.

Sequences are registered to T1C while the brain is outlined on it, each on a core of its own; what could not be
registered is not used; T1C and FLAIR, which are segmented, lose their bias field.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from models import brain, frame
from operators.alignment import judge
from operators.domain import REQUIRED, Alignment, BoolArray, Contrast, FloatArray
from operators.errors import RegistrationFailed, UnusableImage
from operators.registration import Pyramid, Registration, register, resample, to_image

Result = TypeVar("Result")

LARGEST_BRAIN_ML = 2300.0
"""More than this is no brain alone: the mask took in what surrounds it."""


@dataclass(frozen=True, eq=False)
class Image:
    """One sequence as the worker process wants it."""

    array: FloatArray
    """(slice, row, column)."""
    affine: NDArray[np.float64]
    """4 x 4, from those indices to LPS mm."""
    label: str
    """What messages call it: contrast and series number."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing."""
        z, r, c = (float(step) for step in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, r, c


@dataclass(eq=False)
class Cleaned:
    """What became of a study's images; fields as in domain.Stack."""

    images: dict[Contrast, FloatArray]
    to_source: dict[Contrast, NDArray[np.float64]]
    brain: BoolArray
    alignments: dict[Contrast, Alignment] = field(default_factory=dict)
    stripped: bool = False
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class _Desk:
    """Steps side by side on the cores, each with its wall-clock time."""

    def __init__(self) -> None:
        # The mask and every registration are single-threaded or nearly so.
        self._pool = ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 2)))
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> _Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def timed(self, step: str, do: Callable[[], Result]) -> Result:
        """Do a step here and now."""
        begun = time.perf_counter()
        try:
            return do()
        finally:
            self.seconds[step] = time.perf_counter() - begun

    def beside(self, step: str, do: Callable[[], Result]) -> Future[Result]:
        """Start a step on another core."""
        return self._pool.submit(lambda: self.timed(step, do))


def clean(t1c: Image, others: Mapping[Contrast, Image]) -> Cleaned:
    """Register `others` to T1C, outline the brain and remove the bias field, all on T1C's grid.

    T1C is axial and in display order. Raises UnusableImage where no brain is seen, RegistrationFailed where FLAIR
    cannot be brought to T1C.
    """
    # Sequences run side by side instead; and sums that one thread makes come out equal, run after run.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with _Desk() as desk:
        outline = desk.beside("brain mask", partial(_outline, t1c.array, t1c.spacing_mm))
        fixed = Pyramid(to_image(t1c.array, t1c.affine))
        desk.timed("levels of T1C", lambda: fixed.levels)
        moving = {c: Pyramid(to_image(image.array, image.affine)) for c, image in others.items()}
        running = {c: desk.beside(f"registration of {c}", partial(_bring, fixed, moving[c])) for c in moving}
        brought = {c: future.result() for c, future in running.items()}
        found = {c: registration for c, (registration, _) in brought.items()}
        done = _gather(t1c, brought)
        _add_brain(done, outline.result(), t1c, others)
        desk.timed("checks", lambda: _judge_all(done, fixed, moving, found, t1c.label))
        correct = partial(frame.correct_bias, mask=done.brain, spacing_mm=t1c.spacing_mm)
        fields = {c: desk.beside(f"bias field of {c}", partial(correct, done.images[c])) for c in REQUIRED}
        done.images |= {c: future.result() for c, future in fields.items()}
    done.seconds = desk.seconds
    return done


def warm_up() -> None:
    """Load what the first study needs."""
    brain.warm_up()


def _outline(array: FloatArray, spacing_mm: tuple[float, float, float]) -> brain.Outline | str:
    """Outline the brain, or say why that failed."""
    try:
        outline = brain.outline_brain(array, spacing_mm)
    except brain.BrainNotFound as error:
        return str(error)
    volume_ml = float(outline.mask.sum() * np.prod(spacing_mm)) / 1000.0
    return outline if volume_ml <= LARGEST_BRAIN_ML else f"{volume_ml:.0f} ml is more than a brain"


def _bring(fixed: Pyramid, moving: Pyramid) -> tuple[Registration, FloatArray]:
    """Register one sequence, and put it on T1C's grid."""
    found = register(fixed, moving)
    return found, resample(moving.image, fixed.image, found.matrix)


def _gather(t1c: Image, brought: Mapping[Contrast, tuple[Registration, FloatArray]]) -> Cleaned:
    """Put the sequences side by side."""
    return Cleaned(
        {Contrast.T1C: t1c.array} | {c: image for c, (_, image) in brought.items()},
        {Contrast.T1C: np.eye(4)} | {c: found.matrix for c, (found, _) in brought.items()},
        np.zeros(t1c.array.shape, bool),
    )


def _add_brain(done: Cleaned, outline: brain.Outline | str, t1c: Image, others: Mapping[Contrast, Image]) -> None:
    """Take the mask of T1C, or where there is none that of the next best sequence."""
    reasons = []
    for contrast in (Contrast.T1C, Contrast.T1, Contrast.FLAIR):
        if contrast not in done.images:
            continue
        if contrast is not Contrast.T1C:
            outline = _outline(done.images[contrast], t1c.spacing_mm)
        if isinstance(outline, brain.Outline):
            done.brain, done.stripped = outline.mask, outline.stripped
            break
        reasons.append(f"{contrast}: {outline}")
    else:
        raise UnusableImage(f"no brain mask on {t1c.label} or another sequence ({'; '.join(reasons)})")
    if reasons:
        done.notes.append(f"the brain was outlined on {contrast}, because of {'; '.join(reasons)}")
    _add_emptiness(done, others)


def _add_emptiness(done: Cleaned, others: Mapping[Contrast, Image]) -> None:
    """Keep the brain to where FLAIR holds an image, if its skull was taken away and T1C's was not."""
    if done.stripped or Contrast.FLAIR not in others:
        return
    if brain.region_in_view(others[Contrast.FLAIR].array) is None:
        return
    region = done.images[Contrast.FLAIR] != 0
    if brain.dice(region, done.brain) > brain.LIKE_A_BRAIN:
        done.brain &= region
        done.stripped = True
        done.notes.append("FLAIR came without skull, T1C with it; the brain is where both show it")


def _judge_all(
    done: Cleaned,
    fixed: Pyramid,
    moving: Mapping[Contrast, Pyramid],
    found: Mapping[Contrast, Registration],
    label: str,
) -> None:
    """Record how each sequence was aligned, and drop those that cannot be trusted."""
    mask = to_image(done.brain.astype(np.float32), np.eye(4))
    mask.CopyInformation(fixed.image)
    for contrast, registration in found.items():
        alignment = judge(fixed, moving[contrast], registration, mask)
        done.alignments[contrast] = alignment
        if not alignment.fault:
            done.notes.append(
                f"{contrast} was aligned to T1C by {alignment.shift_mm:.1f} mm and {alignment.turn_degrees:.1f} degrees"
            )
        elif contrast in REQUIRED:
            raise RegistrationFailed(f"{contrast} could not be aligned to {label}: {alignment.fault}")
        else:
            del done.images[contrast], done.to_source[contrast]
            done.notes.append(f"{contrast} was left out, as it could not be aligned to T1C: {alignment.fault}")
