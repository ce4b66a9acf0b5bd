"""What all result objects share: who made them and when, their UIDs, the patient, and how they reach the disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.uid import UID

from models.segments import Segment
from operators import (
    codes,
    steady_writer,  # noqa: F401 - for its effect
)
from operators.domain import Attention, Earlier, Marker, TumourMap, Volumes

PRODUCT = "Glioma Node"
SERIAL_NUMBER = "0"
"""Device Serial Number is Type 1 (PS3.3 C.7.5.2); software has none."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:glioma-node:results")
VERBATIM = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "IssuerOfPatientID",
    "StudyDescription",
)
"""What a result has exactly as its source has it. Kept from the library, which validates these and quotes what it does
not like, and that may be the patient's identity."""
_OPTIONAL = ("SpecificCharacterSet", "IssuerOfPatientID", "StudyDescription")
"""Those of them that need not be there, not even empty."""
_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT", "SQ"})
"""What the character set of an object bears upon (PS3.5 section 6.1.2.2), and sequences, whose items may hold such."""
_PLAIN = str.maketrans({"–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "×": "x"})


@dataclass(frozen=True)
class Origin:
    """Who made a result, when, and from what; the same origin makes the same bytes."""

    version: str
    """Version of this software."""
    made_at: datetime
    inputs: tuple[str, ...]
    """SOP Instance UIDs of the images analysed, then what else the result depends on, such as models and settings."""

    def uid(self, *purpose: str) -> UID:
        """Return the UID of one part of the result set: UUID-derived, the same whenever the inputs are (PS3.5 B.2)."""
        seed = "\n".join((self.version, *self.inputs, *purpose))
        return UID(f"2.25.{uuid.uuid5(_NAMESPACE, seed).int}")

    def also(self, *inputs: str) -> Origin:
        """Return the origin of a result that depends on more than this one."""
        return replace(self, inputs=(*self.inputs, *inputs))

    @property
    def software_uid(self) -> UID:
        """UID of this version of the software as a device observer."""
        return UID(f"2.25.{uuid.uuid5(_NAMESPACE, self.version).int}")

    @property
    def stamps(self) -> dict[str, Any]:
        """Constructor arguments of a highdicom object that say when it was made."""
        date, time = self.made_at.strftime("%Y%m%d"), self.made_at.strftime("%H%M%S.%f")
        return {"content_date": date, "content_time": time, "series_date": date, "series_time": time}

    @property
    def equipment(self) -> dict[str, Any]:
        """Constructor arguments of the highdicom item that names this software as equipment (IHE AI Results)."""
        return {
            "manufacturer": PRODUCT,
            "purpose_of_reference": codes.PROCESSING_EQUIPMENT,
            "manufacturer_model_name": PRODUCT,
            "software_versions": self.version,
            "contribution_datetime": self.made_at,
            "contribution_description": "Automatic analysis of brain MRI",
        }

    @property
    def device(self) -> dict[str, Any]:
        """Constructor arguments of a highdicom object that say which device made it (PS3.3 C.7.5.2)."""
        return {
            "manufacturer": PRODUCT,
            "manufacturer_model_name": PRODUCT,
            "software_versions": self.version,
            "device_serial_number": SERIAL_NUMBER,
        }


def origin_of(
    volumes: Volumes, tumour: TumourMap, version: str, made_at: datetime, depends_on: Sequence[str] = ()
) -> Origin:
    """Derive a result set's origin from the images and the model it was made from, and how its channels were read.

    `depends_on` is what else the stages worked by, as the job has it.
    """
    images = (str(header.SOPInstanceUID) for header in headers_of(volumes))
    read_as = (tumour.labels.read_as,) if tumour.labels else ()
    return Origin(version, made_at, (*images, tumour.model, tumour.model_version, *read_as, *depends_on))


def part_uid(lesion_uid: str, segment: Segment) -> UID:
    """Return the tracking UID of a part of a lesion: the same wherever and whenever the lesion's own is the same."""
    seed = "\n".join((lesion_uid, segment))
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, seed).int}")


def models_of(answers: Iterable[Marker | Attention]) -> tuple[str, ...]:
    """Name the markers' models that a result set depends on."""
    return tuple(f"{a.name} {a.model} {a.model_version}" for a in answers if a.model)


def earlier_input(earlier: Earlier | None) -> tuple[str, ...]:
    """Name the earlier report that a result set depends on, if there is one."""
    return (earlier.report_uid,) if earlier else ()


def anonymous(header: Dataset) -> Dataset:
    """Return a shallow copy of a source header, complete as to Type 2 and with nothing of the patient's.

    Its text is decoded: the copy, which has no character set, could no longer tell which one it was written in.
    """
    for tag, element in list(header.items()):
        # Only text, and only what is still raw: what else a scanner wrote may be broken, and nobody has asked for it.
        if isinstance(element, RawDataElement) and _vr_of(element) in _TEXT:
            header[tag]  # the header keeps what it decodes
    copy = Dataset()
    copy.update(header)
    for keyword in VERBATIM:
        if keyword in _OPTIONAL:
            copy.pop(keyword, None)
        else:
            # A new element: setting the value would change the source's own.
            copy[keyword] = DataElement(keyword, dictionary_VR(keyword), None)
    return copy


def _vr_of(element: RawDataElement) -> str:
    """Return the kind of value; of an element that came without, as its tag has it."""
    if element.VR is None:
        return dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else ""
    return element.VR


def finish(result: Dataset, header: Dataset, origin: Origin) -> None:
    """Give a result the patient and study of its source, verbatim, and its own time of making."""
    for keyword in VERBATIM:
        if keyword in header:
            result[keyword] = header[keyword]
    result.InstanceCreationDate = origin.made_at.strftime("%Y%m%d")
    result.InstanceCreationTime = origin.made_at.strftime("%H%M%S.%f")
    for item in result.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = origin.made_at.strftime("%Y%m%d%H%M%S.%f")


def writable(text: str, header: Dataset) -> str:
    """Return text as the source's character set can hold it; what it cannot becomes a question mark."""
    text = text.translate(_PLAIN)
    declared = header.get("SpecificCharacterSet")
    # The default repertoire is ASCII (PS3.5 section 6.1.2.1), which pydicom widens to Latin-1.
    for encoding in convert_encodings(declared) if declared else ("ascii",):
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            continue
        return text
    return text.encode("ascii", "replace").decode("ascii")


def save(result: Dataset, path: Path) -> Path:
    """Write a result so that the file, once it has its name, is whole."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as stream:
        result.save_as(stream, enforce_file_format=True)
        stream.flush()
        os.fsync(stream.fileno())
    return partial.replace(path)


def headers_of(volumes: Volumes) -> Sequence[Dataset]:
    """Return the header of every image analysed, once: a multi-frame image stands for many planes."""
    headers = (header for contrast in sorted(volumes) for header in volumes[contrast].headers)
    return list({str(header.SOPInstanceUID): header for header in headers}.values())
