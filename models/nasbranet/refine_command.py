"""The command that chooses post-processing and calibrates confidence from a cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from models import frame
from models.refine import Refinement
from models.training import data
from models.training.folds import finished_predictions, read_prediction
from models.training.refine_fit import Choice, Held, choose
from models.training.spread_fit import MEASURES, SpreadFit, TooFewPatients, fit_spread

OWN = "refinement.json"
"""What was chosen for a cross-validation lies in its folder under this name, unless it was asked for elsewhere."""


def refine(
    data_folder: Annotated[Path, typer.Option("--data", help=data.DATA_HELP)],
    run: Annotated[Path, typer.Option(help="a cross-validation's folder")],
    to: Annotated[
        Path | None,
        typer.Option(help="JSON file, default RUN/refinement.json; the node reads models/inputs/NAME.refinement.json"),
    ] = None,
    only: Annotated[
        list[int] | None, typer.Option(help="choose on this fold's patients; repeatable, default all")
    ] = None,
    keep_choice: Annotated[
        bool,
        typer.Option(help="leave what --to has chosen, and only measure how far volume and diameters can be trusted"),
    ] = False,
    doubtful: Annotated[float, typer.Option(help="expected Dice below which a reader is warned")] = 0.7,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Choose post-processing on patients that each fold's network never saw, and calibrate its confidence on them."""
    console, to = Console(stderr=True), to or run / OWN
    held = [
        read_held(case, fold, kept, cache)
        for case, fold, kept in track(predictions(data_folder, run), "reading predictions", console=console)
        if not only or fold in only
    ]
    if not held:
        raise data.DataError(f"{run} holds no fold that is done; run cross-validate first")
    if keep_choice:
        refinement, said = Refinement.load(to), []
    else:
        choice = choose(held, doubtful)
        refinement, said = choice.refinement, describe(choice)
    try:
        fit = fit_spread(held, refinement)
    except TooFewPatients as error:
        said.append(f"volume and diameters will have no interval: {error}")
    else:
        refinement = refinement.model_copy(update={"spread": fit.spread})
        said.extend(describe_spread(fit))
    to.write_text(refinement.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for line in said:
        console.print(line)
    console.print(f"written to {to}")


def read_held(case: data.Case, fold: int, kept: Path, cache: Path) -> Held:
    """Bring a kept prediction back to the grid of the drawn tumour."""
    prepared = data.prepare(case, cache)
    _, truth = case.read()
    maps = [frame.from_frame(m, prepared.placement, *truth.shape[1:]) for m in read_prediction(kept)]
    return Held(case.name, fold, np.stack(maps), truth, prepared.spacing_mm)


def describe(choice: Choice) -> list[str]:
    """Say what was chosen and what it is worth."""
    r = choice.refinement
    return [
        f"mirror images {'averaged' if r.flips else 'not used'}; hysteresis {r.low} to {r.high}; "
        f"lesions under {r.smallest_ml} ml dropped",
        f"Dice {choice.plain:.4f} as it is, {choice.nested:.4f} with what the other folds chose",
        "of it, beside the others: " + ", ".join(f"{part} {gain:+.4f}" for part, gain in choice.parts.items()),
        f"confidence and Dice: correlation {choice.correlation:.2f}, mean difference {choice.calibration_error:.3f}",
        f"warned below {r.doubtful}: {choice.warned} of {r.patients}, {choice.warned_rightly} of them rightly; "
        f"{choice.below} lie below",
    ]


def describe_spread(fit: SpreadFit) -> list[str]:
    """Say how wide the intervals are, and whether they hold."""
    return [
        f"{name.replace('_', ' ')}: {fit.spread.level:.0%} intervals reach to {fit.factor[name]:.2f} times the value "
        f"in the middle patient; they hold in {fit.covered[name]:.0%} of {fit.spread.patients} patients, nested"
        for name in MEASURES
    ]


def predictions(data_folder: Path, run: Path) -> list[tuple[data.Case, int, Path]]:
    """List what the folds that are done kept: case, fold and file."""
    kept = finished_predictions(run)
    return [(case, *kept[case.name]) for case in data.read_cases(data_folder) if case.name in kept]
