"""Draw where a marker's network looked: the slices that spoke the most for its answer, under its class map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from operators.attention import SHOWN
from operators.domain import Attention, Contrast, Findings, FloatArray, Stack, TumourMap
from operators.slice_picture import FAINT, HALO, INK, PANEL_INCHES, Picture, draw_panel, field_of, picture_of
from operators.statements import MARKER_LABELS

PIXELS_PER_INCH = 80
CAPTION_INCHES = 1.5
STRONGEST = 0.6
"""Opacity where the map is highest; where it is zero nothing is laid over the image."""
HEAT = ListedColormap(
    [
        (*colour, STRONGEST * share**1.5)
        for share, colour in zip(np.linspace(0, 1, 64), np.linspace((0.45, 0, 0.9), (1, 0.15, 0), 64), strict=True)
    ]
)
"""Violet to red: grey is the image's, and yellow the outline's. What hardly weighed is hardly seen."""
HALF, HALF_COLOUR = 0.5, "#ffffff"
"""Where the map is half as high as at its highest a line is drawn: colours alone leave open where it ends."""
LEGEND_INCHES = (3.2, 0.2)
LIMITS = "A map shows what weighed, not why, and not where tumour is"
MID_GREY = 0.45
"""Under the legend's colours, as brain is under those of the map."""


def render_attention(attention: Attention, stack: Stack, tumour: TumourMap) -> Picture:
    """Return the picture of one marker as uint8 RGB (rows, columns, 3): its slices of T1C side by side.

    It has one size, however few slices there are: the caption needs it.
    """
    size = (SHOWN * PANEL_INCHES, PANEL_INCHES + CAPTION_INCHES)
    figure = Figure(figsize=size, dpi=PIXELS_PER_INCH, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    below, field, whole = CAPTION_INCHES / size[1], field_of(stack), replace(tumour, labels=None)
    for place, (index, heat) in enumerate(zip(attention.slices, attention.heat, strict=True)):
        axes = figure.add_axes((place / SHOWN + 0.002, below, 1 / SHOWN - 0.004, 1 - below), facecolor="black")
        draw_panel(axes, stack, whole, Findings(0.0), index, Contrast.T1C, field)
        _draw_heat(axes, heat, stack)
        axes.set_xlim(field[0], field[1])
        axes.set_ylim(field[2], field[3])
        _write_place(axes, f"Slice {index + 1} of {stack.geometry.spatial_shape[0]}, from the feet")
    for line, (words, colour, size_points) in enumerate(caption(attention)):
        height = below * (0.86 - 0.24 * line)
        figure.text(0.01, height, words, color=colour, fontsize=size_points, va="center")
    _draw_legend(figure)
    return picture_of(canvas)


def _write_place(axes: Axes, words: str) -> None:
    axes.text(
        0.97, 0.97, words, transform=axes.transAxes, color=INK, fontsize=12, ha="right", va="center",
        path_effects=[HALO],
    )  # fmt: skip


def _draw_heat(axes: Axes, heat: FloatArray, stack: Stack) -> None:
    _, row_mm, column_mm = stack.spacing_mm
    axes.imshow(heat, cmap=HEAT, vmin=0.0, vmax=1.0, aspect=row_mm / column_mm, interpolation="bilinear")
    if heat.max() > HALF:
        axes.contour(heat, levels=[HALF], colors=[HALF_COLOUR], linewidths=1.1, linestyles="dashed")


def _draw_legend(figure: Figure) -> None:
    """Draw the scale at the lower right, on grey, as it looks on an image."""
    wide, high = figure.get_size_inches()
    width, height = LEGEND_INCHES[0] / wide, LEGEND_INCHES[1] / high
    left, bottom = 0.985 - width, 0.75 / high
    axes = figure.add_axes((left, bottom, width, height))
    axes.imshow(np.full((1, 1), MID_GREY), cmap="gray", vmin=0.0, vmax=1.0, extent=(0, 1, 0, 1), aspect="auto")
    ramp = np.linspace(0.0, 1.0, 256)[None]
    axes.imshow(ramp, cmap=HEAT, vmin=0.0, vmax=1.0, extent=(0, 1, 0, 1), aspect="auto")
    axes.plot([HALF, HALF], [0, 1], color=HALF_COLOUR, lw=1.1, ls="dashed")
    axes.set_axis_off()
    for share, words, side in ((0.0, "0", "left"), (HALF, f"{HALF:g}", "center"), (1.0, "1", "right")):
        figure.text(left + share * width, bottom - 0.2 / high, words, color=INK, fontsize=11, ha=side, va="center")
    above = bottom + height + 0.17 / high
    words = "weight for its answer; 1: highest in this brain"
    figure.text(left + width, above, words, color=INK, fontsize=11, ha="right", va="center")


def caption(attention: Attention) -> list[tuple[str, str, int]]:
    """Say what is seen and what it is worth: (words, colour, size in points) of each line."""
    label, alteration = MARKER_LABELS[attention.name]
    answer = "for" if attention.altered else "against"
    near = (
        f"; of patients never seen, {attention.near:.0%} of it lay within 10 mm of the tumour" if attention.near else ""
    )
    return [
        (f"{label}: where a network looked that does NOT make the reported answer", INK, 15),
        (
            f"Grad-CAM {answer} {alteration}: its own probability of {alteration} is {attention.probability:.0%}, "
            f"not calibrated; {attention.worth}",
            INK,
            12,
        ),
        (
            f"{attention.model}, version {attention.model_version}, shown {', '.join(attention.read)}; "
            f"outline yellow. Map held to the brain, cells {attention.cell_mm:.0f} mm apart, so coarse; "
            "strongest slice first",
            INK,
            12,
        ),
        (f"Research use only; tissue diagnosis confirms. {LIMITS}{near}.", FAINT, 12),
    ]
