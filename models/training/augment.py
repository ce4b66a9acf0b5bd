"""Augmentation of training slices, by MONAI's transforms.

Shift, rotation and flip are the thesis's (section 4.4.1); scale stands for heads and scanners of other sizes,
intensity, contrast, bias field, blur, lower resolution and noise for other scanners, the tighter mask for studies
that came without skull, and the missing T1C for those whose T1C is poor.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai import transforms as mt
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from models.training.data import Prepared

CROP = (192, 160)
"""(rows, columns) in frame pixels: a whole brain of usual size; the empty rim of the frame is not worth its time."""
TIGHT_SHARE, TIGHTEST_PIXELS = 0.3, 5
"""How often the mask is drawn in, and by how much at most: its own margin of 3 mm, and an over-eager stripper's 2."""
WITHOUT_T1C = 0.1
"""How often a slice is shown without its T1C."""


class RandTightMaskd(mt.RandomizableTransform, mt.MapTransform):
    """Draw a mask (1, H, W) in by some pixels: skull strippers leave the cortex bare."""

    def __init__(self, keys: Sequence[Hashable], prob: float, most_pixels: int) -> None:
        mt.MapTransform.__init__(self, list(keys))
        mt.RandomizableTransform.__init__(self, prob)
        self.most_pixels = most_pixels

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Return the data with the masks under `keys` drawn in."""
        drawn = dict(data)
        self.randomize(None)
        pixels = int(self.R.randint(1, self.most_pixels + 1))
        if self._do_transform:
            for key in self.key_iterator(drawn):
                outside = 1.0 - drawn[key]
                drawn[key] = 1.0 - F.max_pool2d(outside, 2 * pixels + 1, 1, pixels)
        return drawn


class RandMissingChanneld(mt.RandomizableTransform, mt.MapTransform):
    """Set one channel of an image (C, H, W) to zero, as if its sequence were missing."""

    def __init__(self, keys: Sequence[Hashable], prob: float, channel: int) -> None:
        mt.MapTransform.__init__(self, list(keys))
        mt.RandomizableTransform.__init__(self, prob)
        self.channel = channel

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Return the data, with the channel of the images under `keys` perhaps zero."""
        drawn = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.key_iterator(drawn):
                image = drawn[key].clone()
                image[self.channel] = 0.0
                drawn[key] = image
        return drawn


def augmentation(seed: int) -> mt.Compose:
    """Build the random transforms of a dictionary with image (2, H, W), brain and tumour (1, H, W)."""
    image = ["image"]
    pipeline = mt.Compose(
        [
            mt.RandAffined(
                ["image", "brain", "tumour"],
                prob=1.0,
                rotate_range=0.35,
                shear_range=0.05,
                scale_range=0.15,
                translate_range=10,
                spatial_size=CROP,
                mode=["bilinear", "nearest", "nearest"],
                padding_mode="zeros",
            ),
            mt.RandFlipd(["image", "brain", "tumour"], prob=0.5, spatial_axis=1),
            mt.RandBiasFieldd(image, prob=0.2, degree=2, coeff_range=(0.0, 0.1)),
            mt.RandAdjustContrastd(image, prob=0.2, gamma=(0.7, 1.5), retain_stats=True),
            mt.RandScaleIntensityd(image, factors=0.25, prob=0.6, channel_wise=True),
            mt.RandShiftIntensityd(image, offsets=0.25, prob=0.6, channel_wise=True),
            mt.RandGaussianSmoothd(image, (0.3, 1.0), (0.3, 1.0), prob=0.1),
            mt.RandSimulateLowResolutiond(image, prob=0.15, upsample_mode="bilinear", zoom_range=(0.5, 1.0)),
            mt.RandGaussianNoised(image, prob=0.15, std=0.2),
            RandTightMaskd(["brain"], TIGHT_SHARE, TIGHTEST_PIXELS),
            RandMissingChanneld(image, WITHOUT_T1C, 0),
        ]
    )
    return pipeline.set_random_state(seed)


class Slices(Dataset[tuple[Tensor, Tensor]]):
    """Every slice with tumour and, newly drawn each epoch, a share of those without."""

    def __init__(self, cases: Sequence[Prepared], empty_share: float, seed: int) -> None:
        indices = [(i, z) for i, case in enumerate(cases) for z in range(len(case.tumour))]
        self.cases = cases
        self.tumour = [(i, z) for i, z in indices if cases[i].tumour[z].any()]
        self.empty = [(i, z) for i, z in indices if not cases[i].tumour[z].any() and cases[i].brain[z].any()]
        self.empty_share, self.seed = empty_share, seed
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's empty slices and seed its augmentation; the same epoch always gets the same."""
        rng = np.random.default_rng([self.seed, epoch])
        wanted = min(len(self.empty), round(len(self.tumour) * self.empty_share))
        drawn = rng.choice(len(self.empty), wanted, replace=False)
        self.indices = self.tumour + [self.empty[i] for i in drawn]
        self.augment = augmentation(int(rng.integers(2**31)))
        self.epoch = epoch

    def begin_worker(self, number: int) -> None:
        """Seed the augmentation of a DataLoader's worker: each has a copy of the same, and would draw alike.

        The first keeps it, so that one worker draws what none does.
        """
        if number:
            rng = np.random.default_rng([self.seed, self.epoch, number])
            self.augment = augmentation(int(rng.integers(2**31)))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one augmented slice: image (2, rows, columns), stripped, and target (rows, columns)."""
        case, z = self.indices[index]
        kept = self.cases[case]
        drawn = self.augment(
            {
                "image": torch.from_numpy(kept.images[z].astype(np.float32)),
                "brain": torch.from_numpy(kept.brain[z][None].astype(np.float32)),
                "tumour": torch.from_numpy(kept.tumour[z][None].astype(np.float32)),
            }
        )
        stripped = drawn["image"].as_tensor() * (drawn["brain"].as_tensor() > 0.5)
        if not kept.case.has_t1c:
            stripped[0] = 0.0  # shifts of intensity must not make something of nothing
        return stripped, (drawn["tumour"].as_tensor()[0] > 0.5).long()
