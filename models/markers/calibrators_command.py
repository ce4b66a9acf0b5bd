"""The command that compares ways of calibrating a marker's scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from models.json_file import write_json
from models.markers.calibration import Calibration
from models.markers.calibrators import SHIPPED, compare_calibrators

COLUMNS = {
    "ece": "ECE, 5 bins", "ece_10": "10 bins", "ece_10_wide": "10 of equal width", "brier": "Brier",
    "log_loss": "log loss",
}  # fmt: skip


def calibrators(
    calibration: Annotated[
        list[Path], typer.Option(help="calibration.json of a marker, with its held-out patients' scores; once for each")
    ],
    json_file: Annotated[Path | None, typer.Option("--json", help="result file")] = None,
    folds: Annotated[int, typer.Option(min=2, help="parts the patients are dealt into")] = 5,
    deals: Annotated[int, typer.Option(min=1, help="how often they are dealt anew; figures are averaged")] = 5,
) -> None:
    """Compare temperature, Platt's function and isotonic regression, each patient judged by what others taught.

    Another way than Platt's is called clearly better where the whole 95 % intervals of its Brier score and log loss,
    less those of Platt's on the same patients, lie below 0.
    """
    console, content = Console(stderr=True), {}
    for path in calibration:
        known = Calibration.load(path)
        scores = np.array([*known.altered, *known.unaltered])
        found = compare_calibrators(scores, np.arange(len(scores)) < len(known.altered), folds, deals)
        name = path.parent.name
        content[name] = {"patients": len(scores), **{way: judged.content() for way, judged in found.items()}}
        table = Table("", *COLUMNS.values(), f"log loss less {SHIPPED}'s", title=f"{name}, {len(scores)} patients")
        for way, judged in found.items():
            figures = [f"{judged.figures[column].value:.3f}" for column in COLUMNS]
            table.add_row(way, *figures, str(judged.against_shipped["log_loss"]))
        console.print(table)
        console.print(f"ECE, 5 bins, of as many patients if {SHIPPED}'s were true: {found[SHIPPED].by_chance['ece']}")
    if json_file is not None:
        write_json(json_file, {"folds": folds, "deals": deals, "shipped": SHIPPED, "markers": content})
