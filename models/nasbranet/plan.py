"""A network's architecture as data: which operator, scale and width each cell of each branch has.

Source: thesis tables 4-3 and 4-4; the search space is FasterSeg's (W. Chen et al., ICLR 2020).
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PLANS = Path(__file__).parent.parent / "plans"
SHIPPED_PLAN = "found_small_student"
"""The plan of the network that ships: what is trained, exported and timed where none is named."""
FOUND_TEACHER = "found_small_teacher"
"""The plan that the same search found for that network's teacher."""


class Op(StrEnum):
    """The five operators a cell can be (thesis section 4.3.2)."""

    SKIP = "skip"
    CONV = "conv"
    ZOOM = "zoom"
    CONV_X2 = "conv x2"
    ZOOM_X2 = "zoom x2"


class CellPlan(BaseModel):
    """One cell of a branch."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    op: Op
    scale: int = Field(description="down-sampling rate of the cell's output: 2, 4 or 8")
    expansion: int = Field(gt=0, description="chi: the output has chi x scale channels")

    @property
    def channels(self) -> int:
        """Channels of the cell's output."""
        return self.expansion * self.scale


class NetworkPlan(BaseModel):
    """A two-branch network; raises pydantic's ValidationError for one that cannot be built."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    source: str
    in_channels: int = Field(gt=0)
    classes: int = Field(gt=1)
    stem_expansion: int = Field(gt=0)
    head_expansion: int = Field(gt=0)
    shared: int = Field(ge=0, description="how many leading cells the branches share")
    branches: tuple[tuple[CellPlan, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_buildable(self) -> Self:
        for branch in self.branches:
            scales = [2, *(cell.scale for cell in branch)]
            if any(b not in (a, 2 * a) for a, b in pairwise(scales)) or scales[-1] > 8:
                raise ValueError(f"a branch's scale may only stay or double, up to 8: {scales[1:]}")
        if any(branch[: self.shared] != self.branches[0][: self.shared] for branch in self.branches):
            raise ValueError(f"the first {self.shared} cells are not the same in every branch")
        if any(len(branch) <= self.shared for branch in self.branches):
            raise ValueError("the last cell of a branch is never shared")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Read a plan from a JSON file, or by name from models/plans; raises FileNotFoundError where there is none."""
        path = Path(name_or_path)
        if not path.suffix:
            path = PLANS / f"{name_or_path}.json"
        if not path.is_file():
            known = ", ".join(sorted(plan.stem for plan in PLANS.glob("*.json")))
            raise FileNotFoundError(f"no plan {name_or_path}: neither a JSON file nor one of {known}")
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
