"""Where the cells of a network's last map look on its input, and how their values are drawn there; no torch.

Cell i does not look at the i-th part of the input. A padded convolution of an odd kernel that halves a map centres
its output i on input 2 i, so that cell i of a ResNet's map looks at pixel 32 i; drawn at the middle of its part,
pixel 32 i + 15.5, a class map would lie a tumour's breadth beside what it means. How far other networks look beside
that depends on their weights: it is measured (`models.markers.receptive_field`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

FloatArray = NDArray[np.float32]


class Cells(BaseModel):
    """Where they look: their centres, in pixels of the network's input from the centre of its first pixel."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    first: tuple[FiniteFloat, FiniteFloat]
    """The first cell's row and column."""
    step: FiniteFloat = Field(gt=0)
    """From a cell to the next: networks of convolutions look alike at every step."""

    def draw(self, maps: FloatArray, pixels: int, size: int) -> FloatArray:
        """Draw (S, h, w) maps of an input of `pixels` squared on that input's field of view, `size` squared.

        Linear between the cells' centres; what lies beyond the outermost gets their value.
        """
        rows, columns = (
            self._shares(first, count, pixels, size) for first, count in zip(self.first, maps.shape[1:], strict=True)
        )
        drawn: FloatArray = rows @ maps.astype(np.float32) @ columns.T  # (S, size, size)
        return drawn

    def _shares(self, first: float, count: int, pixels: int, size: int) -> FloatArray:
        """Return each cell's share in each drawn pixel of an axis, (size, count); a pixel's shares sum to 1."""
        on_input = (np.arange(size) + 0.5) * pixels / size - 0.5
        place = np.clip((on_input - first) / self.step, 0, count - 1)  # in cells
        return np.clip(1.0 - np.abs(place[:, None] - np.arange(count)), 0.0, 1.0).astype(np.float32)
