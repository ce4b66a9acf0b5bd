"""What the channels of a segmenting network stand for, as the file `segments.json` beside the network says.

Without that file a network answers with one thing, the probability of tumour. With it, each channel has a code of
CID 7168 (PS3.16), and the channels are one of two kinds:

- `exclusive`: probabilities of classes, which add up to 1 in every voxel; one of them is the background.
- `nested`: probabilities of regions from the outermost to the innermost, each of which holds those after it, as
  networks trained on the regions of BraTS answer. A channel's code is that of what lies in its region and in none
  after it; there is no background.

The whole tumour is the union of all but the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.json_file import first_fault

FILE = "segments.json"
"""Its name in the model's folder."""
TOLERANCE = 0.02
"""How far probabilities may be off: what half precision costs."""

FloatArray = NDArray[np.float32]


class SegmentsError(ValueError):
    """The description is not valid, or is not that of the network beside it; the message says what is wrong."""


class Segment(StrEnum):
    """What a result can outline, in the order in which it is told."""

    WHOLE = "whole tumour"
    CORE = "tumour core"
    """All that is neither oedema nor background; only ever a union."""
    ENHANCING = "enhancing part"
    NON_ENHANCING = "non-enhancing part"
    NECROSIS = "necrosis"
    OEDEMA = "oedema"


CORE_PARTS = (Segment.ENHANCING, Segment.NON_ENHANCING, Segment.NECROSIS)
NORMAL = None
"""In the place of a segment: no tumour."""
CID_7168: Mapping[tuple[str, str], tuple[str, Segment | None]] = {
    ("125040", "DCM"): ("Background", NORMAL),
    ("17621005", "SCT"): ("Normal", NORMAL),
    ("C113842", "NCIt"): ("Enhancing Lesion", Segment.ENHANCING),
    ("C81175", "NCIt"): ("Non-Enhancing Lesion", Segment.NON_ENHANCING),
    ("6574001", "SCT"): ("Necrosis", Segment.NECROSIS),
    ("79654002", "SCT"): ("Edema", Segment.OEDEMA),
}
"""Brain Lesion Segmentation Type With Necrosis, whole: value and scheme to meaning and what we call it."""


class Channel(BaseModel):
    """What one channel stands for: a code of CID 7168, all three parts of it, so that a slip is seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: str
    scheme: str
    meaning: str

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        known = CID_7168.get((self.value, self.scheme))
        if known is None:
            raise ValueError(f"({self.value}, {self.scheme}) is no code of CID 7168; there are {_listed()}")
        if known[0] != self.meaning:
            raise ValueError(f'({self.value}, {self.scheme}) means "{known[0]}", not "{self.meaning}"')
        return self

    @property
    def segment(self) -> Segment | None:
        """What is outlined by it; None for what is no tumour."""
        return CID_7168[self.value, self.scheme][1]


def _listed() -> str:
    return ", ".join(f"({value}, {scheme}, {meaning})" for (value, scheme), (meaning, _) in CID_7168.items())


class Channels(BaseModel):
    """All channels of a network, in its own order."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    probabilities: Literal["exclusive", "nested"]
    channels: tuple[Channel, ...] = Field(min_length=2)

    @field_validator("channels")
    @classmethod
    def _differ(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        for place, channel in enumerate(channels):
            if channel in channels[:place]:
                raise ValueError(f'({channel.value}, {channel.scheme}, "{channel.meaning}") is there twice')
        return channels

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        segments = [channel.segment for channel in self.channels]
        if self.probabilities == "exclusive" and NORMAL not in segments:
            raise ValueError("exclusive probabilities need a channel of the background, (125040, DCM, Background)")
        if self.probabilities == "nested" and NORMAL in segments:
            raise ValueError("nested probabilities have no channel of the background: outside all regions is none")
        if len(self.legend) < 2:
            raise ValueError("two parts of the tumour at least: a network that tells none apart needs no such file")
        if not {Segment.OEDEMA, Segment.NON_ENHANCING} & set(self.legend):
            raise ValueError(
                "neither oedema (79654002, SCT) nor a non-enhancing part (C81175, NCIt) is among the channels: "
                "the parts together would not be the whole tumour"
            )
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a description; raises SegmentsError with one line where it is not of the expected form."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            fault = first_fault(error) if isinstance(error, ValidationError) else "cannot be read"
            raise SegmentsError(f"{path}: {fault}") from error

    @property
    def legend(self) -> tuple[Segment, ...]:
        """The parts that are told apart, in the order of `Segment`."""
        told = {channel.segment for channel in self.channels}
        return tuple(segment for segment in Segment if segment in told)

    def __str__(self) -> str:
        """All that a result depends on, in one line."""
        return " ".join([self.probabilities, *(f"{c.value}/{c.scheme}" for c in self.channels)])

    def check_network(self, shape: Sequence[int | None]) -> None:
        """Raise SegmentsError where a network's answer (N, C, H, W) is not of as many channels.

        None is a size that is free, and () a shape that nobody knows before the network is run.
        """
        if not shape:
            return
        if len(shape) != 4 or shape[1] not in (None, len(self.channels)):
            told = " x ".join("?" if size is None else str(size) for size in shape)
            raise SegmentsError(
                f"{FILE} names {len(self.channels)} channels, and the network answers with {told}; "
                "slices x channels x rows x columns is expected, a channel each"
            )

    def check_answer(self, framed: FloatArray) -> None:
        """Raise SegmentsError where an answer (N, C, H, W) is not of probabilities, as of a network without softmax."""
        self.check_network(framed.shape)
        low, high = float(framed.min()), float(framed.max())
        if not (low >= -TOLERANCE and high <= 1.0 + TOLERANCE):
            raise SegmentsError(
                f"the network answers with values from {low:.3g} to {high:.3g}, which are no probabilities: "
                "export it with its softmax or sigmoid"
            )
        if self.probabilities == "exclusive":
            seen = framed[framed.any(axis=(1, 2, 3))]  # a slice without brain is not asked about
            total = seen.sum(axis=1)
            if seen.size and float(np.abs(total - 1.0).max()) > TOLERANCE:
                raise SegmentsError(
                    f"the network's probabilities add up to between {total.min():.3g} and {total.max():.3g}, not to 1: "
                    f'are they "nested" in {FILE}?'
                )

    def whole(self, framed: FloatArray) -> FloatArray:
        """Give the probability of any tumour: (N, C, H, W) to (N, H, W)."""
        parts = framed[:, [channel.segment is not NORMAL for channel in self.channels]]
        union: FloatArray = parts.sum(axis=1) if self.probabilities == "exclusive" else parts.max(axis=1)
        return np.clip(union, 0.0, 1.0).astype(np.float32)

    def parts(self) -> Iterator[tuple[int, int]]:
        """Give each channel of tumour and its label, which is its place in the legend, counted from 1."""
        for place, channel in enumerate(self.channels):
            if channel.segment is not NORMAL:
                yield place, self.legend.index(channel.segment) + 1

    def claim(self, place: int, probability: FloatArray) -> FloatArray:
        """Say how strongly a channel claims each voxel: of all channels, the strongest has it, the first of equals."""
        if self.probabilities == "exclusive":
            return probability
        # The innermost region that a voxel is more likely in than not; in none, the outermost.
        claimed: FloatArray = np.where(probability > 0.5, place + 1.0, 0.5 if place == 0 else 0.0).astype(np.float32)
        return claimed


def load_channels(folder: Path) -> Channels | None:
    """Read the description in a model's folder; None where there is none. Raises SegmentsError as `load` does."""
    path = folder / FILE
    return Channels.load(path) if path.is_file() else None


def whole_tumour(framed: FloatArray, channels: Channels | None) -> FloatArray:
    """Give the probability of any tumour (N, H, W) from what a network answers, with or without channels of its parts.

    Raises SegmentsError where the answer is not what `channels` says, or has channels and nothing says what they are.
    """
    if channels is not None:
        channels.check_answer(framed)
        return channels.whole(framed)
    if framed.ndim != 3:
        raise SegmentsError(
            f"the network answers with several channels, and nothing says what they stand for: write {FILE} beside it"
        )
    return framed
