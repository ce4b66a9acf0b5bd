"""The phantom's glioma, whose border is an exact function of place, and what every tissue looks like.

The lesion imitates a lower-grade glioma: dark on T1, bright on FLAIR and T2 with a soft infiltrating edge, uneven
inside, with a cyst and a few enhancing nodules. A high-grade one has layers instead, from the outside: oedema, an
enhancing rim, and a necrotic centre. The outline that counts is where its depth is positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.phantom_head import Anatomy, Points, Waves, waves
from models.segments import Segment
from operators.domain import BoolArray, Contrast, FloatArray

SIGNAL: Mapping[str, Mapping[Contrast, float]] = {
    name: dict(zip((Contrast.T1, Contrast.T1C, Contrast.T2, Contrast.FLAIR), values, strict=True))
    for name, values in {
        "white": (0.68, 0.70, 0.36, 0.37),
        "grey": (0.51, 0.54, 0.54, 0.53),
        "fluid": (0.22, 0.22, 1.00, 0.10),
        "vessel": (0.22, 1.00, 0.15, 0.14),
        "fat": (1.05, 1.05, 0.62, 0.62),
        "marrow": (0.50, 0.52, 0.34, 0.34),
        "bone": (0.05, 0.05, 0.04, 0.04),
        "muscle": (0.38, 0.46, 0.22, 0.24),
        "mucosa": (0.40, 0.95, 0.70, 0.55),
        "eye": (0.18, 0.18, 1.05, 0.12),
        "tumour": (0.46, 0.48, 0.76, 0.72),
        "cyst": (0.31, 0.32, 0.96, 0.50),
        "enhancing": (0.47, 0.92, 0.68, 0.72),
        "oedema": (0.50, 0.52, 0.74, 0.72),
        "necrosis": (0.29, 0.30, 0.92, 0.72),
    }.items()
}
"""Signal of each tissue in each contrast, relative to fat on T1, which is about 1."""

TEXTURE: Mapping[Contrast, float] = {Contrast.T1: 0.9, Contrast.T1C: 0.9, Contrast.T2: -0.5, Contrast.FLAIR: 0.1}
"""How much of the template's own T1 texture shows, and with which sign."""
LAYERS: Mapping[Segment, float] = {Segment.OEDEMA: 0.0, Segment.ENHANCING: 0.3, Segment.NECROSIS: 0.55}
"""Of a high-grade lesion: where each layer begins, as a share of the mean radius below the outline."""
EDGE_MM = 1.6
"""Half-width of the infiltrating edge."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """A glioma of irregular outline around a centre in patient coordinates (LPS, mm)."""

    centre: NDArray[np.float64]
    radius_mm: float
    outline: Waves
    inside: Waves
    layered: bool = False
    """Whether it has the layers of a high-grade glioma."""

    def depth(self, points: Points) -> FloatArray:
        """Distance within the outline in mm, negative outside (exact at the outline, about right elsewhere)."""
        away = np.linalg.norm(points - self.centre, axis=-1)
        depth: FloatArray = (self.radius_mm * (1 + 0.2 * self.outline(points)) - away).astype(np.float32)
        return depth

    def part_at(self, depth: FloatArray, part: Segment) -> BoolArray:
        """Say at what depths one layer of a layered lesion lies."""
        begins = list(LAYERS.values())
        place = list(LAYERS).index(part)
        ends = begins[place + 1] if place + 1 < len(begins) else np.inf
        found: BoolArray = (depth > begins[place] * self.radius_mm) & (depth <= ends * self.radius_mm)
        return found

    @property
    def reach_mm(self) -> float:
        """Nothing of the lesion lies farther than this from its centre."""
        return self.radius_mm * 1.85 + 4 * EDGE_MM


def make_lesion(
    seed: int, centre_lps: tuple[float, float, float], radius_mm: float, *, layered: bool = False
) -> Lesion:
    """Draw a lesion; its outline waves are as long as the lesion, so that it is lobed and not frayed."""
    shortest, longest = 0.9 * radius_mm, 2.8 * radius_mm
    outline, inside = waves(seed, "outline", 12, shortest, longest), waves(seed, "inside", 16, 9, 30)
    return Lesion(np.array(centre_lps), radius_mm, outline, inside, layered)


def _smoothly(values: FloatArray) -> FloatArray:
    clipped: FloatArray = np.clip(values, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)


def lesion_tissues(lesion: Lesion, points: Points) -> dict[str, FloatArray]:
    """Fractions of the lesion's tissues at points, 0 to 1."""
    depth, uneven = lesion.depth(points), lesion.inside(points)
    whole = _smoothly(0.5 + depth / (4 * EDGE_MM))
    if lesion.layered:
        starts = (LAYERS[layer] * lesion.radius_mm for layer in (Segment.ENHANCING, Segment.NECROSIS))
        core, centre = (whole * _smoothly(0.5 + (depth - start) / EDGE_MM) for start in starts)
        return {"oedema": whole - core, "enhancing": core - centre, "necrosis": centre}
    cyst = whole * _smoothly((depth - 0.55 * lesion.radius_mm) / 3 + 0.6 * uneven)
    nodules = whole * _smoothly(2 * uneven - 1.6) * _smoothly(1.2 - np.abs(depth - 0.45 * lesion.radius_mm) / 5)
    enhancing = nodules * (1 - cyst)
    return {"tumour": whole - cyst - enhancing, "cyst": cyst, "enhancing": enhancing}


def paint(head: Anatomy, lesion: Lesion | None, contrast: Contrast, seed: int) -> tuple[FloatArray, FloatArray]:
    """Signal of one contrast on the brain's grid and on the wrapping's grid; the image is their sum."""
    brain = sum(t * np.float32(SIGNAL[n][contrast]) for n, t in head.brain.items()) + TEXTURE[contrast] * head.texture
    mottle = head.brain_grid.evaluate(waves(seed, "mottle", 20, 8, 40))
    brain = np.asarray(brain * (1 + 0.025 * mottle), np.float32)
    if lesion is not None:
        box = head.brain_grid.box(lesion.centre, lesion.reach_mm)
        points = head.brain_grid.points(box)
        room = head.parenchyma[box]
        tissues = lesion_tissues(lesion, points)
        mixed = sum(t * np.float32(SIGNAL[n][contrast]) for n, t in tissues.items())
        uneven = 1 + 0.07 * lesion.inside(points)
        share = room * sum(tissues.values())
        brain[box] = brain[box] * (1 - share) + room * mixed * uneven
    wrap = sum(t * np.float32(SIGNAL[n][contrast]) for n, t in head.wrap.items())
    return brain, np.asarray(wrap, np.float32)
