"""The comparison of NASBraNet with its baselines and with its own parts (thesis tables 4-1, 4-2, 4-5, 4-6).

Every network trains on the same folds by patient with the same trainer, schedule and seed. Each fold lies in a
folder of its own, so a run can be broken off and taken up again, and networks be added later; the tables show what is
there, and of networks without a folder what an earlier report says. Folds come first, networks second: a comparison
that is broken off early is still one of like with like. Times are taken anew at each call, all networks in the same
run.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from models import frame
from models.engine import EngineChoice
from models.json_file import write_json
from models.nasbranet.cost import Cost, Speed, cost, time_networks
from models.nasbranet.earlier import EarlierReport, EarlierRow, read_earlier
from models.nasbranet.export import load_network
from models.nasbranet.latency import sensitivities
from models.nasbranet.latency_table import LatencyTable, MissingLatency
from models.nasbranet.network import NASBraNet
from models.nasbranet.operator_table import measure_operators
from models.nasbranet.plan import NetworkPlan
from models.nasbranet.roster import TEACHER, Entry, roster
from models.nasbranet.space import SearchSpace
from models.nasbranet.tables import Report, Row, relative_times
from models.nasbranet.timing import device_header
from models.training import data
from models.training.folds import Study, check_folds, keep_or_refuse, refuse_other_folds, run_fold
from models.training.judge import per_patient
from models.training.loop import Schedule

COMMAND = ("python", "-m", "models.nasbranet", "compare")
console = Console(stderr=True)


def compare(
    data_folder: Annotated[Path, typer.Option("--data", help=data.DATA_HELP)],
    out: Annotated[Path, typer.Option(help="folder for a folder a network and fold, and compare.md, compare.json")],
    networks: Annotated[str, typer.Option(help="which to train, with commas between; all: every one")] = "all",
    plan: Annotated[str, typer.Option(help="NASBraNet's plan: of models/plans by name, or a JSON file")] = "thesis",
    teacher: Annotated[str | None, typer.Option(help="the teacher's plan, for the distilled rows of table 4-6")] = None,
    folds: Annotated[int, typer.Option(help="parts the patients are dealt into")] = 5,
    folds_run: Annotated[int, typer.Option(help="how many of them to train; 0 only collects what is there")] = 5,
    only: Annotated[
        list[int] | None,
        typer.Option(help="train this fold alone, without tables, side by side with others; repeatable"),
    ] = None,
    epochs: Annotated[str, typer.Option(help="epochs x image scale, one after another")] = "14x0.5,10x0.75,12x1",
    batch: Annotated[int, typer.Option(help="slices a step")] = 8,
    workers: Annotated[int, typer.Option(help="processes that read and augment slices")] = 1,
    seed: Annotated[int, typer.Option(help="of folds, weights and augmentation, the same for every network")] = 0,
    patience: Annotated[
        int | None, typer.Option(help="stop after so many validations without gain; needs --inner-folds")
    ] = None,
    inner_folds: Annotated[int, typer.Option(help="one of so many parts of a fold's own patients watches")] = 0,
    empty_share: Annotated[float, typer.Option(help="tumour-free slices per tumour slice, drawn anew")] = 0.4,
    flair_only: Annotated[bool, typer.Option(help="cases without a true T1C train too, in every fold")] = True,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases by a part of their name")] = None,
    latency_table: Annotated[Path | None, typer.Option(help="the search's table of times, for tables 4-1, 4-2")] = None,
    space: Annotated[Path | None, typer.Option(help="JSON of that table's search space, where it does not say")] = None,
    earlier: Annotated[
        Path | None, typer.Option(help="an earlier run's compare.json, for networks of which OUT has no fold")
    ] = None,
    rounds: Annotated[int, typer.Option(help="timed calls a network; 0 takes no times")] = 50,
    engine: Annotated[EngineChoice, typer.Option(help="that is timed; auto: a GPU's where there is one")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of training; 0 leaves it to torch")] = 0,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Train what is missing, time everything, and write the thesis's tables for our data and device."""
    # The exporter warns of each operator of torchvision, which is not installed and not needed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    if threads:
        torch.set_num_threads(threads)
    everyone = data.read_cases(data_folder)
    study = Study(
        cases=data.usable(everyone, leave_out or ()),
        helpers=data.flair_only(everyone, leave_out or ()) if flair_only else (),
        folds=folds,
        schedule=Schedule.parse(epochs, batch=batch, workers=workers, seed=seed, patience=patience),
        empty_share=empty_share,
        inner_folds=inner_folds,
        cache=cache,
    )
    check_folds(study.cases, folds, only or ())
    entries = roster(NetworkPlan.load(plan), None if teacher is None else NetworkPlan.load(teacher))
    chosen = choose(entries, networks)
    settings = _settings(study)
    costs = {entry.name: cost(entry.make()) for entry in entries if entry.make is not None}
    before = None if earlier is None else read_earlier(earlier, settings, costs)
    keep_or_refuse(out / "settings.json", settings)
    for entry in entries:
        described = out / entry.name / "network.json"
        if entry in chosen or (entry.make is not None and described.exists()):
            keep_or_refuse(described, entry.describe())
    for fold in only or range(min(folds_run, folds)):
        train_fold(study, fold, chosen, out)
    if only:
        console.print("once every fold is trained, --folds-run 0 writes the tables")
        return
    operators = measure_operators(rounds, engine) if rounds else ()
    speeds = _time_all(entries, rounds, engine) if rounds else {}
    report = Report(
        device=_device(speeds),
        settings=settings,
        rows=_rows(entries, study, out, costs, speeds, before.rows if before else {}),
        operators=operators,
        command=_command(study, plan, teacher, leave_out or ()),
        **_from_latency_table(latency_table, space, before),
    )
    write_json(out / "compare.json", report.content())
    (out / "compare.md").write_text(report.markdown(), encoding="utf-8")
    console.print(f"{out / 'compare.md'} and compare.json written")


def choose(entries: Sequence[Entry], names: str) -> list[Entry]:
    """Keep the named entries that can be built, and the teacher where one of them is taught.

    Raises DataError for a name that is not there.
    """
    wanted = {name.strip() for name in names.split(",")} if names != "all" else {e.name for e in entries}
    if unknown := wanted - {e.name for e in entries}:
        known = ", ".join(e.name for e in entries)
        raise data.DataError(f"no network {', '.join(sorted(unknown))}; there are {known}")
    if names != "all" and (lacking := [e for e in entries if e.name in wanted and e.make is None]):
        raise data.DataError(f"{lacking[0].name} cannot be built: {lacking[0].lacks}")
    if any(e.taught for e in entries if e.name in wanted):
        wanted.add(TEACHER)
    return [e for e in entries if e.name in wanted and e.make is not None]


def train_fold(study: Study, fold: int, entries: Sequence[Entry], out: Path) -> None:
    """Train each network's fold that is not done; the roster has the teacher before those it teaches."""
    for entry in entries:
        if entry.make is None:
            continue
        teacher = _taught_by(study, entries, fold, out) if entry.taught else None
        console.print(f"{entry.label}: fold {fold + 1} of {study.folds}")
        with Progress(console=console) as progress:
            run_fold(study, fold, entry.make, _fold_folder(out, entry, fold), progress, teacher)


def collect(study: Study, entry: Entry, out: Path) -> tuple[dict[str, float], int]:
    """Gather Dice by patient (mean over a patient's cases) over the finished folds, and count these.

    Raises DataError for a fold that had another schedule or other patients, as one that was copied here might.
    """
    paths = [_fold_folder(out, entry, fold) / "result.json" for fold in range(study.folds)]
    finished = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    known = {case.name for case in study.cases}
    by_case: dict[str, float] = {}
    for result in finished:
        if tuple(map(tuple, result["stages"])) != study.schedule.stages or result["cases"].keys() - known:
            raise data.DataError(f"{out / entry.name} holds a fold of another schedule or of other cases")
        by_case |= result["cases"]
    return per_patient(study.cases, by_case), len(finished)


def _taught_by(study: Study, entries: Sequence[Entry], fold: int, out: Path) -> NASBraNet:
    """Open the teacher's network of the same fold; raises DataError where it saw a patient that judges its pupil."""
    teacher = next(e for e in entries if e.name == TEACHER)
    if teacher.plan is None:
        raise data.DataError(teacher.lacks)
    folder = _fold_folder(out, teacher, fold)
    refuse_other_folds(study, fold, folder)
    return load_network(teacher.plan, folder / "last.pt")


def _time_all(entries: Sequence[Entry], rounds: int, engine: EngineChoice) -> dict[str, Speed]:
    """Time every network that can be built, trained or not: weights do not change the time."""
    built = {entry.name: entry.make() for entry in entries if entry.make is not None}
    console.print(f"timing {len(built)} networks in turns")
    return time_networks(built, rounds, engine)


def _rows(
    entries: Sequence[Entry], study: Study, out: Path,
    costs: Mapping[str, Cost], speeds: Mapping[str, Speed], before: Mapping[str, EarlierRow],
) -> list[Row]:  # fmt: skip
    """Collect what is known of each network; what was known before counts where no fold is done now."""
    rows = []
    for entry in entries:
        patients, done = collect(study, entry, out)
        earlier = None if done else before.get(entry.name)
        rows.append(
            Row(
                entry=entry, patients=earlier.dice_by_patient if earlier else patients,
                folds_done=earlier.folds_done if earlier else done, folds=study.folds,
                cost=costs.get(entry.name), speed=speeds.get(entry.name), earlier=earlier,
            )
        )  # fmt: skip
    return rows


def _fold_folder(out: Path, entry: Entry, fold: int) -> Path:
    return out / entry.name / f"fold_{fold}"


def _settings(study: Study) -> dict[str, Any]:
    """What must be the same for results to be comparable."""
    stops = {"patience": study.schedule.patience, "inner_folds": study.inner_folds} if study.inner_folds else {}
    return stops | {
        "epochs": ",".join(f"{n}x{scale:g}" for n, scale in study.schedule.stages),
        "batch": study.schedule.batch,
        "seed": study.schedule.seed,
        "folds": study.folds,
        "empty_share": study.empty_share,
        "frame": str(frame.VERSION),
        "cases": sorted(case.name for case in (*study.cases, *study.helpers)),
    }


def _command(study: Study, plan: str, teacher: str | None, leave_out: Sequence[str]) -> str:
    """Say how to go on with the same settings, whatever the defaults will be then."""
    schedule, helped = study.schedule, bool(study.helpers)
    words: list[object] = [*COMMAND, "--data", "DIR", "--out", "OUT", "--plan", plan, "--folds", study.folds]
    words += ["--folds-run", study.folds, "--epochs", ",".join(f"{n}x{scale:g}" for n, scale in schedule.stages)]
    words += ["--batch", schedule.batch, "--seed", schedule.seed, "--empty-share", study.empty_share]
    if study.inner_folds:
        words += ["--patience", schedule.patience, "--inner-folds", study.inner_folds]
    words += ["--flair-only" if helped else "--no-flair-only"]
    words += [part for word in leave_out for part in ("--leave-out", word)]
    return shlex.join(map(str, [*words, "--teacher", teacher] if teacher else words))


def _device(speeds: Mapping[str, Speed]) -> dict[str, str]:
    """Name what was timed on; all networks were on one engine, or there would be no times."""
    engine = next((speed.engine for speed in speeds.values()), "none timed")
    header = device_header()
    return {"processor": header["processor"], "engine": engine, "torch": header["torch"]}


def _from_latency_table(path: Path | None, space: Path | None, before: EarlierReport | None) -> dict[str, Any]:
    """Read what the search measured; without a table, what was read before, or these parts of the report say so.

    Raises DataError where the table was measured for another space.
    """
    if path is None:
        return {"searched": None, "sensitivities": None} if before is None else before.of_latency_table()
    table = LatencyTable.load(path)
    lattice = SearchSpace.model_validate(table.space)  # the thesis's where it does not say
    if space is not None:
        lattice = SearchSpace.model_validate_json(space.read_text(encoding="utf-8"))
    try:
        found = sensitivities(lattice, table)
    except MissingLatency as error:
        raise data.DataError(f"{path} was measured for another search space (--space): {error}") from None
    made = {"device": dict(table.device), "space": lattice.model_dump(mode="json"), "digest": table.digest}
    return {"searched": relative_times(table.entries), "sensitivities": found, "latency_table": made}
