"""Ask the markers' networks where they look: their class maps on the slices that speak the most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models import frame
from models.markers.slice_network import SliceNetwork
from models.markers.slices import encode_metadata
from operators.domain import Attention, BoolArray, Contrast, FloatArray, MarkerName, Stack
from operators.network_view import CHANNELS, NetworkView, channel_of

SHOWN = 3
"""Slices shown of each marker."""


def look(
    networks: Mapping[MarkerName, SliceNetwork], stack: Stack, view: NetworkView, tumour: BoolArray,
    patient: tuple[str | None, float | None],
) -> tuple[Attention, ...]:  # fmt: skip
    """Ask each network; `tumour` (slices, H, W) lies on the view's frame and holds some; `patient` is sex and age."""
    if not networks:
        return ()
    images = {str(contrast): view.images[:, index] for index, contrast in enumerate(CHANNELS)}
    wanted = {name for network in networks.values() for name in network.about.sequences} - set(images)
    # Only what some network reads is framed: it takes a tenth of a second.
    for contrast in (c for c in Contrast if str(c) in wanted and c in stack.images):
        images[str(contrast)] = channel_of(stack, contrast, view.placement)
    metadata = encode_metadata(*patient)
    return tuple(
        _look(name, network, images, tumour, metadata, stack, view.placement) for name, network in networks.items()
    )


def _look(
    name: MarkerName, network: SliceNetwork, images: Mapping[str, FloatArray], tumour: BoolArray,
    metadata: tuple[float, float], stack: Stack, placement: frame.Placement,
) -> Attention:  # fmt: skip
    answer, about = network.answer(images, tumour, metadata), network.about
    strongest = strongest_slices(answer.maps, answer.of_slices)
    _, rows, columns = stack.geometry.spatial_shape
    heat = frame.from_frame(answer.maps[strongest], placement, rows, columns)
    low, high = about.auc_interval
    return Attention(
        name,
        answer.altered,
        answer.probability,
        tuple(int(answer.slices[place]) for place in strongest),
        heat,
        f"AUC {about.auc:.2f}, {low:.2f} to {high:.2f}, on patients never seen",
        network.name,
        network.version,
    )


def strongest_slices(maps: FloatArray, of_slices: FloatArray) -> Sequence[int]:
    """Return the places of the slices whose map weighs most for the answer, strongest first."""
    weight = maps.sum(axis=(1, 2)) * of_slices
    return [int(place) for place in np.argsort(-weight, kind="stable")[:SHOWN]]
