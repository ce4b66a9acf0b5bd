"""The rows of the sources' tables: which network, which marker, and what the sources measured.

Sources: thesis tables 3-2, 3-3 (IDH, 263 patients) and 5-2, 5-3 (Ki-67), both on private data in five folds; the
MGMT paper's table 2 and its text (training accuracy only). The thesis does not say which of its two middle
fusions table 3-3 shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

from models.markers.centralnet import SIDES
from models.markers.recipe import SEQUENCES, Recipe
from models.training.data import DataError

PARTS = ("multi_scale", "merge", "metadata")
"""Columns of table 5-3."""
PAPER_ACCURACY: Mapping[int, float] = MappingProxyType({10: 0.578, 20: 0.784, 50: 0.824, 100: 0.835})
"""The MGMT paper's accuracy on its own training set after so many epochs."""
TABLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "3-2": ("idh", "backbones and input modes"),
        "3-3": ("idh", "where the sequences meet"),
        "5-2": ("proliferation", "networks"),
        "5-3": ("proliferation", "KiNet's parts"),
        "mgmt": ("mgmt", "MGMT_value of each patient"),
    }
)
"""Each table's marker and subject."""

_Recipes = Callable[..., Recipe]


@dataclass(frozen=True)
class Entry:
    """One row of a table."""

    table: str
    label: str
    run: str
    """Folder of its training; rows that are the same network share one."""
    recipe: Recipe
    thesis: Mapping[str, float] = field(default_factory=dict)

    @property
    def marker(self) -> str:
        """Name of the marker that the table is about."""
        return TABLES[self.table][0]


def roster(tables: str, size: str, dropout: float) -> list[Entry]:
    """List the rows of the named tables (with commas between), in the sources' order.

    Raises `DataError` where a table is none of theirs.
    """
    names = [name.strip() for name in tables.split(",")]
    if unknown := [name for name in names if name not in TABLES]:
        raise DataError(f"no table {', '.join(unknown)}; there is {', '.join(TABLES)}")

    def recipe(network: str, sequences: tuple[str, ...] = SEQUENCES, without: tuple[str, ...] = ()) -> Recipe:
        return Recipe(network=network, size=size, sequences=sequences, dropout=dropout, without=without)

    every = [*_table_3_2(recipe), *_table_3_3(recipe), *_table_5_2(recipe), *_table_5_3(recipe)]
    every.append(Entry("mgmt", "ResNet", "mgmt", recipe("mgmt")))
    return [entry for entry in every if entry.table in names]


def _table_3_2(recipe: _Recipes) -> list[Entry]:
    figures = {
        ("resnet", "img"): (0.646, 0.578, 0.435, 0.654), ("resnest", "img"): (0.687, 0.616, 0.454, 0.677),
        ("resnet", "roi"): (0.697, 0.617, 0.476, 0.702), ("resnest", "roi"): (0.734, 0.624, 0.563, 0.754),
        ("resnet", "mix"): (0.728, 0.618, 0.577, 0.742), ("resnest", "mix"): (0.766, 0.734, 0.715, 0.842),
    }  # fmt: skip
    titles = {"resnet": "ResNet", "resnest": "ResNeSt"}
    return [
        Entry("3-2", f"{titles[kind]} + {mode.upper()}", f"{kind}-{mode}", recipe(f"{kind}-{mode}"), _thesis(*values))
        for (kind, mode), values in figures.items()
    ]


def _table_3_3(recipe: _Recipes) -> list[Entry]:
    middle = _thesis(0.779, 0.784, 0.644, 0.871)
    return [
        # The early fusion is table 3-2's last network under another name: trained once.
        Entry("3-3", "Early", "resnest-mix", recipe("resnest-mix"), _thesis(0.766, 0.734, 0.715, 0.842)),
        Entry("3-3", "Late", "late", recipe("late"), _thesis(0.736, 0.725, 0.691, 0.824)),
        Entry("3-3", "Middle A", "middle-a", recipe("middle-a"), middle),
        Entry("3-3", "Middle B", "middle-b", recipe("middle-b"), middle),
    ]


def _table_5_2(recipe: _Recipes) -> list[Entry]:
    return [
        Entry("5-2", "ResNet", "resnet-mix", recipe("resnet-mix", SIDES), _thesis(0.691, 0.693, 0.689, 0.724, 0.422)),
        Entry(
            "5-2", "ResNeSt", "resnest-mix", recipe("resnest-mix", SIDES), _thesis(0.724, 0.734, 0.715, 0.764, 0.451)
        ),
        Entry(
            "5-2", "CentralNet", "centralnet", recipe("centralnet", SIDES), _thesis(0.725, 0.745, 0.705, 0.762, 0.450)
        ),
        Entry("5-2", "KiNet", "kinet", recipe("kinet", SIDES), _thesis(0.752, 0.755, 0.749, 0.788, 0.472)),
    ]


def _table_5_3(recipe: _Recipes) -> list[Entry]:
    figures = (
        (0.735, 0.766), (0.736, 0.768), (0.742, 0.773), (0.743, 0.774),
        (0.746, 0.778), (0.748, 0.781), (0.750, 0.785), (0.752, 0.788),
    )  # fmt: skip
    entries = []
    for number, (switches, (accuracy, area)) in enumerate(zip(product((0, 1), repeat=3), figures, strict=True), 1):
        without = tuple(part for part, on in zip(PARTS, switches, strict=True) if not on)
        run = "-".join(["kinet", *(["without", *without] if without else [])])
        thesis = {"accuracy": accuracy, "auc": area}
        entries.append(Entry("5-3", f"KiNet {number}", run, recipe("kinet", SIDES, without), thesis))
    return entries


def _thesis(
    accuracy: float, sensitivity: float, specificity: float, area: float, kappa: float | None = None
) -> dict[str, float]:
    figures = {"accuracy": accuracy, "sensitivity": sensitivity, "specificity": specificity, "auc": area}
    return figures if kappa is None else figures | {"kappa": kappa}
