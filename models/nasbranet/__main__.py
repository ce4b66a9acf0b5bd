"""Command line of NASBraNet: search, draw, train, compare, evaluate, refine, export, quantise, benchmark, tune."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track
from scipy.ndimage import gaussian_filter

from models import frame, novelty
from models.brain import BrainNotFound
from models.engine import Model, ModelError
from models.engine_openvino import CpuSettings, OpenVinoBackend
from models.json_file import first_fault
from models.nasbranet.benchmark import benchmark, tune
from models.nasbranet.compare import compare
from models.nasbranet.crossval import cross_validate
from models.nasbranet.evaluate import evaluate
from models.nasbranet.export import export_onnx, load_network
from models.nasbranet.network import NASBraNet
from models.nasbranet.picture import draw
from models.nasbranet.plan import SHIPPED_PLAN, NetworkPlan
from models.nasbranet.quantise import quantise
from models.nasbranet.refine_command import refine
from models.nasbranet.report import report
from models.nasbranet.search_command import latency_table, search
from models.nasbranet.train import train
from models.refine import RefinementError
from models.training import data
from models.training.judge import network_view, segmenter
from models.training.novelty_fit import fit_reference

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True)

Data = Annotated[Path, typer.Option("--data", help=data.DATA_HELP)]
Cache = Annotated[Path, typer.Option(help="where prepared cases are kept between runs")]
LeaveOut = Annotated[list[str] | None, typer.Option(help="leave out cases whose name has this in it; repeatable")]
PlanName = Annotated[str, typer.Option("--plan", help="a plan of models/plans by name, or a JSON file")]


@app.callback()
def main() -> None:
    """Train, judge and export the network that segments."""


app.command()(train)
app.command(name="cross-validate")(cross_validate)
app.command()(search)
app.command()(draw)
app.command()(compare)
app.command()(refine)
app.command()(report)
app.command(name="latency-table")(latency_table)


app.command()(evaluate)


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="a training's folder")],
    plan: PlanName = SHIPPED_PLAN,
    to: Annotated[
        Path | None,
        typer.Option(help="ONNX file, default RUN/model.onnx; the node reads models/weights/NAME/model.onnx"),
    ] = None,
) -> None:
    """Write a trained network as ONNX and prove that it answers as the network does."""
    network, to = load_network(NetworkPlan.load(plan), run / "last.pt"), to or run / "model.onnx"
    part = to.with_suffix(".part.onnx")
    export_onnx(network, part)
    try:
        gap = _difference(network, part)
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
    version = Model(to.parent.name, to).version
    console.print(f"{to} {version}, {to.stat().st_size / 1e6:.1f} MB, largest difference {gap:.1e}")


def _difference(network: NASBraNet, exported: Path) -> float:
    """Largest difference of the exported network's probabilities; raises DataError where it is another network."""
    # Blobs of tissue size: on plain noise the network is sure of no tumour, and any two agree.
    noise = np.random.default_rng(0).standard_normal((3, 2, frame.FRAME_SIZE, frame.FRAME_SIZE))
    image = gaussian_filter(noise, (0, 0, 8, 8)).astype(np.float32) * 40.0
    # In single precision: the rounding of bfloat16 would hide a fault.
    found = OpenVinoBackend("exported", exported, CpuSettings(precision="f32")).run(image)
    expected = segmenter(network)(image)
    gap = float(np.abs(found - expected).max())
    if gap > 1e-3 or expected.max() < 0.5:
        raise data.DataError(f"the exported network differs from the trained one by {gap:.3g}; not usable")
    return gap


app.command()(benchmark)
app.command()(tune)
app.command()(quantise)


@app.command()
def describe_inputs(
    data_folder: Data,
    split: Annotated[Path, typer.Option(help="a training's split.json: its training cases are described")],
    to: Annotated[Path, typer.Option(help="JSON file to write; the node reads models/inputs/NAME.json")],
    leave_out: LeaveOut = None,
    cache: Cache = Path("runs/prepared"),
) -> None:
    """Describe the training cases as the network sees them, so that the node can tell a study that is unlike them."""
    cases = data.of_split(data.usable(data.read_cases(data_folder), leave_out or ()), split, "training")
    figures = [
        novelty.features(network_view(data.prepare(case, cache)))
        for case in track(cases, "describing cases", console=console)
    ]
    reference = fit_reference(np.array(figures))
    reference.save(to)
    console.print(f"{to}: {reference.cases} cases; warns above {reference.warn:.2f}, stops above {reference.stop:.2f}")


def run() -> None:
    """Run the command line: one line and exit status 2 for what the user can mend."""
    logging.basicConfig(level=logging.WARNING)
    try:
        app()
    except ValidationError as error:
        console.print(f"[red]error:[/] {error.title}: {first_fault(error)}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    except (data.DataError, RefinementError, BrainNotFound, ModelError, OSError) as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    run()
