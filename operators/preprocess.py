"""Bring the sequences of a study to one clean stack on T1C's grid.

T1C is put in display order; every other sequence is registered rigidly to it, because the patient moves
between sequences and headers do not know; the brain is outlined on T1C; T1C and FLAIR, which are segmented,
lose their bias field. The work itself is in operators.cleaning, which the worker process runs.

Source: thesis section 4.4.1.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from operators.cleaning import Cleaned, Image, clean
from operators.domain import Contrast, SourceVolume, Stack, Volumes
from operators.native import Worker
from operators.stage import Job, StageOperator, needed

LOGGER = logging.getLogger(__name__)

DISPLAY_ORDER = "HPL"
"""Slices toward the head, rows toward the back, columns toward the patient's left."""


class Cleaner(Protocol):
    """What cleans images: operators.cleaning.clean, here or in the worker process."""

    def __call__(self, t1c: Image, others: Mapping[Contrast, Image], /) -> Cleaned:
        """Clean a study's images."""


def preprocess(volumes: Volumes, cleaner: Cleaner = clean) -> Stack:
    """Register, outline and clean a study.

    Raises UnusableImage where no brain is seen, RegistrationFailed where FLAIR cannot be brought to T1C.
    """
    reference = volumes[Contrast.T1C].volume.to_patient_orientation(DISPLAY_ORDER)
    t1c = Image(
        np.ascontiguousarray(reference.array, np.float32),
        np.asarray(reference.affine),
        _label(Contrast.T1C, volumes[Contrast.T1C]),
    )
    others: dict[Contrast, Image] = {
        contrast: Image(source.volume.array, np.asarray(source.volume.affine), _label(contrast, source))
        for contrast, source in volumes.items()
        if contrast is not Contrast.T1C
    }
    done = cleaner(t1c, others)
    LOGGER.info("preprocessing: %s", ", ".join(f"{step} {seconds:.2f} s" for step, seconds in done.seconds.items()))
    return Stack(
        reference.get_geometry(), done.images, done.brain, done.to_source, tuple(done.notes),
        done.alignments, done.stripped, done.seconds,
    )  # fmt: skip


def _label(contrast: Contrast, source: SourceVolume) -> str:
    return f"{contrast} (series {source.series.number})"


class PreprocessOperator(StageOperator):
    """Volumes to the clean stack, made in the worker process."""

    def __init__(self, fragment: Any, *args: Any, worker: Worker, **kwargs: Any) -> None:
        self._worker = worker
        super().__init__(fragment, *args, **kwargs)

    def process(self, job: Job) -> None:
        """Add `job.stack`."""
        job.stack = preprocess(needed(job.volumes), lambda t1c, others: self._worker.run(clean, t1c, others))
