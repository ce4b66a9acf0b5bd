"""What a study's header says of the patient that a model may use: age and sex, never who it is."""

from __future__ import annotations

import re

from pydicom import Dataset

from models.markers.figure_model import AGES
from operators.domain import Study
from operators.headers import calendar_date

_UNITS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
"""How many of each of PatientAge's units make a year (PS3.5 section 6.2, VR AS)."""

CLASH_YEARS = 2.0
"""Stated in whole years, and sometimes of another day than the study's: ages this far apart are not one person's."""


def age_years(study: Study) -> float | None:
    """Return the patient's age at the study in years.

    None where the header does not say, says the absurd, or says two things that cannot both be true.
    """
    for series in study.series:
        said = (_stated(series.header), _reckoned(series.header))
        ages = [age for age in said if age is not None and AGES[0] <= age <= AGES[1]]
        if ages:
            return ages[0] if max(ages) - min(ages) < CLASH_YEARS else None
    return None


def sex(study: Study) -> str | None:
    """Return "M" or "F", or None where the header says another sex or none."""
    for series in study.series:
        found = str(series.header.get("PatientSex") or "").strip().upper()
        if found in {"M", "F"}:
            return found
    return None


def _stated(header: Dataset) -> float | None:
    """Read PatientAge."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", str(header.get("PatientAge") or "").strip().upper())
    return int(found[1]) / _UNITS[found[2]] if found else None


def _reckoned(header: Dataset) -> float | None:
    """Reckon from PatientBirthDate to StudyDate."""
    born, seen = calendar_date(header, "PatientBirthDate"), calendar_date(header, "StudyDate")
    return None if born is None or seen is None else (seen - born).days / 365.25
