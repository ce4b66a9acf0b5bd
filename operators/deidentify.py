"""De-identify an object by the Basic Application Level Confidentiality Profile (PS3.15 Annex E), at every depth.

The same object, secret and profile give the same bytes. What cannot be cleaned is refused, never passed on: documents,
reports of other software, pixels that hold text or may. Afterwards the outcome is searched for what was to go.

Not done: recognizable features (a face in a thin 3-D series) stay in the pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from copy import copy
from datetime import date, datetime, timedelta
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code

from operators import codes
from operators.attribute_check import Needs, needs_of
from operators.deidentify_content import EVIDENCE, REMOVED, clean_items, without_pages
from operators.deidentify_form import Profile
from operators.deidentify_kinds import DESCRIPTIONS, why_not
from operators.deidentify_table import EDITION, Action, action_on
from operators.errors import NotDeidentified
from operators.pseudonyms import Pseudonyms
from operators.results import PRODUCT

DUMMIES: Mapping[str, Any] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), REMOVED),
    **{"AS": "000Y", "DA": "19000101", "TM": "000000", "DT": "19000101000000", "UR": "http://removed.invalid"},
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("SS", "US", "SL", "UL", "SV", "UV", "AT"), 0),
    **dict.fromkeys(("FL", "FD"), 0.0),
    **dict.fromkeys(("OB", "OW", "OD", "OF", "OL", "OV", "UN"), bytes(8)),
}
"""By VR: what stands in the place of a value that must not be empty."""
_PATIENT = ("PatientID", "PatientName")
"""Hold the pseudonym."""
_BIRTH = ("PatientBirthDate", "PatientBirthTime")
"""Not among the dates that the option of modified dates keeps (table E.1-1)."""
_FORMS = {
    "DA": re.compile(r"(?P<day>\d{8})"),
    "DT": re.compile(r"(?P<day>\d{8})\d{0,6}(\.\d{1,6})?([+-]\d{4})?"),
    "TM": re.compile(r"\d{2,6}(\.\d{1,6})?"),
    "offset": re.compile(r"[+-]\d{4}"),
}
"""What dates and times look like by VR (PS3.5 section 6.2); text of another form is none."""
_TEXTS = ("LO", "SH", "ST", "LT", "UT", "UC", "PN")
_LEAST_SIGNS = 4
"""A shorter value is found anywhere, and says nothing."""
FAULTS = (
    ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError, RuntimeError, OverflowError,
    struct.error,
)  # fmt: skip
"""What pydicom raises at values that are not what their VR says."""


class Deidentifier:
    """Applies one profile with one secret."""

    def __init__(self, pseudonyms: Pseudonyms, profile: Profile) -> None:
        self._pseudonyms, self._profile = pseudonyms, profile

    def __call__(self, original: Dataset) -> Dataset:
        """Return the object de-identified, ready to be saved; the original stays as it is.

        Raises NotDeidentified with a reason that holds no value.
        """
        if reason := why_not(original):
            raise NotDeidentified(reason)
        try:
            return _Run(original, self._pseudonyms, self._profile).finished()
        except FAULTS as error:
            # The error's own text may quote the dataset.
            raise NotDeidentified(f"it holds a value that cannot be read ({type(error).__name__})") from None


class _Run:
    """One object on its way."""

    def __init__(self, original: Dataset, pseudonyms: Pseudonyms, profile: Profile) -> None:
        self._original, self._pseudonyms, self._profile = original, pseudonyms, profile
        self._patient = pseudonyms.patient(original)
        self._days = timedelta(pseudonyms.shift_days(self._patient))
        self._replaced: set[str] = set()
        """UIDs that must not be left anywhere."""
        self._options: list[Code] = []

    def finished(self) -> Dataset:
        """Return the whole."""
        clean = self._level(self._original, needs_of(self._original))
        if "ContentSequence" in clean:
            shift = self._shifted if self._profile == "shifted-dates" else None
            clean.ContentSequence = clean_items(clean.ContentSequence, self._renamed, shift)
            for keyword in EVIDENCE:
                if keyword in clean:
                    clean[keyword].value = without_pages(clean[keyword].value)
            self._options.append(codes.CLEAN_CONTENT)
        if clean.get("SeriesDescription"):
            self._options.append(codes.CLEAN_DESCRIPTORS)
        self._declare(clean)
        clean.file_meta = FileMetaDataset()
        clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
        clean.file_meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
        clean.file_meta.TransferSyntaxUID = self._original.file_meta.TransferSyntaxUID
        self._search(clean)
        return clean

    def _declare(self, clean: Dataset) -> None:
        """Say what was done (PS3.15 E.1.1)."""
        moved = self._profile == "shifted-dates"
        # Also where the original has none: without them, viewers would take all such objects for one patient's.
        clean.PatientID = clean.PatientName = self._patient
        clean.PatientIdentityRemoved = "YES"
        clean.DeidentificationMethod = [PRODUCT, f"PS3.15 {EDITION} Basic Profile"]
        options = [*self._options, *([codes.MODIFIED_DATES] if moved else [])]
        clean.DeidentificationMethodCodeSequence = [_item(code) for code in (codes.BASIC_PROFILE, *options)]
        clean.LongitudinalTemporalInformationModified = "MODIFIED" if moved else "REMOVED"

    def _level(self, level: Dataset, needs: Needs | None) -> Dataset:
        """Return a dataset, or an item of a sequence, cleaned; `needs` is what its kind of object must hold there."""
        clean = Dataset()
        for element in level:
            made = self._element(element, needs)
            if made is not None:
                clean.add(made)
        return clean

    def _element(self, element: DataElement, needs: Needs | None) -> DataElement | None:
        action, keyword = action_on(element), element.keyword
        if keyword in _PATIENT and action is not Action.X:
            return DataElement(element.tag, element.VR, self._patient)
        if keyword == "SeriesDescription" and str(element.value) in DESCRIPTIONS:
            return copy(element)
        if element.VR == "UI" and action not in (None, Action.X):
            return self._uids(element)
        if self._profile == "shifted-dates" and action is not None and keyword not in _BIRTH:
            moved = self._moved(element)
            if moved is not None:
                return moved
        if action is None or action is Action.X_Z_U or keyword == "ContentSequence":
            return self._kept(element, needs)
        return self._acted(element, _settled(action, needs, keyword))

    def _kept(self, element: DataElement, needs: Needs | None) -> DataElement:
        if element.VR != "SQ":
            # A copy: what is set in the outcome later must not be set in the original.
            return copy(element)
        below = needs.below.get(element.keyword) if needs is not None else None
        items = [self._level(item, below) for item in element.value or ()]
        return DataElement(element.tag, "SQ", Sequence(items))

    def _acted(self, element: DataElement, action: Action) -> DataElement | None:
        if action is Action.X:
            return None
        if action is Action.Z or element.is_empty:
            return DataElement(element.tag, element.VR, Sequence() if element.VR == "SQ" else None)
        return self._dummy(element)

    def _dummy(self, element: DataElement) -> DataElement:
        if element.VR == "UI":
            return self._uids(element)
        if element.VR != "SQ":
            return DataElement(element.tag, element.VR, DUMMIES[element.VR])
        items = []
        for item in element.value:
            items.append(Dataset())
            for inner in item:
                if not inner.tag.is_private and not inner.is_empty:
                    items[-1].add(self._dummy(inner))
        return DataElement(element.tag, "SQ", Sequence(items))

    def _uids(self, element: DataElement) -> DataElement:
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        return DataElement(element.tag, "UI", [self._renamed(str(value or "")) for value in values])

    def _renamed(self, uid: str) -> str:
        other = str(self._pseudonyms.uid(uid))
        if other != uid.strip(" \0"):
            self._replaced.add(uid.strip(" \0"))
        return other

    def _moved(self, element: DataElement) -> DataElement | None:
        """Return a date or time as the option of modified dates has it; None where it is none, or cannot be read."""
        form = _FORMS.get("offset" if element.keyword == "TimezoneOffsetFromUTC" else element.VR)
        if form is None or element.is_empty:
            return None
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        found = [match for value in values if (match := form.fullmatch(str(value).strip(" \0")))]
        if len(found) < len(values):
            return None
        try:
            return DataElement(element.tag, element.VR, [self._shifted_text(match) for match in found])
        except (ValueError, OverflowError):
            return None

    def _shifted_text(self, found: re.Match[str]) -> str:
        """Move the date that text begins with; a time stays as it is."""
        if "day" not in found.groupdict():
            return found[0]
        day = self._shifted(datetime.strptime(found["day"], "%Y%m%d").date())
        return f"{day.year:04d}{day:%m%d}{found[0][8:]}"

    def _shifted(self, day: date) -> date:
        return day - self._days

    def _search(self, clean: Dataset) -> None:
        """Look once more for what was to go; raises NotDeidentified naming where it still is."""
        named = [str(self._original.get(k) or "").strip() for k in (*_PATIENT, "AccessionNumber")]
        dates = ("StudyDate", "PatientBirthDate") if self._profile == "basic" else ("PatientBirthDate",)
        for keyword in dates:
            text = str(self._original.get(keyword) or "")
            named += [text, f"{text[:4]}-{text[4:6]}-{text[6:8]}"] if len(text) == 8 else []
        named = [name for name in named if len(name) >= _LEAST_SIGNS and name != self._patient]
        identity = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in named)) if named else None
        for element, text in _values(clean):
            told = any(uid.strip(".") in self._replaced for uid in re.findall(r"[\d.]+", text))
            if told or (identity is not None and element.VR in _TEXTS and identity.search(text)):
                raise NotDeidentified(f"an identifying value is still in {element.keyword} {element.tag}")


def _values(level: Dataset) -> Iterator[tuple[DataElement, str]]:
    """Give every value that is text, at every depth."""
    for element in level:
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _values(item)
        elif element.VR == "UI" or element.VR in _TEXTS:
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            yield from ((element, str(value)) for value in values if value is not None)


def _settled(action: Action, needs: Needs | None, keyword: str) -> Action:
    """Choose of several actions the first that leaves the object conformant; in doubt the one that always does."""
    choices = action.value.split("/")
    if len(choices) == 1:
        return action
    types = needs.types.get(keyword, set()) if needs is not None else set()
    if any(kind.startswith("1") for kind in types):
        return Action.D
    if any(kind.startswith("2") for kind in types):
        return Action.Z if "Z" in choices else Action.D
    return Action(choices[0]) if types else Action(choices[-1])


def _item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item
