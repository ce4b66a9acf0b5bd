"""What the words of a series description say, in the languages and abbreviations that scanners' users write.

A table of patterns for kinds that are never taken comes first, because such descriptions often name a contrast
too; then contrasts, then contrast agent. Patterns are tried on text made plain by `plain`. Languages: English,
German, French, Spanish, Italian, Portuguese, Dutch, Polish, Turkish, Russian, Chinese, Japanese, Korean.
"""

from __future__ import annotations

import re
import unicodedata

B, E = r"(?<![a-z0-9])", r"(?![a-z0-9])"
"""Where a Latin word begins and ends."""
AGENT = r"gad|gd|contrast|kontrast|inj|km|mdc|civ|iv|ga"
FORBIDDEN_WORDS: tuple[tuple[str, str], ...] = (
    (
        "localizer",
        rf"locali[sz]|locator|lokali[sz]|{B}loc{E}|{B}[23][ -]?(?:pl|pian|vlak|eben)|survey|scout|"
        rf"scano(?:gram)?{E}|pos ?disp|"
        rf"smart ?(?:brain|plan)|topogram|{B}topo{E}|{B}tilt|{B}pilot|{B}plan scan|vorlaeufer|vorläufer|übersicht|"
        rf"uebersicht|(?<![a-z])rep[eé]rage|centratur|centrag|localiza|planowanie|{B}kılavuz|{B}kilavuz|"
        r"локал|топограм|обзорн|定位|位置決|スカウト|로컬|위치",
    ),
    (
        "calibration",
        rf"calib|{B}cal{E}|{B}b[01](?:rf)? ?map|field ?-?map|{B}fmap|shim|coil ?(?:sens|cal|check|survey)|"
        rf"(?:sens|coil) ?ref|sensitivity|{B}afi{E}|{B}ref ?scan|{B}refscan|gre ?field|kalibr|калибр|校准|校正|"
        rf"{B}noise{E}",
    ),
    (
        "spectroscopy",
        rf"{B}csi{E}|spe[ck]tro|{B}mrs{E}|{B}mrsi{E}|{B}svs|{B}(?:semi-?|s-?)?laser{E}|{B}press{E}|{B}steam{E}|"
        rf"{B}probe|"
        rf"{B}sv[ -]?(?:press|se){E}|{B}nws{E}|спектр|波谱|波譜|スペクトロ|분광",
    ),
    (
        "report",
        rf"screen ?(?:save|shot|cap)|phoenix|report|processed images|capture|{B}key ?(?:image|object)|{B}summary{E}|"
        rf"{B}dose{E}|befund|snapshot|{B}results?{E}|secondary|scanned doc|截图|报告|報告",
    ),
    (
        "perfusion",
        rf"perf(?!ect)|{B}pwi{E}|{B}(?:[23]d ?)?(?:p?c)?asl{E}|{B}pasl|spin label|{B}dsc{E}|{B}dce{E}|cb[fv]{E}|"
        rf"{B}mtt{E}|{B}ttp{E}|{B}tmax{E}|{B}disco{E}|bolus|neg enhanc|time to|twist|tricks|{B}treat{E}|permeab|"
        rf"{B}k ?-?trans{E}|"
        rf"care ?bolus|{B}t1 ?dyn|dynami[ck]|{B}dyn{E}|{B}leakage|{B}gbp{E}|{B}pbp{E}|перфуз|灌注|灌流|관류|perfüz",
    ),
    (
        "ADC map",
        rf"adc|apparent.?diff|expon\w*.diff|average[_ ]?dc|diffusion coeff|coeffi?ci?ent\w* (?:de|di) diff?us|"
        rf"difusi[oó]n apar|{B}ivim|икд|表观|表觀|見かけ",
    ),
    (
        "diffusion tensor",
        rf"dti|mddw|tensor|{B}fa{E}|fractional|{B}col ?fa{E}|fafa|tra[ck]tog|(?<!slice )(?<!phase )directions?{E}|"
        rf"{B}\d+ ?dirs?{E}|{B}dir ?\d+|{B}d[ks]i{E}|{B}hardi|{B}noddi|{B}dmri|{B}md map|{B}fibre|{B}fiber|张量|"
        rf"テンソル",
    ),
    (
        "diffusion",
        rf"dwi|diff|{B}trace|tracew|{B}dw{E}|{B}b ?\d{{3,4}}|{B}b ?[=-] ?\d{{1,4}}|{B}b0|"
        rf"{B}\d{{3,4}}b{E}|resolve|iso ?reg|{B}d ?reg|ep2d d|{B}dif[uü][sz]|dyfuz|дифф|"
        rf"{B}дви|弥散|彌散|扩散|擴散|拡散|확산",
    ),
    (
        "functional",
        rf"{B}bold{E}|{B}[a-z]{{0,2}}fmri|epi ?pe ?=|resting|{B}rest ?fmri|{B}rs-?fmri|{B}rest{E}|finger ?tap|"
        rf"{B}motor{E}|"
        rf"language ?task|{B}task{E}|{B}sbref{E}|功能",
    ),
    (
        "susceptibility",
        rf"swi(?!ss|tch)|swan|su[sz][sz]?[ck]ep|susc|venobold|venogram|(?:pha|mag|mip|magn?itude|phase)[_ ]?images?|"
        rf"filt ?pha|min ?-?ip|{B}swip|{B}qsm|{B}eswan|{B}fsbb|hemo|h[äa]mo|h[eé]mo|emosid|{B}merge{E}|t2 ?\*|"
        rf"t2[- ]?star|t2 ?[eé]toile|t2 ?estrella|t2 ?stern|t2 ?gwiazd|{B}t2s{E}|{B}medic{E}|{B}m-?ffe|{B}r2\*|"
        rf"восприимч|磁敏感|磁化率|자화율|{B}ge?re?[_ ]?t2|"
        rf"{B}epi[_ ]gre|gre[_ ]epi|t2w? ?(?:gre?|ffe|fl2d|fl3d)|{B}pha{E}|{B}3di mc",
    ),
    ("susceptibility", rf"^(?!.*t ?1)(?!.*fsp)(?!.*field)(?=.*({B}f?gre?{E}|ffe|gradient|{B}eg{E}))"),
    (
        "angiography",
        rf"{B}(?:[23]d)?tof|{B}mra{E}|{B}[a-z]{{0,3}}mr[av]{E}|angio|ангио|willis|{B}cow{E}|{B}pca?{E}|"
        rf"(?:2d|3d) ?pca?{E}|"
        rf"pc ?(?:2d|3d)|phase[- ]contrast|contraste? de phase|inhance|venc|v[eé]nogra|venous|veineu|{B}csf ?flow|"
        rf"{B}flow(?! ?comp)|karotis|carotid|{B}trance{E}|{B}native ?(?:true|space)|血管|血流|血管|飞跃|飛躍|혈관",
    ),
    (
        "derived",
        rf"subtr|subtrak|sustrac|sottra|{B}s?subs?{E}|{B}diff?erence{E}|mpr ?(?:range|ob){E}|reform|recon{E}|"
        rf"multi ?planar|{B}s?mip{E}|mip[ _]?range|{B}(?:rmpr|cmpr|vrt?|vr){E}|(?<!t1 )(?<!t1)(?<!t1 3d )mpr{E}|"
        rf"mobiview|{B}fused?{E}|fusion|registered|colou?r|{B}(?:t1|t2|pd|r[12]|b1|rho)[- ]?(?:maps?|mapping){E}|"
        rf"relax|"
        rf"{B}synth|{B}synt?h?etic|{B}symri|{B}mrf{E}|finger ?print|t[12] ?rho|elastogr|{B}mre{E}|{B}cest{E}|"
        rf"aptw?{E}|{B}cine{E}|{B}qalas|{B}magic{E}|{B}strategi{E}|{B}mdme{E}|"
        rf"mp2rage.*(?:{B}inv ?\d|t1 ?images?|t1 ?map)|"
        rf"{B}inv ?[12]{E}|{B}t[12] ?images?$|segmentation|{B}mask{E}|overlay|{B}ratio{E}|created from|"
        rf"{B}3d ?(?:vr|rend)|rendering|"
        rf"image sub|post ?proc(?!essed capt)|{B}cpr{E}|{B}avg ?diff|{B}dis3d ?mpr|相减|减影|減影|重建|重組|再構成|"
        rf"サブトラ|감산",
    ),
    (
        "Dixon part",
        rf"{B}fat(?: ?only)?: |{B}fat only|{B}out ?-?(?:of)? ?-?phase{E}|{B}opp(?:osed)?(?:[ -]?phase)?{E}|"
        rf"{B}fat ?fraction|"
        rf"{B}outphase|{B}dixon\b.*{B}(?:f|fat|opp|out){E}|{B}ideal\b.*{B}fat{E}|"
        rf"{B}[xo]?mdixon\b.*{B}(?:f|fat|op|out){E}|"
        rf"{B}flex.*{B}fat{E}",
    ),
    (
        "spine",
        rf"spin(?:e|al){E}|{B}[ctl][- ]?spine|{B}[ctl][- ]sp{E}|{B}[tl]sp{E}|{B}c/t{E}|wirbel|{B}(?:h|b|l)ws{E}|"
        rf"columna|colonna|coluna|"
        rf"{B}rachi|vertebr|cervical|thora[ck]|lumb|lomb|sacr(?:al|um)|myelo ?g|kr[eę]gos|позвон|{B}omurga|脊|頸椎|"
        rf"颈椎|腰椎|"
        rf"胸椎|척추|경추",
    ),
    (
        "other body part",
        rf"{B}orbit|pituit|hypoph|hypofys|hipof|ipofis|{B}sella|{B}neck{E}|{B}(?:hals|cuello|collo|pesco[cç]o|cou){E}|"
        rf"{B}knee|{B}should|{B}abdom|{B}pelvi|{B}liver|{B}breast|{B}prostat|{B}heart|{B}card(?:iac|io)|{B}tmj{E}|"
        rf"{B}hip{E}|{B}ankle|{B}wrist|гипофиз|орбит|垂体|垂體|眼眶|下垂体|뇌하수체",
    ),
    ("STIR", r"stir"),
    (
        "double inversion",
        rf"{B}dir{E}|double ?inv|{B}psir{E}|{B}fgatir|{B}edge{E}|{B}wm ?(?:supp|null)|{B}gm ?(?:supp|null)",
    ),
    (
        "steady state",
        rf"ciss|fiesta|ci3d|{B}drive|true? ?-?fi(?:sp)?{E}|tru ?fi|b-? ?ffe|b-? ?tfe|{B}ssfp|{B}psif|{B}dess{E}|"
        rf"{B}cosmic{E}|{B}true ?ssfp|{B}sarge|{B}basg|balanced",
    ),
    (
        "proton density or dual echo",
        rf"{B}pd ?w?[ +&/]*t2|t2w?[ +&/]*pd{E}|dual|{B}dbl? ?echo|double ?echo|pd[+&/]|{B}de tse",
    ),
)
"""Kinds of series that are never taken, by their descriptions, the first match counting."""

T_BEFORE = r"(?:(?<![a-rt-z])|(?<=ax)|(?<=sag)|(?<=cor)|(?<=tra)|(?<=[23]d)|(?<=qs)|(?<=fs))"
T1_ITSELF = rf"{T_BEFORE}t ?-?1(?!\d)"
FLAIR = (
    r"flair|fluid[- ]?att|dark[-_ ]?fl|da[- ]fl|tirm|(?<![a-z0-9])tir(?![a-z])|irfse|spcir|spc ir|"
    r"флаир|флэир|黑水|水抑制|压水|壓水|抑水|自由水|フレア|플레어"
)
T1 = (
    rf"{T1_ITSELF}|{B}ti (?:3d|ax|sag|cor|tra|mp|se|fl)|mp ?-?rage|{B}rage{E}|bravo|f?spgr|{B}tfl|(?<!t2 )vibe|thrive|"
    rf"{B}flash|3d ?[tf]fe|{B}s?tfe{E}|{B}fl3d|{B}lava|{B}e-?thrive|{B}gre fsp|{B}fsp ?gre|quick ?3d|{B}3d gad|gad 3d|"
    rf"{B}star ?vibe"
)
T2 = (
    rf"{T_BEFORE}t ?-?2(?!\d)|{B}haste|{B}ssfse|ss ?tse{E}|{B}(?:spc|space){E}|propeller|blade|{B}cube|{B}frfse|"
    rf"fr-fse|"
    rf"brain ?view|{B}vista{E}|{B}jet{E}|multi ?vane"
)
PROTON = rf"{B}pdw?{E}|proton|{B}dpw?{E}|{B}pd ?fse|{B}rho{E}|质子|質子|プロトン"
AFTER = (
    rf"\+ ?c{E}|{B}c ?\+|{B}c/c{E}|gad(?!get)|{B}gd|gd{E}|post(?!er|[- ]?op)|p0st|{B}pos{E}|{B}ce{E}|t1w? ?-?ce{E}|"
    rf"{B}cm{E}|"
    rf"contrast|{B}contr{E}|kontr|enh|{B}km{E}|t1 ?km|{B}mkm{E}|\+ ?k{E}|{B}fsc{E}|t1w?[ _]c{E}|{B}cor[ _]c{E}|"
    rf"{B}c$|{B}inj|"
    rf"dotarem|magnevist|multihance|clariscan|primovist|vueway|elucirem|{B}mdc{E}|{B}m\.d\.c|{B}civ{E}|{B}iv{E}|"
    rf"{B}with{E}|"
    rf"{B}avec{E}|{B}con (?:gd|mc|c){E}|{B}dopo|{B}apr[eè]s|{B}despu[eé]s|{B}nach{E}|{B}na{E}|{B}wc{E}|"
    rf"{B}w/ ?(?:{AGENT}|con|c){E}|"
    r"контраст|с ку|после|[打注][药藥]|t1.*[后後]|ivkm|sonras[iı]|增强|增強|强化|強化|造影|对比|對比|显影|注射|조영"
)
BEFORE = (
    rf"{B}pre{E}|{B}pre ?-?(?:{AGENT})|with ?out|{B}no (?:iv )?(?:{AGENT})|{B}w/?o{E}|{B}wo{E}|"
    rf"non[- _]?(?:con|enh|gad|ce)|"
    rf"unenh|{B}nativ|{B}native|{B}ohne|{B}o\.? ?km{E}|{B}vor{E}|{B}sans|{B}avant|{B}sin{E}|{B}simple{E}|"
    rf"{B}s/ ?c(?:ontr\w*)?{E}|"
    rf"{B}s/ ?gd|"
    rf"{B}senza|{B}prima|{B}diretta|{B}basale?{E}|{B}sem{E}|{B}antes|{B}zonder|{B}voor{E}|{B}blanco|{B}bez{E}|"
    rf"{B}przed|"
    rf"kontrasts[iı]z|{B}ön{E}|{B}[öo]ncesi|{B}до{E}|[打注][药藥]前|{B}без{E}|нативн|до ку|平扫|平掃|单纯|単純|"
    rf"單純|増強前|增强前|注射前|"
    rf"造影前|조영 ?전|비조영"
)


def plain(text: str) -> str:
    """Make text comparable: lower case, full-width forms narrow, underscores as spaces, Cyrillic T as T."""
    low = unicodedata.normalize("NFKC", text).lower().replace("_", " ").replace("i̇", "i")
    low = re.sub(r"т ?(?=[12](?!\d))", "t", low)
    return re.sub(r"\s+", " ", low.replace("-w", "w")).strip()


def forbidden_kind(text: str) -> str | None:
    """Name the kind of series that is never taken, if the description names one."""
    return next((kind for kind, pattern in FORBIDDEN_WORDS if re.search(pattern, text)), None)


def read_words(text: str) -> tuple[str | None, str]:
    """Say which contrast a plain description names, T1C counting as T1, and what it names instead."""
    t1, t2 = re.search(T1, text), re.search(T2, text)
    t1_itself = re.search(T1_ITSELF, text)
    if re.search(FLAIR, text):
        return ("T1" if t1_itself and not re.search(rf"{T_BEFORE}t ?2", text) else "FLAIR"), ""
    if t1 and not (t2 and not t1_itself):
        return "T1", ""
    if t2:
        return "T2", ""
    return None, "proton density" if re.search(PROTON, text) else ""


def read_agent(text: str) -> bool | None:
    """Say whether a plain description names contrast agent: given, not given, or nothing said."""
    if re.search(BEFORE, text):
        return False
    return True if re.search(AFTER, text) else None
