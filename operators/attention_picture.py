"""Draw where a marker's network looked: the slices that spoke the most for its answer, under its class map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from operators.domain import Attention, Contrast, Findings, Stack, TumourMap
from operators.slice_picture import FAINT, INK, PANEL_INCHES, Picture, draw_panel, field_of, picture_of
from operators.statements import MARKER_LABELS

PIXELS_PER_INCH = 80
CAPTION_INCHES = 1.15
STRONGEST = 0.6
"""Opacity where the map is highest; where it is zero nothing is laid over the image."""
HEAT = ListedColormap(
    [
        (*colour, STRONGEST * share)
        for share, colour in zip(np.linspace(0, 1, 64), np.linspace((0.6, 0, 0), (1, 0.85, 0.2), 64), strict=True)
    ]
)


def render_attention(attention: Attention, stack: Stack, tumour: TumourMap) -> Picture:
    """Return the picture of one marker as uint8 RGB (rows, columns, 3): its slices of T1C side by side."""
    count = len(attention.slices)
    size = (count * PANEL_INCHES, PANEL_INCHES + CAPTION_INCHES)
    figure = Figure(figsize=size, dpi=PIXELS_PER_INCH, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    below, field, whole = CAPTION_INCHES / size[1], field_of(stack), replace(tumour, labels=None)
    _, row_mm, column_mm = stack.spacing_mm
    for place, (index, heat) in enumerate(zip(attention.slices, attention.heat, strict=True)):
        axes = figure.add_axes((place / count + 0.002, below, 1 / count - 0.004, 1 - below), facecolor="black")
        draw_panel(axes, stack, whole, Findings(0.0), index, Contrast.T1C, field)
        axes.imshow(heat, cmap=HEAT, vmin=0.0, vmax=1.0, aspect=row_mm / column_mm, interpolation="bilinear")
        axes.set_xlim(field[0], field[1])
        axes.set_ylim(field[2], field[3])
        where = f"{index + 1} of {stack.geometry.spatial_shape[0]}"
        axes.text(0.97, 0.97, where, transform=axes.transAxes, color=INK, fontsize=12, ha="right", va="top")
    for line, (words, colour, size_points) in enumerate(caption(attention)):
        height = below * (0.82 - 0.3 * line)
        figure.text(0.01, height, words, color=colour, fontsize=size_points, va="center")
    return picture_of(canvas)


def caption(attention: Attention) -> list[tuple[str, str, int]]:
    """Say what is seen and what it is worth: (words, colour, size in points) of each line."""
    label, alteration = MARKER_LABELS[attention.name]
    answer = "for" if attention.altered else "against"
    return [
        (f"{label}: where the network looked (Grad-CAM), {answer} {alteration}", INK, 14),
        (f"Its own answer {attention.probability:.0%}, not calibrated; {attention.worth}", INK, 12),
        ("This network does not make the reported answer. Research use only; tissue diagnosis confirms.", FAINT, 11),
    ]
