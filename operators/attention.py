"""Ask the markers' networks where they look: their class maps on the slices that speak the most.

What is shown is held to what a network was shown: the brain, with a margin of a few mm. The cells of a map are coarse
and are drawn over all of the frame, also where there was nothing to look at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from models import frame
from models.markers.slice_network import SliceNetwork, SliceNetworkError
from models.markers.slices import SEQUENCES, encode_metadata
from operators.domain import Attention, BoolArray, Contrast, FloatArray, Marker, MarkerName, MarkerValue, Stack
from operators.network_view import CHANNELS, NetworkView, channel_of, shown_of
from operators.statements import MARKER_LABELS

LOGGER = logging.getLogger(__name__)
SHOWN = 3
"""Slices shown of each marker, at most."""
NOT_DRAWN = "Where the network of {marker} looked is not shown: {reason}."


def asked_for(networks: Mapping[MarkerName, SliceNetwork], markers: Sequence[Marker]) -> dict[MarkerName, SliceNetwork]:
    """Leave out the networks of markers that are not assessed: a picture would say what the report refuses to."""
    assessed = {marker.name for marker in markers if marker.value is not MarkerValue.NOT_ASSESSED}
    return {name: network for name, network in networks.items() if name in assessed}


def look(
    networks: Mapping[MarkerName, SliceNetwork], stack: Stack, view: NetworkView, tumour: BoolArray,
    patient: tuple[str | None, float | None],
) -> tuple[tuple[Attention, ...], tuple[str, ...]]:  # fmt: skip
    """Ask each network; `tumour` (slices, H, W) lies on the view's frame and holds some; `patient` is sex and age.

    Returns the maps, and a note for the reader on each that there is none of: it explains, so no study fails for it.
    """
    if not networks:
        return (), ()
    images = {str(contrast): view.images[:, index] for index, contrast in enumerate(CHANNELS)}
    wanted = {name for network in networks.values() for name in network.about.sequences} - set(images)
    # Only what some network reads is framed: it takes a tenth of a second.
    for contrast in (c for c in Contrast if str(c) in wanted and c in stack.images):
        images[str(contrast)] = channel_of(stack, contrast, view.placement)
    metadata = encode_metadata(*patient)
    found: list[Attention] = []
    notes: list[str] = []
    for name, network in networks.items():
        try:
            found.append(_look(name, network, images, tumour, metadata, stack, view.placement))
        except SliceNetworkError as error:
            LOGGER.warning("no map of marker %s: %s", name, error)
            notes.append(NOT_DRAWN.format(marker=MARKER_LABELS[name][0], reason=error))
    return tuple(found), tuple(notes)


def _look(
    name: MarkerName, network: SliceNetwork, images: Mapping[str, FloatArray], tumour: BoolArray,
    metadata: tuple[float, float], stack: Stack, placement: frame.Placement,
) -> Attention:  # fmt: skip
    answer, about = network.answer(images, tumour, metadata), network.about
    shown = shown_of(stack)
    maps = answer.maps * frame.to_frame(shown[answer.slices], placement, linear=False)
    strongest = strongest_slices(maps, answer.of_slices)
    if not strongest:
        raise SliceNetworkError("nothing within the brain spoke for its answer")
    _, rows, columns = stack.geometry.spatial_shape
    slices = tuple(int(answer.slices[place]) for place in strongest)
    heat = frame.from_frame(maps[strongest] / maps.max(), placement, rows, columns) * shown[list(slices)]
    low, high = about.auc_interval
    return Attention(
        name,
        answer.altered,
        answer.probability,
        slices,
        heat,
        f"AUC {about.auc:.2f}, {low:.2f} to {high:.2f}, on patients never seen",
        network.name,
        network.version,
        tuple(sequence for sequence in SEQUENCES if sequence in about.sequences and sequence in images),
        network.cell_mm,
        about.attention.get("around"),
    )


def strongest_slices(maps: FloatArray, of_slices: FloatArray) -> Sequence[int]:
    """Return the places of the slices whose map weighs most for the answer, strongest first; of no weight, none."""
    weight = maps.sum(axis=(1, 2)) * of_slices
    return [int(place) for place in np.argsort(-weight, kind="stable")[:SHOWN] if weight[place] > 0.0]
