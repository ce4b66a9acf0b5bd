"""Where encoded pixel data are decoded: in this process, or in one of its own whose memory and time are bounded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

from operators.decoding import Frame, Stored, decode_frames, prepare, ready
from operators.errors import NativeCrash, PixelDataRefused, TimeOut, UnreadableInstance
from operators.native import Worker
from operators.pixel_limits import PixelLimits

LOGGER = logging.getLogger(__name__)

_AT_ONCE_BYTES = 16_000_000
"""Decoded values that are held, and sent, at a time."""


class Decoder:
    """Decodes in this process, for tests and tools that read files of their own."""

    def __init__(self, limits: PixelLimits | None = None) -> None:
        self.limits = limits or PixelLimits()

    def decode(self, frames: Sequence[Frame], frame_bytes: int) -> Iterator[Stored]:
        """Decode frames of one size, a few at a time; raises as `decode_frames` does."""
        step = max(1, _AT_ONCE_BYTES // max(1, frame_bytes))
        for begin in range(0, len(frames), step):
            yield from self._some(frames[begin : begin + step])

    def _some(self, frames: Sequence[Frame]) -> list[Stored]:
        return decode_frames(frames)


class ChildDecoder(Decoder):
    """Decodes in a process that is started when it is first needed, and stays.

    Decoders are native code that a file can bring to take any memory, to crash or to hang. What fails is tried once
    more, frame by frame, in a fresh process: what was an accident costs nothing, and else the file is known.
    """

    def __init__(self, limits: PixelLimits | None = None) -> None:
        super().__init__(limits)
        self._worker = Worker(partial(prepare, self.limits.decode_mb), self.limits.decode_seconds)

    @property
    def pid(self) -> int | None:
        """The process's number, if one was started."""
        return self._worker.pid

    def try_out(self) -> None:
        """Start the process; raises NativeCrash or TimeOut where it does not come up within its bounds."""
        self._worker.run(ready)

    def stop(self) -> None:
        """End the process."""
        self._worker.stop()

    def _some(self, frames: Sequence[Frame]) -> list[Stored]:
        """Raises NativeCrash or TimeOut where the process cannot even start."""
        self._worker.run(ready)
        try:
            return self._worker.run(decode_frames, frames)
        except PixelDataRefused:
            raise
        except (NativeCrash, TimeOut, UnreadableInstance) as error:
            LOGGER.warning("%s; its frames are decoded once more, one by one", error)
            # One that took much memory for other files may fail at this one.
            self._worker.renew()
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Frame) -> Stored:
        self._worker.run(ready)
        try:
            (found,) = self._worker.run(decode_frames, [frame])
        except (NativeCrash, TimeOut) as error:
            raise PixelDataRefused(
                f"{frame[0].name} cannot be decoded within bounds: {error}; send it again, uncompressed"
            ) from error
        return found
