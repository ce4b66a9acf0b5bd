"""Augmentation of training slices, by MONAI's transforms.

Shift, rotation and flip are the thesis's (section 4.4.1); scale stands for heads and scanners of other sizes,
intensity, bias field, blur and noise for other scanners, and the margin of the brain mask for a mask that is
a little too wide or too tight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai import transforms as mt
from torch import Tensor
from torch.utils.data import Dataset

from models.training.data import Prepared

CROP = (192, 160)
"""(rows, columns) in frame pixels: a whole brain of usual size; the empty rim of the frame is not worth its time."""


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
            mt.RandScaleIntensityd(image, factors=0.25, prob=0.6, channel_wise=True),
            mt.RandShiftIntensityd(image, offsets=0.25, prob=0.6, channel_wise=True),
            mt.RandGaussianSmoothd(image, (0.3, 1.0), (0.3, 1.0), prob=0.15),
            mt.RandGaussianNoised(image, prob=0.15, std=0.15),
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
        return stripped, (drawn["tumour"].as_tensor()[0] > 0.5).long()
