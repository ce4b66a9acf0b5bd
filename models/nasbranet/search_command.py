"""The commands of the search: measure the table, search, write plans and picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models.json_file import write_json
from models.nasbranet.latency import PenaltyWeights, sensitivities
from models.nasbranet.latency_table import LatencyTable, keys_of
from models.nasbranet.measure import Device, device_at_hand, measure_table, measured_on
from models.nasbranet.parts import Key
from models.nasbranet.picture import draw_plan
from models.nasbranet.search import Candidate, Groups, Search
from models.nasbranet.search_settings import SearchSettings
from models.nasbranet.space import SearchSpace
from models.training import data
from models.training.augment import Slices

LAUNCHED = "eager, CUDA events"
"""How the backend of a GPU's table ends that was measured before operators were timed as a CUDA graph."""
EXPANSIONS, ENDS, SIZE = "16,24,32,40,48", "16,32,48", 224
"""The thesis's space, as the options give it."""
console = Console(stderr=True)
Data = Annotated[Path, typer.Option("--data", help=data.DATA_HELP)]
Layers = Annotated[int, typer.Option(help="L, cells from stem to head")]
Expansions = Annotated[str, typer.Option(help="widths that a cell may have, in units of its scale")]
Ends = Annotated[str, typer.Option(help="widths of the student's stem, the student's head and the teacher's stem")]
Size = Annotated[int, typer.Option(min=16, help="side of the images whose time is looked up, in pixels")]


def latency_table(
    to: Annotated[Path, typer.Option(help="JSON file to write")] = Path("runs/latency.json"),
    layers: Layers = 16,
    expansions: Expansions = EXPANSIONS,
    ends: Ends = ENDS,
    size: Size = SIZE,
    seconds: Annotated[float, typer.Option(help="how long each operator is timed")] = 6.0,
    threads: Annotated[int, typer.Option(help="CPU threads of each operator")] = 1,
    device: Annotated[Device | None, typer.Option(help="what is timed; default a GPU where torch has one")] = None,
) -> None:
    """Time every operator that the search can ask for, and print what the time depends on.

    On the CPU by OpenVINO in float32; on a GPU by torch in float16, as a CUDA graph.
    One that was interrupted goes on where it stopped, unless device, space or --seconds differ.
    """
    space = _space(layers, expansions, ends, size)
    keys, here, unfinished = keys_of(space), device or device_at_hand(), to.with_name(f"{to.name}.unfinished")
    asked = {**space.model_dump(mode="json"), "seconds": seconds}
    begun = _begun(unfinished, asked, measured_on(threads, here))
    with Progress(console=console) as progress:
        bar = progress.add_task("timing operators", total=len(keys), completed=len(begun))

        def keep(so_far: LatencyTable) -> None:
            replace(so_far, space=asked).save(unfinished)
            progress.update(bar, completed=len(so_far.entries))

        table = measure_table(keys, seconds, threads, here, begun, keep)
    replace(table, space=space.model_dump(mode="json")).save(to)
    unfinished.unlink(missing_ok=True)
    console.print(f"{to}: {len(keys)} operators on {table.device['device']}, {table.device['backend']}")
    for name, ms in sensitivities(space, table).items():
        console.print(f"the expected time changes with {name} by {ms:.2f} ms")


def _begun(unfinished: Path, asked: Mapping[str, Any], where: Mapping[str, str | int]) -> Mapping[Key, float]:
    """Read what an interrupted run measured; nothing where it was asked for something else, or ran elsewhere."""
    if not unfinished.is_file():
        return {}
    kept = LatencyTable.load(unfinished)
    if kept.space == asked and {**kept.device, "date": ""} == {**where, "date": ""}:
        console.print(f"going on with {len(kept.entries)} operators of {unfinished}")
        return kept.entries
    console.print(f"[yellow]{unfinished} is of another device, space or --seconds: measured anew[/]")
    return {}


def search(
    data_folder: Data,
    out: Annotated[Path, typer.Option(help="folder of the search; an interrupted one is gone on with")],
    table: Annotated[Path, typer.Option(help="latency table of this device, by latency-table")],
    split: Annotated[Path | None, typer.Option(help="a split.json: only its training cases take part")] = None,
    layers: Layers = 16,
    expansions: Expansions = EXPANSIONS,
    ends: Ends = ENDS,
    size: Size = SIZE,
    warm_up: Annotated[int, typer.Option(help="epochs of weights alone")] = 20,
    epochs: Annotated[int, typer.Option(help="epochs of architecture and weights")] = 30,
    steps: Annotated[int | None, typer.Option(help="batches an epoch; default all")] = None,
    batch: Annotated[int, typer.Option(help="slices a batch")] = 8,
    scale: Annotated[float, typer.Option(help="share of the full image side")] = 1.0,
    target_ms: Annotated[float, typer.Option(help="T: time by the table at which speed neither costs nor earns")] = 8.3,
    exponent: Annotated[float, typer.Option(help="w of the score ACC x (LAT / T) ** w")] = -0.07,
    time_weight: Annotated[float, typer.Option(help="lambda, weight of the time penalty")] = 0.01,
    penalty: Annotated[str, typer.Option(help="shares of operator, halving, width in it")] = "0.001,0.997,0.002",
    hold_fps: Annotated[
        str | None, typer.Option(help="frames/s to hold, as 155,175: lambda doubles or halves; default: it stays")
    ] = None,
    temperature: Annotated[str, typer.Option(help="of the Gumbel draws, in the first and last epoch")] = "1,1",
    weight_rate: Annotated[str, typer.Option(help="SGD's learning rate in warm-up and in search")] = "0.02,0.01",
    rate_decay: Annotated[float, typer.Option(help="what it is multiplied by after each epoch")] = 0.978,
    momentum: Annotated[float, typer.Option(min=0.0, help="SGD's")] = 0.9,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="SGD's")] = 5e-4,
    gradient_limit: Annotated[float, typer.Option(min=0.0, help="longest gradient of all weights together")] = 5.0,
    architecture_rate: Annotated[float, typer.Option(help="Adam's learning rate of alpha, beta, gamma")] = 3e-4,
    adam_betas: Annotated[str, typer.Option(help="Adam's decay of the mean gradient and its square")] = "0.5,0.999",
    empty_share: Annotated[float, typer.Option(min=0.0, help="tumour-free slices per tumour slice, drawn anew")] = 0.2,
    seed: Annotated[int, typer.Option(help="of groups, weights and draws")] = 0,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all")] = 0,
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Search teacher and student together; write plans, a picture of the student and the log.

    The patients are divided into 5 parts: 2 train weights, 2 train architectures, 1 judges what could be read off.
    """
    if threads:
        torch.set_num_threads(threads)
    space, times = _space(layers, expansions, ends, size), LatencyTable.load(table)
    if str(times.device.get("backend")).endswith(LAUNCHED):
        raise data.DataError(f"{table} was timed launch by launch, which hides what width costs: measure it anew")
    times.require(keys_of(space), table)  # now: a shape that is missed after the warm-up has cost hours
    cases = data.usable(data.read_cases(data_folder), leave_out or ())
    if split is not None:
        cases = data.of_split(cases, split, "training")
    settings = SearchSettings(
        warm_up=warm_up, epochs=epochs, steps=steps, batch=batch, scale=scale, target_ms=target_ms,
        exponent=exponent, time_weight=time_weight, architecture_rate=architecture_rate, seed=seed,
        penalty=PenaltyWeights(*_numbers("--penalty", penalty, "0.001,0.997,0.002")),
        hold_fps=_numbers("--hold-fps", hold_fps, "155,175") if hold_fps else None,
        temperature=_numbers("--temperature", temperature, "5,0.5"),
        weight_rate=_numbers("--weight-rate", weight_rate, "0.02,0.01"), rate_decay=rate_decay, momentum=momentum,
        weight_decay=weight_decay, gradient_limit=gradient_limit,
        adam_betas=_numbers("--adam-betas", adam_betas, "0.5,0.999"), empty_share=empty_share,
    )  # fmt: skip
    with Progress(console=console) as progress:
        groups = make_groups(cases, settings, cache, progress)
        searching = Search(space, groups, times, settings, out)
        if searching.resume():
            console.print(f"resuming after epoch {searching.epoch}")
        candidates = searching.run(progress)
    for role in ("teacher", "student"):
        best = next(c for c in candidates if c.role == role)
        plan = best.plan.model_copy(update={"name": role})
        (out / f"{role}.json").write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")
        draw_plan(plan, out / f"{role}.png")
    write_json(out / "result.json", {"candidates": [c._asdict() | {"plan": c.plan.model_dump()} for c in candidates]})
    console.print(_table(candidates))
    console.print(f"plans and pictures: {out}/student.json, {out}/teacher.json, {out}/student.png, {out}/teacher.png")


def make_groups(cases: list[data.Case], settings: SearchSettings, cache: Path, progress: Progress) -> Groups:
    """Divide patients for a search: two fifths for weights, two for architectures, one to judge."""
    seed, share = settings.seed, settings.empty_share
    rest, judging = data.split(cases, 5, 0, seed)
    first, second = data.split(rest, 2, 0, seed)

    def prepare(part: list[data.Case]) -> list[data.Prepared]:
        return [data.prepare(case, cache) for case in progress.track(part, description="preparing")]

    return Groups(Slices(prepare(first), share, seed), Slices(prepare(second), share, seed + 1), prepare(judging))


def _numbers(
    option: str, text: str, form: str, read: Callable[[str], float] = float, *, any_count: bool = False
) -> Any:
    """Read an option's numbers, as many as its right `form` has; raises DataError for anything else."""
    with suppress(ValueError):
        found = tuple(read(part) for part in text.split(","))
        if any_count or len(found) == len(form.split(",")):
            return found
    kind = "whole numbers" if read is int else "numbers"
    raise data.DataError(f"{option} is {kind} with commas between, as {form}; not {text!r}")


def _space(layers: int, expansions: str, ends: str, size: int) -> SearchSpace:
    stem, head, teacher = _numbers("--ends", ends, ENDS, int)
    return SearchSpace(
        layers=layers, expansions=_numbers("--expansions", expansions, EXPANSIONS, int, any_count=True),
        student_stem=stem, student_head=head, teacher_stem=teacher, size=size,
    )  # fmt: skip


def _table(candidates: list[Candidate]) -> Table:
    table = Table("network", "branches end at", "Dice of the judging patients", "ms by the table", "score")
    for c in candidates:
        ends = " and ".join(f"1/{2 ** (level + 1)}" for level in c.pair)
        table.add_row(c.role, ends, f"{c.dice:.3f}", f"{c.ms:.2f}", f"{c.score:.4f}")
    return table
