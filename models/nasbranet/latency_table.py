"""The table of times that a search looks up: measured once, kept as JSON with its device and space in the header.

A shape that it does not hold is an error, not a guess.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from models.json_file import read_json
from models.nasbranet.parts import Key, parts_of_space
from models.nasbranet.space import OPS, SCALES, Node, SearchSpace
from models.training.data import DataError


class MissingLatency(DataError):
    """The table has no entry for a shape; it must be measured, never guessed."""


@dataclass(frozen=True)
class LatencyTable:
    """Median milliseconds of every operator at every shape of a space, on one device."""

    device: Mapping[str, str | int]
    entries: Mapping[Key, float]
    space: Mapping[str, Any] = field(default_factory=dict)
    """What it was measured for, as `SearchSpace` has it; empty in tables that do not say."""

    def __getitem__(self, key: Key) -> float:
        """Look up the milliseconds; raises MissingLatency with the remedy."""
        try:
            return self.entries[key]
        except KeyError:
            raise MissingLatency(f"{key} was not measured; run `latency-table` for this space and device") from None

    def require(self, keys: Collection[Key], path: Path) -> None:
        """Raise MissingLatency unless all of `keys` are there; `path` is told as the table's."""
        if missing := sorted(key for key in keys if key not in self.entries):
            raise MissingLatency(
                f"{path} lacks {len(missing)} of {len(keys)} shapes of this space, as {missing[0]}; "
                "run `latency-table` with the same --layers, --expansions, --ends and --size"
            )

    @property
    def digest(self) -> str:
        """Beginning of a SHA-256 of what it says, so that results tell which table they were made with."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write header and entries as JSON, whole or not at all."""
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(self._content()), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a table that `save` wrote; raises DataError for another file."""
        try:
            content = read_json(path)
            entries = {Key(*row[:-1]): float(row[-1]) for row in content["entries"]}
            return cls(content["device"], entries, content.get("space", {}))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path} is no latency table; make one by `latency-table`") from error

    def _content(self) -> dict[str, Any]:
        rows = [[*key, round(value, 5)] for key, value in sorted(self.entries.items())]
        columns = [*Key._fields, "ms"]
        return {"device": dict(self.device), "space": dict(self.space), "columns": columns, "entries": rows}


def keys_of(space: SearchSpace) -> set[Key]:
    """Every entry that a search of a space can ask for."""
    return cell_keys(space) | parts_of_space(space)


def cell_keys(space: SearchSpace) -> set[Key]:
    """Every operator and shape that the lattice can ask for."""
    found = set()
    for move in space.moves:
        side = space.side(move.start)
        entering = _widths_in(space, move.start)
        leaving = [space.channels(move.end, w) for w in range(len(space.expansions))]
        found |= {Key(op, side, side, i, o, move.stride) for op in OPS for i in entering for o in leaving}
    return found


def _widths_in(space: SearchSpace, node: Node) -> list[int]:
    if node.layer == 0:
        return [space.student_stem * SCALES[0]]
    return [space.channels(node, width) for width in range(len(space.expansions))]
