"""What may go wrong in the decoder's process; a module of its own, as that process has little memory to import with."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from operators.decoding import decode_frames

VICTIM = "03_FLAIR_006.dcm"


def hang(frames):
    if any(path.name == VICTIM for path, _ in frames):
        signal.pause()
    return decode_frames(frames)


def crash(frames):
    if any(path.name == VICTIM for path, _ in frames):
        ctypes.string_at(0)
    return decode_frames(frames)


def die_once(frames):
    """Be killed, as by a system that is short of memory, over the first frames there are."""
    once = frames[0][0].with_name("killed")
    if not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_frames(frames)


def hang_once(frames):
    """Answer nothing more over the first frames there are."""
    once = frames[0][0].with_name("stopped")
    if not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return decode_frames(frames)


def allocate(megabytes):
    return len(bytearray(megabytes * 1_000_000))


def fill_log():
    for stream in (sys.stdout, sys.stderr):
        stream.write("Secret^Person")
        stream.flush()
    os.write(2, b"Secret^Person")


def leave(memory_mb):
    os._exit(3)
