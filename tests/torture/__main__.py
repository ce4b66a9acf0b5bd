"""The long tests: `python -m tests.torture fuzz` and `kills`; `make torture` runs both at full length."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import track

from tests.torture.fuzz import fuzz_datasets
from tests.torture.kills import torture

cli = typer.Typer(help=__doc__, no_args_is_help=True)
console = Console()
Folder = Annotated[
    Path | None,
    typer.Option(help="where all of it lies; given again, an interrupted run goes on. Default: a temporary one"),
]


@cli.command()
def fuzz(
    count: Annotated[int, typer.Option(help="broken datasets")] = 100_000,
    first: Annotated[int, typer.Option(help="number of the first; a number makes the same case again")] = 0,
) -> None:
    """Let the receiver's and the pipeline's readers read broken datasets; anything but a refusal is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        begun = psutil.Process().memory_info().rss
        found = fuzz_datasets(track(range(first, first + count), "datasets", console=console), Path(folder))
        grown = (psutil.Process().memory_info().rss - begun) / 1e6
    for what, times in sorted(found.counts.items()):
        console.print(f"{what}: {times}")
    console.print(f"memory grew by {grown:.0f} MB; refusals that quote the patient: {len(found.leaks)}")
    for kind, number in found.crashes.items():
        console.print(f"[red]crash[/] {kind}, first at {number}")
    raise typer.Exit(1 if found.crashes or found.leaks else 0)


@cli.command()
def kills(
    count: Annotated[int, typer.Option(help="how often something is killed")] = 200,
    seed: Annotated[int, typer.Option(help="of moments and victims")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="kept where it is given, and gone on with; else a temporary one")
    ] = None,
) -> None:
    """Kill node, receiver or worker at random under a stream of studies to a real Orthanc, and count what was lost."""
    with tempfile.TemporaryDirectory() as temporary:
        tally = torture(folder or Path(temporary), count, seed, console.print)
    console.print(f"kills: {dict(tally.kills)}, {tally.kills.total()} in all")
    console.print(f"{len(tally.accepted)} studies, {tally.accepted_instances} instances accepted")
    console.print(f"{tally.kept_instances} instances kept; {tally.revisions} revisions of studies done")
    console.print(f"{tally.result_sets} result sets delivered whole; {tally.put_back} studies quarantined and put back")
    for what, times in tally.wrong.items():
        console.print(f"{what}: {times}", style="red" if times else None)
    raise typer.Exit(0 if tally.sound else 1)


if __name__ == "__main__":
    cli()
