"""The command that writes a trained marker network as ONNX and proves that it answers as the network does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from models.engine_openvino import core
from models.json_file import read_json, write_json
from models.markers.cells import Cells
from models.markers.crossval import OUTCOMES
from models.markers.export import WithMaps, export_onnx
from models.markers.metrics import attention_shares, measure
from models.markers.network import MarkerNetwork
from models.markers.outcomes import Outcome
from models.markers.receptive_field import measure_cells
from models.markers.recipe import Recipe, Schedule, from_settings
from models.markers.slice_network import About
from models.markers.slices import INPUTS, SEQUENCES
from models.markers.train_command import FINAL
from models.markers.trainer import LAST, load_weights
from models.training import data

TOLERANCE = 1e-3
"""Largest difference of a probability, in single precision on both sides."""


def export(
    run: Annotated[Path, typer.Option(help="a training's folder")],
    to: Annotated[Path, typer.Option(help="ONNX file to write")],
    fold: Annotated[int | None, typer.Option(help="export this fold's network; default the one of --final")] = None,
) -> None:
    """Write a network that takes slices and gives their probabilities and class maps, and beside it what it is (.json).

    With both in models/weights/markers/NAME as network.onnx and network.json a node shows where the network looks.
    Pooling that is learnt cannot be exported yet: a node averages slices.
    """
    # The exporter warns of each operator of torchvision, which is not installed and not needed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    settings = read_json(run / "settings.json")
    recipe, schedule = from_settings(settings)
    if recipe.pooling != "mean":
        raise data.DataError("only networks with --pooling mean can be exported")
    folder = run / (FINAL if fold is None else f"fold_{fold}")
    network = load_weights(recipe.make(schedule), folder / LAST).network.eval()
    part = to.with_suffix(".part.onnx")
    about = {"marker": settings["title"], "positive": settings["positive"], "network": recipe.network}
    export_onnx(network, part, about, schedule.pixels)
    try:
        gap = difference(network, part, schedule.pixels)
        if not gap <= TOLERANCE:
            raise data.DataError(f"the exported network differs from the trained one by {gap:.3g}; not usable")
        described = describe(run, recipe, schedule, measure_cells(network))
        part.replace(to)
        write_json(to.with_suffix(".json"), described)
    finally:
        part.unlink(missing_ok=True)
    size = to.stat().st_size / 1e6
    Console(stderr=True).print(f"{to}, {size:.1f} MB, {schedule.pixels} pixels, largest difference {gap:.1e}")


def describe(run: Path, recipe: Recipe, schedule: Schedule, cells: Cells) -> dict[str, Any]:
    """Say what a network is and how its cross-validation did, as `slice_network.About` reads it."""
    outcome = Outcome.load(run / OUTCOMES)
    area = measure(outcome.labels, outcome.probabilities).figures["auc"]
    shares = attention_shares([p.attention for p in outcome.patients if p.attention])
    about = About(
        marker=outcome.marker,
        network=f"{recipe.network} ({recipe.size})",
        sequences=recipe.sequences,
        pixels=schedule.pixels,
        cells=cells,
        auc=area.value,
        auc_interval=(area.low, area.high),
        attention={name: share.value for name, share in shares.items()},
    )
    return about.model_dump(mode="json")


def difference(network: MarkerNetwork, exported: Path, pixels: int) -> float:
    """Return the largest difference of the exported network's probabilities from the network's own."""
    rng = np.random.default_rng(0)
    present = np.array([name in network.sequences for name in SEQUENCES], np.float32)
    fed: tuple[NDArray[np.float32], ...] = (
        rng.standard_normal((3, len(SEQUENCES), pixels, pixels)).astype(np.float32),
        (rng.random((3, 1, pixels, pixels)) > 0.5).astype(np.float32),
        np.tile(present, (3, 1)),
        rng.random((3, 2)).astype(np.float32),
    )
    compiled = core().compile_model(str(exported), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(dict(zip(INPUTS, fed, strict=True)))["probabilities"]
    with torch.inference_mode():
        expected, _ = WithMaps(network)(*map(torch.from_numpy, fed))
    return float(np.abs(found - expected.numpy()).max())
