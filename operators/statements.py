"""What every report says in the same words and figures, whatever its form."""

from __future__ import annotations

from operators.domain import MarkerName

LIMITS_OF_USE = (
    "Research use only; not a medical device. Made automatically and not checked by a person. "
    "What is predicted from images does not replace tissue diagnosis: tissue diagnosis confirms."
)
NO_TUMOUR = (
    "No voxel was more likely tumour than not. This is the result of an automatic method and does not exclude a tumour."
)
MARKER_LABELS = {
    MarkerName.IDH: ("IDH mutation status", "IDH mutation"),
    MarkerName.CODEL_1P19Q: ("1p/19q codeletion status", "1p/19q codeletion"),
    MarkerName.MGMT: ("MGMT promoter methylation", "MGMT promoter methylation"),
    MarkerName.PROLIFERATION: ("Proliferation (RNA surrogate of Ki-67)", "high proliferation"),
}
"""For people: the marker, and what its probability is a probability of."""


def millilitres(cubic_mm: float) -> float:
    """Round a volume to what a report can claim: two decimals, three for the smallest."""
    return round(cubic_mm / 1000.0, 2 if cubic_mm >= 100.0 else 3)
