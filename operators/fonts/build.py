"""Make the fonts of the report page from Noto's: only the characters it needs, as TrueType, which PDF libraries embed.

Run where Debian's packages lie unpacked (README.md beside this file names them); two runs write the same bytes:

    python -m operators.fonts.build --packages FOLDER --to operators/fonts
"""

from __future__ import annotations

import argparse
import bz2
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont, newTable

SANS, CJK = "usr/share/fonts/truetype/noto/NotoSans-{}.ttf", "usr/share/fonts/opentype/noto/NotoSansCJK-{}.ttc"
UNIHAN = "usr/share/unicode/Unihan_DictionaryLikeData.txt.bz2", "usr/share/unicode/Unihan_OtherMappings.txt.bz2"
SIMPLIFIED = 2
"""Which font of the collection has the forms of mainland China."""
ALPHABETS = (
    range(0x0020, 0x0530),  # Latin, combining marks, Greek, Cyrillic
    range(0x1E00, 0x2000),  # Latin of Vietnam, Greek with accents
    range(0x2010, 0x2028),
    range(0x2030, 0x205F),
    range(0x2070, 0x20C0),
    range(0x2100, 0x2150),
    range(0x2190, 0x2194),
    (0x2022, 0x2212, 0x2248, 0x2260, 0x2264, 0x2265, 0x25A1, 0x25CF),
)
PUNCTUATION = (range(0x3000, 0x3020), range(0xFF01, 0xFF5F), (0x25A1, 0x25CF, 0x2014, 0x2026, 0x00B7))
TABLES_DROPPED = ("GSUB", "GPOS", "GDEF", "BASE", "VORG", "vhea", "vmtx", "DSIG", "STAT", "MATH", "meta", "FFTM")
MAX_ERROR = 1.0
"""How far a quadratic outline may lie from the cubic one, in font units (1/1000 of the size)."""


def common_characters() -> set[int]:
    """Return level 1 of GB 2312: the 3755 most frequent characters."""
    return set(_decoded("gb2312", range(0xB0, 0xD8)))


def all_characters(packages: Path) -> set[int]:
    """Return GB 2312, China's Table of General Standard Characters, which has those of names, and level 1 of Big5."""
    found = {*_decoded("gb2312", range(0xA1, 0xFF)), *_decoded("big5", range(0xA4, 0xC7))}
    for name in UNIHAN:
        with bz2.open(packages / name, "rt", encoding="utf-8") as lines:
            fields = (line.split("\t") for line in lines if line.startswith("U+"))
            found |= {int(field[0][2:], 16) for field in fields if field[1] == "kTGH"}
    return found


def _decoded(encoding: str, leads: range) -> Iterator[int]:
    """Give every character that two bytes, the first one of `leads`, stand for."""
    for lead, trail in product(leads, range(0x40, 0xFF)):
        try:
            text = bytes((lead, trail)).decode(encoding)
        except UnicodeDecodeError:
            continue
        if len(text) == 1:
            yield ord(text)


def _flat(parts: Sequence[Sequence[int]]) -> set[int]:
    return {code for part in parts for code in part}


def subset(font: TTFont, characters: set[int]) -> None:
    """Keep the characters, and of the rest what a PDF needs."""
    options = Options()
    options.hinting, options.layout_features, options.name_IDs = False, [], [0, 1, 2, 3, 4, 5, 6, 13, 14]
    options.glyph_names, options.notdef_outline, options.recalc_timestamp = False, True, False
    options.drop_tables = [*options.drop_tables, *TABLES_DROPPED]
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=characters)
    subsetter.subset(font)


def to_truetype(font: TTFont) -> None:
    """Turn cubic (CFF) outlines into quadratic ones; PDF libraries embed those as they are."""
    glyphs, order = font.getGlyphSet(), font.getGlyphOrder()
    glyf: Any = newTable("glyf")
    glyf.glyphOrder, glyf.glyphs = order, {name: _quadratic(glyphs, name) for name in order}
    font["loca"], font["glyf"] = newTable("loca"), glyf
    font["hmtx"].metrics = {name: (width, _left(glyf, name)) for name, (width, _) in font["hmtx"].metrics.items()}
    maxp = font["maxp"]
    maxp.tableVersion = 0x00010000
    for field in ("maxZones", "maxTwilightPoints", "maxStorage", "maxFunctionDefs", "maxInstructionDefs"):
        setattr(maxp, field, 0)
    for field in ("maxStackElements", "maxSizeOfInstructions", "maxComponentElements", "maxComponentDepth"):
        setattr(maxp, field, 0)
    maxp.maxZones = 1
    maxp.maxPoints = maxp.maxContours = maxp.maxCompositePoints = maxp.maxCompositeContours = 0
    maxp.compile(font)
    font["post"].formatType = 3.0
    del font["CFF "]
    font.sfntVersion = "\x00\x01\x00\x00"


def _quadratic(glyphs: Any, name: str) -> Any:
    pen = TTGlyphPen(glyphs)
    glyphs[name].draw(Cu2QuPen(pen, MAX_ERROR, reverse_direction=True))
    return pen.glyph()


def _left(glyf: Any, name: str) -> int:
    glyph = glyf[name]
    glyph.recalcBounds(glyf)
    return int(getattr(glyph, "xMin", 0))


def build(packages: Path, target: Path) -> None:
    """Write the four fonts; raises OSError where a package is not unpacked there."""
    chosen = {"Regular": all_characters(packages), "Bold": common_characters()}
    for weight, characters in chosen.items():
        sans = TTFont(packages / SANS.format(weight), recalcTimestamp=False)
        subset(sans, _flat(ALPHABETS))
        sans.save(target / f"NotoSans-{weight}.ttf")
        cjk = TTFont(packages / CJK.format(weight), fontNumber=SIMPLIFIED, recalcTimestamp=False)
        subset(cjk, characters | _flat(PUNCTUATION))
        to_truetype(cjk)
        cjk.save(target / f"NotoSansCJKsc-{weight}.ttf")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    asked = parser.parse_args()
    build(asked.packages, asked.to)
