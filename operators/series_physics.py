"""What the physics in a header says: how the image was excited, inverted and read out.

Ranges are those of clinical scanners from 0.3 to 3 T; sums of points and their meaning: series_kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset

from operators.headers import number, values
from operators.series_kinds import Evidence

PLAUSIBLE_MS = {"RepetitionTime": (2.0, 30_000.0), "EchoTime": (0.3, 700.0), "InversionTime": (10.0, 6_000.0)}
"""A clinical MR image has times within these; anything else is a slip of the keyboard or of a converter."""
SECONDS_BELOW = 0.3
"""An echo time below this is one in seconds."""
SEQUENCE_NAMES: tuple[tuple[str, str, float], ...] = (
    (r"ep_?b\d|ep2d_?diff|epi?_?dwi|^\*?re_b|dwi|diff", "diffusion", 8.0),
    (r"epfid|fid_?epi|perf|asl", "perfusion", 8.0),
    (r"swi|swan|merge|qfl", "susceptibility", 8.0),
    (r"csi|svs|press|steam", "spectroscopy", 8.0),
    (r"tof|fl3d\d?r|fl_?pc|pc3d|angio", "angiography", 6.0),
    (r"ci3d|trufi|tfi|fiesta|bffe|ssfp|^\*?psif", "steady state", 6.0),
    (r"flair|tir2d|spcir", "FLAIR", 1.5),
    (r"tfl3?d?|mprage|bravo|spgr|fsp", "T1", 1.5),
    (r"^\*?h2d|haste|ssfse", "T2", 1.0),
)
"""Vendors' names of sequences (0018,0024 and 0018,9005): pattern, kind, points."""
SCAN_OPTIONS = {
    "DIFF_GEMS": ("diffusion", 8.0), "EPI_GEMS": ("echo-planar", 6.0), "T1FLAIR_GEMS": ("T1", 4.0),
    "T2FLAIR_GEMS": ("FLAIR", 4.0),
}  # fmt: skip
ACQUISITION_CONTRAST = {
    "T1": ("T1", 3.0), "T2": ("T2", 3.0), "FLUID_ATTENUATED": ("FLAIR", 4.0), "DIFFUSION": ("diffusion", 20.0),
    "PERFUSION": ("perfusion", 20.0), "T2_STAR": ("susceptibility", 6.0), "STIR": ("STIR", 6.0),
    "PROTON_DENSITY": ("proton density", 4.0), "FLOW_ENCODED": ("angiography", 20.0), "TAGGING": ("derived", 20.0),
}  # fmt: skip
"""Acquisition Contrast (0008,9209) of enhanced MR: kind and points."""


@dataclass(frozen=True)
class Timing:
    """Repetition, echo and inversion time in ms, each None where absent or absurd."""

    repetition: float | None
    echo: float | None
    inversion: float | None
    absurd: bool = False
    """Whether something was given that no scanner does."""

    def __str__(self) -> str:
        named = (("TR", self.repetition), ("TE", self.echo), ("TI", self.inversion))
        shown = ", ".join(f"{name} {value:g} ms" for name, value in named if value)
        return f"timing ({shown})" if shown else "timing"


def read_timing(header: Dataset) -> Timing:
    """Read the times of a header; those in seconds are made ms, absurd ones dropped."""
    given = {keyword: number(header, keyword) for keyword in PLAUSIBLE_MS}
    echo, repetition = given["EchoTime"], given["RepetitionTime"]
    if echo and repetition and 0 < echo < SECONDS_BELOW and repetition < 60:
        given = {k: None if v is None else v * 1000 for k, v in given.items()}
    kept = {k: v if v is not None and low <= v <= high else None for (k, v), (low, high) in _ranges(given)}
    if kept["EchoTime"] and kept["RepetitionTime"] and kept["EchoTime"] >= kept["RepetitionTime"]:
        kept["EchoTime"] = kept["RepetitionTime"] = None
    # An inversion time of 0 is how some say that there is none.
    absurd = any(v is not None and kept[k] is None and (v or k != "InversionTime") for k, v in given.items())
    return Timing(kept["RepetitionTime"], kept["EchoTime"], kept["InversionTime"], absurd)


def _ranges(given: dict[str, float | None]) -> Iterator[tuple[tuple[str, float | None], tuple[float, float]]]:
    return ((item, PLAUSIBLE_MS[item[0]]) for item in given.items())


def physics_evidence(header: Dataset) -> list[Evidence]:
    """Everything the acquisition's physics says."""
    scanning = {value.upper() for value in values(header, "ScanningSequence")}
    found = [_echo_planar(scanning), _steady_state(header, scanning), _timing_evidence(header, scanning)]
    return [piece for piece in found if piece] + [*_named_sequence(header), *_options(header)]


def _echo_planar(scanning: set[str]) -> Evidence | None:
    if "EP" not in scanning or "IR" in scanning:
        return None
    return Evidence("scanning sequence", {"echo-planar": 9.0}, "is echo-planar: diffusion, perfusion or function")


def _steady_state(header: Dataset, scanning: set[str]) -> Evidence | None:
    """Balanced steady state: not spoiled, short TR, wide flip angle."""
    variant = {value.upper() for value in values(header, "SequenceVariant")}
    repetition, flip = read_timing(header).repetition, number(header, "FlipAngle")
    if "GR" in scanning and "SS" in variant and not variant & {"SP", "MP"} and repetition and repetition < 15:
        return Evidence("sequence variant", {"steady state": 4.0 if (flip or 0) >= 30 else 2.0})
    return None


def _timing_evidence(header: Dataset, scanning: set[str]) -> Evidence | None:
    timing = read_timing(header)
    if not timing.echo or not timing.repetition:
        return None
    gradient = "GR" in scanning and "SE" not in scanning
    if gradient and 12 < timing.echo < 60:
        says = f"is a gradient echo of TE {timing.echo:g} ms"
        return Evidence(str(timing), {"susceptibility": 6.0}, says)
    points = gradient_points(timing) if gradient else spin_points(timing, inverted="IR" in scanning)
    return Evidence(str(timing), points) if points else None


def spin_points(timing: Timing, *, inverted: bool) -> dict[str, float]:
    """What the times of a spin echo, or of a sequence not named, speak for."""
    tr, te, ti = timing.repetition or 0.0, timing.echo or 0.0, timing.inversion
    if ti is not None and ti >= 50:
        return inversion_points(tr, te, ti)
    if te >= 60 and tr >= 1200:
        if inverted and tr >= 3500:
            return {"FLAIR": 4.0, "T2": 1.0}
        return {"T2": 3.5 if tr >= 1800 else 2.0}
    if te <= 35 and tr <= 1300:
        return {"T1": 3.5 if tr >= 150 else 2.0}
    if te < 60 and tr >= 1800:
        return {"proton density": 3.5} if te <= 40 else {"proton density": 1.5, "T2": 1.5}
    return {}


def inversion_points(tr: float, te: float, ti: float) -> dict[str, float]:
    """What the times of an inversion recovery speak for."""
    if ti >= 1400:
        return {"FLAIR": 5.0} if te >= 60 and tr >= 3500 else {}
    if ti <= 300 and tr >= 1200 and te > 12:
        return {"STIR": 5.0}
    return {"T1": 3.5} if te <= 40 and ti >= 300 else {}


def gradient_points(timing: Timing) -> dict[str, float]:
    """What the times of a gradient echo of at most 12 ms speak for; time of flight looks like spoiled T1."""
    tr, te, ti = timing.repetition or 0.0, timing.echo or 0.0, timing.inversion
    if te > 12:
        return {}
    if ti is not None and 300 <= ti <= 1600:
        return {"T1": 3.5}
    if 15 <= tr <= 45 and te >= 2.3:
        return {"T1": 2.0, "angiography": 1.5}
    return {"T1": 2.5} if tr <= 3000 else {}


def _named_sequence(header: Dataset) -> Iterator[Evidence]:
    name = " ".join(values(header, "SequenceName") + values(header, "PulseSequenceName")).lower()
    for pattern, kind, points in SEQUENCE_NAMES:
        if re.search(pattern, name):
            yield Evidence("sequence name", {kind: points})
            return


def _options(header: Dataset) -> Iterator[Evidence]:
    for value in values(header, "ScanOptions"):
        if value.upper() in SCAN_OPTIONS:
            kind, points = SCAN_OPTIONS[value.upper()]
            yield Evidence("scan options", {kind: points})
    for value in values(header, "AcquisitionContrast"):
        if value.upper() in ACQUISITION_CONTRAST:
            kind, points = ACQUISITION_CONTRAST[value.upper()]
            yield Evidence("acquisition contrast", {kind: points})
