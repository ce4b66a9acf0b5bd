"""Sheets for eyes: every training case with its brain mask and its tumour, a row a case.

    python -m models.training.contact_sheet --data DIR --out runs/contact

T1C on the left and FLAIR on the right of each pair, as prepared for training; the brain mask's edge is green, the
drawn tumour's red. Pictures of patients: keep them where git does not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from models.training import data

ROWS = 8
"""Cases a sheet."""
SLICES = 5
"""Slices a case, spread over the brain; the middle one is where the tumour is largest."""
SIDE = 176
"""Side of a picture in pixels: the middle of the prepared field."""
MASK, TUMOUR = (60, 220, 60), (255, 50, 50)

Picture = NDArray[np.uint8]


def draw_case(prepared: data.Prepared) -> Picture:
    """Draw one case as a row of pairs (SIDE, 2 * SLICES * SIDE, 3)."""
    return np.hstack([_draw_slice(prepared, z, channel) for z in _slices(prepared) for channel in (0, 1)])


def tumour_outside(prepared: data.Prepared) -> float:
    """Share of the drawn tumour that the mask cuts off."""
    drawn = int(prepared.tumour.sum())
    return float((prepared.tumour & ~prepared.brain).sum()) / drawn if drawn else 0.0


def _slices(prepared: data.Prepared) -> list[int]:
    """Choose slices from the lowest to the highest with brain, the largest tumour among them."""
    seen = np.flatnonzero(prepared.brain.any(axis=(1, 2)))
    chosen = seen[np.linspace(0, len(seen) - 1, SLICES).round().astype(int)]
    if prepared.tumour.any():
        chosen[SLICES // 2] = int(prepared.tumour.sum(axis=(1, 2)).argmax())
    return sorted(int(z) for z in chosen)


def _draw_slice(prepared: data.Prepared, z: int, channel: int) -> Picture:
    margin = (prepared.brain.shape[-1] - SIDE) // 2
    middle = (z, slice(margin, margin + SIDE), slice(margin, margin + SIDE))
    grey = prepared.images[z, channel][middle[1:]].astype(np.float32)
    picture = np.repeat(np.clip((grey + 3.0) * (255.0 / 6.5), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    for region, colour in ((prepared.brain[middle], MASK), (prepared.tumour[middle], TUMOUR)):
        picture[region & ~ndimage.binary_erosion(region)] = colour
    return picture


def _sheet(rows: Sequence[tuple[str, Picture]]) -> Image.Image:
    sheet = Image.fromarray(np.vstack([picture for _, picture in rows]))
    pen = ImageDraw.Draw(sheet)
    for number, (label, _) in enumerate(rows):
        pen.text((4, number * SIDE + 2), label, fill=(255, 255, 0))
    return sheet


def main(
    data_folder: Annotated[Path, typer.Option("--data", help="folder with labels.csv and one folder of slices a case")],
    out: Annotated[Path, typer.Option(help="folder for the sheets, sheet_01.png and on")] = Path("runs/contact"),
    cache: Annotated[Path, typer.Option(help="where prepared cases are kept between runs")] = Path("runs/prepared"),
) -> None:
    """Draw every case that training can use."""
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in track(data.usable(data.read_cases(data_folder)), "preparing cases", console=console):
        prepared = data.prepare(case, cache)
        cut = tumour_outside(prepared)
        rows.append((f"{case.name}  tumour outside {cut:.1%}", draw_case(prepared)))
    for first in range(0, len(rows), ROWS):
        _sheet(rows[first : first + ROWS]).save(out / f"sheet_{first // ROWS + 1:02d}.png")
    console.print(f"{len(rows)} cases on {-(-len(rows) // ROWS)} sheets in {out}")


if __name__ == "__main__":
    typer.run(main)
