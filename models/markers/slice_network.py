"""A marker network as the node runs it: tumour slices in, a probability and class maps out; no torch.

It says where it looked (Grad-CAM, computed by the exported file itself) and what it makes of the slices. The maps
explain the network's own answer, never another model's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models import frame
from models.engine_base import ModelError
from models.engine_openvino import CpuSettings, NamedNetwork
from models.markers.cells import Cells
from models.markers.image_features import NoTumour
from models.markers.slices import FEWEST_PIXELS, INPUTS, OUTPUTS, POSITIVE, SEQUENCES

NETWORK, ABOUT = "network.onnx", "network.json"
CPU = CpuSettings(batch=2, hint="LATENCY", precision="f32")
"""Measured (`python -m tests.benchmarks.attention`): all slices in one call are no faster, and keep 160 MB, or twice
that with the other hint, where two at a time keep 8 MB. On the CPU whatever the engine: a study's slices take a few
tenths of a second, less than a GPU's engine takes to load."""

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class SliceNetworkError(ValueError):
    """A network cannot be loaded or does not answer; the message says which and what to do."""


class About(BaseModel):
    """What a network is, and how it did on patients it never saw."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    marker: str
    network: str
    """Its name in the zoo."""
    sequences: tuple[str, ...] = Field(min_length=1)
    """What it reads; another sequence is not shown to it."""
    pixels: int = Field(ge=FEWEST_PIXELS, le=frame.FRAME_SIZE)
    """Side of its input; the frame is shrunk to it."""
    cells: Cells
    """Where the cells of its maps look on that input."""
    auc: float = Field(ge=0, le=1)
    auc_interval: tuple[float, float]
    """95 %, bootstrap by patient."""
    attention: Mapping[str, float] = Field(default_factory=dict)
    """Mean shares of its maps inside and around the outline of held-out patients."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it; raises SliceNetworkError in one line."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise SliceNetworkError(f"{path} does not describe a marker network; export it anew") from error


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network makes of a study's tumour slices."""

    probability: float
    """That the marker is altered: the mean over slices, not calibrated."""
    slices: NDArray[np.int64]
    """Which slices of the study hold tumour, and were shown."""
    of_slices: FloatArray
    """(shown,): each slice's own probability of the answer given."""
    maps: FloatArray
    """(shown, H, W) on the frame: Grad-CAM of the answer given, from 0; 1 is the study's highest."""

    @property
    def altered(self) -> bool:
        """Whether the marker is altered rather than not, as the network has it."""
        return self.probability >= 0.5


class SliceNetwork:
    """One marker's network."""

    def __init__(self, folder: Path) -> None:
        """Load `folder`'s network.onnx and network.json and try them; raises SliceNetworkError."""
        self.about = About.load(folder / ABOUT)
        path = folder / NETWORK
        if not path.is_file():
            raise SliceNetworkError(f"{path} is missing; export it anew")
        self.name = f"{self.about.marker} {self.about.network}"
        self.version = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        try:
            self._network = NamedNetwork(f"{self.about.marker} network", path, CPU)
        except ModelError as error:
            raise SliceNetworkError(str(error)) from error
        self._try_out()

    @property
    def cell_mm(self) -> float:
        """How far apart the cells of its maps look: nothing finer is told by them."""
        return self.about.cells.step * frame.FRAME_SIZE * frame.FRAME_PIXEL_MM / self.about.pixels

    def answer(self, images: Mapping[str, FloatArray], tumour: BoolArray, metadata: tuple[float, float]) -> Answer:
        """Ask about a study on the frame: `images` (slices, H, W) by sequence, `tumour` (slices, H, W).

        `metadata` is sex and age as `encode_metadata` gives them. Raises NoTumour where no slice holds any, and
        SliceNetworkError where the network does not answer, or not with numbers.
        """
        slices = np.flatnonzero(tumour.any(axis=(1, 2)))
        if not len(slices):
            raise NoTumour
        parts = [slices[start : start + CPU.batch] for start in range(0, len(slices), CPU.batch)]
        answers = [self._ask(self._inputs(images, tumour, part, metadata)) for part in parts]
        chances, maps = (np.concatenate(found) for found in zip(*answers, strict=True))
        probability = float(chances[:, POSITIVE].mean())
        answer = POSITIVE if probability >= 0.5 else 1 - POSITIVE
        return Answer(probability, slices, chances[:, answer], self._on_frame(maps[:, answer]))

    def _ask(self, fed: tuple[FloatArray, ...]) -> tuple[FloatArray, FloatArray]:
        """Run the network; (S, classes) and (S, classes, h, w)."""
        try:
            found = self._network.run(dict(zip(INPUTS, fed, strict=True)))
            chances, maps = (found[name] for name in OUTPUTS)
        except (ModelError, KeyError) as error:
            raise SliceNetworkError(f"{self.name} does not answer what it is asked; export it anew") from error
        if not (np.isfinite(chances).all() and np.isfinite(maps).all()):
            raise SliceNetworkError(f"{self.name} does not answer with numbers; export it anew")
        return chances, maps

    def _try_out(self) -> None:
        """Ask about an empty slice, so that a network of another form is told at the start, not by each study."""
        blank = np.zeros((1, frame.FRAME_SIZE, frame.FRAME_SIZE), np.float32)
        self._ask(self._inputs(dict.fromkeys(SEQUENCES, blank), blank > 0, np.array([0]), (0.5, 0.5)))

    def _inputs(
        self, images: Mapping[str, FloatArray], tumour: BoolArray, slices: NDArray[np.int64],
        metadata: tuple[float, float],
    ) -> tuple[FloatArray, ...]:  # fmt: skip
        """Assemble what the exported file takes (`models.markers.batch.SliceBatch`)."""
        read = [name for name in SEQUENCES if name in self.about.sequences and name in images]
        side, count = self.about.pixels, len(slices)
        shown = np.zeros((count, len(SEQUENCES), side, side), np.float32)
        for name in read:
            shown[:, SEQUENCES.index(name)] = _shrunk(images[name][slices], side)
        mask = (_shrunk(tumour[slices].astype(np.float32), side) >= 0.5).astype(np.float32)
        present = np.array([name in read for name in SEQUENCES], np.float32)
        return shown, mask[:, None], np.tile(present, (count, 1)), np.tile(np.array(metadata, np.float32), (count, 1))

    def _on_frame(self, maps: FloatArray) -> FloatArray:
        """Draw (S, h, w) maps on the frame, where their cells look, and scale them to a highest value of 1."""
        large = self.about.cells.draw(maps, self.about.pixels, frame.FRAME_SIZE)
        return np.asarray(large / max(float(large.max()), 1e-12), np.float32)


def _shrunk(planes: FloatArray, side: int) -> FloatArray:
    """Shrink (S, H, H) to (S, side, side) by area averaging, as training does: torch's adaptive average pooling.

    Part i of n covers pixels floor(i H / n) to ceil((i + 1) H / n), so that parts may share a pixel.
    """
    whole, part, pixel = planes.shape[-1], np.arange(side)[:, None], np.arange(planes.shape[-1])
    covers = (pixel >= part * whole // side) & (pixel < -(-(part + 1) * whole // side))
    inside = covers.astype(np.float32)  # (side, H)
    count = inside.sum(axis=1)
    # Sums first: a mask's are whole numbers, and half a part stays exactly one half.
    shrunk: FloatArray = inside @ planes @ inside.T / np.outer(count, count)
    return shrunk
