"""INT8 by post-training quantisation (NNCF), kept only where the Dice holds.

A tool for researchers: requirements-quantise.txt. The node needs none of it; what is written is an ONNX file
with QuantizeLinear and DequantizeLinear nodes, which the engines read as they read any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from rich.progress import track

from models.engine_base import Backend, FloatArray, ModelError, run_slices
from models.engine_openvino import CpuSettings, OpenVinoBackend
from models.json_file import write_json
from models.nasbranet.benchmark import console, figures_of, noise
from models.nasbranet.export import WEIGHTS
from models.nasbranet.timing import device_header, take_turns
from models.training import data
from models.training.judge import network_view, patient_dice, per_patient
from models.training.onnx_file import clean

LARGEST_LOSS = 0.005
"""INT8 is not worth more than this of mean Dice."""
STUDY_SLICES = 26


def quantise(
    data_folder: Annotated[Path, typer.Option("--data", help=data.DATA_HELP)],
    split: Annotated[Path, typer.Option(help="a split.json: training cases calibrate, validation cases judge")],
    to: Annotated[Path, typer.Option(help="ONNX file to write, where the Dice holds")],
    json_file: Annotated[Path, typer.Option("--json", help="result file")],
    weights: Annotated[Path, typer.Option(help="ONNX file to start from")] = WEIGHTS,
    slices: Annotated[int, typer.Option(help="calibration slices, drawn from the training cases")] = 300,
    rounds: Annotated[int, typer.Option(help="timed rounds of a study, all candidates in turn")] = 5,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> dict[str, Any]:
    """Quantise, judge and time; write the INT8 network only where mean Dice falls by less than .005."""
    parts = json.loads(split.read_text(encoding="utf-8"))
    cases = {case.name: case for case in data.read_cases(data_folder)}
    training, validation = ([cases[name] for name in parts[part]] for part in ("training", "validation"))
    data.refuse_shared_patients(training, validation)
    views = (network_view(data.prepare(case, cache)) for case in track(training, "reading", console=console))
    part = to.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    quantise_file(weights, part, calibration_slices(views, slices // len(training) + 1)[:slices])
    candidates: dict[str, Backend] = {
        "f32": OpenVinoBackend("f32", weights, CpuSettings(precision="f32")),
        "as shipped": OpenVinoBackend("as shipped", weights),
        "int8": OpenVinoBackend("int8", part),
    }
    dice = {name: judged(backend, validation, cache) for name, backend in candidates.items()}
    study = noise(STUDY_SLICES)
    turns = {name: partial(backend.run, study) for name, backend in candidates.items()}
    seconds = take_turns(turns, rounds, console)
    loss = dice["f32"] - dice["int8"]
    result = {
        "device": device_header(), "dice": dice, "loss": loss, "kept": loss < LARGEST_LOSS,
        "calibration_slices": slices, "validation_cases": len(validation),
        "time": {name: figures_of(times, STUDY_SLICES) for name, times in seconds.items()},
    }  # fmt: skip
    if result["kept"]:
        part.replace(to)
    part.unlink(missing_ok=True)
    write_json(json_file, result)
    for name, value in dice.items():
        console.print(f"{name}: Dice {value:.4f}, {result['time'][name]['ms_per_slice']:.1f} ms a slice")  # type: ignore[index]
    console.print(f"INT8 costs {loss:.4f} of Dice: {f'written to {to}' if result['kept'] else 'not written'}")
    return result


def calibration_slices(views: Iterable[FloatArray], each: int) -> FloatArray:
    """Draw slices (N, 1, C, H, W) with brain in them, up to `each` from every case, alike from one to the next.

    One at a time: NNCF calls the network once for each.
    """
    rng = np.random.default_rng(0)
    chosen = []
    for view in views:
        seen = np.flatnonzero(view.any(axis=(1, 2, 3)))
        chosen.append(view[rng.permutation(seen)[:each]])
    return np.concatenate(chosen)[rng.permutation(sum(map(len, chosen))), None]


def quantise_file(weights: Path, to: Path, images: FloatArray) -> None:
    """Write the INT8 form of an ONNX network, calibrated on `images` (N, 1, C, H, W).

    Raises ModelError with the remedy where NNCF is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise ModelError("NNCF is not installed: pip install -r requirements-quantise.txt") from error
    model = onnx.load(weights)
    about = {p.key: p.value for p in model.metadata_props}
    name = model.graph.input[0].name
    # Activations may be asymmetric: the input is, though what follows a ReLU is not.
    quantised = nncf.quantize(
        model,
        nncf.Dataset([{name: image} for image in images]),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(images),
    )
    onnx.save(quantised, to)
    clean(to, about | {"quantised": "INT8, NNCF post-training"})


def judged(backend: Backend, cases: list[data.Case], cache: Path) -> float:
    """Mean 3-D Dice over patients; a patient's cases count as one."""
    segment = partial(run_slices, backend)
    by_case = {c.name: patient_dice(segment, data.prepare(c, cache)) for c in track(cases, "judging", console=console)}
    return float(np.mean(list(per_patient(cases, by_case).values())))
