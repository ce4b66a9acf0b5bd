"""Judge a network as the node runs it: on its engine, with its post-processing, patient by patient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from models import frame
from models.engine import Model, ModelError
from models.json_file import write_json
from models.nasbranet.export import WEIGHTS
from models.provenance import taught_network
from models.refine import Refinement, load_refinement, refinement_of
from models.training import data
from models.training.challenges import CHALLENGES
from models.training.judge import network_view, per_patient
from models.training.metrics import dice, mean_interval


@dataclass(frozen=True)
class CaseJudged:
    """What a network made of one case."""

    dice: float
    expected_dice: float | None
    """What the network expects of itself, calibrated; None where it found nothing, as that says nothing."""


def evaluate(
    data_folder: Annotated[Path, typer.Option("--data", help=data.DATA_HELP)],
    json_file: Annotated[Path, typer.Option("--json", help="result file")],
    weights: Annotated[Path, typer.Option(help="ONNX file")] = WEIGHTS,
    split: Annotated[Path | None, typer.Option(help="a training's split.json: only its validation cases count")] = None,
    refinement: Annotated[
        Path | None,
        typer.Option(help="post-processing and calibration, by refine; default models/inputs/NAME.refinement.json"),
    ] = None,
    challenges: Annotated[
        bool, typer.Option(help="judge spoilt copies too: stripped, noisy, without T1C and others")
    ] = False,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    bias_field: Annotated[bool, typer.Option(help="remove the bias field (N4), as the node does")] = True,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Measure Dice by patient (3-D over a patient's slices), its mean and 95 % interval over patients.

    Cases without a true T1C are left out of the mean; what FLAIR alone gives there is told apart. A case that cannot
    be judged is named with the reason, and the others go on. Patients whom the network learnt from are warned of.
    """
    console = Console(stderr=True)
    everyone = data.read_cases(data_folder)
    cases, alone = data.usable(everyone, leave_out or ()), data.flair_only(everyone, leave_out or ())
    if split is not None:
        cases, alone = data.of_split(cases, split, "validation"), data.of_split(alone, split, "validation")
    if not (cases or alone):
        raise data.DataError(f"{data_folder} has no case to evaluate on")
    model = Model(weights.parent.name, weights)
    settings = _post_processing(model.name, refinement, console)
    judge = partial(_judge_all, model, settings, partial(data.prepare, cache=cache, bias_field=bias_field), console)

    judged, failed = judge(cases, "evaluating")
    judged_alone, failed_alone = judge(alone, "without T1C")
    if not (judged or judged_alone):
        name, reason = next(iter((failed | failed_alone).items()))
        raise data.DataError(f"no case could be judged; {name}: {reason}")
    result = {
        **_summary(cases, judged), "without_t1c": {name: case.dice for name, case in judged_alone.items()},
        "without_t1c_summary": _summary(alone, judged_alone), "failed": failed | failed_alone,
        "left_out": [c.name for c in everyone if c.name not in judged],
        **_whom_it_knew(
            {case.patient for case in (*cases, *alone) if case.name in judged | judged_alone},
            learnt_from(model.version, everyone, split), model.version,
        ),
        "confidence": _confidence(settings, judged | judged_alone),
        "model": model.name, "version": model.version, "engine": model.engine,
        "refinement": settings.model_dump(exclude={"expected", "observed"}),
    }  # fmt: skip
    _tell(console, "Dice", result)
    _tell(console, "without T1C: Dice", result["without_t1c_summary"])
    for name, reason in result["failed"].items():
        console.print(f"[red]not judged:[/] {name}: {reason}", highlight=False, soft_wrap=True)
    if result["warning"]:
        console.print(f"[yellow]warning:[/] {result['warning']}", highlight=False, soft_wrap=True)
    if challenges:
        result["challenges"] = {}
        for name in list(CHALLENGES)[1:]:
            spoilt, _ = judge([c for c in cases if c.name in judged], name, name)
            figures = _summary(cases, spoilt)
            result["challenges"][name] = {key: figures[key] for key in ("dice_mean", "dice_interval")}
            _tell(console, f"{name}: Dice", figures)
    write_json(json_file, result)


def _post_processing(network: str, asked_for: Path | None, console: Console) -> Refinement:
    """Read the post-processing that the node has for a network of this name, or that was asked for."""
    if asked_for is not None and not asked_for.is_file():
        raise data.DataError(f"no post-processing at {asked_for}; leave --refinement out for the network's own")
    path = asked_for or refinement_of(network)
    if not path.is_file():
        console.print(
            f"[yellow]no post-processing was chosen for {network}[/] ({path.name}): judged as the node would run it, "
            "by what is above one half", highlight=False, soft_wrap=True,
        )  # fmt: skip
    return load_refinement(path)


def judge_case(model: Model, settings: Refinement, prepared: data.Prepared, challenge: str = "as it is") -> CaseJudged:
    """Judge the network on its engine and with post-processing over all of a case's slices."""
    _, truth = prepared.case.read()
    view: NDArray[np.float32] = CHALLENGES[challenge](network_view(prepared))
    framed = settings.probabilities(model.run_slices, view)
    probability = frame.from_frame(framed, prepared.placement, *truth.shape[1:])
    mask = settings.mask(probability, prepared.spacing_mm)
    return CaseJudged(dice(mask, truth), settings.confidence(probability, mask) if mask.any() else None)


def _judge_all(
    model: Model,
    settings: Refinement,
    prepare: Callable[[data.Case], data.Prepared],
    console: Console,
    cases: Sequence[data.Case],
    description: str,
    challenge: str = "as it is",
) -> tuple[dict[str, CaseJudged], dict[str, str]]:
    """Judge each case by name; beside them, of those that cannot be, the reason."""
    judged, failed = {}, {}
    for case in track(cases, description, console=console) if cases else ():
        try:
            judged[case.name] = judge_case(model, settings, prepare(case), challenge)
        except ModelError:
            raise  # it would fail with every case
        except (data.DataError, frame.BrainNotFound, RuntimeError, OSError) as error:  # RuntimeError: SimpleITK's
            failed[case.name] = str(error).strip().splitlines()[-1]
    return judged, failed


def _summary(cases: Iterable[data.Case], judged: Mapping[str, CaseJudged]) -> dict[str, Any]:
    """Put cases together by patient; mean and interval are None where there is none."""
    by_case = {name: case.dice for name, case in judged.items()}
    by_patient = per_patient(cases, by_case)
    mean, interval = mean_interval(list(by_patient.values())) if by_patient else (None, None)
    return {
        "dice_mean": mean, "dice_interval": interval and list(interval), "patients": by_patient, "cases": by_case,
    }  # fmt: skip


def _confidence(settings: Refinement, judged: Mapping[str, CaseJudged]) -> dict[str, Any]:
    """Say of each case what Dice the network expects, and whether the node would warn of its outline."""
    return {
        name: {
            "expected_dice": case.expected_dice, "dice": case.dice,
            "warned": case.expected_dice is None or case.expected_dice < settings.doubtful,
        }
        for name, case in judged.items()
    }  # fmt: skip


def learnt_from(version: str, everyone: Sequence[data.Case], split: Path | None) -> frozenset[str] | None:
    """Name the patients who taught a network, by its card and its training's split.json; None where neither tells."""
    known = taught_network(version)
    if split is None:
        return known
    return (known or frozenset()) | {case.patient for case in data.of_split(everyone, split, "training")}


def _whom_it_knew(patients: Collection[str], learnt: frozenset[str] | None, version: str) -> dict[str, Any]:
    """Name the patients who taught this very network, with a warning."""
    seen = sorted(frozenset(patients) & (learnt or frozenset()))
    if learnt is None:
        warning = f"nothing tells whom network {version} learnt from: patients judged may be among them"
    else:
        warning = (
            f"{len(seen)} of {len(patients)} patients taught this network: the figures are not held out and flatter "
            "it; models/cards/nasbranet.md has those of patients never seen"
        )
    return {"seen_in_training": seen, "warning": warning if seen or learnt is None else None}


def _tell(console: Console, what: str, figures: Mapping[str, Any]) -> None:
    if figures["dice_mean"] is None:
        return
    low, high = figures["dice_interval"]
    console.print(f"{what} {figures['dice_mean']:.3f} ({low:.3f} to {high:.3f}), {len(figures['patients'])} patients")
