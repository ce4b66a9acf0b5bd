"""What training and node agree on about the slices a marker network reads; no torch."""

from __future__ import annotations

SEQUENCES = ("T1", "T1C", "T2", "FLAIR")
"""Order of the sequences in every tensor of the marker networks."""
NEGATIVE, POSITIVE = 0, 1
"""Class numbers: the marker is not altered, or is."""
INPUTS = ("images", "mask", "present", "metadata")
OUTPUTS = ("probabilities", "maps")
"""Names of an exported network's inputs and outputs."""
FEWEST_PIXELS = 32
"""The smallest side of an input: what the networks halve five times."""
UNKNOWN_SEX = 0.5
"""Halfway between male (0) and female (1)."""
UNKNOWN_AGE = 0.45
"""The mean age of the thesis's patients, 45 years, over 100 (section 5.2)."""


def encode_metadata(sex: str | None, age_years: float | None) -> tuple[float, float]:
    """Encode a patient's sex ("M" or "F", whatever follows) and age as numbers from 0 to 1 (thesis section 5.2).

    Any other sex is `UNKNOWN_SEX`, no age is `UNKNOWN_AGE`.
    """
    code = {"M": 0.0, "F": 1.0}.get((sex or "").strip()[:1].upper(), UNKNOWN_SEX)
    return code, UNKNOWN_AGE if age_years is None else age_years / 100
