"""A comparison's earlier report, read back: its tables outlive the folders that its networks were trained in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.nasbranet.cost import Cost
from models.nasbranet.space import SearchSpace
from models.training.data import DataError
from models.training.folds import differing


class Part(BaseModel):
    """Some of a report; what else it says is not needed."""

    model_config = ConfigDict(frozen=True)


class Mean(Part):
    """A mean over patients with its 95 % interval."""

    mean: float
    interval: tuple[float, float]


class EarlierRow(Part):
    """What was found of one network."""

    name: str
    dice: Mean | None
    patients: int
    dice_by_patient: dict[str, float] = {}
    """Empty in reports that kept only the summary."""
    folds_done: int
    difference_to_nasbranet: Mean | None
    difference_to_shipped: Mean | None = None
    flops: int | None
    parameters: int | None

    def content(self, name: str) -> dict[str, Any] | None:
        """Say `dice` or one of the differences as data for JSON."""
        value: Mean | None = getattr(self, name)
        return None if value is None else value.model_dump(mode="json")


class RelativeTime(Part):
    """An operator's time relative to a convolution's (median), and over how many shapes."""

    relative_time: float
    shapes: int


class MeasuredFor(Part):
    """What a latency table is of."""

    device: dict[str, str | int]
    space: SearchSpace
    digest: str | None
    """None where the table itself was not kept."""


class EarlierReport(Part):
    """A compare.json."""

    settings: dict[str, Any]
    table_4_1_searched: dict[str, RelativeTime] | None
    table_4_2: dict[str, float] | None
    latency_table: MeasuredFor | None = None
    table_4_5: tuple[EarlierRow, ...]
    table_4_6: tuple[EarlierRow, ...]

    @property
    def rows(self) -> dict[str, EarlierRow]:
        """The networks that were judged, by name."""
        return {row.name: row for row in (*self.table_4_5, *self.table_4_6) if row.dice is not None}

    def of_latency_table(self) -> dict[str, Any]:
        """Say what was looked up in the search's table, by the names that the new report has for it."""
        searched = self.table_4_1_searched
        return {
            "searched": searched and {name: (time.relative_time, time.shapes) for name, time in searched.items()},
            "sensitivities": self.table_4_2,
            "latency_table": self.latency_table and self.latency_table.model_dump(mode="json"),
        }


def read_earlier(path: Path, settings: Mapping[str, Any], costs: Mapping[str, Cost]) -> EarlierReport:
    """Read the compare.json of an earlier run; `costs` are those of this run's networks, by name.

    Raises DataError for another file, for one of other settings, and for one whose networks, by their costs, came of
    another plan: a report does not say which plans it was made with.
    """
    try:
        found = EarlierReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} is no compare.json of an earlier run") from error
    if other := differing(found.settings, settings):
        raise DataError(f"{path} holds results of another {', '.join(other)}")
    for name, row in found.rows.items():
        if row.flops and name in costs and Cost(row.parameters or 0, row.flops) != costs[name]:
            raise DataError(f"{name} of {path} is another network, of another plan (--plan, --teacher)")
    return found
