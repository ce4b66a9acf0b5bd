"""A data folder that is made here: small cases whose tumour is plain to see."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from models import frame


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder of three small cases, with deepbet replaced by a threshold (its own test is elsewhere)."""
    monkeypatch.setattr(frame, "brain_mask", lambda stack, spacing: stack > 20)
    rng = np.random.default_rng(0)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "patient", "has_t1c", "site", "grade"])
        for i in range(3):
            table.writerow([f"case{i}", f"patient{i}", "True", "A", "G2"])
            make_case(tmp_path / f"case{i}", rng)
    return tmp_path


def make_case(folder, rng):
    """Four slices of a disc-shaped brain with a bright square tumour on two of them."""
    folder.mkdir()
    r, c = np.mgrid[:256, :256]
    brain = (r - 128) ** 2 + (c - 120) ** 2 < 70**2
    for z in range(4):
        tumour = brain & (abs(r - 110) < 15) & (abs(c - 120) < 15) & (z in (1, 2))
        image = np.where(brain, 90 + rng.normal(0, 8, brain.shape), 0.0) + 90 * tumour
        Image.fromarray(np.stack([image] * 3, -1).astype(np.uint8)).save(folder / f"{z:03d}.webp", lossless=True)
        Image.fromarray((tumour * 255).astype(np.uint8)).save(folder / f"{z:03d}_mask.png")
