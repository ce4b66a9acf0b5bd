"""Draw one slice of one sequence as a viewer shows it, with the tumour's outline and diameters.

Radiological convention: the patient's right is on the image's left. No patient identity is drawn, so the picture may
go where the patient's name may not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from models.segments import Segment
from operators.domain import BoolArray, Contrast, Findings, FloatArray, Stack, TumourMap
from operators.segment_table import SEGMENTS

MARGIN_MM = 16.0
"""Shown around the brain."""
SCALE_BAR_MM = 50.0
WINDOW_PERCENTILES = (1.0, 99.7)
"""Of the brain's intensities on the slice: the lowest is black, the highest white."""
OUTLINE, LONG, SHORT, INK, FAINT = "#ffd200", "#ff5c5c", "#59c8ff", "#f2f2f2", "#9a9a9a"
INSET = 0.8
"""Level at which parts are outlined, a mask being 0 and 1: just inside, so that neighbours' outlines stay apart."""
PANEL_INCHES = 6.4
"""Side of a panel; letters and lines are sized for it."""

HALO = withStroke(linewidth=3, foreground="black")
"""Round letters on an image, which may be as light as they are."""

Picture = NDArray[np.uint8]
Field = tuple[float, float, float, float]
"""(left, right, bottom, top) in pixels of the slice."""


def key_slice(stack: Stack, findings: Findings) -> int:
    """Return the slice with the longest diameter; without a tumour, the one that shows most brain."""
    if findings.slice_index is not None:
        return findings.slice_index
    return int(stack.brain.sum(axis=(1, 2)).argmax())


def field_of(stack: Stack) -> Field:
    """Return the square field that holds the brain of all slices."""
    _, row_mm, column_mm = stack.spacing_mm
    seen = stack.brain.any(axis=0)
    rows, columns = np.nonzero(seen) if seen.any() else np.nonzero(np.ones_like(seen))
    centre = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    half_mm = MARGIN_MM + max(np.ptp(rows) * row_mm, np.ptp(columns) * column_mm) / 2
    return (
        centre[1] - half_mm / column_mm,
        centre[1] + half_mm / column_mm,
        centre[0] + half_mm / row_mm,
        centre[0] - half_mm / row_mm,
    )


def draw_panel(
    axes: Axes, stack: Stack, tumour: TumourMap, findings: Findings, index: int, contrast: Contrast, field: Field
) -> None:
    """Draw a slice of one sequence with the outlines of the tumour and its parts.

    On T1C, where they were measured, the whole's diameters are drawn too.
    """
    _draw_slice(axes, stack, index, contrast, field)
    for part, mask in _parts(tumour, index):
        _draw_outline(axes, mask, SEGMENTS[part].web_colour, INSET)
    _draw_outline(axes, tumour.mask[index], OUTLINE, 0.5)
    if contrast is Contrast.T1C and findings.long_axis is not None:
        _draw_diameters(axes, findings)


def render_panel(stack: Stack, tumour: TumourMap, findings: Findings, contrast: Contrast, pixels: int) -> Picture:
    """Return the key slice of one sequence as uint8 RGB, `pixels` square."""
    figure = Figure(figsize=(PANEL_INCHES, PANEL_INCHES), dpi=pixels / PANEL_INCHES, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), facecolor="black")
    draw_panel(axes, stack, tumour, findings, key_slice(stack, findings), contrast, field_of(stack))
    return picture_of(canvas)


def picture_of(canvas: FigureCanvasAgg) -> Picture:
    """Draw a figure and return it as uint8 RGB (rows, columns, 3); the figure is empty afterwards.

    Its parts know one another, so it would keep some 20 MB until Python looks for such circles, which a node does once
    in a dozen studies, and heaps up 300 MB meanwhile.
    """
    canvas.draw()
    picture = np.array(np.asarray(canvas.buffer_rgba())[..., :3])
    canvas.figure.clear()
    vars(canvas.renderer).clear()  # texts keep the renderer, which holds the pixels
    return picture


def _draw_slice(axes: Axes, stack: Stack, index: int, contrast: Contrast, field: Field) -> None:
    """Draw one slice in its window, with the letters of orientation and a scale bar."""
    _, row_mm, column_mm = stack.spacing_mm
    image = stack.images[contrast][index]
    low, high = _grey_range(image, stack.brain[index])
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=row_mm / column_mm, interpolation="bicubic")
    axes.set_xlim(field[0], field[1])
    axes.set_ylim(field[2], field[3])
    axes.set_axis_off()
    write: dict[str, Any] = {
        "transform": axes.transAxes,
        "path_effects": [HALO],
        "color": INK,
        "va": "center",
        "ha": "center",
        "fontsize": 13,
    }
    for letter, place in {"R": (0.03, 0.5), "L": (0.97, 0.5), "A": (0.5, 0.97), "P": (0.5, 0.03)}.items():
        axes.text(*place, letter, **write)
    axes.text(0.03, 0.97, contrast, **(write | {"ha": "left", "fontsize": 15, "weight": "bold"}))
    _draw_scale(axes, SCALE_BAR_MM / row_mm / (field[2] - field[3]))


def _draw_scale(axes: Axes, share: float) -> None:
    """Draw a vertical bar of `SCALE_BAR_MM`, which is `share` of the panel's height."""
    low, high = 0.5 - share / 2, 0.5 + share / 2
    axes.plot([0.935, 0.935], [low, high], transform=axes.transAxes, color=FAINT, lw=1.2)
    for end in (low, high):
        axes.plot([0.928, 0.942], [end, end], transform=axes.transAxes, color=FAINT, lw=1.2)
    axes.text(
        0.935, low - 0.02, f"{SCALE_BAR_MM / 10:.0f} cm", transform=axes.transAxes, color=FAINT, ha="center", va="top"
    )


def _grey_range(image: FloatArray, brain: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the intensities shown as black and as white."""
    inside = image[brain] if brain.any() else image
    low, high = (float(v) for v in np.percentile(inside, WINDOW_PERCENTILES))
    return low, max(high, low + 1e-6)


def _parts(tumour: TumourMap, index: int) -> Iterator[tuple[Segment, BoolArray]]:
    """Give the parts that were found, as a slice has them; the core's outline is made of theirs."""
    if tumour.labels is not None:
        on_slice = replace(tumour.labels, array=tumour.labels.array[index])
        yield from ((part, on_slice.mask_of(part)) for part in on_slice.legend)


def _draw_outline(axes: Axes, mask: BoolArray, colour: str, level: float) -> None:
    if mask.any():
        # Padded, so that an outline at the image's edge is drawn too.
        padded = np.pad(mask, 1).astype(np.float32)
        rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
        axes.contour(columns, rows, padded, levels=[level], colors=[colour], linewidths=1.4)


def _draw_diameters(axes: Axes, findings: Findings) -> None:
    for axis, colour in ((findings.long_axis, LONG), (findings.short_axis, SHORT)):
        if axis is not None:
            (top, left), (bottom, right) = axis.start, axis.end
            axes.plot([left, right], [top, bottom], color=colour, lw=1.4, marker="+", ms=9, mew=1.4)
