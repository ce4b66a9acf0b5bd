"""What the words of a series description say, in the languages and abbreviations that scanners' users write.

Tables of patterns, tried in order: kinds that are never taken come first, because their descriptions often name a
contrast too. Text given to these functions is in lower case, with underscores between words made spaces.
"""

from __future__ import annotations

import re

from operators.domain import Contrast

B, E = r"(?<![a-z0-9])", r"(?![a-z0-9])"
"""Where a word begins and ends; an underscore counts as space."""

FORBIDDEN_WORDS: tuple[tuple[str, str], ...] = (
    (
        "localizer",
        rf"locali[sz]|locator|lokali|{B}loc{E}|3[ -]?pl|survey|scout|scanogram|posdisp|smartbrain|topo|定位|{B}tilt",
    ),
    ("calibration", rf"calib|{B}cal{E}|b0 ?map|field.?map|shim|{B}coil|sensitivity|{B}afi{E}"),
    ("spectroscopy", rf"{B}csi{E}|spectro|{B}mrs{E}|{B}svs|{B}press{E}|{B}probe|波谱"),
    ("report", r"screen ?save|screenshot|phoenix|report|processed images|capture"),
    (
        "perfusion",
        rf"perf|pwi|{B}asl|{B}dsc{E}|{B}dce{E}|cbf|cbv|mtt{E}|ttp{E}|bolus|neg enhanc|time to|p?casl|pasl|twist|"
        rf"tricks|permeab|灌注",
    ),
    ("ADC map", r"adc|apparent.?diff|expon\w*.diff|average[_ ]?dc|表观"),
    ("diffusion tensor", rf"dti|mddw|tensor|{B}fa{E}|fractional|colfa|fafa|tractog|directions?|{B}\d+ ?dir{E}"),
    ("diffusion", rf"dwi|diff|trace|{B}dw{E}|{B}b ?=? ?\d{{3,4}}|{B}b0|resolve|isoreg|ep2d_d|弥散|扩散"),
    ("functional", rf"bold|fmri|epi pe=|resting|{B}epi[_ -]?fmri"),
    (
        "susceptibility",
        rf"swi|swan|susc|venobold|(pha|mag|mip)[_ ]?images|filt_pha|min ?ip|磁敏感|hemo|t2 ?\*|t2[_ ]?star|"
        rf"{B}ge?re?[_ ]?t2|{B}epi[_ ]gre|gre[_ ]epi",
    ),
    ("susceptibility", rf"^(?!.*t ?1)(?=.*({B}gre?{E}|ffe))"),
    ("angiography", rf"{B}tof|mra{E}|mrv{E}|angio|willis|pc3d|3dpc|inhance|venc|血管|carotid"),
    (
        "derived",
        rf"subtract|{B}s?sub{E}|mpr[_ ]?range|reform|recon{E}|multiplanar|reformat|{B}mip{E}|(?<!t1 )(?<!t1)mpr{E}|"
        rf"mobiview|{B}fused?|registered|colou?r",
    ),
    ("spine", rf"spine|{B}[ctl]sp|{B}c/t{E}|wirbel|columna|rachis"),
    ("STIR", r"stir"),
    ("double inversion", rf"{B}dir{E}"),
    ("steady state", rf"ciss|fiesta|ci3d|{B}drive|trufi|bffe"),
    ("proton density or dual echo", rf"{B}pd ?[+&/]? ?t2|dual"),
)
"""Kinds of series that are never taken, by their descriptions, the first match counting."""

FLAIR = rf"flair|dark[-_ ]?fl|{B}tirm|{B}tir{E}|irfse"
T1 = (
    rf"(?<![a-rt-z])t ?1|{B}ti 3d|mp ?-?rage|bravo|spgr|{B}tfl|{B}vibe|thrive|flash|3d tfe|mp2rage|{B}fl3d|rage{E}|"
    r"3d gad|gad 3d"
)
T2 = rf"(?<![a-rt-z])t ?2(?!\d)|haste|{B}space|propeller|blade|{B}cube"
PROTON = rf"{B}pd{E}|proton|{B}dp{E}"
AFTER = (
    rf"\+ ?c{E}|{B}c ?\+|gad(?!get)|{B}gd{E}|post|p0st|{B}ce{E}|t1 ?ce|contrast|enh|{B}km{E}|{B}fsc{E}|"
    rf"t1[ _]c{E}|cor[ _]c{E}|{B}inj|dotarem|multihance|magnevist|{B}kontrast|{B}con gd|增强|强化"
)
BEFORE = (
    rf"{B}pre{E}|pre ?contrast|pre[_ -]?ga?d|without|{B}no (?:iv )?contrast|{B}w/?o{E}|non[- _]?con|unenh|nativ|"
    rf"{B}ohne|{B}sans|{B}sin{E}|平扫"
)


def forbidden_kind(text: str) -> str | None:
    """Name the kind of series that is never taken, if the description names one."""
    return next((kind for kind, pattern in FORBIDDEN_WORDS if re.search(pattern, text)), None)


def read_words(text: str) -> tuple[Contrast | None, str]:
    """Say which contrast a description in lower case names, T1C counting as T1, and what it names instead."""
    t1, t2 = re.search(T1, text), re.search(T2, text)
    if re.search(FLAIR, text):
        return (Contrast.T1 if re.search(r"t ?1", text) else Contrast.FLAIR), ""
    if t1 and not (t2 and not re.search(r"t ?1", text)):
        return Contrast.T1, ""
    if t2:
        return Contrast.T2, ""
    return None, "proton density" if re.search(PROTON, text) else ""


def read_agent(text: str) -> bool | None:
    """Say whether a description in lower case names contrast agent: given, not given, or nothing said."""
    if re.search(BEFORE, text):
        return False
    return True if re.search(AFTER, text) else None
