"""What every report says in the same words and figures, whatever its form."""

from __future__ import annotations

from collections.abc import Sequence

from operators.domain import MarkerName, MarkerValue

LIMITS_OF_USE = (
    "Research use only; not a medical device. Made automatically and not checked by a person. "
    "What is predicted from images does not replace tissue diagnosis: tissue diagnosis confirms."
)
NO_TUMOUR = (
    "No voxel was more likely tumour than not. This is the result of an automatic method and does not exclude a tumour."
)
SEVERAL_PARTS = (
    "The tumour has {count} parts that do not touch each other: the volume is that of all, the axes are of the part "
    "with the longest."
)
SEVERAL_REGIONS = (
    "It has {count} regions that do not touch each other: the volume is that of all, the axes are of the region with "
    "the longest."
)
REACHES_EDGE = (
    "{what} reaches the first or last slice of T1C or the border of its images: what lies beyond was not imaged, so "
    "volume and diameters are lower bounds."
)
THE_TUMOUR, THIS_PART = "The tumour", "This part"
UNION = "The {whole} is the union of: {parts}."
NO_SEGMENT_OF_ITS_OWN = "A label map has no segment for a union of parts."
NO_PART = "No voxel of the tumour was taken for it. It is the result of an automatic method and does not exclude it."
TRUST_UNKNOWN = "How far the figures of this part can be trusted has not been measured."
UNCERTAINTY = (
    "The ranges of uncertainty hold what a person's outline would have measured in {percent} of patients whom the "
    "network had not seen; they say nothing of other hospitals."
)
REPLACES = (
    "This report replaces that of {when} on the same study, which was made of other images, or by another version, "
    "model or setting."
)
MARKER_LABELS = {
    MarkerName.IDH: ("IDH mutation status", "IDH mutation"),
    MarkerName.CODEL_1P19Q: ("1p/19q codeletion status", "1p/19q codeletion"),
    MarkerName.MGMT: ("MGMT promoter methylation", "MGMT promoter methylation"),
    MarkerName.PROLIFERATION: ("Proliferation (RNA surrogate of Ki-67)", "high proliferation"),
}
"""For people: the marker, and what its probability is a probability of."""
LIKELY = {
    (MarkerName.IDH, MarkerValue.ALTERED): "likely mutant",
    (MarkerName.IDH, MarkerValue.UNALTERED): "likely wild-type",
    (MarkerName.CODEL_1P19Q, MarkerValue.ALTERED): "likely codeleted",
    (MarkerName.CODEL_1P19Q, MarkerValue.UNALTERED): "likely not codeleted",
    (MarkerName.MGMT, MarkerValue.ALTERED): "likely methylated",
    (MarkerName.MGMT, MarkerValue.UNALTERED): "likely unmethylated",
    (MarkerName.PROLIFERATION, MarkerValue.ALTERED): "likely high",
    (MarkerName.PROLIFERATION, MarkerValue.UNALTERED): "likely low",
}
"""What is said of a marker, in words: never more than likely."""

MOVED = "What moves the odds of it most: {groups}."


def strongest(moved_by: Sequence[tuple[str, float]]) -> list[tuple[str, str]]:
    """Pick what a reader is told of what moved a marker, three groups at most, each with its factor as it is written.

    What moves the odds by less than a tenth is not told.
    """
    told = [(group, factor) for group, factor in moved_by if not 1 / 1.1 < factor < 1.1]
    return [(group, f"{factor:.0f}" if factor >= 10.0 else f"{factor:.2g}") for group, factor in told[:3]]


def millilitres(cubic_mm: float) -> float:
    """Round a volume to what a report can claim: two decimals, three for the smallest; what was found is never 0."""
    rounded = round(cubic_mm / 1000.0, 2 if cubic_mm >= 100.0 else 3)
    return rounded if rounded or not cubic_mm else float(f"{cubic_mm / 1000.0:.1g}")


def volume_figure(cubic_mm: float) -> str:
    """Write a volume in ml for people, wherever one is told: one decimal, of less than 1 ml all that can be claimed."""
    ml = millilitres(cubic_mm)
    return f"{ml:.1f}" if ml >= 1.0 else f"{ml:g}"


def percent_figure(change: float) -> str:
    """Write a change in whole percent with its sign; what rounds to none has none."""
    whole = round(change)
    return f"{whole:+d} %" if whole else "0 %"


def tenths(millimetres: float) -> float:
    """Round a length to what a report can claim."""
    return round(millimetres, 1)


def moment(stamp: str) -> str:
    """Write a DICOM date and time (YYYYMMDDHHMMSS and more) as YYYY-MM-DD HH:MM."""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[8:10]}:{stamp[10:12]}"
