"""The command that draws a marker's learning curve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models.json_file import write_json
from models.markers.figures_command import described
from models.markers.labels import find_marker, read_subjects
from models.markers.learning_curve import SHARES, learn_from_fewer
from models.markers.plots import draw_learning
from models.training.data import DataError


def learning_curve(
    marker: Annotated[str, typer.Option(help="idh, codel, mgmt, proliferation, tert, atrx or grade")],
    data_folder: Annotated[Path, typer.Option("--data", help="folder with labels.csv and one folder of slices a case")],
    out: Annotated[Path, typer.Option(help="folder for learning.json and learning.png")],
    segmentation: Annotated[
        Path | None, typer.Option(help="a cross-validation of the segmenting network, as for `figures`")
    ] = None,
    from_table: Annotated[
        Path | None, typer.Option("--from", help="figures.csv of a run of `figures`, in place of the images")
    ] = None,
    shares: Annotated[str, typer.Option(help="of the training patients, with commas between")] = ",".join(
        map(str, SHARES)
    ),
    folds: Annotated[int, typer.Option(min=2, help="parts the patients are dealt into")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="how often they are dealt anew; scores are averaged")] = 5,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Tell how well models of named figures do that learnt from fewer patients, on the same held-out ones.

    A curve that still rises says that more patients would help; a flat one at chance, that the images do not tell.
    """
    console = Console(stderr=True)
    wanted = _shares(shares)
    question, subjects = read_subjects(data_folder, find_marker(marker), leave_out or ())
    with Progress(console=console) as progress:
        patients = described(subjects, from_table, segmentation, cache, progress)
        task = progress.add_task("learning from fewer", total=folds * repeats)
        points = learn_from_fewer(patients, wanted, folds, repeats, lambda: progress.advance(task))
    content = {"marker": marker, "patients": len(patients), "folds": folds, "repeats": repeats}
    write_json(out / "learning.json", content | {"points": [point.content() for point in points]})
    draw_learning(
        {p.learnt_from: (p.auc.value, p.auc.low, p.auc.high) for p in points}, out / "learning.png", question.title
    )
    table = Table("patients learnt from", "AUC (95 % interval)", title=question.title)
    for point in points:
        table.add_row(f"{point.learnt_from:.0f}", str(point.auc))
    console.print(table)


def _shares(words: str) -> tuple[float, ...]:
    """Read shares as the command line gives them, for example .25,.5,1."""
    try:
        found = tuple(sorted({float(word) for word in words.split(",")}))
    except ValueError:
        raise DataError(f"--shares wants numbers with commas between, not {words!r}") from None
    if not all(0.0 < share <= 1.0 for share in found):
        raise DataError("--shares lie above 0 and up to 1")
    return found
