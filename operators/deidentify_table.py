"""What the Basic Application Level Confidentiality Profile does to an attribute (PS3.15 table E.1-1).

The table is that of dicom-anonymizer, which reads it from the standard edition by edition. Nothing else of that package
is used: its own engine looks at the top level alone, draws UIDs at random, and keeps dummy dates where the profile
removes them.

The table lists what is known to be dangerous. What it does not list, and may be: private attributes, attributes
that nobody knows, and newer UIDs, names and dates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as standard
from pydicom import DataElement
from pydicom.datadict import dictionary_has_tag

EDITION = "2026c"


class Action(StrEnum):
    """What is done to an attribute; of several, the first that leaves the object conformant (table E.1-1a)."""

    D = "D"
    """A dummy in its place."""
    Z = "Z"
    """Empty."""
    X = "X"
    """Removed."""
    U = "U"
    """Another UID, the same wherever it stands."""
    Z_D = "Z/D"
    X_Z = "X/Z"
    X_D = "X/D"
    X_Z_D = "X/Z/D"
    X_Z_U = "X/Z/U*"
    """A sequence of references: kept, with other UIDs, or the set would fall apart."""


_LISTS = {
    Action.D: standard.D_TAGS,
    Action.Z: standard.Z_TAGS,
    Action.X: standard.X_TAGS,
    Action.U: standard.U_TAGS,
    Action.Z_D: standard.Z_D_TAGS,
    Action.X_Z: standard.X_Z_TAGS,
    Action.X_D: standard.X_D_TAGS,
    Action.X_Z_D: standard.X_Z_D_TAGS,
    Action.X_Z_U: standard.X_Z_U_STAR_TAGS,
}
_REPEATING = (0x5000, 0x6000)
"""Curves and overlays, every part of them: an overlay without its data is none."""
_ENCRYPTED = 0x04000500
"""Encrypted Attributes Sequence: another's way back to the identity."""
_BY_VR = {"UI": Action.U, "PN": Action.D, "DA": Action.D, "TM": Action.D, "DT": Action.D, "UN": Action.X}
_NAMES_A_KIND = re.compile(r"SOPClass|TransferSyntax|^(CodingScheme|Context|MappingResource|CreatorVersion)UID$")
"""Keywords of UIDs that name a kind of thing, the same for all the world."""


@cache
def table() -> Mapping[int, Action]:
    """Return the table, by tag."""
    return {
        (tag[0] << 16) | tag[1]: action
        for action, tags in _LISTS.items()
        for tag in tags
        if tag[0] not in _REPEATING  # with a mask: whole groups, below
    }


def action_on(element: DataElement) -> Action | None:
    """Say what is done to an element; None: it is kept, and if it is a sequence, what is in it is looked at."""
    tag = element.tag
    if tag.is_private or tag.element == 0 or tag == _ENCRYPTED or tag.group & 0xFF00 in _REPEATING:
        return Action.X
    if (listed := table().get(int(tag))) is not None:
        return listed
    if not dictionary_has_tag(tag):
        return Action.X
    if element.VR == "UI" and _NAMES_A_KIND.search(element.keyword):
        return None
    return _BY_VR.get(element.VR)
