"""The marker networks by name and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import torch

from models.markers.backbone import DEPTH_50, LIGHT, Backbone
from models.markers.batch import InputMode
from models.markers.centralnet import CentralNet
from models.markers.fusion import EarlyFusion, LateFusion, MiddleFusion
from models.markers.kinet import KiNet, Parts
from models.markers.mgmt import MgmtNet
from models.markers.network import MarkerNetwork, Setup
from models.markers.resnest import ResNeSt
from models.markers.resnet import ResNet
from models.markers.slices import SEQUENCES

SIZES = MappingProxyType({"50": DEPTH_50, "light": LIGHT})
"""Depth 50 is the sources'; light is ours, for a CPU and few patients."""

Builder = Callable[[Setup], MarkerNetwork]
_T = TypeVar("_T")


def _early(mode: InputMode) -> Builder:
    return lambda setup: EarlyFusion(setup, mode)


NETWORKS: Mapping[str, tuple[type[Backbone], Builder]] = MappingProxyType(
    {
        **{f"resnet-{mode.value}": (ResNet, _early(mode)) for mode in InputMode},
        **{f"resnest-{mode.value}": (ResNeSt, _early(mode)) for mode in InputMode},
        "early": (ResNeSt, _early(InputMode.MIX)),
        "late": (ResNeSt, LateFusion),
        "middle-a": (ResNeSt, MiddleFusion),
        "middle-b": (ResNeSt, lambda setup: MiddleFusion(setup, joint=True)),
        "centralnet": (ResNeSt, CentralNet),
        "kinet": (ResNeSt, KiNet),
        "mgmt": (ResNet, MgmtNet),
    }
)
"""Each network with the backbone of its source (thesis tables 3-2, 3-3 and 5-2; the MGMT paper)."""
BACKBONES = MappingProxyType({"resnet": ResNet, "resnest": ResNeSt})


def build(
    name: str,
    size: str = "light",
    *,
    classes: int = 2,
    sequences: tuple[str, ...] = SEQUENCES,
    dropout: float = 0.0,
    seed: int = 0,
    backbone: str | None = None,
    parts: Parts | None = None,
) -> MarkerNetwork:
    """Build a network with random weights, the same for the same seed.

    `sequences` are those the training set has, `dropout` the probability with which training hides one of them,
    `backbone` another than the source's, `parts` what is left of KiNet (table 5-3).

    Raises `ValueError`, with what there is, where a name, size or backbone is none of ours, or `parts` not KiNet's.
    """
    source, make = _pick(NETWORKS, name, "marker network")
    if parts is not None:
        if name != "kinet":
            raise ValueError(f"only kinet has parts to leave out, not {name}")
        make = partial(KiNet, parts=parts)
    kind = source if backbone is None else _pick(BACKBONES, backbone, "backbone")
    setup = Setup(kind(_pick(SIZES, size, "size")), classes, sequences, dropout, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(setup)


def _pick(table: Mapping[str, _T], name: str, what: str) -> _T:
    """Return the entry of a name."""
    if name not in table:
        raise ValueError(f"no {what} {name!r}; there is {', '.join(table)}")
    return table[name]
