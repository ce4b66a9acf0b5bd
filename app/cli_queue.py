"""`python -m app queue`: what is not done, why, and having it tried again; beside a running node, or without one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli_common import AsJson, ConfigFile, out, settings_of
from app.errors import InputError

if TYPE_CHECKING:
    # Loaded by the commands themselves: every process of the node loads this module.
    from app.backlog import Entry
    from app.journal import Journal

queue_cli = typer.Typer(name="queue")
SHOWN_DIGITS = 12
"""Of a job's id in the table; they do for the commands too."""
_COLOURS = {"failed": "red", "quarantined": "red", "dead": "red", "stuck": "yellow"}


@contextmanager
def _journal(config: Path | None) -> Iterator[Journal]:
    """Open the journal of the node that the settings describe; raises InputError where it has none."""
    from app.journal import Journal

    path = settings_of(config).journal_path
    if not path.is_file():
        raise InputError(f"there is no journal {path}: has a node run with these settings, from this folder?")
    journal = Journal(path)
    try:
        yield journal
    finally:
        journal.close()


@queue_cli.callback(invoke_without_command=True)
def show_queue(context: typer.Context, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """List studies and deliveries that wait, are in work, failed or are stuck.

    A delivery that is stuck was tried in vain and is tried again by itself; one that is uncommitted was taken, and
    waits for the destination's storage commitment; one that is dead was refused for good and waits for a person, as
    failed and quarantined studies do: `queue retry`.
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    from app.backlog import waiting

    known = {"", *(destination.name for destination in settings_of(config).sender.destinations)}
    with _journal(config) as journal:
        entries = [
            entry if entry.destination in known else replace(entry, reason=f"not in the settings; {entry.reason}")
            for entry in waiting(journal)
        ]
    if as_json:
        _print_json({"queue": [asdict(entry) for entry in entries]})
    elif entries:
        out.print(_table(entries))
    else:
        out.print("nothing waits, and nothing is stuck")


@queue_cli.command()
def show(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="job id, or its first digits")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show one job: its state and reason, its deliveries, and what happened to it."""
    from app.backlog import describe, find_job

    with _journal(config or context.obj) as journal:
        found = describe(journal, find_job(journal, job))
    if as_json:
        _print_json(found)
        return
    for key in ("job_id", "state", "revision", "images", "attempts", "code", "reason", "stage"):
        if found[key] != "":
            out.print(f"{key.replace('_', ' '):<10}{escape(str(found[key]))}", highlight=False, soft_wrap=True)
    if found["deliveries"]:
        out.print(_deliveries(found["deliveries"]), "")
    events = Table("when", "what", title="Events", title_justify="left", box=None)
    for event in found["events"]:
        events.add_row(_time(event["at"]), escape(event["what"]))
    out.print(events)


@queue_cli.command()
def retry(
    context: typer.Context,
    target: Annotated[str | None, typer.Argument(help="job id (its first digits will do) or destination")] = None,
    everything: Annotated[bool, typer.Option("--all", help="every failed study and every stuck delivery")] = False,
    config: ConfigFile = None,
) -> None:
    """Have a failed or quarantined study processed again, and stuck or dead deliveries sent again, at once.

    A running node begins within seconds; one that does not run, when it is started.
    """
    if (target is None) != everything:
        raise InputError("give a job id, a destination, or --all")
    from app.backlog import destinations, put_back_all, put_back_destination, put_back_job

    with _journal(config or context.obj) as journal:
        if target is None:
            done = put_back_all(journal)
        elif target in destinations(journal):
            done = put_back_destination(journal, target)
        else:
            done = put_back_job(journal, target)
    out.print(f"put back: {done.jobs} studies, {done.deliveries} deliveries", highlight=False)


def _table(entries: list[Entry]) -> Table:
    table = Table("", title="Queue", title_justify="left", box=None)
    table.add_column("job", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("age", "tries", "files"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("to", no_wrap=True)
    table.add_column("last reason", overflow="fold")
    for entry in entries:
        colour = _COLOURS.get(entry.state)
        state = f"[{colour}]{entry.state}[/]" if colour else entry.state
        numbers = (_age(entry.age_seconds), str(entry.attempts), str(entry.files or "-"))
        job = entry.job_id[:SHOWN_DIGITS] or "-"
        table.add_row(entry.what, job, state, *numbers, entry.destination or "-", escape(entry.reason))
    return table


def _deliveries(rows: list[dict[str, Any]]) -> Table:
    table = Table("to", "file", "state", "tries", "next", title="Deliveries", title_justify="left", box=None)
    table.add_column("last reason", overflow="fold")
    for row in rows:
        due = row["next_attempt"]
        upcoming = "-" if due is None else _time(due) if due else "now"
        told = (row["destination"], row["file"], row["state"], str(row["attempts"]), upcoming)
        table.add_row(*told, escape(row["reason"]))
    return table


def _print_json(what: object) -> None:
    sys.stdout.write(json.dumps(what, indent=2) + "\n")


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _age(seconds: float) -> str:
    """Give an age in its largest unit: 5 s, 12 min, 3 h, 9 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
