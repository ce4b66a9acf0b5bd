"""Values out of DICOM headers, whichever way a vendor or a multi-frame object writes them down."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.errors import BytesLengthException

DAMAGED = (
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    OverflowError,
    BytesLengthException,
    struct.error,
    zlib.error,
)
"""What pydicom raises at bytes that are no dataset, some of it only when a value is asked for; an unknown VR is a
NotImplementedError, a RuntimeError."""
NO_VALUE = (ValueError, OverflowError, NotImplementedError, BytesLengthException, struct.error)
"""What of it comes of a single value, and hardly ever of a fault of ours."""
B_VALUES: tuple[tuple[int, int, str], ...] = (
    (0x0019, 0x0C, "SIEMENS MR HEADER"),
    (0x0043, 0x39, "GEMS_PARM_01"),
    (0x2001, 0x03, "Philips Imaging DD 001"),
)
"""Where vendors keep the b-value: group, element within the block, private creator."""

ENHANCED = {"EchoTime": "EffectiveEchoTime", "InversionTime": "InversionTimes"}
"""What attributes are called in enhanced MR."""


def first(header: Dataset, keyword: str) -> Any:
    """Value of an attribute at the top level, or in the functional groups of a multi-frame object."""
    if (value := header.get(keyword)) not in (None, ""):
        return value
    for groups in (header.get("SharedFunctionalGroupsSequence"), header.get("PerFrameFunctionalGroupsSequence")):
        for sequence in public_sequences(groups[0]) if groups else ():
            if sequence.value[0].get(keyword) not in (None, ""):
                return sequence.value[0].get(keyword)
    return None


def public_sequences(header: Dataset) -> Iterator[DataElement]:
    """Give the sequences that have items; of private elements nothing is read, not even what they are."""
    for tag in sorted(header.keys()):
        if not tag.is_private and (element := header[tag]).VR == "SQ" and element.value:
            yield element


def number(header: Dataset, keyword: str) -> float | None:
    """First value of a numeric attribute; None where it is absent or no number."""
    value = first(header, ENHANCED.get(keyword, keyword) if "SharedFunctionalGroupsSequence" in header else keyword)
    try:
        return None if value is None else float(np.atleast_1d(value)[0])
    except (ValueError, TypeError, IndexError):
        return None


def values(header: Dataset, keyword: str) -> list[str]:
    """All values of an attribute that may have several, as text; empty where it is absent."""
    value = first(header, keyword)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(v) for v in value]


def calendar_date(header: Dataset, keyword: str) -> date | None:
    """Value of a date; None where it is absent or no date. Older scanners write points between its parts."""
    try:
        return date.fromisoformat(re.sub(r"[.\s]", "", str(header.get(keyword) or "")))
    except ValueError:
        return None


def b_value(header: Dataset) -> float | None:
    """Diffusion weighting in s/mm2, from the standard attribute or the vendor's own."""
    if (value := number(header, "DiffusionBValue")) is not None:
        return value
    present = {tag.group for tag, _ in header.items()}  # to look for a private block takes long
    for group, element, creator in B_VALUES:
        if group not in present:
            continue
        try:
            found = header.private_block(group, creator)[element].value
            # One vendor keeps four numbers there and adds 1e9 to the first.
            return float(np.atleast_1d(found)[0]) % 1e9
        except (KeyError, ValueError, TypeError, IndexError):
            continue
    return None
