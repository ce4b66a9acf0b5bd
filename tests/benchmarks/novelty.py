"""How many clean studies the novelty score warns of, and how many spoilt ones it finds.

    python -m tests.benchmarks.novelty --data DATA --split models/cards/nasbranet.split.json

DATA has the form of the training data; only the split's validation patients are looked at. Each is spoilt in ways that
happen: channels swapped, one image as both, another patient's FLAIR, T2 for FLAIR (here: inverted), turned, noisy,
blurred, shifted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import ndimage

from models.novelty import features, load_reference
from models.training import data
from models.training.judge import network_view

View = NDArray[np.float32]


def spoilt(view: View, other: View, rng: np.random.Generator) -> Iterator[tuple[str, View]]:
    """Give spoilt copies of a view (slices, 2, size, size) by what was done."""
    inside = view.any(axis=1, keepdims=True)
    shared = min(len(view), len(other))
    yield "channels swapped", view[:, ::-1]
    yield "FLAIR as both", view[:, [1, 1]]
    yield "T1C as both", view[:, [0, 0]]
    yield "another patient's FLAIR", np.stack([view[:shared, 0], other[:shared, 1]], axis=1) * inside[:shared]
    yield "FLAIR inverted, as T2 is", np.stack([view[:, 0], -view[:, 1]], axis=1)
    yield "upside down", view[:, :, ::-1]
    yield "turned by 90 degrees", np.rot90(view, axes=(2, 3))
    yield "FLAIR 10 mm off", np.stack([view[:, 0], np.roll(view[:, 1], 10, axis=1)], axis=1) * inside
    yield "noise of half a deviation", (view + rng.normal(0.0, 0.5, view.shape)) * inside
    yield "noise of one deviation", (view + rng.normal(0.0, 1.0, view.shape)) * inside
    yield "blurred by 1.5 mm", ndimage.gaussian_filter(view, (0, 0, 1.5, 1.5)) * inside
    yield "blurred by 3 mm", ndimage.gaussian_filter(view, (0, 0, 3, 3)) * inside
    yield "nothing but noise", rng.normal(0.0, 1.0, view.shape) * inside


def main(
    data_folder: Annotated[Path, typer.Option("--data")],
    split: Annotated[Path, typer.Option()],
    reference: Annotated[Path, typer.Option()] = Path("models/inputs/nasbranet.json"),
    cache: Annotated[Path, typer.Option()] = Path("runs/prepared"),
) -> None:
    """Print the table."""
    held = set(json.loads(split.read_text(encoding="utf-8"))["validation"])
    cases = [c for c in data.usable(data.read_cases(data_folder)) if c.name in held]
    known, scores = load_reference(reference), dict[str, list[float]]()
    views = [network_view(data.prepare(case, cache)) for case in cases]
    rng = np.random.default_rng(0)
    for i, view in enumerate(track(views, "scoring", console=Console(stderr=True))):
        for name, image in [("as it is", view), *spoilt(view, views[i - 1], rng)]:
            scores.setdefault(name, []).append(known.score(features(np.ascontiguousarray(image, np.float32))))
    table = Table("study", "patients", "score, median", "warned", "stopped", box=None)
    for name, found in scores.items():
        values = np.array(found)
        warned, stopped = (values > known.warn).mean(), (values > known.stop).mean()
        table.add_row(name, str(len(values)), f"{np.median(values):.2f}", f"{warned:.0%}", f"{stopped:.0%}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
