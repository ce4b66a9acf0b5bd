"""Ports for servers that a test starts."""

from __future__ import annotations

import random
import socket

# Below what the kernel gives away by itself (from 32768 on): a port that it said was free a second ago may by now be
# that of another test's connection, or of its server.
_RANGE = range(12_000, 32_000)
_DRAW = random.SystemRandom()


def free_port() -> int:
    """Return a TCP port that nobody listens on, nor is likely to before its caller does."""
    while True:
        port = _DRAW.choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
