"""The comparison's results as data and as Markdown: the thesis's tables 3-2, 3-3, 5-2, 5-3 and the MGMT paper's 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.markers.labels import MARKERS
from models.markers.metrics import Performance, by_site
from models.markers.outcomes import Outcome
from models.markers.roster import PAPER_ACCURACY, PARTS, TABLES, Entry

NONE, MISSING = "-", "not trained yet"
FIGURES = ("accuracy", "sensitivity", "specificity", "auc", "kappa")
SHOWN = {"accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC",
         "kappa": "kappa"}  # fmt: skip
CHANCE = "no better than chance"


@dataclass(frozen=True, kw_only=True)
class Row:
    """All that is known of one network of a table."""

    entry: Entry
    performance: Performance | None
    """None where no fold is done, or those that are have patients of one class."""
    folds_done: int
    folds: int
    sites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Its patients' figures by site, as `metrics.by_site` gives them."""

    def content(self, command: str) -> dict[str, Any]:
        """Say it as data for JSON; `command` trains what is missing."""
        return {
            "label": self.entry.label, "run": self.entry.run, "network": self.entry.recipe.network,
            "without": list(self.entry.recipe.without), "folds_done": self.folds_done, "folds": self.folds,
            "performance": self.performance and self.performance.content(), "sites": dict(self.sites),
            "thesis": dict(self.entry.thesis), "command": command if self.folds_done < self.folds else None,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mgmt:
    """The MGMT paper's table 2: what one training says after so many epochs."""

    row: Row
    outcomes: Mapping[int, Outcome]
    """By epochs."""
    performances: Mapping[int, Performance | None]
    curve: Mapping[int, tuple[float, float]]
    """Training loss and accuracy after each epoch, mean over folds."""

    def content(self, command: str) -> dict[str, Any]:
        """Say it as data for JSON."""
        values: dict[str, dict[str, Any]] = {}
        for epoch, outcome in self.outcomes.items():
            for p in outcome.patients:
                values.setdefault(p.patient, {"patient": p.patient, "label": p.label, "mgmt_value": {}})
                values[p.patient]["mgmt_value"][str(epoch)] = p.probability
        return self.row.content(command) | {
            "epochs": {str(epoch): self._after(epoch) for epoch in self.outcomes},
            "patients": [values[name] for name in sorted(values)],
        }

    def _after(self, epoch: int) -> dict[str, Any]:
        loss, accuracy = self.curve.get(epoch, (None, None))
        held = self.performances[epoch]
        return {
            "training_loss": loss, "training_accuracy": accuracy, "paper_training_accuracy": PAPER_ACCURACY.get(epoch),
            "held_out": held and held.content(), "sites": by_site(self.outcomes[epoch]),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the comparison found."""

    settings: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]]
    mgmt: Mgmt | None
    commands: Mapping[str, str]
    """By table; DIR and OUT stand for folders, so that a report can be shown to others."""

    def content(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        tables: dict[str, Any] = {
            name: [row.content(self.commands[name]) for row in rows] for name, rows in self.tables.items()
        }
        if self.mgmt is not None:
            tables["mgmt"] = self.mgmt.content(self.commands["mgmt"])
        return {"settings": dict(self.settings), "tables": tables}

    def markdown(self) -> str:
        """Say it as Markdown."""
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        parts = [
            "# Marker networks compared",
            f"Settings: {settings}.",
            "Every figure is over patients whom the network never saw, with its 95 % interval by bootstrap over "
            f"patients; {CHANCE} means that the interval of the AUC reaches .5. Thesis columns: private patients, four "
            "sequences, depth 50, slices of 224 pixels; not to be set against ours as equals.",
        ]
        for name, rows in self.tables.items():
            parts += [_title(name), _ablation(rows) if name == "5-3" else _networks(rows), self._to_do(name, rows)]
            if name == "3-3":
                parts.append("The thesis gives one middle fusion and does not say which; its figures stand at both.")
        if self.mgmt is not None:
            parts += [_title("mgmt"), *_mgmt(self.mgmt), self._to_do("mgmt", [self.mgmt.row])]
        if any(row.folds_done < row.folds for row in self._rows()):
            parts.append("A command writes the tables it names; without `--tables`, `--folds-run 0` writes all anew.")
        return "\n\n".join(part for part in parts if part) + "\n"

    def _rows(self) -> list[Row]:
        return [row for rows in self.tables.values() for row in rows] + ([self.mgmt.row] if self.mgmt else [])

    def _to_do(self, name: str, rows: Sequence[Row]) -> str:
        if all(row.folds_done == row.folds for row in rows):
            return ""
        return f"Not trained in full yet; to go on:\n\n    {self.commands[name]}"


def _title(name: str) -> str:
    marker, subject = TABLES[name]
    number = "MGMT paper, table 2" if name == "mgmt" else f"Table {name}"
    return f"## {number}: {MARKERS[marker].title}, {subject}"


def _networks(rows: Sequence[Row]) -> str:
    named = [name for name in FIGURES if any(name in row.entry.thesis for row in rows)]
    head = ["network", *SHOWN.values(), "patients", "folds", f"thesis: {', '.join(SHOWN[n] for n in named)}"]
    body = [
        [row.entry.label, *_cells(row, FIGURES), _patients(row), f"{row.folds_done}/{row.folds}", _thesis(row)]
        for row in rows
    ]
    return _table(head, body)


def _ablation(rows: Sequence[Row]) -> str:
    head = ["no.", "multi-scale loss", "Merge-IN", "metadata", "accuracy", "AUC", "patients", "folds",
            "thesis: accuracy, AUC"]  # fmt: skip
    body = [
        [str(number), *_switches(row), *_cells(row, ("accuracy", "auc")), _patients(row),
         f"{row.folds_done}/{row.folds}", _thesis(row)]
        for number, row in enumerate(rows, 1)
    ]  # fmt: skip
    return _table(head, body)


def _switches(row: Row) -> list[str]:
    """Say which of KiNet's parts a row has: 1 or 0."""
    return ["0" if part in row.entry.recipe.without else "1" for part in PARTS]


def _mgmt(found: Mgmt) -> list[str]:
    head = ["epochs", "training loss", "training accuracy", "paper: training accuracy", "held-out accuracy",
            "held-out AUC"]  # fmt: skip
    body = []
    for epoch in found.outcomes:
        loss, accuracy = found.curve.get(epoch, (None, None))
        row = Row(
            entry=found.row.entry, performance=found.performances[epoch], folds_done=found.row.folds_done,
            folds=found.row.folds,
        )  # fmt: skip
        body.append([
            str(epoch), _number(loss), _number(accuracy), _number(PAPER_ACCURACY.get(epoch)),
            *_cells(row, ("accuracy", "auc")),
        ])  # fmt: skip
    epochs = list(found.outcomes)
    values = {e: {p.patient: p for p in outcome.patients} for e, outcome in found.outcomes.items()}
    patients = sorted({name for of_epoch in values.values() for name in of_epoch})
    by_patient = [
        [name, *(_number(p.probability if (p := values[e].get(name)) else None) for e in epochs),
         next(str(values[e][name].label) for e in epochs if name in values[e])]
        for name in patients
    ] or [[MISSING, *[NONE] * len(epochs), NONE]]  # fmt: skip
    remark = (
        "The paper reports accuracy on its own training patients. Ours are one training with a one-cycle schedule, "
        "its weights kept on the way; MGMT_value is the mean over a held-out patient's slices."
    )
    if found.curve:
        remark += " Curves: mgmt_curves.png."
    return [_table(head, body), remark, _table(["patient", *(f"{e} epochs" for e in epochs), "methylated"], by_patient)]


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    """Return a row's figures, each with its interval."""
    if row.performance is None:
        return [MISSING if not row.folds_done else "one class only", *[NONE] * (len(names) - 1)]
    cells = []
    for name in names:
        mark = f", {CHANCE}" if name == "auc" and not row.performance.beats_chance else ""
        cells.append(f"{row.performance.figures[name]}{mark}")
    return cells


def _patients(row: Row) -> str:
    return NONE if row.performance is None else f"{row.performance.patients} ({row.performance.positives} positive)"


def _thesis(row: Row) -> str:
    figures = [f"{row.entry.thesis[name]:.3f}" for name in FIGURES if name in row.entry.thesis]
    return ", ".join(figures) or NONE


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
