"""Keep pydicom's writer from answering a small hostile file with gigabytes; import it wherever datasets are written.

At an error it adds the whole trace to the error's text, once for each sequence that the element lies in, each time with
the text made so far: twice as much at each level. Thirty levels, in a file of 2 KB, take all the memory there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pydicom.filewriter


@contextmanager
def _as_it_is(tag: object) -> Iterator[None]:
    """Let an error pass; its text may quote the dataset, so nothing of ours shows it in any case."""
    yield


pydicom.filewriter.tag_in_exception = _as_it_is  # type: ignore[attr-defined]
