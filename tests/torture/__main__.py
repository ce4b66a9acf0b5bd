"""The long tests: kills, broken input, hundreds of studies; `make torture` runs all at full length."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from tests.torture.fuzz import fuzz_datasets
from tests.torture.kills import torture
from tests.torture.siege import besiege
from tests.torture.soak import soak

cli = typer.Typer(help=__doc__, no_args_is_help=True)
console = Console()
Folder = Annotated[
    Path | None,
    typer.Option(help="where all of it lies; given again, an interrupted run goes on. Default: a temporary one"),
]


First = Annotated[int, typer.Option(help="number of the first; a number makes the same case again")]


@cli.command()
def fuzz(
    datasets: Annotated[int, typer.Option(help="broken datasets, for the readers themselves")] = 60_000,
    peers: Annotated[int, typer.Option(help="broken conversations, for a running node")] = 40_000,
    first: First = 0,
    folder: Folder = None,
) -> None:
    """Let readers meet broken datasets and a node broken peers; anything but a refusal is a failure.

    An interrupted run goes on with --first, at the number that it had come to.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sound = _fuzz_datasets(range(first, first + datasets), folder or Path(temporary))
        if peers:
            sound &= _fuzz_peers(range(first, first + peers), (folder or Path(temporary)) / "node")
    raise typer.Exit(0 if sound else 1)


@contextmanager
def _progress(what: str, numbers: range) -> Iterator[Callable[[int], None]]:
    """Show a bar, or in a file a line now and then, which says where an interrupted run would go on."""
    done, every = 0, max(1, len(numbers) // 20)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=len(numbers))

        def tell(more: int) -> None:
            nonlocal done
            before, done = done, done + more
            progress.advance(bar, more)
            if not console.is_terminal and done // every > before // every:
                console.print(f"{what}: {done} of {len(numbers)}; the next is {numbers.start + done}")

        yield tell


def _fuzz_datasets(numbers: range, folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    with _progress("datasets", numbers) as tell:
        found = fuzz_datasets(numbers, folder, lambda: tell(1))
    for what, times in sorted(found.counts.items()):
        console.print(f"{what}: {times}")
    console.print(f"memory grew by {found.grown_mb:.0f} MB; refusals that quote the patient: {len(found.leaks)}")
    for fault in found.faults:
        console.print(f"[red]fault[/] {fault}")
    return not found.faults


def _fuzz_peers(numbers: range, folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    with _progress("conversations", numbers) as tell:
        siege = besiege(folder, numbers, tell)
    for what, times in siege.seen.most_common():
        console.print(f"{what}: {times}")
    rate = len(numbers) / siege.seconds
    console.print(f"{rate:.0f} a second; the receiver held {siege.most_mb:.0f} MB at most")
    for role, had in siege.before.items():
        has = siege.after.get(role, had)
        console.print(
            f"{role}: {had.resident_mb:.0f} MB, {had.descriptors} descriptors, {had.threads} threads before; "
            f"{has.resident_mb:.0f} MB, {has.descriptors}, {has.threads} after"
        )
    for fault in siege.faults:
        console.print(f"[red]fault[/] {fault}")
    return not siege.faults


@cli.command()
def kills(
    count: Annotated[int, typer.Option(help="how often something is killed")] = 200,
    seed: Annotated[int, typer.Option(help="of moments and victims")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="kept where it is given, and gone on with; else a temporary one")
    ] = None,
) -> None:
    """Kill processes of the node at random under a stream of studies to a real Orthanc, and count what was lost."""
    with tempfile.TemporaryDirectory() as temporary:
        tally = torture(folder or Path(temporary), count, seed, console.print)
    console.print(f"kills: {dict(tally.kills)}, {tally.kills.total()} in all")
    console.print(f"{len(tally.accepted)} studies, {tally.accepted_instances} instances accepted")
    console.print(f"{tally.kept_instances} instances kept; {tally.revisions} revisions of studies done")
    console.print(f"{tally.result_sets} result sets delivered whole; {tally.put_back} studies quarantined and put back")
    for what, times in tally.wrong.items():
        console.print(f"{what}: {times}", style="red" if times else None)
    raise typer.Exit(0 if tally.sound else 1)


@cli.command("soak")
def soak_(
    studies: Annotated[int, typer.Option(help="how many small studies are sent")] = 500,
    folder: Annotated[
        Path | None, typer.Option(help="where all of it lies, a new folder; default: a temporary one")
    ] = None,
) -> None:
    """Send small studies through a node to a real Orthanc; see whether anything grows, and what idling costs.

    It cannot be interrupted and gone on with: what grows shows only in processes that live through it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        result = soak(folder or Path(temporary), studies, console.print)
    console.print(f"{result.done} of {result.studies} studies done in {result.seconds:.0f} s")
    for role, had in result.warm.items():
        has = result.end.get(role, had)
        grown = 100 * (has.resident_mb / had.resident_mb - 1)
        console.print(
            f"{role}: {had.resident_mb:.0f} MB warm, {has.resident_mb:.0f} MB in the end ({grown:+.1f} %); "
            f"{had.descriptors} and {has.descriptors} descriptors, {had.threads} and {has.threads} threads; "
            f"idle {100 * result.idle.get(role, 0.0):.2f} % of a core"
        )
    for fault in result.faults:
        console.print(f"[red]fault[/] {fault}")
    raise typer.Exit(1 if result.faults else 0)


if __name__ == "__main__":
    cli()
