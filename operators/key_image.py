"""Draw the key image: T1C and FLAIR side by side where the tumour is widest, with outline and diameters.

And where the markers' networks looked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from operators.attention_picture import render_attention
from operators.domain import REQUIRED, Diameter, Findings, Stack, TumourMap
from operators.segment_table import SEGMENTS
from operators.slice_picture import (
    FAINT,
    INK,
    LONG,
    PANEL_INCHES,
    SHORT,
    Picture,
    draw_panel,
    field_of,
    key_slice,
    picture_of,
)
from operators.stage import Job, StageOperator, needed
from operators.statements import volume_figure

PIXELS_PER_INCH = 100
CAPTION_INCHES = 0.9
LEGEND_INCHES = 0.4
"""For the line of the parts, where the network tells parts apart."""
AT_LEAST = "≥ "
"""Ahead of a figure of what reaches the edge of the images."""
NO_TUMOUR = "No tumour detected (automatic; does not exclude one)"


def render_key_image(stack: Stack, tumour: TumourMap, findings: Findings) -> Picture:
    """Return the key image as uint8 RGB (rows, columns, 3)."""
    index, field = key_slice(stack, findings), field_of(stack)
    legend = LEGEND_INCHES if findings.tumour_mm3 > 0.0 and findings.segments else 0.0
    high = PANEL_INCHES + CAPTION_INCHES + legend
    figure = Figure(figsize=(2 * PANEL_INCHES, high), dpi=PIXELS_PER_INCH, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    below = CAPTION_INCHES / high
    for place, contrast in enumerate(REQUIRED):
        rest = below + legend / high
        axes = figure.add_axes((place / 2 + 0.002, rest, 0.496, 1 - rest), facecolor="black")
        draw_panel(axes, stack, tumour, findings, index, contrast, field)
    _draw_caption(figure, stack, findings, index, below)
    if legend:
        _draw_legend(figure, findings, below + 0.4 * legend / high)
    return picture_of(canvas)


def _draw_caption(figure: Figure, stack: Stack, findings: Findings, index: int, height: float) -> None:
    plain: dict[str, Any] = {"color": INK, "fontsize": 15, "va": "center"}
    if findings.tumour_mm3 > 0.0:
        bound = AT_LEAST if findings.reaches_edge else ""
        volume = f"Whole tumour {bound}{volume_figure(findings.tumour_mm3)} ml"
        figure.text(0.015, 0.66 * height, volume, **plain, weight="bold")
        _write_axis(figure, 0.29, 0.66 * height, f"long axis {bound}", findings.long_axis, LONG)
        _write_axis(figure, 0.49 if bound else 0.47, 0.66 * height, f"short axis {bound}", findings.short_axis, SHORT)
    else:
        figure.text(0.015, 0.66 * height, NO_TUMOUR, **plain, weight="bold")
    where = f"Slice {index + 1} of {stack.geometry.spatial_shape[0]}, from the feet"
    figure.text(0.985, 0.66 * height, where, **(plain | {"ha": "right", "fontsize": 12}))
    claim = "Automatic segmentation. Research use only; tissue diagnosis confirms."
    figure.text(0.015, 0.25 * height, claim, color=FAINT, fontsize=11, va="center")


def _draw_legend(figure: Figure, findings: Findings, height: float) -> None:
    """Name each part in the colour of its outline, with its volume."""
    for place, (segment, measured) in enumerate(findings.segments.items()):
        row, found = SEGMENTS[segment], measured.tumour_mm3 > 0.0
        bound = AT_LEAST if measured.reaches_edge else ""
        volume = f"{bound}{volume_figure(measured.tumour_mm3)} ml" if found else "not found"
        colour = row.web_colour if found else FAINT
        left = 0.015 + place * 0.97 / len(findings.segments)
        figure.text(left, height, f"{row.label} {volume}", color=colour, fontsize=13, va="center")


def _write_axis(figure: Figure, left: float, height: float, name: str, axis: Diameter | None, colour: str) -> None:
    if axis is not None:
        figure.text(left, height, f"{name}{axis.millimetres:.1f} mm", color=colour, fontsize=15, va="center")


def save_key_image(picture: Picture, path: Path) -> Path:
    """Write the picture as PNG so that the file, once it has its name, is whole."""
    partial = path.with_name(path.name + ".part")
    Image.fromarray(picture).save(partial, format="PNG")
    return partial.replace(path)


class KeyImageOperator(StageOperator):
    """Stack, tumour and findings to a picture."""

    def process(self, job: Job) -> None:
        """Add "key image", and "attention NAME" of each marker that has one, to `job.results`."""
        stack, tumour = needed(job.stack), needed(job.tumour)
        picture = render_key_image(stack, tumour, needed(job.findings))
        job.results["key image"] = save_key_image(picture, job.output_folder / "key_image.png")
        for found in job.attention:
            path = job.output_folder / f"attention_{found.name}.png"
            job.results[f"attention {found.name}"] = save_key_image(render_attention(found, stack, tumour), path)
