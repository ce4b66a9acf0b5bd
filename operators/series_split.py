"""Divide one DICOM series into sets that each hold one kind of image.

A series may mix what must not become one volume: frames of reference, orientations, matrices, echoes, b-values,
stacks, magnitude and phase, time points. What always tells kinds of image apart divides always; what only may tell
them apart divides where several slices lie at one place, and only if fewer do afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from pydicom import Dataset

from operators.domain import Instance
from operators.headers import b_value, number, values

SAME_DIRECTION = 5e-3
"""Two orientations whose direction cosines differ by less are one."""
Part = Sequence[Instance]
Key = Callable[[Dataset], Hashable]


def split(instances: Part) -> list[list[Instance]]:
    """Divide one DICOM series into sets that may each become one volume, in order of instance number."""
    ordered = sorted(instances, key=lambda i: (number(i.header, "InstanceNumber") or 0, i.path.name))
    orientations: list[tuple[float, ...]] = []
    parts = _divide([ordered], lambda header: (_frame_of_reference(header), _orientation(header, orientations)))
    for key in (_matrix, _echo, b_value, _stack):
        parts = _divide(parts, key)
    for key in (_image_type, _time_point, _inversion, _acquisition):
        parts = [piece for part in parts for piece in _divide_repeats(part, key)]
    return parts


def _divide(parts: Iterable[Part], key: Key) -> list[list[Instance]]:
    divided: list[list[Instance]] = []
    for part in parts:
        groups: dict[Hashable, list[Instance]] = defaultdict(list)
        for instance in part:
            groups[key(instance.header)].append(instance)
        divided.extend(groups.values())
    return divided


def _divide_repeats(part: list[Instance], key: Key) -> list[list[Instance]]:
    """Divide a part whose slices lie at one place, if that leaves fewer that do."""
    before = _repeats(part)
    pieces = _divide([part], key) if before else [part]
    return pieces if sum(map(_repeats, pieces)) < before else [part]


def _repeats(part: Part) -> int:
    """Count the instances that lie where another does; positions are compared to a hundredth of a millimetre."""
    places = [tuple(round(float(v), 2) for v in p) for i in part if (p := i.header.get("ImagePositionPatient"))]
    return len(places) - len(set(places))


def _frame_of_reference(header: Dataset) -> Hashable:
    return str(header.get("FrameOfReferenceUID", ""))


def _orientation(header: Dataset, known: list[tuple[float, ...]]) -> int:
    """Number of the orientation among those known so far; -1 where there is none."""
    cosines = header.get("ImageOrientationPatient")
    if cosines is None or len(cosines) != 6:
        return -1
    direction = tuple(map(float, cosines))
    for place, other in enumerate(known):
        if np.abs(np.subtract(direction, other)).max() < SAME_DIRECTION:
            return place
    known.append(direction)
    return len(known) - 1


def _matrix(header: Dataset) -> Hashable:
    spacing = header.get("PixelSpacing") or ()
    return header.get("Rows"), header.get("Columns"), tuple(round(float(s), 3) for s in spacing)


def _echo(header: Dataset) -> Hashable:
    echo_time = number(header, "EchoTime")
    return number(header, "EchoNumbers"), None if echo_time is None else round(echo_time, 1)


def _stack(header: Dataset) -> Hashable:
    return str(header.get("StackID", ""))


def _image_type(header: Dataset) -> Hashable:
    return tuple(values(header, "ImageType")), str(header.get("ComplexImageComponent", ""))


def _time_point(header: Dataset) -> Hashable:
    return number(header, "TemporalPositionIdentifier")


def _inversion(header: Dataset) -> Hashable:
    return number(header, "InversionTime")


def _acquisition(header: Dataset) -> Hashable:
    return number(header, "AcquisitionNumber")
