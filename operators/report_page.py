"""Lay the report out on one A4 page, read in ten seconds: who, what to beware of, pictures, numbers, markers, why.

A page is a pile of blocks. The pictures take the room that the others leave; where that is too little, letters become
smaller, and only where even the smallest do not fit are texts cut short, which the page then says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from operators.domain import MarkerValue
from operators.report_content import Content, Figure, MarkerLine
from operators.report_fonts import clean, fit, shorten, width, wrap
from operators.report_layout import (
    AMBER,
    AMBER_PALE,
    BETWEEN,
    BOTTOM,
    FITTINGS,
    GREY,
    INK,
    LEFT,
    NAVY,
    OPEN,
    PALE,
    RED,
    RIGHT,
    RULE,
    SAID,
    TOP,
    TRACK,
    WIDE,
    ZONE,
    Block,
    Fitting,
)
from operators.report_parts import parts_table
from operators.report_pen import PAGE_HEIGHT, Pen
from operators.results import Origin
from operators.slice_picture import Picture

MOST_CHARACTERS = 12_000
"""More do not fit on a page in the smallest letters, so nobody need try."""


def draw_page(content: Content, pictures: Sequence[tuple[str, Picture]], language: str, origin: Origin) -> bytes:
    """Return the page as PDF; `pictures` are two, square."""
    fitting, above, below, side = _fitted(content)
    pen = Pen(content.words.title, language, origin)
    top = TOP
    for block in (*above, _pictures(content, [picture for _, picture in pictures], side, fitting)):
        block.draw(pen, top)
        top += block.height + block.gap
    for block in below:
        block.draw(pen, top)
        top += block.height + block.gap
    foot = _foot(content, fitting)
    foot.draw(pen, PAGE_HEIGHT - BOTTOM - foot.height)
    return pen.finish()


def _fitted(content: Content) -> tuple[Fitting, list[Block], list[Block], float]:
    """Return the first attempt that leaves room for pictures, its blocks above and below them, and their side."""
    texts = (*content.warnings, *(marker.reason for marker in content.markers))
    too_much = sum(map(len, texts)) > MOST_CHARACTERS
    for fitting in FITTINGS:
        if too_much and fitting.most_lines is None:
            continue
        above, below = list(_above(content, fitting)), list(_below(content, fitting))
        foot = _foot(content, fitting)
        taken = sum(block.height + block.gap for block in (*above, *below, foot, _pictures(content, (), 0.0, fitting)))
        side = min((WIDE - BETWEEN) / 2, PAGE_HEIGHT - TOP - BOTTOM - taken)
        if side >= fitting.least:
            break
    return fitting, above, below, max(side, 1.0)


def _above(content: Content, fitting: Fitting) -> Iterator[Block]:
    yield _title(content)
    yield _identity(content)
    yield _warnings(content, fitting) if content.warnings else _checked(content, fitting)


def _below(content: Content, fitting: Fitting) -> Iterator[Block]:
    yield _figures(content.figures, fitting) if content.figures else _no_tumour(content, fitting)
    if content.parts:
        yield parts_table(content, fitting)
    if content.comparison:
        yield _paragraph(content.comparison, fitting.body + 0.6, fitting, INK)
    yield _heading(content.words.markers, fitting, content)
    if content.suggestion:
        yield _suggestion(content, fitting)
    if not content.markers:
        yield _paragraph(content.words.no_marker, fitting.body, fitting, INK)
    if any(marker.probability is not None for marker in content.markers):
        yield _scale(content, fitting)
    for marker in content.markers:
        yield _marker(marker, fitting)


def _title(content: Content) -> Block:
    words = content.words

    def draw(pen: Pen, top: float) -> None:
        end = pen.text(LEFT, top + 17, words.title, 19, NAVY, bold=True)
        pen.text(end + 10, top + 17, words.subtitle, 9.5, GREY)
        wide = width(words.badge, 8.5, bold=True) + 16
        pen.box(RIGHT - wide, top + 3, wide, 17, "#ffffff", line=RED, round_=4)
        pen.text(RIGHT - wide / 2, top + 14.6, words.badge, 8.5, RED, bold=True, align="centre")

    return Block(22.0, draw, gap=7.0)


def _identity(content: Content) -> Block:
    shares = (0.34, 0.20, 0.14, 0.14, 0.18)

    def draw(pen: Pen, top: float) -> None:
        pen.box(LEFT, top, WIDE, 32, PALE, round_=3)
        at = LEFT
        for place, ((label, value), share) in enumerate(zip(content.identity, shares, strict=True)):
            room = share * WIDE - 14
            told = clean(value) or content.words.not_stated
            text, size = fit(told, 12.0 if place == 0 else 10.5, room, 6.5, bold=bool(value))
            pen.text(at + 8, top + 11, label, 7.0, GREY)
            pen.text(at + 8, top + 25, text, size, INK if value else GREY, bold=bool(value))
            at += share * WIDE

    return Block(32.0, draw, gap=8.0)


def _warnings(content: Content, fitting: Fitting) -> Block:
    words, size = content.words, fitting.body
    told = content.warnings[: fitting.most_warnings]
    texts = [
        *told,
        *([words.more.format(count=len(content.warnings) - len(told))] if len(told) < len(content.warnings) else []),
    ]
    leading = 1.32 * size
    items = [fitting.wrap(text, size, WIDE - 34) for text in texts]
    head = fitting.wrap(words.warnings.format(count=len(content.warnings)), size + 0.6, WIDE - 24, bold=True)
    high = 10 + leading * (len(head) + sum(map(len, items))) + 2

    def draw(pen: Pen, top: float) -> None:
        pen.box(LEFT, top, WIDE, high, AMBER_PALE, round_=3)
        pen.box(LEFT, top, 3, high, AMBER)
        pen.lines(LEFT + 12, top + 5, head, size + 0.6, leading, AMBER, bold=True)
        at = top + 7 + leading * len(head)
        for item in items:
            pen.dot(LEFT + 15, at + 0.5 * leading, 1.2, AMBER)
            pen.lines(LEFT + 22, at, item, size, leading, INK)
            at += leading * len(item)

    return Block(high, draw)


def _checked(content: Content, fitting: Fitting) -> Block:
    return _paragraph(content.checked, fitting.small, fitting, GREY, gap=4.0)


def _paragraph(text: str, size: float, fitting: Fitting, colour: str, gap: float = 9.0) -> Block:
    lines, leading = fitting.wrap(text, size, WIDE), 1.35 * size

    def draw(pen: Pen, top: float) -> None:
        pen.lines(LEFT, top, lines, size, leading, colour)

    return Block(leading * len(lines), draw, gap)


def _pictures(content: Content, pictures: Sequence[Picture], side: float, fitting: Fitting) -> Block:
    """Two pictures side by side on black, and below what they show."""
    lines, leading = wrap(content.caption, fitting.small, WIDE), 1.35 * fitting.small

    def draw(pen: Pen, top: float) -> None:
        pen.box(LEFT, top - 0.5, WIDE, side + 1.0, "#000000")  # under the pictures' edges too: no hairline shows
        first = LEFT + (WIDE - BETWEEN) / 2 - side
        for place, picture in enumerate(pictures):
            pen.picture(first + place * (side + BETWEEN), top, side, picture)
        pen.lines(LEFT, top + side + 2, lines, fitting.small, leading, GREY)

    return Block(side + 2 + leading * len(lines), draw)


def _figures(figures: Sequence[Figure], fitting: Fitting) -> Block:
    high, wide = 40.0, (WIDE - 16) / len(figures)

    def draw(pen: Pen, top: float) -> None:
        for place, figure in enumerate(figures):
            left = LEFT + place * (wide + 8)
            pen.box(left, top, wide, high, PALE, round_=3)
            pen.box(left, top, 3, high, figure.colour)
            pen.text(left + 11, top + 12, shorten(clean(figure.label), 7.6, wide - 16), 7.6, GREY)
            value, size = fit(figure.value, 20.0 if figure.unit else 12.0, wide - 40, 8.0, bold=True)
            end = pen.text(left + 11, top + 33, value, size, INK, bold=True)
            end = pen.text(end + 4, top + 33, figure.unit, 10.5, GREY)
            if figure.range:
                said, size = fit(figure.range, 8.6, left + wide - end - 10, 6.0)
                pen.text(end + 6, top + 33, said, size, GREY)

    return Block(high, draw, gap=11.0)


def _no_tumour(content: Content, fitting: Fitting) -> Block:
    size = fitting.body
    leading, lines = 1.35 * size, wrap(content.words.not_excluded, size, WIDE - 24)
    high = 26 + leading * len(lines) + 6

    def draw(pen: Pen, top: float) -> None:
        pen.box(LEFT, top, WIDE, high, PALE, round_=3)
        pen.box(LEFT, top, 3, high, NAVY)
        pen.text(LEFT + 12, top + 19, content.words.no_tumour, 14, INK, bold=True)
        pen.lines(LEFT + 12, top + 26, lines, size, leading, INK)

    return Block(high, draw, gap=11.0)


def _heading(text: str, fitting: Fitting, content: Content | None = None) -> Block:
    """A section's heading on a line; above bars, their key at the line's other end."""

    def draw(pen: Pen, top: float) -> None:
        pen.text(LEFT, top + 10, text, 10, NAVY, bold=True)
        if content is not None and any(marker.open_between for marker in content.markers):
            end = RIGHT - width(content.words.open_zone, fitting.small)
            pen.text(end, top + 10, content.words.open_zone, fitting.small, GREY)
            pen.box(end - 20, top + 5, 16, 5, ZONE)
        pen.rule(LEFT, RIGHT, top + 15, NAVY, 0.8)

    return Block(16.0, draw, gap=5.0)


def _suggestion(content: Content, fitting: Fitting) -> Block:
    suggestion = content.suggestion
    if suggestion is None:
        raise ValueError("nothing is suggested")
    size, small = fitting.body + 1.4, fitting.body - 0.4
    said = wrap(suggestion.text, size, WIDE - 24, bold=True)
    confirm = wrap(suggestion.confirm, small, WIDE - 24) if suggestion.confirm else []
    leading, tight = 1.32 * size, 1.35 * small
    high = 14 + 1.3 * fitting.small + leading * len(said) + tight * len(confirm)

    def draw(pen: Pen, top: float) -> None:
        pen.box(LEFT, top, WIDE, high, PALE, round_=3)
        pen.text(LEFT + 12, top + 6 + fitting.small, content.words.reading, fitting.small, GREY)
        at = top + 7 + 1.3 * fitting.small
        pen.lines(LEFT + 12, at, said, size, leading, INK, bold=True)
        pen.lines(LEFT + 12, at + leading * len(said), confirm, small, tight, INK)

    return Block(high, draw, gap=7.0)


NAME_WIDE, SAID_WIDE, PERCENT_WIDE = 150.0, 92.0, 34.0
"""Columns of the markers' table, in points; the bar has the rest."""


def _scale(content: Content, fitting: Fitting) -> Block:
    """What the bars below are of, and their scale."""
    small, left, right = fitting.small, LEFT + NAME_WIDE + SAID_WIDE, RIGHT - PERCENT_WIDE

    def draw(pen: Pen, top: float) -> None:
        pen.text(LEFT, top + small, content.words.calibrated, small, GREY)
        for share, align in ((0.0, "left"), (0.5, "centre"), (1.0, "right")):
            pen.text(left + share * (right - left), top + small, f"{share:.0%}", small, GREY, align=align)

    return Block(1.2 * small, draw, gap=2.0)


def _marker(marker: MarkerLine, fitting: Fitting) -> Block:
    """A marker: what is said of it, the bar of its probability, and why; not assessed: why in the bar's place."""
    size, small = 9.2 * fitting.scale, fitting.small
    assessed = marker.probability is not None
    left = LEFT + NAME_WIDE + SAID_WIDE
    room = RIGHT - left if not assessed else RIGHT - LEFT - NAME_WIDE
    lines = fitting.wrap(marker.reason, small, room) if marker.reason else []
    first, leading = 1.5 * size, 1.3 * small
    beside = leading if marker.beside else 0.0
    high = max(first + beside, first + leading * len(lines) if assessed else leading * len(lines) + 0.3 * size)
    quiet = marker.value in {MarkerValue.INDETERMINATE, MarkerValue.NOT_ASSESSED}

    def draw(pen: Pen, top: float) -> None:
        middle = top + 0.55 * size
        name, named = fit(marker.alteration, size, NAME_WIDE - 8, 5.0, bold=True)
        pen.text(LEFT, middle + 0.36 * size, name, named, INK, bold=True)
        pen.text(LEFT, middle + 0.36 * size + leading, marker.beside, small, GREY)
        said, reduced = fit(marker.said, size, SAID_WIDE - 8, 5.0, bold=True)
        pen.text(LEFT + NAME_WIDE, middle + 0.36 * size, said, reduced, GREY if quiet else SAID, bold=True)
        if assessed:
            _bar(pen, left, RIGHT - PERCENT_WIDE, middle, marker)
            pen.text(RIGHT, middle + 0.36 * size, f"{marker.probability:.0%}", size, INK, bold=True, align="right")
            pen.lines(LEFT + NAME_WIDE, top + first, lines, small, leading, GREY)
        else:
            pen.lines(left, middle - 0.5 * leading, lines, small, leading, GREY)
        pen.rule(LEFT, RIGHT, top + high + 2.5, RULE, 0.4)

    return Block(high, draw, gap=6.0)


def _bar(pen: Pen, left: float, right: float, middle: float, marker: MarkerLine) -> None:
    """A scale from 0 to 100 %, what of it leaves both answers open, and the probability as a dot."""
    wide = right - left
    pen.box(left, middle - 3, wide, 6, TRACK, round_=3)
    if marker.open_between is not None:
        low, high = marker.open_between
        pen.box(left + low * wide, middle - 3, max((high - low) * wide, 0.8), 6, ZONE)
    for tick in (0.25, 0.5, 0.75):
        pen.tick(left + tick * wide, middle - 3, middle + 3, "#ffffff", 0.7)
    colour = OPEN if marker.value is MarkerValue.INDETERMINATE else SAID
    pen.dot(left + (marker.probability or 0.0) * wide, middle, 4.2, "#ffffff" if colour == OPEN else colour, colour)


def _foot(content: Content, fitting: Fitting) -> Block:
    """Models, what they learnt from, what was read, limits of use, and the maker."""
    words, small = content.words, fitting.small
    leading = 1.36 * small
    models = [
        (shorten(clean(name), small, 0.40 * WIDE - 8), fitting.wrap(data, small, 0.60 * WIDE))
        for name, data in content.models
    ]
    sources = fitting.wrap(content.sources, small, WIDE) if content.sources else []
    limits = wrap(words.limits, fitting.body, WIDE - 24, bold=True)
    made = content.made if fitting.most_lines is None else f"{content.made}{words.between}{words.shortened}"
    rows = sum(len(data) for _, data in models) + len(sources)
    box = 10 + 1.32 * fitting.body * len(limits)
    high = 20 + leading * rows + 6 + box + 4 + leading

    def draw(pen: Pen, top: float) -> None:
        _heading(words.models, fitting).draw(pen, top)
        at = top + 20
        for name, data in models:
            pen.lines(LEFT, at, [name], small, leading, INK)
            pen.lines(LEFT + 0.40 * WIDE, at, data, small, leading, GREY)
            at += leading * len(data)
        pen.lines(LEFT, at, sources, small, leading, GREY)
        at += leading * len(sources) + 6
        pen.box(LEFT, at, WIDE, box, "#fdf1f1", round_=3)
        pen.box(LEFT, at, 3, box, RED)
        pen.lines(LEFT + 12, at + 5, limits, fitting.body, 1.32 * fitting.body, RED, bold=True)
        pen.lines(LEFT, at + box + 4, [shorten(clean(made), small, WIDE)], small, leading, GREY)

    return Block(high, draw)
