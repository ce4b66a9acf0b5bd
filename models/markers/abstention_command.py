"""The command that tells how often a marker's calibration speaks, and how often rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from models.json_file import write_json
from models.markers.calibration import Calibration
from models.markers.figure_fit import nested_calibration
from models.markers.figures_command import said


def abstention(
    calibration: Annotated[Path, typer.Option(help="calibration.json of a marker, with its held-out patients' scores")],
    json_file: Annotated[Path | None, typer.Option("--json", help="result file")] = None,
    folds: Annotated[int, typer.Option(min=2, help="parts the patients are dealt into")] = 5,
) -> None:
    """Judge the rule by which a marker is called or left open: each patient by a rule fitted on the other folds.

    The scores are of patients that the model had not seen; the rule that ships is fitted on all of them.
    """
    known = Calibration.load(calibration)
    scores = np.array([*known.altered, *known.unaltered])
    altered = np.arange(len(scores)) < len(known.altered)
    _, verdicts = nested_calibration(scores, altered, known.coverage, folds)
    found = {"patients": len(scores), "coverage": known.coverage, "folds": folds, **said(verdicts, altered)}
    if json_file is not None:
        write_json(json_file, found)
    table = Table("", "patients", "rightly", title=f"{len(scores)} patients, coverage {known.coverage:.0%}")
    for answer in ("altered", "unaltered"):
        table.add_row(f"called {answer}", str(found[f"{answer}_said"]), str(found[f"{answer}_right"]))
    for answer in ("altered", "unaltered"):
        table.add_row(f"truly {answer}: truth said or left open", f"{found[f'covered_{answer}']:.0%}", "")
    Console(stderr=True).print(table)
