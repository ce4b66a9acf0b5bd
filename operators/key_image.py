"""Draw the key image: T1C and FLAIR side by side where the tumour is widest, with outline and diameters.

Radiological convention, as on any viewer: the patient's right is on the image's left. No patient identity is
drawn, so the picture may go where the patient's name may not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from operators.domain import REQUIRED, Contrast, Diameter, Findings, FloatArray, Stack, TumourMap
from operators.shown_slice import key_slice
from operators.stage import Job, StageOperator, needed

PIXELS_PER_INCH = 100
PANEL_INCHES = 6.4
CAPTION_INCHES = 0.9
MARGIN_MM = 16.0
"""Shown around the brain."""
SCALE_BAR_MM = 50.0
WINDOW_PERCENTILES = (1.0, 99.7)
"""Of the brain's intensities on the slice: the lowest is black, the highest white."""
OUTLINE, LONG, SHORT, INK, FAINT = "#ffd200", "#ff5c5c", "#59c8ff", "#f2f2f2", "#9a9a9a"
NO_TUMOUR = "No tumour detected (automatic; does not exclude one)"

Picture = NDArray[np.uint8]


def render_key_image(stack: Stack, tumour: TumourMap, findings: Findings) -> Picture:
    """Return the key image as uint8 RGB (rows, columns, 3)."""
    index = key_slice(stack, findings)
    window = _field(stack)
    figure = Figure(figsize=(2 * PANEL_INCHES, PANEL_INCHES + CAPTION_INCHES), dpi=PIXELS_PER_INCH, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    below = CAPTION_INCHES / (PANEL_INCHES + CAPTION_INCHES)
    for place, contrast in enumerate(REQUIRED):
        axes = figure.add_axes((place / 2 + 0.002, below, 0.496, 1 - below), facecolor="black")
        _draw_slice(axes, stack, index, contrast, window)
        _draw_tumour(axes, tumour, index)
        if contrast is Contrast.T1C and findings.long_axis is not None:
            _draw_diameters(axes, findings)
    _draw_caption(figure, stack, findings, index, below)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def _field(stack: Stack) -> tuple[float, float, float, float]:
    """Return the square field (left, right, bottom, top) in pixels that holds the brain of all slices."""
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


def _draw_slice(
    axes: Axes, stack: Stack, index: int, contrast: Contrast, field: tuple[float, float, float, float]
) -> None:
    """Draw one slice in its window, with the letters of orientation and a scale bar."""
    _, row_mm, column_mm = stack.spacing_mm
    image = stack.images[contrast][index]
    low, high = _grey_range(image, stack.brain[index])
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=row_mm / column_mm, interpolation="bicubic")
    axes.set_xlim(field[0], field[1])
    axes.set_ylim(field[2], field[3])
    axes.set_axis_off()
    halo = [withStroke(linewidth=3, foreground="black")]
    write: dict[str, Any] = {
        "transform": axes.transAxes,
        "path_effects": halo,
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


def _draw_tumour(axes: Axes, tumour: TumourMap, index: int) -> None:
    mask = tumour.mask[index]
    if mask.any():
        # Padded, so that an outline at the image's edge is drawn too.
        padded = np.pad(mask, 1).astype(np.float32)
        rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
        axes.contour(columns, rows, padded, levels=[0.5], colors=[OUTLINE], linewidths=1.4)


def _draw_diameters(axes: Axes, findings: Findings) -> None:
    for axis, colour in ((findings.long_axis, LONG), (findings.short_axis, SHORT)):
        if axis is not None:
            (top, left), (bottom, right) = axis.start, axis.end
            axes.plot([left, right], [top, bottom], color=colour, lw=1.4, marker="+", ms=9, mew=1.4)


def _draw_caption(figure: Figure, stack: Stack, findings: Findings, index: int, height: float) -> None:
    plain: dict[str, Any] = {"color": INK, "fontsize": 15, "va": "center"}
    if findings.tumour_mm3 > 0.0:
        figure.text(0.015, 0.66 * height, f"Whole tumour {findings.tumour_mm3 / 1000.0:.1f} ml", **plain, weight="bold")
        _write_axis(figure, 0.29, 0.66 * height, "long axis", findings.long_axis, LONG)
        _write_axis(figure, 0.47, 0.66 * height, "short axis", findings.short_axis, SHORT)
    else:
        figure.text(0.015, 0.66 * height, NO_TUMOUR, **plain, weight="bold")
    where = f"Slice {index + 1} of {stack.geometry.spatial_shape[0]}, from the feet"
    figure.text(0.985, 0.66 * height, where, **(plain | {"ha": "right", "fontsize": 12}))
    claim = "Automatic segmentation. Research use only; tissue diagnosis confirms."
    figure.text(0.015, 0.25 * height, claim, color=FAINT, fontsize=11, va="center")


def _write_axis(figure: Figure, left: float, height: float, name: str, axis: Diameter | None, colour: str) -> None:
    if axis is not None:
        figure.text(left, height, f"{name} {axis.millimetres:.1f} mm", color=colour, fontsize=15, va="center")


def save_key_image(picture: Picture, path: Path) -> Path:
    """Write the picture as PNG so that the file, once it has its name, is whole."""
    partial = path.with_name(path.name + ".part")
    Image.fromarray(picture).save(partial, format="PNG")
    return partial.replace(path)


class KeyImageOperator(StageOperator):
    """Stack, tumour and findings to a picture."""

    def process(self, job: Job) -> None:
        """Add "key image" to `job.results`."""
        picture = render_key_image(needed(job.stack), needed(job.tumour), needed(job.findings))
        job.results["key image"] = save_key_image(picture, job.output_folder / "key_image.png")
