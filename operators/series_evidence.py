"""Gather what the header of one series says about what it is: facts, physics, words.

Reasons never quote a description, for somebody may have typed a name into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydicom import Dataset

from operators.domain import Series
from operators.headers import b_value, number, values
from operators.series_geometry import slice_count
from operators.series_kinds import DECIDED, FACT, UNKNOWN, Evidence, explain, weigh
from operators.series_physics import physics_evidence, read_timing
from operators.series_rules import FLAIR_POINTS, FORBIDDEN_POINTS, WORD_POINTS, Rules
from operators.series_words import forbidden_kind, plain, read_words

FEWEST_SLICES = 3
IMAGE_TYPES = {
    "localizer": ("LOCALIZER", "SCOUT"),
    "ADC map": ("ADC", "EADC", "ADC_UNSPECIFIED"),
    "diffusion": ("DIFFUSION", "TRACEW", "TRACE", "CALC_BVALUE", "MEAN_DIFFUSIVITY"),
    "diffusion tensor": ("FA", "DTI", "TENSOR", "TENSOR_B0", "FRACTIONAL_ANISOTROPY"),
    "perfusion": ("PERFUSION", "ASL", "CBF", "CBV", "RCBF", "RCBV", "RELCBF", "RELCBV", "TTP", "MTT", "TMAX", "PBP"),
    "derived": (
        "SUBTRACTION", "SUBTRACT", "SUB", "PROJECTION IMAGE", "MPR", "CSA MPR", "MIN IP", "MIP", "REFORMATTED",
        "CURVED", "T1 MAP", "T2 MAP", "T1_MAP", "T2_MAP", "R2_MAP", "R2_STAR_MAP", "T2_STAR_MAP",
        "B0 MAP", "B1 MAP", "FIELD_MAP", "SYNTHETIC", "MAXIMUM", "MINIMUM", "VOLUME RENDERING",
    ),
    "report": ("SCREEN SAVE", "SCREENSHOT", "REPORT", "SECONDARY CAPTURE"),
    "phase image": ("P", "R", "I", "PHASE MAP", "PHASE", "PHASE_MAP", "REAL", "IMAGINARY"),
    "angiography": ("VELOCITY", "ANGIO", "TOF", "RECON TOF", "PHASE_CONTRAST", "TIME_OF_FLIGHT", "PCA"),
    "susceptibility": ("SWI", "MINIP"),
    "functional": ("FMRI", "BOLD"),
    "spectroscopy": ("SPECTROSCOPY", "METABOLITE_MAP"),
    "Dixon part": ("FAT", "OUT_PHASE", "OPP_PHASE", "FAT_FRACTION", "WATER_FRACTION"),
}  # fmt: skip
"""Values of Image Type (0008,0008) that no wanted series has."""
IMAGE_CLASSES = {"MRImageStorage", "EnhancedMRImageStorage", "LegacyConvertedEnhancedMRImageStorage"}
HEAD = re.compile(
    r"brain|head|skull|hirn|kopf|sch[aä]del|cerve[al]|cerebr|cran[ei]|enc[eé]fal|hersen|t[eê]te|m[oó]zg|g[lł]ow|beyin|"
    r"мозг|голов|头|颅|脑|頭|腦|뇌"
)
"""Words for the head, which a study of head and spine has too."""


def evidence_of(series: Series, rules: Rules = ()) -> list[Evidence]:
    """Everything a series' own header says; facts alone where there is one."""
    facts = list(_facts(series))
    if facts:
        return facts[:1]
    said = [*_words(series), *_body_part(series.header), *_derivation(series.header)]
    return [*_site(series, rules), *said, *physics_evidence(series.header), *_echo_against(series, said)]


def _fact(kind: str, says: str) -> Evidence:
    return Evidence(kind, {kind: FACT}, says)


def _facts(series: Series) -> Iterator[Evidence]:
    header = series.header
    if series.modality != "MR":
        yield _fact("other modality", f"modality is {series.modality or 'not given'}, not MR")
    keyword = getattr(header.get("SOPClassUID"), "keyword", "")
    if keyword.startswith("MRSpectroscopy"):
        yield _fact("spectroscopy", "holds spectra, not images")
    if keyword and keyword not in IMAGE_CLASSES and "Rows" in header:
        yield _fact("report", "is no MR Image Storage object but a secondary capture or the like")
    if "Rows" not in header:
        yield _fact("no image", "holds no pixel data")
        return
    if (number(header, "SamplesPerPixel") or 1) > 1:
        yield _fact("derived", "is a colour image")
    yield from _image_type_facts(header)
    if weighting := b_value(header):
        yield _fact("diffusion", f"diffusion weighting of {weighting:g} s/mm2")
    if str(header.get("AngioFlag", "N")) == "Y":
        yield _fact("angiography", "is flagged as angiography (0018,0025)")
    if slice_count(series) < FEWEST_SLICES:
        yield _fact("too few slices", f"has {slice_count(series)} of the {FEWEST_SLICES} slices a volume needs")


def _image_type_facts(header: Dataset) -> Iterator[Evidence]:
    held = [value.upper().strip() for value in values(header, "ImageType")]
    # An ADC map's holds DIFFUSION too.
    for value in sorted(held, key=lambda v: v.startswith("DIFFUSION")):
        kind = next((kind for kind, names in IMAGE_TYPES.items() if value in names), None)
        if kind or value.startswith("DIFFUSION"):
            yield _fact(kind or "diffusion", f"image type (0008,0008) holds {value}")
    component = [value.upper() for value in values(header, "ComplexImageComponent")]
    if component and component[0] in {"PHASE", "REAL", "IMAGINARY"}:
        yield _fact("phase image", f"complex image component (0008,9208) is {component[0]}")


def _site(series: Series, rules: Rules) -> Iterator[Evidence]:
    """What the site's own rules say; T1C counts as T1 here."""
    for rule in rules:
        if rule.matches(field_text(series, rule.field)):
            kind = "T1" if rule.kind == "T1C" else rule.kind
            yield Evidence("a rule of this site", {kind: rule.weight})


def field_text(series: Series, field: str) -> str:
    """Text of the header that a rule's `field` means."""
    if field == "description":
        return series.description
    keyword = {"protocol": "ProtocolName", "sequence_name": "SequenceName", "image_type": "ImageType"}
    return "\\".join(values(series.header, keyword.get(field, "BodyPartExamined")))


def words(series: Series) -> str:
    """The description made plain, or the protocol's name where the description names nothing."""
    own, protocol = plain(series.description), plain(str(series.header.get("ProtocolName") or ""))
    return own if _telling(own) or not _telling(protocol) else f"{own} {protocol}".strip()


def _telling(text: str) -> bool:
    return bool(forbidden_kind(text) or any(read_words(text)))


def _words(series: Series) -> Iterator[Evidence]:
    text = words(series)
    if kind := forbidden_kind(text):
        yield Evidence("description", {kind: FORBIDDEN_POINTS}, f"its description names {kind}")
        return
    contrast, instead = read_words(text)
    if contrast == "FLAIR":
        yield Evidence("description", {"FLAIR": FLAIR_POINTS})
    elif contrast:
        # "T2" is also what many write for T2 FLAIR.
        yield Evidence("description", {contrast: WORD_POINTS} | ({"FLAIR": 1.5} if contrast == "T2" else {}))
    elif instead:
        yield Evidence("description", {instead: WORD_POINTS}, f"its description names {instead}")


def _body_part(header: Dataset) -> Iterator[Evidence]:
    """Spine where the header's body part says so, or the study's description without a word for the head."""
    part = plain(str(header.get("BodyPartExamined") or ""))
    if re.search(r"spine|^[ctl]{1,2}s$|vertebra", part):
        yield Evidence("body part", {"spine": 12.0}, "body part examined is the spine")
    elif part and re.search(r"knee|abdomen|pelvis|breast|liver|heart|shoulder|prostate|hip$|ankle|wrist|neck$", part):
        yield Evidence("body part", {"other body part": 12.0}, "body part examined is not the head")
    study = plain(str(header.get("StudyDescription") or ""))
    if not HEAD.search(study) and forbidden_kind(study) in {"spine", "other body part"}:
        kind = forbidden_kind(study) or ""
        yield Evidence("study description", {kind: 5.0}, f"the study's description names {kind}, and not the head")


def _derivation(header: Dataset) -> Iterator[Evidence]:
    text = plain(str(header.get("DerivationDescription") or ""))
    kind = forbidden_kind(text) if text else None
    if kind:
        yield Evidence("derivation", {kind: FORBIDDEN_POINTS}, f"its derivation (0008,2111) names {kind}")


def _echo_against(series: Series, said: list[Evidence]) -> Iterator[Evidence]:
    """An echo time that a named contrast cannot have, where the other times make no contrast of it."""
    echo = read_timing(series.header).echo
    named = next((e.kind for e in said if e.source == "description"), "")
    if not echo or any(e.source.startswith("timing") for e in physics_evidence(series.header)):
        return
    if (named == "T1" and echo > 50) or (named in {"T2", "FLAIR"} and echo < 40):
        says = f"an echo time of {echo:g} ms does not suit {named}"
        yield Evidence(f"echo time ({echo:g} ms)", {named: -3.5}, says)


def decide(evidence: list[Evidence]) -> tuple[str, float, str]:
    """Say what a series is, with which probability, and why; "unknown" where nothing outweighs the doubt."""
    kind, probability = weigh(evidence)
    if kind != UNKNOWN and (probability >= DECIDED or kind not in {"T1", "T2", "FLAIR"}):
        return kind, probability, explain(evidence, kind)
    told = [e for e in evidence if e.points]
    if not told:
        return UNKNOWN, 0.0, "neither description nor timing tells a contrast"
    parts = [e.says or f"{e.source} says {e.kind}" for e in told]
    return UNKNOWN, probability if kind == UNKNOWN else 1 - probability, ", but ".join(parts)
