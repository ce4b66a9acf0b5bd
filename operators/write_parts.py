"""Parts that all structured reports share: who observed, by what algorithm, and how content is laid out."""

from __future__ import annotations

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.coding import Code

from operators import codes
from operators.results import PRODUCT, SERIAL_NUMBER, Origin


def text_item(name: Code, text: str) -> sr.TextContentItem:
    """Make a TEXT item that its parent contains."""
    return sr.TextContentItem(name, text, sr.RelationshipTypeValues.CONTAINS)


def add_uncertainty(
    measurement: sr.Measurement, value: float, limits: tuple[float, float] | None, unit: Code
) -> sr.Measurement:
    """Say how far below and above a value the truth may lie, in the value's own unit (TID 310, CID 225).

    The library would write these without a unit.
    """
    if limits is not None:
        has = sr.RelationshipTypeValues.HAS_PROPERTIES
        below, above = round(value - limits[0], 3), round(limits[1] - value, 3)
        for name, reach in ((codes.UPPER_UNCERTAINTY, above), (codes.LOWER_UNCERTAINTY, below)):
            item = sr.NumContentItem(name, max(reach, 0.0), unit, relationship_type=has)
            measurement[0].ContentSequence = [*measurement[0].get("ContentSequence", ()), item]
    return measurement


def identify(name: str, version: str) -> sr.AlgorithmIdentification:
    """Name the algorithm behind a group (TID 4019)."""
    # Its family stays with the segment: readers take any further code in a group for an evaluation.
    return sr.AlgorithmIdentification(name, version or "unknown", manufacturer=PRODUCT)


def observer(origin: Origin) -> sr.ObservationContext:
    """Name this software as the observer (TID 1001, 1004)."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=origin.software_uid,
        name=PRODUCT,
        manufacturer_name=PRODUCT,
        model_name=PRODUCT,
        serial_number=SERIAL_NUMBER,
    )
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(sr.CodedConcept(*codes.DEVICE), device))


def in_english() -> sr.LanguageOfContentItemAndDescendants:
    """Say which language a report is in (TID 1204)."""
    return sr.LanguageOfContentItemAndDescendants(sr.CodedConcept(*codes.ENGLISH))


def private_scheme() -> hd.coding_schemes.CodingSchemeIdentificationItem:
    """Declare the node's own concepts (PS3.3 C.12.1.1.16)."""
    return hd.coding_schemes.CodingSchemeIdentificationItem(
        codes.PRIVATE_SCHEME, name=codes.PRIVATE_SCHEME_NAME, responsible_organization=PRODUCT
    )


def separate(item: Dataset) -> None:
    """Mark every container as separate items: as continuous text, viewers print values without their names."""
    if item.ValueType == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence", ()):
        separate(child)
