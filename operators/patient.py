"""What a study's header says of the patient that a model may use: age and sex, never who it is."""

from __future__ import annotations

import re

from pydicom import Dataset

from models.markers.figure_model import ADULT_YEARS, ADULTS_ALONE, AGES, is_child
from operators.domain import Study
from operators.headers import calendar_date

_UNITS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
"""How many of each of PatientAge's units make a year (PS3.5 section 6.2, VR AS)."""

CLASH_YEARS = 2.0
"""Stated in whole years, and sometimes of another day than the study's: ages this far apart are not one person's."""

TWO_AGES = "the header says a child's age and an adult's, and the models learnt from adults alone"


def age_years(study: Study) -> float | None:
    """Return the patient's age at the study in years.

    None where the header does not say, says the absurd, or says two things that cannot both be true.
    """
    for series in study.series:
        ages = [age for age in _said(series.header) if AGES[0] <= age <= AGES[1]]
        if ages:
            return ages[0] if max(ages) - min(ages) < CLASH_YEARS else None
    return None


def childhood(study: Study) -> str:
    """Say why the patient must be taken for a child, or nothing.

    Whatever says so counts, also an age that no model is shown: of an infant, or one that another contradicts.
    """
    ages = [age for series in study.series for age in _said(series.header)]
    young = [age for age in ages if is_child(age)]
    if not young:
        return ""
    grown = [age for age in ages if ADULT_YEARS <= age <= AGES[1]]
    return TWO_AGES if grown and max(grown) - min(young) >= CLASH_YEARS else ADULTS_ALONE


def sex(study: Study) -> str | None:
    """Return "M" or "F", or None where the header says another sex or none."""
    for series in study.series:
        found = str(series.header.get("PatientSex") or "").strip().upper()
        if found in {"M", "F"}:
            return found
    return None


def _said(header: Dataset) -> list[float]:
    """Give the ages that a header says, in years: as stated and as reckoned, absurd ones too."""
    return [age for age in (_stated(header), _reckoned(header)) if age is not None]


def _stated(header: Dataset) -> float | None:
    """Read PatientAge."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", str(header.get("PatientAge") or "").strip().upper())
    return int(found[1]) / _UNITS[found[2]] if found else None


def _reckoned(header: Dataset) -> float | None:
    """Reckon from PatientBirthDate to StudyDate."""
    born, seen = calendar_date(header, "PatientBirthDate"), calendar_date(header, "StudyDate")
    return None if born is None or seen is None else (seen - born).days / 365.25
