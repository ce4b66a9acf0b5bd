"""What can be outlined, and how it is called, coded and coloured in every result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.sr.coding import Code

from models.segments import Segment
from operators import codes


@dataclass(frozen=True)
class Row:
    """One kind of segment."""

    label: str
    """For people, and as Tracking Identifier."""
    code: Code
    """Segmented Property Type, and what the report finds."""
    rgb: tuple[int, int, int]
    """Apart for every kind of colour vision, and from grey images."""

    @property
    def web_colour(self) -> str:
        """The colour as #rrggbb."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


SEGMENTS: Mapping[Segment, Row] = {
    Segment.WHOLE: Row("Whole tumour", codes.NEOPLASM, (255, 210, 0)),
    Segment.CORE: Row("Tumour core", codes.TUMOUR_CORE, (255, 135, 50)),
    Segment.ENHANCING: Row("Enhancing part", codes.ENHANCING_LESION, (235, 80, 205)),
    Segment.NON_ENHANCING: Row("Non-enhancing part", codes.NON_ENHANCING_LESION, (190, 160, 255)),
    Segment.NECROSIS: Row("Necrosis", codes.NECROSIS, (75, 125, 255)),
    Segment.OEDEMA: Row("Oedema", codes.OEDEMA, (0, 200, 135)),
}
