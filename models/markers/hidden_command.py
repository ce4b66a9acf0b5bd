"""The command that hides sequences from trained folds: what a study without T1C, say, costs a marker network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models.json_file import write_json
from models.markers.data import sequences_of
from models.markers.judge_command import Run, ask_fold, open_run
from models.markers.metrics import measure, paired
from models.markers.outcomes import Outcome, PatientOutcome
from models.markers.slices import SEQUENCES


def hidden(
    run: Annotated[list[Path], typer.Option(help="a training's folder, or a comparison's OUT/MARKER/RUN; repeatable")],
    data_folder: Annotated[Path, typer.Option("--data", help="the folder that it was trained from")],
    json_file: Annotated[Path | None, typer.Option("--json", help="result file")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all")] = 0,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Ask trained folds about their held-out patients with each sequence hidden in turn; nothing is trained.

    Tells the AUC without the sequence, and how much that is more or less than with all that there are, over those
    patients who have the sequence and another one. Writes nothing into the run.
    """
    console = Console(stderr=True)
    if threads:
        torch.set_num_threads(threads)
    content: dict[str, dict[str, Any]] = {}
    for found in [open_run(folder, data_folder, cache) for folder in run]:
        table = Table("hidden", "patients", "AUC", "AUC with it", "difference (95 % interval)", title=str(found.folder))
        told = content.setdefault(str(found.folder), {})
        with Progress(console=console) as progress:
            whole = ask(found, SEQUENCES, progress)
            without = {name: ask(found, [s for s in SEQUENCES if s != name], progress) for name in hideable(found)}
        told["none"] = measure(whole.labels, whole.probabilities).content()
        for name, outcome in without.items():
            able = having(found, name)
            pair = paired(replace(outcome, patients=tuple(p for p in outcome.patients if p.patient in able)), whole)
            told[name] = pair.content()
            table.add_row(name, str(pair.patients), f"{pair.one:.3f}", f"{pair.other:.3f}", str(pair.difference))
        console.print(table)
    if json_file is not None:
        write_json(json_file, content)


def ask(run: Run, shown: Sequence[str], progress: Progress) -> Outcome:
    """Ask each fold about its held-out patients, other sequences than `shown` missing."""
    rows = [row for number in run.folds for row in ask_fold(run, number, progress, shown)["last"]]
    patients = tuple(PatientOutcome(**row) for row in rows)
    return Outcome(run.study.marker.name, run.study.recipe.network, run.study.describe(), patients)


def hideable(run: Run) -> list[str]:
    """Name the sequences without which somebody is left."""
    return [name for name in SEQUENCES if having(run, name)]


def having(run: Run, name: str) -> set[str]:
    """Name the held-out patients who have a sequence, and another one besides in the same case."""
    held = [subject for subjects in run.folds.values() for subject in subjects]
    return {s.patient for s in held if name in sequences_of(s) and len(sequences_of(s)) > 1}
