"""Slices that hold tumour, on the frame, as the marker networks read them.

What `models.training.data` is to the segmentation: the same folders, the same steps of `models.frame`, the same
cache of brain outlines; but T1 too, the tumour's outline as input, and only slices that hold tumour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from models import frame
from models.brain import Outline
from models.markers.batch import SliceBatch
from models.markers.labels import Subject
from models.markers.slices import SEQUENCES, encode_metadata
from models.training import data

SOURCE = {"T1": data.T1, "T1C": data.T1C, "FLAIR": data.FLAIR}
"""The sequences that data folders hold, and their channels there."""
PIXELS = 112
"""Default side of a network's input: half the frame's and the sources' 224, a quarter of the time."""

Item = tuple[Tensor, Tensor, Tensor, Tensor, int]
"""A slice's images, mask, present flags, metadata (as in `SliceBatch`) and its label."""


@dataclass(frozen=True, eq=False)
class TumourSlices:
    """The S tumour slices of one case, P x P pixels."""

    subject: Subject
    images: Tensor
    """(S, 4, P, P) float16: bias-corrected, standardised over the brain, zero outside it and where missing."""
    mask: Tensor
    """(S, 1, P, P) float16: share of each pixel that is tumour."""

    @property
    def present(self) -> Tensor:
        """Return which sequences there are: (4,) bool."""
        return torch.tensor([name in sequences_of(self.subject) for name in SEQUENCES])

    @property
    def metadata(self) -> Tensor:
        """Return sex and age: (2,)."""
        return torch.tensor(encode_metadata(self.subject.sex, self.subject.age_years))

    def batch(self) -> SliceBatch:
        """Return all slices as they are."""
        count = len(self.images)
        mask = (self.mask.float() >= 0.5).float()
        return SliceBatch(self.images.float(), mask, self.present.repeat(count, 1), self.metadata.repeat(count, 1))


def sequences_of(subject: Subject) -> tuple[str, ...]:
    """Name the sequences that a case truly has; a channel that is a copy of FLAIR is none."""
    there = {"T1": subject.has_t1, "T1C": subject.case.has_t1c, "FLAIR": True}
    return tuple(name for name in SOURCE if there[name])


def load_slices(subject: Subject, cache: Path, pixels: int = PIXELS) -> TumourSlices:
    """Bring a case's tumour slices to the frame, once (kept in `cache`), and shrink them by area averaging.

    Raises `DataError` where the case holds no tumour.
    """
    images, tumour = subject.case.read()
    names = sequences_of(subject)
    key = f"marker {frame.VERSION} {frame.FRAME_SIZE} {frame.FRAME_PIXEL_MM} {frame.WIDEST_SECTION_MM2} {names}"
    outlined = data.outline(subject.case, images, cache)
    key += (" stripped" if outlined.stripped else "") + subject.case.spacing_key
    make = partial(_to_frame, images, tumour, outlined, names, subject.case.slice_mm)
    arrays = data.kept(cache, f"{subject.case.name}-marker", [images, tumour], key, make)
    if not len(arrays["tumour"]):
        raise data.DataError(f"{subject.case.name} holds no tumour; leave it out (--leave-out)")
    framed = torch.zeros(len(arrays["tumour"]), len(SEQUENCES), pixels, pixels, dtype=torch.float16)
    framed[:, [SEQUENCES.index(name) for name in names]] = _shrunk(arrays["images"], pixels)
    return TumourSlices(subject, framed, _shrunk(arrays["tumour"][:, None], pixels))


def _shrunk(array: NDArray[Any], pixels: int) -> Tensor:
    full = torch.from_numpy(array.astype(np.float32))
    small = full if pixels == full.shape[-1] else F.interpolate(full, size=(pixels, pixels), mode="area")
    return small.half()


def _to_frame(
    images: NDArray[np.uint8], tumour: NDArray[np.bool_], outlined: Outline, names: Sequence[str], slice_mm: float
) -> dict[str, Any]:
    """Correct, standardise, strip and resample: images (S, sequences, 224, 224), tumour (S, 224, 224)."""
    brain = outlined.mask
    pixel = frame.estimate_pixel_mm(brain)
    spacing, placement = (slice_mm, pixel, pixel), frame.place(brain, (pixel, pixel))
    holds = tumour.any(axis=(1, 2))
    wide = frame.to_frame(frame.widen(brain, (pixel, pixel), outlined.margin_mm)[holds], placement, linear=False)
    framed = []
    for name in names:
        stack = images[..., SOURCE[name]].astype(np.float32)
        level = frame.standardise(frame.correct_bias(stack, brain, spacing), brain)
        framed.append(frame.to_frame(level[holds], placement) * wide)
    target = frame.to_frame(tumour[holds], placement) > 0.5
    return {"images": np.stack(framed, axis=1).astype(np.float16), "tumour": target}


def augmentation(seed: int, pixels: int) -> mt.Compose:
    """Build the random transforms of a dictionary with images (4, P, P), mask and inside (1, P, P).

    Modest: with under a hundred patients the images must stay like patients'. Shift, rotation, flip and scale as in
    the thesis's section 4.4.1; intensity for other scanners.
    """
    every, shift = ["images", "mask", "inside"], 10 * pixels / frame.FRAME_SIZE
    pipeline = mt.Compose(
        [
            mt.RandAffined(
                every,
                prob=1.0,
                rotate_range=0.26,
                scale_range=0.1,
                translate_range=shift,
                mode=["bilinear", "bilinear", "nearest"],
                padding_mode="zeros",
            ),
            mt.RandFlipd(every, prob=0.5, spatial_axis=1),
            mt.RandScaleIntensityd(["images"], factors=0.15, prob=0.5, channel_wise=True),
            mt.RandShiftIntensityd(["images"], offsets=0.15, prob=0.5, channel_wise=True),
        ]
    )
    return pipeline.set_random_state(seed)


class SliceSet(Dataset[Item]):
    """Of every patient the same number of slices an epoch, so that large tumours do not teach the most."""

    def __init__(self, cases: Sequence[TumourSlices], per_patient: int, seed: int, *, side_by_side: bool) -> None:
        """`side_by_side`: a patient's slices stay together, for pooling that is learnt; otherwise all are mixed."""
        self.cases, self.per_patient, self.seed, self.side_by_side = cases, per_patient, seed, side_by_side
        self.slices: dict[str, list[tuple[int, int]]] = {}
        for index, case in enumerate(cases):
            found = self.slices.setdefault(case.subject.patient, [])
            found += [(index, z) for z in range(len(case.images))]
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's slices and seed its augmentation; the same epoch always gets the same."""
        rng = np.random.default_rng([self.seed, epoch])
        patients = sorted(self.slices)
        bags = [self._draw(self.slices[patients[i]], rng) for i in rng.permutation(len(patients))]
        drawn = [pair for bag in bags for pair in bag]
        self.indices = drawn if self.side_by_side else [drawn[i] for i in rng.permutation(len(drawn))]
        pixels = self.cases[0].images.shape[-1]
        self.augment = augmentation(int(rng.integers(2**31)), pixels)
        self.epoch = epoch

    def begin_worker(self, number: int) -> None:
        """Seed the augmentation of a DataLoader's worker, as models.training.augment.Slices does and for its reason."""
        if number:
            rng = np.random.default_rng([self.seed, self.epoch, number])
            self.augment = augmentation(int(rng.integers(2**31)), self.cases[0].images.shape[-1])

    def _draw(self, slices: list[tuple[int, int]], rng: np.random.Generator) -> list[tuple[int, int]]:
        """Draw a patient's slices: none twice while there are others."""
        rounds = -(-self.per_patient // len(slices))
        order = np.concatenate([rng.permutation(len(slices)) for _ in range(rounds)])
        return [slices[i] for i in order[: self.per_patient]]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        """Return one augmented slice."""
        number, z = self.indices[index]
        case = self.cases[number]
        images = case.images[z].float()
        inside = (images != 0.0).any(dim=0, keepdim=True).float()
        drawn = self.augment({"images": images, "mask": case.mask[z].float(), "inside": inside})
        # Shifts of intensity must make something neither of the background nor of a sequence that is missing.
        shown = (drawn["inside"].as_tensor() > 0.5) & case.present[:, None, None]
        mask = (drawn["mask"].as_tensor() >= 0.5).float()
        return drawn["images"].as_tensor() * shown, mask, case.present, case.metadata, case.subject.label
