"""What the markers say together of the kind of glioma (WHO CNS 2021): a suggestion, never surer than its weakest part.

Source: D. Louis et al., "The 2021 WHO Classification of Tumors of the Central Nervous System", Neuro-Oncology 2021:
adult diffuse gliomas are told apart by IDH first, then by 1p/19q; without IDH and H3 mutation glioblastoma needs
histology, TERT, EGFR or +7/-10. Grade is histology's, and CDKN2A/B's; proliferation from images can only hint at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from operators.domain import Marker, MarkerName, MarkerValue

ALTERED, UNALTERED = MarkerValue.ALTERED, MarkerValue.UNALTERED
ALWAYS = ("histology and grade", "IDH1/IDH2 (immunohistochemistry for R132H, then sequencing)")
CODEL = "1p/19q (FISH or array)"
WILD_TYPE = ("TERT promoter", "EGFR amplification", "gain of chromosome 7 with loss of 10", "H3 K27 and H3 G34")
GRADE_HINTS = {
    ALTERED: "proliferation is likely high, which is commoner in higher grades",
    UNALTERED: "proliferation is likely low, which is commoner in lower grades",
}
"""By what is said of proliferation; how weak a hint that is, docs/markers.md tells."""


@dataclass(frozen=True)
class Reading:
    """The markers read together."""

    text: str
    """One sentence."""
    probability: float | None
    """Of the weakest marker that it rests on; None where nothing is suggested."""
    to_confirm: tuple[str, ...]
    """What tissue must show."""
    grade_hint: str = ""
    """What proliferation hints at; empty where it is open, or no kind is suggested."""
    grade_probability: float | None = None
    """Of the hint; no surer than the kind."""

    def __str__(self) -> str:
        certainty = "" if self.probability is None else f" (weakest marker {self.probability:.0%})"
        hint = f" Hint of grade: {self.grade_hint} ({self.grade_probability:.0%})." if self.grade_hint else ""
        confirm = f" Tissue must confirm: {'; '.join(self.to_confirm)}." if self.to_confirm else ""
        return f"{self.text}{certainty}.{hint}{confirm}"


def read_together(markers: Sequence[Marker]) -> Reading:
    """Read IDH and 1p/19q as WHO does, then what hints at grade; what is open stays open."""
    by_name = {marker.name: marker for marker in markers}
    kind = _kind(by_name.get(MarkerName.IDH), by_name.get(MarkerName.CODEL_1P19Q))
    proliferation = by_name.get(MarkerName.PROLIFERATION)
    if kind.probability is None or proliferation is None or proliferation.value not in GRADE_HINTS:
        return kind
    sure = min(_certainty(proliferation), kind.probability)
    return replace(kind, grade_hint=GRADE_HINTS[proliferation.value], grade_probability=sure)


def _kind(idh: Marker | None, codel: Marker | None) -> Reading:
    said = idh.value if idh else MarkerValue.NOT_ASSESSED
    other = codel.value if codel else MarkerValue.NOT_ASSESSED
    if said is ALTERED and other is ALTERED:
        return _suggest("oligodendroglioma, IDH-mutant and 1p/19q-codeleted", (idh, codel), (*ALWAYS, CODEL))
    if said is ALTERED and other is UNALTERED:
        return _suggest("astrocytoma, IDH-mutant", (idh, codel), (*ALWAYS, CODEL, "CDKN2A/B"))
    if said is ALTERED:
        kind = "an IDH-mutant diffuse glioma, astrocytoma or oligodendroglioma"
        return _suggest(kind, (idh,), (*ALWAYS, CODEL, "CDKN2A/B"))
    if said is UNALTERED and other is ALTERED:
        text = "IDH wild-type and 1p/19q co-deletion do not go together: no kind of glioma is suggested"
        return Reading(text, None, (*ALWAYS, CODEL))
    if said is UNALTERED:
        kind = "an IDH-wildtype diffuse glioma, glioblastoma if tissue shows its hallmarks"
        return _suggest(kind, (idh,), (*ALWAYS, *WILD_TYPE))
    return Reading("IDH is open, so no kind of glioma is suggested", None, (*ALWAYS, CODEL))


def _suggest(kind: str, basis: Sequence[Marker | None], to_confirm: tuple[str, ...]) -> Reading:
    sure = [_certainty(marker) for marker in basis if marker is not None]
    return Reading(f"The images suggest {kind}", min(sure), to_confirm)


def _certainty(marker: Marker) -> float:
    """Probability of what a marker says."""
    altered = marker.probability or 0.0
    return altered if marker.value is ALTERED else 1.0 - altered
