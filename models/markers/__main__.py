"""Command line of the molecular markers: train, figures, learning-curve, judge, hidden, evaluate, abstention,
calibrators, influences, compare, export.

Labels are columns of DATA/labels.csv (idh, codel_1p19q, mgmt, proliferation_score, tert, atrx, grade, or one of
your own). Splits are by patient; figures are of patients that a network never saw, with intervals.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.engine import ModelError
from models.markers.abstention_command import abstention
from models.markers.calibration import CalibrationError
from models.markers.calibrators_command import calibrators
from models.markers.compare import compare
from models.markers.evaluate_command import evaluate
from models.markers.export_command import export
from models.markers.figure_model import FigureModelError
from models.markers.figures_command import figures
from models.markers.hidden_command import hidden
from models.markers.influences_command import influences
from models.markers.judge_command import judge
from models.markers.learning_curve_command import learning_curve
from models.markers.metrics import OneClass
from models.markers.outcomes import OutcomeError
from models.markers.train_command import train
from models.novelty import NoveltyError
from models.refine import RefinementError
from models.segments import SegmentsError
from models.training import data

__all__ = ["app", "run"]

USER_ERRORS = (
    data.DataError, OutcomeError, CalibrationError, FigureModelError, OneClass, ModelError, NoveltyError,
    RefinementError, SegmentsError, OSError,
)  # fmt: skip
"""What the user can mend."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True)


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option(help="log each epoch")] = False,
    log: Annotated[Path | None, typer.Option(help="file for the log, instead of the screen")] = None,
) -> None:
    """Train, judge, compare and export networks for molecular markers."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, filename=log)


app.command()(train)
app.command()(figures)
app.command()(learning_curve)
app.command()(judge)
app.command()(hidden)
app.command()(evaluate)
app.command()(abstention)
app.command()(calibrators)
app.command()(influences)
app.command()(compare)
app.command()(export)


def run() -> None:
    """Run the command line: one line and exit status 2 for what the user can mend."""
    try:
        app()
    except USER_ERRORS as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    run()
