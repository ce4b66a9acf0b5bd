"""What a network has beside its cells, as entries of the latency table: stem, climb, merge and head.

A climb is two entries: the convolution at the coarse scale with the way up, and the one at the fine scale over the
joined maps. Joining itself is not timed: engines write both maps to one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from torch import Tensor, nn

from models.nasbranet.ops import build_op, conv_bn_relu, resize
from models.nasbranet.plan import NetworkPlan, Op
from models.nasbranet.space import SCALES, SearchSpace

CHANNELS, CLASSES = 2, 2
"""Of the image (T1C, FLAIR) and of the answer, in every network that is searched."""


class Part(StrEnum):
    """What is timed beside the operators of cells."""

    STEM = "stem"
    NARROW = "climb, narrow"
    REFINE = "climb, refine"
    MERGE = "merge"
    HEAD = "head"


class Key(NamedTuple):
    """One operator or part at one shape."""

    op: str
    height: int
    width: int
    c_in: int
    c_out: int
    stride: int

    def __str__(self) -> str:
        return f"{self.op} of {self.height} x {self.width}, {self.c_in} to {self.c_out} channels, stride {self.stride}"


class _Twice(nn.Module):
    """Bring a map to twice its side."""

    def forward(self, x: Tensor) -> Tensor:
        return resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))


def build_timed(key: Key) -> nn.Module:
    """Build what an entry of the table times, as the final network has it."""
    if key.op in list(Op):
        return build_op(Op(key.op), key.c_in, key.c_out, key.stride)
    match Part(key.op):
        case Part.STEM:
            return conv_bn_relu(key.c_in, key.c_out, stride=key.stride)
        case Part.NARROW:
            return nn.Sequential(conv_bn_relu(key.c_in, key.c_out, kernel=1), _Twice())
        case Part.REFINE:
            return conv_bn_relu(key.c_in, key.c_out)
        case Part.MERGE:
            return conv_bn_relu(key.c_in, key.c_out, kernel=1)
        case Part.HEAD:
            return nn.Sequential(conv_bn_relu(key.c_in, key.c_out), nn.Conv2d(key.c_out, CLASSES, 1), _Twice())


def parts_of_plan(plan: NetworkPlan, size: int) -> Iterator[Key]:
    """List the parts of a plan's network on images of a side, as often as it has them."""
    yield stem_key(plan.stem_expansion, size, plan.in_channels)
    joined = 0
    for branch in plan.branches:
        last = {2: plan.stem_expansion * 2} | {cell.scale: cell.channels for cell in branch}
        inputs, scale = branch[-1].channels, branch[-1].scale
        while scale > SCALES[0]:
            yield from climb_keys(inputs, scale, last[scale // 2], plan.head_expansion, size)
            scale //= 2
            inputs = plan.head_expansion * scale
        joined += inputs
    yield from end_keys(joined, plan.head_expansion, size)


def parts_of_space(space: SearchSpace) -> set[Key]:
    """Every part that a network read off a space can ask for, teacher or student."""
    widest = space.expansions[-1]
    found: set[Key] = set()
    for stem, head, maps in (
        (space.student_stem, space.student_head, space.expansions),
        (space.teacher_stem, widest, (space.teacher_stem, widest)),
    ):
        found.add(stem_key(stem, space.size))
        for scale in SCALES[1:]:
            for chi in maps:  # a branch's last map at the finer scale may be of any width
                found |= set(climb_keys(head * scale, scale, chi * scale // 2, head, space.size))
        for branches in (1, 2):
            found |= set(end_keys(branches * head * SCALES[0], head, space.size))
    return found


def parts_of_student(space: SearchSpace, level: int) -> list[Key]:
    """List the parts of the student's single-branch network that ends at a level; the climb meets the head's width."""
    head = space.student_head
    climbs: Iterable[Key] = (
        key
        for scale in SCALES[1 : level + 1]
        for key in climb_keys(head * scale, scale, head * scale // 2, head, space.size)
    )
    return [stem_key(space.student_stem, space.size), *climbs, *end_keys(head * SCALES[0], head, space.size)]


def stem_key(expansion: int, size: int, channels: int = CHANNELS) -> Key:
    """Say what the stem is."""
    return Key(Part.STEM, size, size, channels, expansion * SCALES[0], 2)


def climb_keys(inputs: int, scale: int, beside: int, head: int, size: int) -> list[Key]:
    """Say what one climb from `scale` is, where a map of `beside` channels waits above it."""
    low, high, out = size // scale, 2 * size // scale, head * scale // 2
    return [
        Key(Part.NARROW, low, low, inputs, inputs // 2, 1),
        Key(Part.REFINE, high, high, inputs // 2 + beside, out, 1),
    ]


def end_keys(joined: int, head: int, size: int) -> list[Key]:
    """Say what merge and head are, of `joined` channels in all."""
    side = size // SCALES[0]
    return [Key(Part.MERGE, side, side, joined, joined, 1), Key(Part.HEAD, side, side, joined, head * SCALES[0], 1)]
