"""The command that tells which figures move what a marker's model says, over many patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.json_file import write_json
from models.markers.figure_model import FigureModel
from models.markers.figure_table import read_table
from models.markers.influence import GROUPS
from models.markers.labels import find_marker, read_subjects
from models.training.data import DataError

Floats = NDArray[np.float64]


def influences(
    marker: Annotated[str, typer.Option(help="idh, codel, mgmt or proliferation")],
    data_folder: Annotated[Path, typer.Option("--data", help="folder with labels.csv, for the patients' ages")],
    from_table: Annotated[Path, typer.Option("--from", help="figures.csv of `figures`")],
    model: Annotated[Path, typer.Option(help="folder of the marker's model.skops and calibration.json")],
    json_file: Annotated[Path | None, typer.Option("--json", help="result file")] = None,
    plot: Annotated[Path | None, typer.Option(help="picture of every patient's factors, PNG or PDF")] = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
) -> None:
    """Tell how far each group of figures multiplies the odds that a marker is altered, as the node's report does.

    It describes the model, of whichever patients are in the table, and says nothing of how often the model is right.
    """
    console = Console(stderr=True)
    question, subjects = read_subjects(data_folder, find_marker(marker), leave_out or ())
    patients = read_table(from_table, subjects)
    if not patients:
        raise DataError(f"{from_table} has none of the patients of {data_folder}")
    asked = FigureModel(marker, model)
    shown = track(patients, "asking the model", console=console)
    logs = np.array([_log_factors(asked, patient.judged_by) for patient in shown])
    table = Table("", "typical factor", "widest", title=f"{question.title}, {len(patients)} patients")
    for k in np.argsort(-np.abs(logs).mean(axis=0)):
        low, high = np.exp([logs[:, k].min(), logs[:, k].max()])
        table.add_row(GROUPS[k], f"{np.exp(np.abs(logs[:, k]).mean()):.2f}", f"{low:.2g} to {high:.2g}")
    console.print(table)
    if json_file is not None:
        write_json(json_file, _content(asked, [patient.name for patient in patients], logs))
    if plot is not None:
        draw(logs, question.title).savefig(plot, dpi=110)


def _log_factors(model: FigureModel, row: Floats) -> Floats:
    """Give the logarithm of each group's factor; a row holds a tumour's figures and the age.

    Raises DataError where the model cannot be asked about figures that are not known.
    """
    factors = model.influences(row[:-1], float(row[-1]) if np.isfinite(row[-1]) else None)
    if not factors:
        raise DataError(f"{model.name} takes no figures that are not known, so nothing tells what moves it")
    return np.log([factors[group] for group in GROUPS])


def _content(model: FigureModel, names: Sequence[str], logs: Floats) -> dict[str, object]:
    typical = np.exp(np.abs(logs).mean(axis=0))
    return {
        "marker": model.marker,
        "version": model.version,
        "typical_factor": {group: round(float(factor), 4) for group, factor in zip(GROUPS, typical, strict=True)},
        "patients": {
            name: {group: float(f"{factor:.4g}") for group, factor in zip(GROUPS, np.exp(row), strict=True)}
            for name, row in zip(names, logs, strict=True)
        },
    }


def draw(logs: Floats, title: str) -> Figure:
    """Draw each patient as a dot a group, the strongest group on top; `logs` is (patients, groups)."""
    order = np.argsort(np.abs(logs).mean(axis=0))
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1.0, color="0.6", linewidth=0.8)
    for height, k in enumerate(order):
        ranks = np.argsort(np.argsort(logs[:, k]))
        spread = 0.3 * np.sin(2.4 * ranks)  # golden-angle steps keep neighbours apart
        axes.plot(np.exp(logs[:, k]), height + spread, "o", markersize=3.2, alpha=0.6, color="#18406e")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_yticks(range(len(order)), [GROUPS[k] for k in order])
    axes.set_xlabel(f"times the odds: {title} (each dot a patient)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
