"""What is trained and how: data, so that a run says what it is and is never taken for another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from models.frame import FRAME_SIZE
from models.markers.data import PIXELS, SOURCE
from models.markers.kinet import Parts
from models.markers.network import MarkerNetwork
from models.markers.pooling import PatientClassifier, make_pooling
from models.markers.slices import FEWEST_PIXELS
from models.markers.zoo import build
from models.training.data import DataError

SEQUENCES = tuple(SOURCE)
"""What a network may read unless told otherwise: data folders have no T2."""
DROPOUT = 0.15
"""How often training hides a sequence by default."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One network, to be built anew for each fold."""

    network: str
    """Its name in the zoo."""
    size: str = "light"
    sequences: tuple[str, ...] = SEQUENCES
    dropout: float = DROPOUT
    backbone: str | None = None
    without: tuple[str, ...] = ()
    """Parts of KiNet that are left out: multi_scale, merge, metadata (thesis table 5-3)."""
    pooling: str = "mean"

    def make(self, schedule: Schedule) -> PatientClassifier:
        """Build the network and its pooling; raises `DataError` where a name is none of ours."""
        return _in_one_line(lambda: self._make(schedule))

    def _make(self, schedule: Schedule) -> PatientClassifier:
        known = {field.name for field in fields(Parts)}
        if unknown := set(self.without) - known:
            raise ValueError(f"KiNet has no part {', '.join(sorted(unknown))}; there is {', '.join(sorted(known))}")
        parts = Parts(**dict.fromkeys(self.without, False)) if self.without else None
        network: MarkerNetwork = build(
            self.network, self.size, sequences=self.sequences, dropout=self.dropout, seed=schedule.seed,
            backbone=self.backbone, parts=parts,
        )  # fmt: skip
        return PatientClassifier(network, make_pooling(self.pooling, network, schedule.slices))

    def describe(self) -> dict[str, Any]:
        """Say it as data for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a network trains, on which slices."""

    epochs: int = 20
    batch: int = 16
    """Slices a step."""
    slices: int = 8
    """Slices of each patient an epoch."""
    pixels: int = PIXELS
    """Side of the network's input; 224 is the sources'."""
    peak_rate: float = 1e-3
    """AdamW's highest learning rate."""
    weight_decay: float = 1e-2
    gradient_limit: float = 5.0
    keep: tuple[int, ...] = ()
    """Epochs after which the weights are kept, beside the last ones."""
    workers: int = 0
    """Processes that augment slices; 0: none of their own."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.slices < 1:
            raise DataError("training needs an epoch, two slices a step and a slice a patient at least")
        if not FEWEST_PIXELS <= self.pixels <= FRAME_SIZE:
            raise DataError(f"a network's input has {FEWEST_PIXELS} to {FRAME_SIZE} pixels a side, not {self.pixels}")

    def describe(self) -> dict[str, Any]:
        """Say what changes the weights, as data for JSON."""
        return {key: value for key, value in asdict(self).items() if key not in {"workers", "keep"}}


def from_settings(settings: Mapping[str, Any]) -> tuple[Recipe, Schedule]:
    """Return the recipe and schedule that a run's settings.json describes."""

    def only(kind: type[Recipe] | type[Schedule]) -> dict[str, Any]:
        named = {key: settings[key] for key in kind.__dataclass_fields__ if key in settings}
        return {key: tuple(value) if isinstance(value, list) else value for key, value in named.items()}

    return Recipe(**only(Recipe)), Schedule(**only(Schedule))


def _in_one_line(make: Callable[[], PatientClassifier]) -> PatientClassifier:
    """Turn the networks' own refusals into the command line's."""
    try:
        return make()
    except ValueError as error:
        raise DataError(str(error)) from None
