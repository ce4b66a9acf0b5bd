"""The comparison's results as data and as Markdown: the thesis's tables 4-1, 4-2, 4-5 and 4-6 for our machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models import frame
from models.nasbranet.cost import Cost, Speed
from models.nasbranet.earlier import EarlierRow
from models.nasbranet.latency_table import cell_keys
from models.nasbranet.operator_table import SHAPE, OperatorRow
from models.nasbranet.plan import Op
from models.nasbranet.roster import REFERENCES, Entry
from models.nasbranet.space import SearchSpace
from models.training.metrics import mean_interval

THESIS_SENSITIVITIES = {"operator": 10.42, "halving": 0.01, "width": 5.54}
"""Thesis table 4-2, ms on a GTX 1080 Ti: what changing one kind of choice changes."""
NONE = "-"
COUNTED = "Ours count a multiplication and an addition as two; the thesis's GFLOPs, by its table 4-1, as one."


@dataclass(frozen=True, kw_only=True)
class Row:
    """All that is known of one network; Dice by patient is empty where no fold has been run, or only a summary kept."""

    entry: Entry
    patients: Mapping[str, float]
    folds_done: int
    folds: int
    cost: Cost | None
    speed: Speed | None
    earlier: EarlierRow | None = None
    """What an earlier run found of it, where patients and folds are of that run."""

    @property
    def missing(self) -> bool:
        """Whether folds are yet to be run."""
        return self.folds_done < self.folds

    def content(self, references: Mapping[str, Row | None]) -> dict[str, Any]:
        """Say it as data for JSON; `references`, by name, are the rows that this one is set against."""
        return {
            "name": self.entry.name,
            "label": self.entry.label,
            "dice": self.earlier.content("dice") if self.earlier else _mean(list(self.patients.values())),
            "patients": self.earlier.patients if self.earlier else len(self.patients),
            "dice_by_patient": dict(sorted(self.patients.items())),
            "folds_done": self.folds_done,
            "folds": self.folds,
            "earlier": self.earlier is not None,
            **{f"difference_to_{name}": self._difference(name, reference) for name, reference in references.items()},
            "milliseconds": self.speed and {"median": self.speed.median, "quartiles": list(self.speed.quartiles)},
            "frames_per_second": self.speed and self.speed.frames_per_second,
            "flops": self.cost and self.cost.flops,
            "parameters": self.cost and self.cost.parameters,
            "resolution": [frame.FRAME_SIZE, frame.FRAME_SIZE],
            "thesis": self.entry.thesis and asdict(self.entry.thesis),
            "lacks": self.entry.lacks,
        }

    def _difference(self, name: str, reference: Row | None) -> dict[str, Any] | None:
        """Set Dice against a network's in pairs.

        What an earlier run said stands where it kept no patients to pair, unless the other was trained anew since.
        """
        if reference is None:
            return None
        if self.earlier and not (self.patients and reference.patients):
            return self.earlier.content(f"difference_to_{name}") if reference.earlier else None
        others = reference.patients
        return _mean([self.patients[p] - others[p] for p in sorted(self.patients.keys() & others.keys())])


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the comparison found."""

    device: Mapping[str, str]
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    operators: Sequence[OperatorRow]
    searched: Mapping[str, tuple[float, int]] | None
    """Of each operator of the search: its time relative to a convolution's (median), and over how many shapes."""
    sensitivities: Mapping[str, float] | None
    latency_table: Mapping[str, Any] | None = None
    """What these two were looked up in: its header as `device`, its `space`, its `digest`."""
    command: str
    """What was run, without its networks; DIR and OUT stand for folders, so that a report can be shown to others."""

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        by_name = {row.entry.name: row for row in self.rows}
        references = {name: by_name.get(name) for name in REFERENCES}
        rows = [(row.entry.tables, row.content(references)) for row in self.rows]
        return {
            "device": dict(self.device),
            "settings": dict(self.settings),
            "commands": self.commands(),
            "table_4_1": [_operator(row) for row in self.operators],
            "table_4_1_searched": self.searched
            and {name: {"relative_time": ratio, "shapes": n} for name, (ratio, n) in self.searched.items()},
            "table_4_2": self.sensitivities and dict(self.sensitivities),
            "latency_table": self.latency_table and dict(self.latency_table),
            "table_4_5": [content for tables, content in rows if "4-5" in tables],
            "table_4_6": [content for tables, content in rows if "4-6" in tables],
        }

    def commands(self) -> list[str]:
        """Say what has to be run for the folds that are missing."""
        ready = [row.entry.name for row in self.rows if row.missing and row.entry.make is not None]
        lacking = [row.entry.name for row in self.rows if row.missing and row.entry.make is None]
        found = [f"{self.command} --networks {','.join(ready)}"] if ready else []
        return found + ([f"{self.command} --teacher PLAN --networks {','.join(lacking)}"] if lacking else [])

    def markdown(self) -> str:
        """Say it as Markdown."""
        content = self.content()
        device = ", ".join(f"{key} {value}" for key, value in self.device.items())
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items() if key != "cases")
        parts = [
            "# NASBraNet compared",
            f"Device: {device}.\n\nSettings: {settings}. Thesis columns: private data, GTX 1080 Ti with TensorRT.",
            _operator_table(content["table_4_1"]),
            _searched_table(self.searched, self.latency_table),
            _sensitivity_table(self.sensitivities, self.latency_table),
            _network_table(content["table_4_5"]),
            _ablation_table(content["table_4_6"]),
            _missing(content["commands"]),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


def relative_times(entries: Mapping[Any, float], base: str = "conv") -> dict[str, tuple[float, int]]:
    """Set each operator's time against a convolution's of the same shape: (median ratio, shapes), by operator.

    Keys have op, height, width, c_in, c_out and stride (models.nasbranet.latency).
    """
    shapes: dict[tuple[int, ...], dict[str, float]] = {}
    for key, milliseconds in entries.items():
        shape = (key.height, key.width, key.c_in, key.c_out, key.stride)
        shapes.setdefault(shape, {})[str(key.op)] = milliseconds
    ratios: dict[Op, list[float]] = {}
    for times in shapes.values():
        if base in times:
            for op in Op:  # stem, climb and head have shapes of their own
                if op in times:
                    ratios.setdefault(op, []).append(times[op] / times[base])
    return {str(op): (float(np.median(values)), len(values)) for op, values in ratios.items()}


def _mean(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    mean, interval = mean_interval(values)
    return {"mean": mean, "interval": list(interval)}


def _operator(row: OperatorRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "milliseconds": {"median": row.speed.median, "quartiles": list(row.speed.quartiles)},
        "flops": row.flops,
        "parameters": row.parameters,
        "reach": row.reach,
        "thesis_ms": row.thesis_ms,
    }


def _operator_table(rows: Sequence[Mapping[str, Any]]) -> str:
    title = f"## Table 4-1: operators, input {' x '.join(map(str, SHAPE))}"
    if not rows:
        return f"{title}\n\nnot measured"
    base, thesis_base = rows[0]["milliseconds"]["median"], rows[0]["thesis_ms"]
    body = [
        [
            row["name"], _with_quartiles(row["milliseconds"]), _change(row["milliseconds"]["median"], base),
            _giga(row["flops"]), _mega(row["parameters"]), str(row["reach"]),
            f"{row['thesis_ms']:.2f} ({_change(row['thesis_ms'], thesis_base)})",
        ]
        for row in rows
    ]  # fmt: skip
    head = ["operator", "ms (quartiles)", "against conv", "GFLOPs", "parameters, M", "reach", "thesis, ms"]
    return f"{title}\n\n{_table(head, body)}"


def _searched_table(searched: Mapping[str, tuple[float, int]] | None, table: Mapping[str, Any] | None) -> str:
    if not searched:
        return ""
    body = [[name, f"{ratio:.2f}", str(shapes)] for name, (ratio, shapes) in searched.items()]
    rows = _table(["operator", "time, of conv (median)", "shapes"], body)
    return f"Of the search's own table, {_measured_for(table)}:\n\n{rows}"


def _measured_for(table: Mapping[str, Any] | None) -> str:
    """Say what space and device a latency table is of; the thesis's space has 125 shapes of each operator."""
    if table is None:
        return "which does not say what it was measured for"
    space = SearchSpace.model_validate(table["space"])
    shapes = len(cell_keys(space)) // len(Op)
    same = "the thesis's space" if space == SearchSpace() else "not the thesis's space, which has 16, 5 and 125"
    header = ", ".join(f"{name} {value}" for name, value in table["device"].items())
    return (
        f"measured for {space.layers} layers and {len(space.expansions)} widths (chi "
        f"{', '.join(map(str, space.expansions))}), {shapes} shapes of each operator ({same}), on: {header}"
    )


def _sensitivity_table(sensitivities: Mapping[str, float] | None, table: Mapping[str, Any] | None) -> str:
    title = "## Table 4-2: what a choice changes in the supernet's expected time, ms"
    if not sensitivities:
        return f"{title}\n\nnot measured: give a latency table (--latency-table)"
    body = [
        [name, f"{value:.3f}", f"{THESIS_SENSITIVITIES[name]:.2f}" if name in THESIS_SENSITIVITIES else NONE]
        for name, value in sensitivities.items()
    ]
    head = ["choice", "ours", "thesis (GTX 1080 Ti, 16 layers, 5 widths)"]
    return f"{title}\n\nOurs {_measured_for(table)}.\n\n{_table(head, body)}"


def _network_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "network", "Dice (95 % interval)", "patients", "folds", "difference to NASBraNet, same patients",
        "difference to the plan that ships, same patients", "frames/s", "ms (quartiles)", "GFLOPs", "parameters, M",
        "resolution", "thesis: Dice, frames/s",
    ]  # fmt: skip
    body = [
        [
            row["label"], _dice(row["dice"], row["lacks"]), str(row["patients"]), _folds(row),
            *(_dice(row[f"difference_to_{name}"], NONE, signed=True) for name in REFERENCES),
            _number(row["frames_per_second"]), _with_quartiles(row["milliseconds"]), _giga(row["flops"]),
            _mega(row["parameters"]), " x ".join(map(str, row["resolution"])), _thesis(row["thesis"]),
        ]
        for row in rows
    ]  # fmt: skip
    return f"## Table 4-5: networks\n\n{_table(head, body)}\n\n{COUNTED}"


def _ablation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["setting", "Dice (95 % interval)", "folds", "frames/s", "GFLOPs", "parameters, M", "thesis"]
    body = [
        [
            row["label"], _dice(row["dice"], row["lacks"]), _folds(row),
            _number(row["frames_per_second"]), _giga(row["flops"]), _mega(row["parameters"]), _thesis(row["thesis"]),
        ]
        for row in rows
    ]  # fmt: skip
    return f"## Table 4-6: ablation\n\n{_table(head, body)}\n\n{COUNTED}"


def _missing(commands: Sequence[str]) -> str:
    return "Not yet run in full; to do so:\n\n" + "\n".join(f"    {c}" for c in commands) if commands else ""


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _folds(row: Mapping[str, Any]) -> str:
    return f"{row['folds_done']}/{row['folds']}{' (earlier run)' if row['earlier'] else ''}"


def _dice(value: Mapping[str, Any] | None, otherwise: str, *, signed: bool = False) -> str:
    if value is None:
        return otherwise or "not run"
    form = "+.3f" if signed else ".3f"
    low, high = (f"{end:{form}}" for end in value["interval"])
    return f"{value['mean']:{form}} ({low} to {high})"


def _with_quartiles(times: Mapping[str, Any] | None) -> str:
    if times is None:
        return NONE
    low, high = times["quartiles"]
    return f"{times['median']:.2f} ({low:.2f} to {high:.2f})"


def _thesis(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return NONE
    text = f"{figures['dice_percent']:.1f} %, {figures['frames_per_second']:.1f}"
    cost = f", {figures['flops_g']} G, {figures['parameters_m']} M"
    return text if figures["flops_g"] is None else text + cost


def _change(value: float, base: float) -> str:
    return f"{100.0 * (value / base - 1.0):+.0f} %"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _giga(value: float | None) -> str:
    return NONE if value is None else f"{value / 1e9:.2f}"


def _mega(value: float | None) -> str:
    return NONE if value is None else f"{value / 1e6:.2f}"
