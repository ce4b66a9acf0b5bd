"""Set text for the report page: fonts of the repository only, whatever script a name is in.

No character is trusted: what moves text or cannot be seen is dropped, and what no font has becomes a box. The PDF
library's own text mark-up is never used, so no text can be taken for any.
"""

from __future__ import annotations

import threading
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate, groupby
from pathlib import Path

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

FONTS = Path(__file__).parent / "fonts"
FACES: Mapping[bool, tuple[str, ...]] = {
    False: ("NotoSans-Regular", "NotoSansCJKsc-Regular"),
    True: ("NotoSans-Bold", "NotoSansCJKsc-Bold", "NotoSansCJKsc-Regular"),
}
"""By boldness, where a character is looked for, in this order."""
MISSING, ELLIPSIS = "□", "…"
NOT_AT_A_START = frozenset("，。、；：！？）》」』”’,.;:!?)%]}")
"""Characters that begin no line."""
NOT_AT_AN_END = frozenset("（《「『“‘([")
"""Characters that end no line."""
NARROWEST = 0.2
"""No visible character is narrower than this share of the letters' size."""
_LOADING = threading.Lock()


@cache
def _loaded() -> Mapping[str, frozenset[str]]:
    """Make the fonts known to the PDF library; return the characters of each."""
    known: dict[str, frozenset[str]] = {}
    with _LOADING:
        for name in dict.fromkeys(name for names in FACES.values() for name in names):
            font = TTFont(name, str(FONTS / f"{name}.ttf"), asciiReadable=0)
            pdfmetrics.registerFont(font)
            known[name] = frozenset(map(chr, font.face.charToGlyph))
    return known


def clean(text: str) -> str:
    """Return text as one line that can be set: composed, without controls, a box for what no font has."""
    composed = unicodedata.normalize("NFC", text)
    return " ".join("".join(_clean(character) for character in composed).split())


@cache
def _clean(character: str) -> str:
    if character.isspace() or unicodedata.category(character) == "Cc":
        return " "
    # Format characters only turn, join or hide others.
    if unicodedata.category(character) == "Cf":
        return ""
    known = _loaded()
    return character if any(character in known[name] for name in FACES[False]) else MISSING


@cache
def _font_of(character: str, bold: bool) -> str:
    known = _loaded()
    return next((name for name in FACES[bold] if character in known[name]), FACES[bold][-1])


@cache
def _advance(character: str, bold: bool) -> float:
    """Width of one character at size 1; nothing is kerned, so widths add up."""
    return float(pdfmetrics.stringWidth(character, _font_of(character, bold), 1.0))


def runs(text: str, *, bold: bool = False) -> Iterator[tuple[str, str]]:
    """Cut clean text into pieces of one font each: (font, piece)."""
    for font, characters in groupby(text, lambda character: _font_of(character, bold)):
        yield font, "".join(characters)


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Measure clean text, in points."""
    return size * sum(_advance(character, bold) for character in text)


def fit(text: str, size: float, room: float, smallest: float, *, bold: bool = False) -> tuple[str, float]:
    """Return text and size that stay within `room` points: first smaller, down to `smallest`, then cut short."""
    line = clean(text)
    needed = width(line, size, bold=bold)
    if needed <= room:
        return line, size
    reduced = max(smallest, size * room / needed)
    return shorten(line, reduced, room, bold=bold), reduced


def shorten(line: str, size: float, room: float, *, bold: bool = False) -> str:
    """Return clean text as it is where it fits into `room` points, else its beginning and an ellipsis."""
    if width(line, size, bold=bold) <= room:
        return line
    ends = accumulate(size * _advance(character, bold) for character in line)
    kept = bisect_right(list(ends), room - width(ELLIPSIS, size, bold=bold))
    return line[:kept].rstrip() + ELLIPSIS


def wrap(text: str, size: float, room: float, *, bold: bool = False, most_lines: int | None = None) -> list[str]:
    """Break text into lines of at most `room` points; lines beyond `most_lines` are lost to an ellipsis."""
    lines: list[str] = []
    line, used = "", 0.0
    if most_lines is not None:
        text = text[: int((most_lines + 1) * room / (NARROWEST * size))]
    for piece in _pieces(clean(text)):
        if used + width(piece.rstrip(), size, bold=bold) <= room:
            line, used = line + piece, used + width(piece, size, bold=bold)
            continue
        if line:
            lines.append(line.rstrip())
        *whole, line = _chopped(piece.lstrip(), size, room, bold=bold)
        lines.extend(whole)
        used = width(line, size, bold=bold)
    lines.append(line.rstrip())
    if most_lines is None or len(lines) <= most_lines:
        return lines
    last = shorten(" ".join(lines[most_lines - 1 :]), size, room, bold=bold)
    return [*lines[: most_lines - 1], last]


def _pieces(text: str) -> Iterator[str]:
    """Cut text where a line may end: after a space, and between ideographs but not before closing punctuation."""
    piece = ""
    for character in text:
        after_break = piece.endswith(" ") or (piece and (_wide(piece[-1]) or _wide(character)))
        held = character in NOT_AT_A_START or character == " " or piece[-1:] in NOT_AT_AN_END
        if after_break and not held:
            yield piece
            piece = ""
        piece += character
    if piece:
        yield piece


def _wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _chopped(piece: str, size: float, room: float, *, bold: bool) -> list[str]:
    """Cut a piece that is longer than a line, wherever the line is full."""
    parts, used = [""], 0.0
    for character in piece:
        wide = size * _advance(character, bold)
        if parts[-1] and used + wide > room:
            parts.append("")
            used = 0.0
        parts[-1] += character
        used += wide
    return parts
