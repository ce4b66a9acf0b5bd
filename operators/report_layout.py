"""What the parts of the report page share: margins, colours, and what a block and an attempt at fitting all are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from operators.report_fonts import wrap
from operators.report_pen import PAGE_WIDTH, Pen

LEFT, TOP, BOTTOM = 42.0, 34.0, 28.0
"""Margins, in points; the right one is as wide as the left."""
WIDE = PAGE_WIDTH - 2 * LEFT
RIGHT = LEFT + WIDE
BETWEEN = 4.0
"""Between the two pictures."""
INK, GREY, PALE, RULE, NAVY = "#1b2430", "#5c6775", "#f2f5f9", "#cfd7e2", "#17365d"
AMBER, AMBER_PALE, RED, TRACK, ZONE = "#b26a00", "#fff4dc", "#a61c1c", "#e4eaf2", "#b7c1ce"
SAID, OPEN = NAVY, "#8a94a3"
"""Of a marker's bar: where one answer is given, and where none is."""


@dataclass(frozen=True)
class Fitting:
    """One attempt at fitting everything on the page."""

    scale: float
    """Of letters."""
    least: float
    """Side of a picture that is still worth having, in points."""
    most_lines: int | None = None
    """Of one text."""
    most_warnings: int | None = None

    @property
    def body(self) -> float:
        """Size of running text, in points."""
        return 8.2 * self.scale

    @property
    def small(self) -> float:
        """Size of what is beside the point."""
        return 7.0 * self.scale

    def wrap(self, text: str, size: float, room: float, *, bold: bool = False) -> list[str]:
        """Break a text into lines, no more than this attempt allows."""
        return wrap(text, size, room, bold=bold, most_lines=self.most_lines)


FITTINGS = (
    *(Fitting(scale, least) for scale, least in ((1.0, 190.0), (0.94, 175.0), (0.88, 160.0), (0.82, 145.0))),
    *(Fitting(scale, least) for scale, least in ((0.76, 130.0), (0.72, 110.0), (0.72, 80.0))),
    *(Fitting(0.72, 80.0, lines, warnings) for lines, warnings in ((4, 12), (2, 10), (1, 8))),
)
"""In the order in which they are tried; the last one always fits."""


@dataclass(frozen=True)
class Block:
    """A part of the page that spans its width."""

    height: float
    draw: Callable[[Pen, float], None]
    """Draws it; told its upper edge."""
    gap: float = 9.0
    """Kept free below."""
