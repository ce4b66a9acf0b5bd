"""Judge a network as the node runs it: on its engine, with its post-processing, patient by patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from models import frame
from models.engine import Model
from models.json_file import write_json
from models.nasbranet.export import WEIGHTS
from models.refine import REFINEMENT, Refinement, load_refinement
from models.training import data
from models.training.challenges import CHALLENGES
from models.training.judge import network_view, per_patient
from models.training.metrics import dice, mean_interval


def evaluate(
    data_folder: Annotated[Path, typer.Option("--data", help="folder with labels.csv and one folder of slices a case")],
    json_file: Annotated[Path, typer.Option("--json", help="result file")],
    weights: Annotated[Path, typer.Option(help="ONNX file")] = WEIGHTS,
    split: Annotated[Path | None, typer.Option(help="a training's split.json: only its validation cases count")] = None,
    refinement: Annotated[
        Path, typer.Option(help="post-processing, by refine; where there is no file, none")
    ] = REFINEMENT,
    challenges: Annotated[
        bool, typer.Option(help="judge spoilt copies too: stripped, noisy, without T1C and others")
    ] = False,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    bias_field: Annotated[bool, typer.Option(help="remove the bias field (N4), as the node does")] = True,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Measure Dice by patient (3-D over a patient's slices), its mean and 95 % interval over patients.

    Cases without a true T1C are left out of the mean; what FLAIR alone gives there is told apart.
    """
    console = Console(stderr=True)
    everyone = data.read_cases(data_folder)
    cases, alone = data.usable(everyone, leave_out or ()), data.flair_only(everyone, leave_out or ())
    if split is not None:
        cases, alone = data.of_split(cases, split, "validation"), data.of_split(alone, split, "validation")
    if not cases:
        raise data.DataError(f"{data_folder} has no case with a true T1C to evaluate on")
    model, settings = Model(weights.parent.name, weights), load_refinement(refinement)

    def judge(case: data.Case, challenge: str = "as it is") -> float:
        return case_dice(model, settings, data.prepare(case, cache, bias_field=bias_field), challenge)

    by_case = {case.name: judge(case) for case in track(cases, "evaluating", console=console)}
    by_patient = per_patient(cases, by_case)
    mean, interval = mean_interval(list(by_patient.values()))
    result: dict[str, Any] = {
        "dice_mean": mean, "dice_interval": list(interval), "patients": by_patient, "cases": by_case,
        "without_t1c": {case.name: judge(case) for case in alone},
        "left_out": [c.name for c in everyone if c.name not in by_case],
        "model": model.name, "version": model.version, "engine": model.engine,
        "refinement": settings.model_dump(exclude={"expected", "observed"}),
    }  # fmt: skip
    console.print(f"Dice {mean:.3f} ({interval[0]:.3f} to {interval[1]:.3f}), {len(by_patient)} patients")
    if challenges:
        result["challenges"] = {}
        for name in list(CHALLENGES)[1:]:
            spoilt = {case.name: judge(case, name) for case in track(cases, name, console=console)}
            middle, (low, high) = mean_interval(list(per_patient(cases, spoilt).values()))
            result["challenges"][name] = {"dice_mean": middle, "dice_interval": [low, high]}
            console.print(f"{name}: Dice {middle:.3f} ({low:.3f} to {high:.3f})")
    write_json(json_file, result)


def case_dice(model: Model, settings: Refinement, prepared: data.Prepared, challenge: str = "as it is") -> float:
    """Dice over all of a case's slices, by the network on its engine and with post-processing."""
    _, truth = prepared.case.read()
    view: NDArray[np.float32] = CHALLENGES[challenge](network_view(prepared))
    framed = settings.probabilities(model.run_slices, view)
    probability = frame.from_frame(framed, prepared.placement, *truth.shape[1:])
    spacing = (data.ASSUMED_SLICE_MM, *prepared.placement.pixel_mm)
    return dice(settings.mask(probability, spacing), truth)
