"""The table of the tumour's parts on the report page: a row each, in the colour of its outline on the pictures."""

from __future__ import annotations

from operators.report_content import Content
from operators.report_fonts import clean, fit
from operators.report_layout import GREY, INK, LEFT, RIGHT, RULE, WIDE, Block, Fitting
from operators.report_pen import Pen

COLUMNS = (0.36, 0.18, 0.23, 0.23)
"""Of the page's width: name, volume, longest diameter, the one at a right angle to it."""


def parts_table(content: Content, fitting: Fitting) -> Block:
    """Lay out the parts; one that was not found says so."""
    words, size, small = content.words, fitting.body, fitting.small
    leading = 1.5 * size
    ends = [LEFT + WIDE * sum(COLUMNS[: n + 1]) for n in range(1, len(COLUMNS))]
    heads = (words.part_volume, words.long_axis, words.short_axis)
    remark = fitting.wrap(words.parts_remark, small, WIDE)

    def draw(pen: Pen, top: float) -> None:
        pen.text(LEFT, top + small, words.parts_head, small, GREY)
        for end, head in zip(ends, heads, strict=True):
            pen.text(end, top + small, head, small, GREY, align="right")
        at = top + 1.5 * small
        for part in content.parts:
            pen.rule(LEFT, RIGHT, at, RULE, 0.4)
            pen.box(LEFT, at + 0.3 * leading, 0.4 * leading, 0.4 * leading, part.colour, round_=1)
            name, named = fit(clean(part.label), size, COLUMNS[0] * WIDE - leading, 5.0, bold=True)
            pen.text(LEFT + 0.8 * leading, at + 0.5 * leading + 0.36 * size, name, named, INK, bold=True)
            for end, value in zip(ends, part.values, strict=False):
                pen.text(end, at + 0.5 * leading + 0.36 * size, value, size, INK if part.found else GREY, align="right")
            at += leading
        pen.lines(LEFT, at + 1, remark, small, 1.3 * small, GREY)

    return Block(1.5 * small + leading * len(content.parts) + 1 + 1.3 * small * len(remark), draw, gap=8.0)
