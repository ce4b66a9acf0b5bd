"""A pen for one PDF page: places in points from the page's upper left corner, text only through report_fonts."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from PIL import Image
from reportlab import rl_config
from reportlab.lib.colors import HexColor
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from operators.report_fonts import FACES, clean, runs, width
from operators.results import PRODUCT, Origin
from operators.slice_picture import Picture

PAGE_WIDTH, PAGE_HEIGHT = 595.28, 841.89
"""A4, in points of 1/72 inch."""

# Binary, as every reader takes it: spelling a picture out in ASCII takes longer than all the rest.
rl_config.useA85 = 0


class Pen:
    """Draws on one page and gives its bytes, the same ones for the same strokes and origin."""

    def __init__(self, title: str, language: str, origin: Origin) -> None:
        self._stream = BytesIO()
        clean("")  # the first font must be known before the canvas asks for it
        self._canvas = Canvas(
            self._stream,
            pagesize=(PAGE_WIDTH, PAGE_HEIGHT),
            pageCompression=1,
            invariant=1,  # no clock, no random numbers
            initialFontName=FACES[False][0],
            lang=language,
        )
        self._canvas.setTitle(title)
        self._canvas.setAuthor(PRODUCT)
        self._canvas.setCreator(f"{PRODUCT} {origin.version}")
        self._canvas.setDateFormatter(lambda *_: origin.made_at.strftime("D:%Y%m%d%H%M%S"))

    def text(
        self,
        left: float,
        baseline: float,
        text: str,
        size: float,
        colour: str,
        *,
        bold: bool = False,
        align: str = "left",
    ) -> float:
        """Write one line of clean text, to the left or the right of `left`, or about it; return where it ends."""
        long = width(text, size, bold=bold)
        at = left - {"left": 0.0, "right": long, "centre": long / 2}[align]
        self._canvas.setFillColor(HexColor(colour))
        for font, piece in runs(text, bold=bold):
            self._canvas.setFont(font, size)
            self._canvas.drawString(at, PAGE_HEIGHT - baseline, piece)
            at += width(piece, size, bold=bold)
        return at

    def lines(
        self,
        left: float,
        top: float,
        lines: Sequence[str],
        size: float,
        leading: float,
        colour: str,
        *,
        bold: bool = False,
    ) -> None:
        """Write lines of clean text below one another; `leading` is the height of one."""
        for number, line in enumerate(lines):
            self.text(left, top + number * leading + 0.5 * leading + 0.36 * size, line, size, colour, bold=bold)

    def box(
        self, left: float, top: float, wide: float, high: float, fill: str, *, line: str = "", round_: float = 0
    ) -> None:
        """Fill a rectangle, with rounded corners where asked."""
        self._canvas.setFillColor(HexColor(fill))
        self._canvas.setStrokeColor(HexColor(line or fill))
        self._canvas.setLineWidth(0.8)
        self._canvas.roundRect(left, PAGE_HEIGHT - top - high, wide, high, round_, stroke=int(bool(line)), fill=1)

    def rule(self, left: float, right: float, height: float, colour: str, thickness: float = 0.6) -> None:
        """Draw a level line."""
        self._line(left, height, right, height, colour, thickness)

    def tick(self, left: float, top: float, bottom: float, colour: str, thickness: float = 0.6) -> None:
        """Draw an upright line."""
        self._line(left, top, left, bottom, colour, thickness)

    def _line(self, left: float, top: float, right: float, bottom: float, colour: str, thickness: float) -> None:
        self._canvas.setStrokeColor(HexColor(colour))
        self._canvas.setLineWidth(thickness)
        self._canvas.line(left, PAGE_HEIGHT - top, right, PAGE_HEIGHT - bottom)

    def dot(self, left: float, height: float, radius: float, fill: str, line: str = "") -> None:
        """Draw a filled circle, with a rim where asked."""
        self._canvas.setFillColor(HexColor(fill))
        self._canvas.setStrokeColor(HexColor(line or fill))
        self._canvas.setLineWidth(1.4)
        self._canvas.circle(left, PAGE_HEIGHT - height, radius, stroke=int(bool(line)), fill=1)

    def picture(self, left: float, top: float, side: float, picture: Picture) -> None:
        """Place a square picture, kept without loss."""
        image = ImageReader(Image.fromarray(picture))
        self._canvas.drawImage(image, left, PAGE_HEIGHT - top - side, side, side)

    def finish(self) -> bytes:
        """End the page and return the PDF."""
        self._canvas.showPage()
        self._canvas.save()
        return self._stream.getvalue()
