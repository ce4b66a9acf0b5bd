"""A data folder that is made here: small cases whose tumour is plain to see."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from models import frame

MARKER_COLUMNS = (
    "case", "patient", "has_t1", "has_t1c", "site", "grade", "idh", "mgmt", "proliferation_score", "sex", "age",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder of three small cases, with deepbet replaced by a threshold (its own test is elsewhere)."""
    monkeypatch.setattr(frame, "brain_mask", lambda stack, spacing: stack > 20)
    return make_patients(tmp_path, 3, 4)


def make_patients(home, patients, slices, sites="A"):
    """Write a data folder of patients of some slices each, dealt to the sites in turn."""
    rng = np.random.default_rng(0)
    with (home / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "patient", "has_t1c", "site", "grade"])
        for i in range(patients):
            table.writerow([f"case{i}", f"patient{i}", "True", sites[i % len(sites)], "G2"])
            make_case(home / f"case{i}", slices, rng)
    return home


def make_case(folder, slices, rng):
    """Slices of a disc-shaped brain with a bright square tumour on the second and third."""
    folder.mkdir()
    r, c = np.mgrid[:256, :256]
    brain = (r - 128) ** 2 + (c - 120) ** 2 < 70**2
    for z in range(slices):
        tumour = brain & (abs(r - 110) < 15) & (abs(c - 120) < 15) & (z in (1, 2))
        image = np.where(brain, 90 + rng.normal(0, 8, brain.shape), 0.0) + 90 * tumour
        Image.fromarray(np.stack([image] * 3, -1).astype(np.uint8)).save(folder / f"{z:03d}.webp", lossless=True)
        Image.fromarray((tumour * 255).astype(np.uint8)).save(folder / f"{z:03d}_mask.png")


def label_patients(home, patients):
    """Give patients labels in turn; the second has no T1C, the third neither T1 nor an age."""
    with (home / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, MARKER_COLUMNS)
        table.writeheader()
        for i in range(patients):
            positive = i % 2 == 0
            table.writerow(
                {
                    "case": f"case{i}", "patient": f"patient{i}", "has_t1": i != 2, "has_t1c": i != 1,
                    "site": "AB"[i // 2 % 2], "grade": "G3" if positive else "G2",
                    "idh": "Mutant" if positive else "WT", "mgmt": "Methylated" if positive else "Unmethylated",
                    "proliferation_score": i / 10, "sex": ("female", "male")[i % 2], "age": "" if i == 2 else 30 + i,
                }
            )  # fmt: skip
            if positive:
                darken(home / f"case{i}")


def darken(folder):
    """Make the tumour dark in FLAIR alone."""
    for path in folder.glob("*.webp"):
        image = np.array(Image.open(path).convert("RGB"))
        tumour = np.asarray(Image.open(path.with_name(f"{path.stem}_mask.png"))) > 0
        image[tumour, 1] = 30
        Image.fromarray(image).save(path, lossless=True)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A data folder of eight labelled patients and a cache for it, made once; deepbet replaced by a threshold."""
    home = tmp_path_factory.mktemp("marked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame, "brain_mask", lambda stack, spacing: stack > 20)
        label_patients(make_patients(home, 8, 4), 8)
        yield home, tmp_path_factory.mktemp("cache")
