"""What Python takes within a block, whatever else the process had or gave back."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def traced_peak() -> Iterator[Callable[[], int]]:
    """Trace within the block; what is given tells the most that was held at a time, in bytes, by any thread.

    The resident size of a process in which other tests ran moves by more than what is looked for.
    """
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
