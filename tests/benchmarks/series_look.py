"""How well a look at five slices tells contrasts apart, by patient-wise cross-validation.

    python -m tests.benchmarks.series_look --data ../shared/data/tcga_lgg [--weights]

Prints for each question how many patients get an answer and how many answers are right, with 95 % Wilson
intervals over patients; --weights fits on all and prints what operators/series_pixels.py holds.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from operators.series_pixels import BRIGHTER, MIDDLE, SLICES, SURE_ALONE, SURE_OF_TWO, Look, is_t2, look

FOLDS = GroupKFold(10)


def looks(data: Path) -> Iterator[tuple[str, str, Look | None]]:
    """Patient, contrast and look of each true channel of each case."""
    with (data / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            paths = sorted((data / row["case"]).glob("*.webp"))
            first, last = (int(part * (len(paths) - 1)) for part in MIDDLE)
            places = np.unique(np.linspace(first, last, SLICES).astype(int))
            planes = np.stack([np.asarray(Image.open(paths[k]), np.float32) for k in places])
            for channel, name in enumerate(("T1", "FLAIR", "T1C")):
                if name == "FLAIR" or row[f"has_{name.lower()}"] == "True":
                    yield row["patient"], name, look(planes[..., channel])


def model(*, pair: bool) -> Pipeline:
    """A pair's answer turns its sign with the order of the two, so it has neither mean nor intercept."""
    scaler = StandardScaler(with_mean=not pair)
    return make_pipeline(scaler, LogisticRegression(C=1.0 if pair else 0.1, fit_intercept=not pair, max_iter=2000))


def wilson(right: int, of: int) -> str:
    if not of:
        return "no answers"
    z, p = 1.96, right / of
    middle, half = p + z * z / (2 * of), z * np.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = ((middle + s * half) / (1 + z * z / of) for s in (-1, 1))
    return f"{right} of {of} right, {p:.1%} (95 % interval {low:.1%} to {high:.1%})"


def tell(question: str, odds: np.ndarray, truth: np.ndarray, least: float) -> None:
    sure = np.abs(odds) >= least
    right = int(((odds > 0) == truth)[sure].sum())
    print(f"{question}: {sure.sum()} of {len(odds)} answered; {wilson(right, int(sure.sum()))}")


def show(fitted: Pipeline) -> None:
    scaler, regression = fitted[0], fitted[-1]
    slopes = regression.coef_[0] / scaler.scale_
    start = (
        0.0 if scaler.mean_ is None or not scaler.with_mean else float(regression.intercept_[0] - slopes @ scaler.mean_)
    )
    print("  ", [round(float(v), 2) for v in slopes], round(start, 2))


def alone(question: str, features: np.ndarray, truth: np.ndarray, patients: np.ndarray, weights: bool) -> None:
    odds = cross_val_predict(model(pair=False), features, truth, groups=patients, cv=FOLDS, method="decision_function")
    for least in (0.0, SURE_ALONE):
        tell(f"{question}, |log-odds| >= {least}", odds, truth, least)
    if weights:
        show(model(pair=False).fit(features, truth))


def pairs(features: np.ndarray, names: np.ndarray, patients: np.ndarray, weights: bool) -> None:
    both = [p for p in np.unique(patients) if {"T1", "T1C"} <= set(names[patients == p])]
    before, after = (np.array([features[(patients == p) & (names == n)][0] for p in both]) for n in ("T1", "T1C"))
    step = (after - before)[:, BRIGHTER]
    doubled, truth = np.vstack([step, -step]), np.repeat([True, False], len(both))
    groups = np.tile(np.arange(len(both)), 2)
    odds = cross_val_predict(model(pair=True), doubled, truth, groups=groups, cv=FOLDS, method="decision_function")
    for least in (0.0, SURE_OF_TWO):
        tell(f"which of two T1 is T1C, |log-odds| >= {least}", odds[: len(both)], truth[: len(both)], least)
    if weights:
        show(model(pair=True).fit(doubled, truth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", action="store_true")
    given = parser.parse_args()
    started = time.perf_counter()
    found = list(looks(given.data))
    print(f"{len(found)} series looked at in {time.perf_counter() - started:.1f} s, reading included")
    print(f"no answer, as no head was seen: {sum(look is None for *_, look in found)}")
    seen = [(patient, name, look) for patient, name, look in found if look is not None]
    patients, names = (np.array([one[k] for one in seen]) for k in (0, 1))
    features = np.array([one[2].logs for one in seen])
    flair = np.array([is_t2(look) for *_, look in seen])
    for name in ("T1", "T1C", "FLAIR"):
        print(f"{name} taken for T2: {int(flair[names == name].sum())} of {(names == name).sum()}")
    alone("FLAIR or T1", features, names == "FLAIR", patients, given.weights)
    t1 = names != "FLAIR"
    alone("T1C or T1 of a lone T1", features[t1], names[t1] == "T1C", patients[t1], given.weights)
    pairs(features, names, patients, given.weights)


if __name__ == "__main__":
    main()
