"""Who takes part in the comparison: the networks of the thesis's tables 4-5 and 4-6, with the thesis's own figures.

And the network that ships, which the thesis does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from models.baselines import ICNet, NasUnet, UNet
from models.nasbranet import variants
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import SHIPPED_PLAN, NetworkPlan
from models.training.network import SegmentationNetwork

TEACHER = "teacher"
"""The network that the taught ones learn from."""
NASBRANET = "nasbranet"
SHIPPED = "shipped"
REFERENCES = (NASBRANET, SHIPPED)
"""The networks that every other is set against, patient by patient, in the order of table 4-5's columns."""


@dataclass(frozen=True, kw_only=True)
class ThesisFigures:
    """What the thesis measured on its own patients (private) and a GTX 1080 Ti with TensorRT."""

    dice_percent: float
    frames_per_second: float
    flops_g: float | None = None
    """A multiplication and an addition counted as one: so the thesis's table 4-1 counts its convolution."""
    parameters_m: float | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network of the comparison."""

    name: str
    label: str
    make: Callable[[], SegmentationNetwork] | None
    """Builds it with random weights; None where it cannot be built, `lacks` says why."""
    tables: tuple[str, ...]
    thesis: ThesisFigures | None = None
    taught: bool = False
    """Learns from the teacher's network of the same fold."""
    lacks: str = ""
    plan: NetworkPlan | None = None

    def describe(self) -> dict[str, Any]:
        """Say what is trained, so that a folder of results is never taken for another network's."""
        return {"name": self.name, "taught": self.taught, "plan": self.plan and self.plan.model_dump(mode="json")}


def roster(plan: NetworkPlan, teacher: NetworkPlan | None) -> list[Entry]:
    """List the rows of both tables in the thesis's order; `plan` is NASBraNet's (the student's)."""
    fixed = variants.ablation(plan)
    shipped = NetworkPlan.load(SHIPPED_PLAN)
    return [
        Entry(name="unet", label="U-Net", make=UNet, tables=("4-5",), thesis=_thesis(75.6, 91.7)),
        Entry(
            name="icnet", label="ICNet, half the kernels (as released)", make=ICNet, tables=("4-5",),
            thesis=_thesis(88.8, 56.4),
        ),
        Entry(
            name="icnet_full", label="ICNet, all kernels (ResNet-50)", make=partial(ICNet, kept=1.0), tables=("4-5",)
        ),
        Entry(name="nas_unet", label="NAS-Unet", make=NasUnet, tables=("4-5",), thesis=_thesis(86.5, 82.9)),
        _ours("single_32", "O, s; chi = 32, b = 1", fixed["single_32"], _thesis(82.2, 193.6, 13.5, 3.1)),
        _ours("double_32", "O, s; chi = 32, b = 2", fixed["double_32"], _thesis(86.4, 132.4, 21.4, 5.4)),
        _ours(
            NASBRANET, "NASBraNet, no teacher: O, s, chi; b = 2", plan, _thesis(86.7, 178.3, 14.0, 2.2), ("4-5", "4-6")
        ),
        _ours(SHIPPED, "NASBraNet, the plan that ships", shipped, None, ("4-5",)),
        _ours(TEACHER, "teacher (T)", teacher, None),
        _ours(
            "teacher_pruned", "T to T pruned", teacher and variants.pruned(teacher),
            _thesis(81.6, 158.9, 14.7, 2.3), taught=True,
        ),
        _ours(
            "nasbranet_taught", "NASBraNet: T to S", teacher and plan,
            _thesis(89.4, 178.3, 14.0, 2.3), ("4-5", "4-6"), taught=True,
        ),
        _ours(
            "shipped_taught", "NASBraNet, the plan that ships, taught", teacher and shipped, None, ("4-5",), taught=True
        ),
    ]  # fmt: skip


def _ours(
    name: str, label: str, plan: NetworkPlan | None, thesis: ThesisFigures | None,
    tables: tuple[str, ...] = ("4-6",), *, taught: bool = False,
) -> Entry:  # fmt: skip
    """Make an entry of one of our plans."""
    return Entry(
        name=name, label=label, make=None if plan is None else partial(NASBraNet, plan), tables=tables,
        thesis=thesis, taught=taught, lacks="" if plan else "no teacher's plan was given (--teacher)", plan=plan,
    )  # fmt: skip


def _thesis(dice: float, speed: float, flops: float | None = None, parameters: float | None = None) -> ThesisFigures:
    return ThesisFigures(dice_percent=dice, frames_per_second=speed, flops_g=flops, parameters_m=parameters)
