"""Command line: serve, process, explain, verify, send, deidentify, queue, demo, doctor, conformance."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from app.cli_common import AsJson, ConfigFile, err, out
from app.cli_common import bar as _bar
from app.cli_common import settings_of as _settings
from app.cli_deidentify import deidentify
from app.cli_queue import queue_cli
from app.config import Settings
from app.errors import InputError, NodeError, Stopped
from app.log import set_up_log
from operators.errors import PipelineError

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Glioma Node: a brain-MRI study in over DICOM, a segmentation and a structured report out. Research use only.",
)
cli.add_typer(queue_cli)
cli.command()(deidentify)
STAGES = 15
"""Stages between the queue and the end."""

StudyFolder = Annotated[Path, typer.Argument(help="folder with the DICOM files of one study")]


def _need_folder(folder: Path) -> None:
    """Refuse what is no folder at once, before the libraries that take seconds to load."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the study's DICOM files")


@cli.command()
def serve(
    config: ConfigFile = None,
    wait: Annotated[
        float,
        typer.Option(min=0, help="seconds to wait for a node on the same data folder to end; for rolling restarts"),
    ] = 0.0,
) -> None:
    """Run the node until SIGTERM or Ctrl-C; what is being analysed is finished first."""
    from app.signals import block_stop_signals

    block_stop_signals()  # before numpy and Holoscan start threads of their own
    os.umask(0o077)  # whatever the node writes is for its user alone
    settings = _settings(config)
    # Before libraries are loaded, some of which warn at once.
    set_up_log(settings.log.format, RichHandler(console=err, show_path=False), ("highdicom", "monai"))
    from app.node import Node
    from app.watch import start_anew

    try:
        node = Node(settings, start_anew, wait)
    except Stopped as told:
        logging.getLogger(__name__).info("%s", told)
        return
    node.start()
    if settings.log.format == "text":
        err.print(_how_to_send(settings, node.port))
    node.run_until_stopped()


def _how_to_send(settings: Settings, port: int) -> str:
    """Tell a newcomer how a study gets in and where results go."""
    peer = settings.receiver.peers[0].ae_title if settings.receiver.peers else "YOUR_AE"
    names = ", ".join(d.name for d in settings.sender.destinations)
    return (
        f"[bold]Glioma Node listens[/] as {settings.receiver.ae_title} on port {port}\n"
        f"  send to it:   python -m app send FOLDER --to {settings.receiver.ae_title}@localhost:{port} --as {peer}\n"
        f"  results go to {settings.archive_dir}{f' and to {names}' if names else ''}\n"
        f"  research use only; stop with Ctrl-C"
    )


@cli.command()
def process(
    study: StudyFolder,
    folder: Annotated[Path, typer.Option("--out", help="folder for SEG, SR, PDF and key image; made if absent")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Analyse one study folder through the node's graph, without a network."""
    settings = _settings(config)
    _need_folder(study)
    from app.process import process_folder
    from app.summary import describe_job

    logging.getLogger("operators").setLevel(logging.ERROR)  # why a study is refused is told below, once
    with _bar() as progress:
        task = progress.add_task("analysing", total=STAGES)
        job = process_folder(study, folder, settings, lambda stage: progress.update(task, advance=1, description=stage))
    summary = describe_job(job)
    if as_json:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    elif job.failure is None:
        _show(summary)
    if job.failure is not None:
        err.print(
            f"[red]{summary['status']}[/] ({job.failure.code}): {job.failure.message}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(1 if job.failure.code == "internal-error" else 2)


@cli.command()
def explain(
    study: Annotated[Path | None, typer.Argument(help="folder with the DICOM files of one study")] = None,
    as_json: AsJson = False,
    rules: Annotated[bool, typer.Option("--rules", help="show the words and this site's rules, and end")] = False,
    config: ConfigFile = None,
) -> None:
    """Show each series of a study, what it was taken for, and why."""
    settings = _settings(config)
    if rules:
        out.print(_rules_table(settings))
        return
    if study is None:
        raise InputError("give the folder of a study, or --rules")
    _need_folder(study)
    from app.summary import describe_selection
    from operators.decoder import ChildDecoder
    from operators.load_study import load_study
    from operators.select_series import assess

    decoder = ChildDecoder(settings.pixels)
    try:
        described = describe_selection(assess(load_study(study), settings.series_rules, decoder))
    finally:
        decoder.stop()
    if as_json:
        sys.stdout.write(json.dumps(described, indent=2) + "\n")
        return
    out.print(_series_table(described))
    missing = [name for name in ("T1", "T1C", "T2", "FLAIR") if name not in described["chosen"]]
    if missing:
        ends = "; the analysis needs T1C and FLAIR" if {"T1C", "FLAIR"} & set(missing) else ", which may be missing"
        out.print(f"\nnot found: {', '.join(missing)}{ends}", highlight=False)


@cli.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="folder with result objects, searched through all its levels")],
    as_json: AsJson = False,
    strict: Annotated[bool, typer.Option("--strict", help="fail where a validator is not installed")] = False,
) -> None:
    """Let every validator judge the result objects of a folder; exit 0 only if all pass, 1 if one fails."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the result objects")
    from operators.verify import describe_judgements, verify_folder

    with _bar() as progress:
        progress.add_task("verifying", total=None)
        described = describe_judgements(verify_folder(folder), strict=strict)
    if as_json:
        sys.stdout.write(json.dumps(described, indent=2) + "\n")
    else:
        out.print(_judgements_table(described), "")
        out.print(described["closing"], highlight=False, soft_wrap=True)
    if not described["passed"]:
        raise typer.Exit(1)


@cli.command()
def send(
    folder: Annotated[Path, typer.Argument(help="folder with DICOM files, searched through all its levels")],
    to: Annotated[str, typer.Option("--to", help="AE@host:port")],
    calling: Annotated[str, typer.Option("--as", help="calling AE title")] = "GLIOMA_NODE",
    tls: Annotated[
        tuple[Path, Path, Path] | None, typer.Option("--tls", help="certificate, its key, and the peer's CA: PEM files")
    ] = None,
) -> None:
    """Send a folder by C-STORE, with progress; exit 0 only when every file was taken."""
    _need_folder(folder)
    from app.sender import parse_peer, send_files

    peer = parse_peer(to, tls)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if not files:
        raise InputError(f"{folder} holds no files")
    with _bar() as progress:
        task = progress.add_task("sending", total=len(files))
        outcomes = send_files(files, peer, calling, 30.0, lambda _: progress.advance(task))
    refused = [o for o in outcomes if not o.delivered]
    out.print(f"{len(outcomes) - len(refused)} of {len(outcomes)} files taken by {to}", highlight=False)
    if refused:
        raise NodeError(f"{len(refused)} files were not taken; the first: {refused[0].note}")


@cli.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="folder for the results")] = Path("out/demo"),
    study: Annotated[
        Path | None, typer.Option(help="study to send; default: the real one if present, else a phantom")
    ] = None,
) -> None:
    """Start a node, send a study to it by C-STORE, wait for SEG and SR, and show what came."""
    if study is not None:
        _need_folder(study)
    from app.demo import run_demo

    with _bar() as progress:
        task = progress.add_task("starting", total=None)
        shown = run_demo(folder, study, lambda text: progress.update(task, description=text))
    _show(shown.summary)
    out.print(shown.closing, highlight=False)


@cli.command()
def doctor(config: ConfigFile = None) -> None:
    """Say what is wrong with this installation and how to mend it; exit 2 if anything is, 0 with warnings alone."""
    from app.doctor import examine

    table = Table("", "checked", box=None)
    table.add_column("found", overflow="fold")
    table.add_column("remedy", overflow="fold")  # a command must be whole, to be copied
    wrong = 0
    for check in examine(_settings(config)):
        wrong += not (check.ok or check.warns)
        state = "[green]ok[/]" if check.ok else "[yellow]warn[/]" if check.warns else "[red]no[/]"
        table.add_row(state, check.subject, check.found, "" if check.ok else check.remedy)
    out.print(table)
    if wrong:
        raise typer.Exit(2)


@cli.command()
def conformance(
    file: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
) -> None:
    """Print the DICOM Conformance Statement of this version, as Markdown."""
    from app.conformance import conformance_statement

    statement = conformance_statement()
    if file is None:
        sys.stdout.write(statement)
        return
    try:
        file.write_text(statement, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error


def _series_table(described: dict[str, Any]) -> Table:
    table = Table(title="Series", title_justify="left", box=None, pad_edge=False)
    for name in ("series", "slices"):
        table.add_column(name, justify="right")
    for name in ("taken for", "used as"):
        table.add_column(name, max_width=18)
    table.add_column("sure", justify="right")
    table.add_column("why", overflow="fold")
    for row in described["series"]:
        number = "-" if row["series_number"] is None else str(row["series_number"])
        used = f"[bold green]{row['contrast']}[/]" if row["contrast"] else "-"
        sure = f"{100 * row['confidence']:.0f} %"
        table.add_row(number, str(row["instances"]), row["kind"], used, sure, escape(_plainly(row)))
    return table


def _plainly(row: dict[str, Any]) -> str:
    """The reason without the kind that stands beside it."""
    return str(row["reason"]).removeprefix(f"{row['kind']}: ").removeprefix(f"{row['kind']}, ")


def _rules_table(settings: Settings) -> Table:
    """Words that are built in, in the order they are tried, after this site's own rules."""
    from operators.series_rules import built_in

    table = Table("from", "taken for", "where", "points", title="Rules", title_justify="left", box=None)
    table.add_column("pattern", overflow="fold")
    own = [("site", r.kind, r.field, r.weight, r.pattern) for r in settings.series_rules]
    for source, kind, where, points, pattern in own + [("built in", *row) for row in built_in()]:
        table.add_row(source, kind, where, f"{points:g}", escape(pattern))
    return table


def _judgements_table(described: dict[str, Any]) -> Table:
    """Every judgement, with its first complaint."""
    colours = {"passed": "green", "failed": "red"}
    table = Table("object", "kind", "validator", "outcome", title="Verified", title_justify="left", box=None)
    table.add_column("first complaint", overflow="fold")
    for row in described["judgements"]:
        colour = colours.get(row["outcome"], "yellow")
        complaint = escape(row["complaints"][0]) if row["complaints"] else ""
        table.add_row(escape(row["object"]), row["kind"], row["validator"], f"[{colour}]{row['outcome']}[/]", complaint)
    return table


def _checks_line(checks: list[dict[str, Any]]) -> str:
    """Say how many quality checks passed, and what the others warn of."""
    warned = [
        f"[yellow]{check['name']}[/]: {escape(check['reason'])}" for check in checks if check["outcome"] == "warn"
    ]
    passed = f"quality: {len(checks) - len(warned)} of {len(checks)} checks passed"
    return "\n".join([passed, *(f"  {line}" for line in warned)])


def _marker_lines(name: str, marker: dict[str, Any]) -> str:
    """Say of a marker what the report says: the answer and its probability, the reason, what moved the odds of it."""
    from operators.statements import strongest

    probability = "" if marker["probability"] is None else f", probability {marker['probability']:.2f}"
    lines = [f"{name}: {marker['said']}{probability}"]
    if marker["reason"]:
        lines.append(marker["reason"])
    if moved := strongest(tuple(marker["times_the_odds"].items())):
        lines.append(f"the odds are moved most by {', '.join(f'{group} ×{factor}' for group, factor in moved)}")
    return "\n  ".join(lines)


def _show(summary: dict[str, Any]) -> None:
    """Print a settled job as tables."""
    out.print(_series_table(summary), "")
    stages = Table("stage", "seconds", title="Stages", title_justify="left", box=None)
    for stage, seconds in summary["seconds"].items():
        stages.add_row(stage, f"{seconds:.2f}")
    stages.add_row("[bold]all[/]", f"[bold]{sum(summary['seconds'].values()):.2f}[/]")
    out.print(stages, "")
    out.print(_checks_line(summary["checks"]), highlight=False)
    volume = summary["volumes_ml"].get("tumour")
    axes = " x ".join(f"{mm:.0f}" for mm in summary["diameters_mm"].values())
    out.print(f"tumour {volume:.1f} ml{f', {axes} mm' if axes else ''} [dim](research use only)[/]", highlight=False)
    for name, part in summary.get("segments", {}).items():
        axes = " x ".join(f"{mm:.0f}" for mm in part["diameters_mm"].values())
        told = f"{part['volume_ml']:.1f} ml, {axes} mm" if axes else "none found"
        out.print(f"  {name} {told}", highlight=False)
    for name, marker in summary["markers"].items():
        out.print(_marker_lines(name, marker), highlight=False, soft_wrap=True)
    for kind, path in summary["files"].items():
        out.print(f"{kind}: {path}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line: one line and exit status 2 for what the user can mend."""
    warnings.filterwarnings("ignore", "Current stack size", RuntimeWarning)
    try:
        cli(standalone_mode=True)
    except (NodeError, PipelineError) as error:
        err.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
