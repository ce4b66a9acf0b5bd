"""Names, UIDs and days that stand for others: the same for the same, and not to be undone without the secret.

HMAC-SHA256 (RFC 2104) keyed with a secret of the site. A plain hash would not do: who knows the form of a hospital's
patient numbers would try them all.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import unicodedata
import uuid

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

LEAST_SHIFT, MOST_SHIFT = 366, 3653
"""Days: by one to ten years into the past, so that no date lies in the future."""
WELL_KNOWN = "1.2.840.10008."
"""Root of the UIDs that DICOM itself gives out; they name kinds of things and frames of reference of atlases."""
_SIGNS = 16
"""Of a pseudonym, five bits each: two of a million patients meet with a chance of 1 in 10^12."""


class Pseudonyms:
    """What one secret makes of names and UIDs."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Pseudonyms()"

    def patient(self, header: Dataset) -> str:
        """Name the patient of an object; one without Patient ID is another patient in each study.

        The issuer does not count, as results do not carry it.
        """
        value = header.get("PatientID")
        parts = value if isinstance(value, MultiValue) else [value]
        known = "\\".join(unicodedata.normalize("NFC", str(part or "")).strip(" \0") for part in parts)
        what = ("patient", known) if known else ("study without patient", str(header.get("StudyInstanceUID", "")))
        return f"P-{base64.b32encode(self._digest(*what)).decode()[:_SIGNS]}"

    def uid(self, original: str) -> UID:
        """Return the UID that stands for another, UUID-derived (PS3.5 B.2); one that DICOM gave out is itself."""
        original = original.strip(" \0")
        if not original or original.startswith(WELL_KNOWN):
            return UID(original)
        return UID(f"2.25.{uuid.UUID(bytes=self._digest('uid', original)[:16], version=5).int}")

    def shift_days(self, patient: str) -> int:
        """Return by how many days a patient's dates move into the past; `patient` is the pseudonym."""
        drawn = int.from_bytes(self._digest("days", patient)[:8], "big")
        return LEAST_SHIFT + drawn % (MOST_SHIFT - LEAST_SHIFT + 1)

    def _digest(self, *what: str) -> bytes:
        return hmac.new(self._secret, "\0".join(what).encode(), hashlib.sha256).digest()
