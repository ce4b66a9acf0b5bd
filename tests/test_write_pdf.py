"""The report page: one page, in either language, whatever is in the header and however much there is to say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from monai.deploy.core import Fragment
from pypdf import PdfReader

import models
from app.config import load_settings
from app.errors import ConfigError
from app.process import open_training_data
from models.markers import influence
from models.novelty import load_reference
from models.refine import Refinement, Spread
from operators import alignment, classify, integrated, segment
from operators.domain import (
    REQUIRED,
    Alignment,
    Check,
    Contrast,
    Earlier,
    Findings,
    Marker,
    MarkerName,
    MarkerValue,
    Outcome,
    Predecessor,
)
from operators.measure import measure
from operators.network_view import view_of
from operators.patient import TWO_AGES
from operators.quality import assess
from operators.quality_limits import QualityLimits
from operators.report_content import day, person
from operators.report_fonts import clean, fit, width, wrap
from operators.report_page import FITTINGS, _above, _below, _fitted, _foot, _pictures
from operators.report_pen import PAGE_HEIGHT, PAGE_WIDTH
from operators.report_words import WORDS
from operators.results import Origin, headers_of
from operators.write_pdf import PdfOperator, build_page, write_pdf
from operators.write_pdf import content_of as content
from tests.support_results import MADE_AT, PATIENTS, iod_errors, job_of, source_of

CARDS = Path(models.__file__).parent / "cards"
WORTH = (
    "of patients of either kind about 10% have their true answer ruled out (AUC {}, {} to {} on patients never seen)"
)
OPEN = tuple(Marker(n, MarkerValue.NOT_ASSESSED, "no model for this marker is installed") for n in MarkerName)
ASSESSED = (
    Marker(
        MarkerName.IDH, MarkerValue.ALTERED, f"suggested by the images; {WORTH.format(0.93, 0.87, 0.98)}", 0.91,
        "idh figures", "82d434dd5306", (0.54, 0.87),
        moved_by=(("signal on FLAIR", 12.7), ("other signal on T1C", 5.36), ("size and outline", 0.284), ("age", 0.8)),
    ),
    Marker(
        MarkerName.CODEL_1P19Q, MarkerValue.INDETERMINATE,
        f"the images do not decide it; {WORTH.format(0.77, 0.62, 0.91)}; the patient's age is not known", 0.34,
        "1p19q figures", "7ccb1c143793", (0.05, 0.36), moved_by=(("location", 0.53), ("age", 1.05)),
    ),
    Marker(
        MarkerName.MGMT, MarkerValue.NOT_ASSESSED,
        "no model tells it better than chance on patients it never saw (AUC 0.62, 0.43 to 0.79)",
        model="mgmt figures", model_version="44a0c98bd4c7",
    ),
    Marker(MarkerName.PROLIFERATION, MarkerValue.UNALTERED, "", 0.21, "proliferation figures", "3a67e0886fe2"),
)  # fmt: skip
WARNED = (
    Check(
        "coverage", Outcome.WARN, "brain on the topmost slice is 52% of its widest section: the vertex is not covered"
    ),
    Check("spacing", Outcome.WARN, "FLAIR's slices lie 8.0 mm apart", 8.0, 7.5),
    Check("brain", Outcome.PASS, "1400 ml of brain are outlined", 1400.0, 900.0),
)
MUCH = {
    "markers": tuple(replace(m, reason=f"{m.name}: " + "reasons that go on and on " * 12) for m in ASSESSED),
    "checks": tuple(Check("x", Outcome.WARN, f"warning {i} " + "of something to look at " * 5) for i in range(9)),
}
SPREAD = Spread(level=0.9, volume=1.5, long_axis=0.8, short_axis=1.0, patients=77)
REPLACED = Predecessor(9003, "1.2", "1.2.3", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.4", "20260228113000.000000", None)
CASES = {
    "markers open": {"markers": OPEN},
    "markers assessed, warnings": {"markers": ASSESSED, "checks": WARNED},
    "no tumour": {"semi_axes_mm": None, "markers": OPEN, "checks": WARNED[2:]},
    "a speck of tumour": {"semi_axes_mm": (1.2, 1.2, 3.2), "centre_mm": (0.55, 0.45, 2.75), "markers": OPEN},
    "nothing but an outline": {},
    "two parts, with ranges, replacing a report": {"twice": True, "spread": SPREAD, "replaces": REPLACED},
    "much to say": MUCH,
}


def made(folder, **parts):
    """A job as it reaches the stage."""
    checks, engine, header = parts.pop("checks", ()), parts.pop("engine", ""), parts.pop("header", {})
    twice, spread, replaces = parts.pop("twice", False), parts.pop("spread", None), parts.pop("replaces", None)
    job = job_of(folder, **parts)
    if twice:
        apart = job.tumour.probability.copy()
        apart[0, 3:6, 3:6] = 0.9
        job.tumour = replace(job.tumour, probability=apart)
    if twice or spread:
        job.findings = measure(job.stack, job.tumour, spread, 0.85)
    job.checks, job.engine, job.replaces = checks, engine, replaces
    for source in job.volumes.values():
        for one in source.headers:
            for keyword, value in header.items():
                if value is None:
                    one.pop(keyword, None)
                else:
                    setattr(one, keyword, value)
    return job


def written(folder, language="en", data=None, **parts):
    job = made(folder, **parts)
    write_pdf(job, "1.0", MADE_AT, language, data)
    return job


def page_of(job):
    """The bytes of the PDF in the DICOM object."""
    found = pydicom.dcmread(job.results["PDF"])
    return found.EncapsulatedDocument[: found.EncapsulatedDocumentLength]


def text_of(job):
    """What the page says, in one line; lines were broken anywhere between Chinese characters."""
    (page,) = PdfReader(BytesIO(page_of(job))).pages
    return " ".join(page.extract_text().split())


def squeezed(text):
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("case", CASES)
def test_every_case_is_one_valid_object_of_one_page(tmp_path, case, language):
    job = written(tmp_path, language, **CASES[case])
    assert [p.name for p in tmp_path.iterdir()] == ["report.pdf.dcm"]
    assert not iod_errors(job.results["PDF"])
    reader = PdfReader(BytesIO(page_of(job)))
    assert len(reader.pages) == 1
    assert [float(side) for side in reader.pages[0].mediabox[2:]] == pytest.approx([595.28, 841.89], abs=0.1)
    assert squeezed(WORDS[language].limits) in squeezed(text_of(job))


def test_the_object_says_what_it_is(tmp_path):
    job = written(tmp_path, markers=OPEN)
    found = pydicom.dcmread(job.results["PDF"])
    header = job.volumes[Contrast.FLAIR].headers[0]
    assert found.SOPClassUID == pydicom.uid.EncapsulatedPDFStorage
    assert (found.Modality, found.SeriesNumber, found.BurnedInAnnotation) == ("DOC", 9004, "YES")
    assert found.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert found.ConceptNameCodeSequence[0].CodeValue == "126001"
    assert found.DocumentTitle == "Glioma AI report (research)"
    assert (found.PatientName, found.PatientID, found.StudyInstanceUID) == (
        "Müller^Jörg",
        "P-1",
        header.StudyInstanceUID,
    )
    assert [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in found.ContributingEquipmentSequence] == ["109102"]
    named = {item.ReferencedSOPInstanceUID for item in found.SourceInstanceSequence}
    assert named == {h.SOPInstanceUID for h in headers_of(job.volumes)}
    assert len(found.EncapsulatedDocument) % 2 == 0
    assert page_of(job).startswith(b"%PDF-")
    assert page_of(job).rstrip().endswith(b"%%EOF")


@pytest.mark.parametrize("language", WORDS)
def test_every_font_is_embedded_and_only_in_part(tmp_path, language):
    reader = PdfReader(BytesIO(page_of(written(tmp_path, language, markers=ASSESSED, checks=WARNED))))
    fonts = reader.pages[0]["/Resources"]["/Font"]
    assert fonts
    for font in (reference.get_object() for reference in fonts.values()):
        assert re.match(r"/[A-Z]{6}\+Noto", font["/BaseFont"])
        assert len(font["/FontDescriptor"]["/FontFile2"].get_data()) < 60_000
        assert "/ToUnicode" in font


@pytest.mark.parametrize("language", WORDS)
def test_the_same_job_makes_the_same_bytes(tmp_path, language):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        written(folder, language, markers=ASSESSED, checks=WARNED)
    first, second = ((folder / "report.pdf.dcm").read_bytes() for folder in folders)
    assert first == second


def test_another_language_is_another_object_in_another_series(tmp_path):
    found = [pydicom.dcmread(written(tmp_path, language, markers=OPEN).results["PDF"]) for language in WORDS]
    assert len({ds.SOPInstanceUID for ds in found}) == len({ds.SeriesInstanceUID for ds in found}) == 2
    reader = PdfReader(BytesIO(found[0].EncapsulatedDocument))
    assert reader.metadata.creation_date_raw == "D:20260301093015"
    assert reader.metadata.author == "Glioma Node"


NAMES = {"ISO_IR 100": "Müller, Jörg", "ISO_IR 192": "Иванов, Пётр", "GB18030": "王小东", None: "Doe, Jane"}


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("charset", PATIENTS)
def test_names_of_every_character_set_are_on_the_page(tmp_path, charset, language):
    t1c, flair = (source_of(c, charset=charset) for c in REQUIRED)
    job = written(tmp_path, language, t1c=t1c, flair=flair, markers=OPEN)
    assert str(pydicom.dcmread(job.results["PDF"]).PatientName) == PATIENTS[charset]
    text = text_of(job)
    for told in (NAMES[charset], "P-1", "1960-01-01", "2024-01-02", "A1"):
        assert told in text
    assert not iod_errors(job.results["PDF"])


HOSTILE = {
    "no glyphs": ("홍^길동", "□, □□"),
    "emoji and a lone surrogate": ("A\U0001f600^\ud800B", "A□, □B"),
    "turned round": ("Do\u202ee^J\u200bane", "Doe, Jane"),
    "mark-up": ("<b>X</b>^&amp;(x)\\) Tj", "<b>X</b>, &amp;(x)\\) Tj"),
    "controls": ("Doe\n\x0c\x00^J\tane", "Doe, J ane"),
    "decomposed": ("Mu\u0308ller^J", "Müller, J"),
    "two scripts": ("Wang^XiaoDong=王^小东", "Wang, XiaoDong (王小东)"),
    "rare in names": ("赵^喆玥", "赵喆玥"),
    "endless": ("W" * 64 + "^" + "M" * 64, "WWWW"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_name_breaks_the_page(tmp_path, case):
    name, shown = HOSTILE[case]
    job = made(tmp_path, markers=OPEN, t1c=source_of(Contrast.T1C, charset="ISO_IR 192"))
    header = headers_of(job.volumes)[0]
    header.SpecificCharacterSet, header.PatientName = "ISO_IR 192", name
    page = build_page(job, "en", {}, Origin("1.0", MADE_AT, ()))
    reader = PdfReader(BytesIO(page))
    assert len(reader.pages) == 1
    text = squeezed(reader.pages[0].extract_text())
    assert squeezed(f"Patient {shown}") in text
    assert "PatientID" in text


def test_text_is_shrunk_then_cut_but_never_wider_than_its_place():
    for text in ("W" * 200, "王" * 90, "short", ""):
        for room in (30.0, 120.0):
            line, size = fit(text, 12.0, room, 6.5, bold=True)
            assert width(line, size, bold=True) <= room + 1e-6
            assert 6.5 <= size <= 12.0
    assert fit("short", 12.0, 120.0, 6.5) == ("short", 12.0)
    assert fit("W" * 200, 12.0, 120.0, 6.5)[0].endswith("W…")


def test_lines_keep_every_word_and_their_width():
    for text in (
        "one two three " * 30,
        "没有任何体素更可能属于肿瘤（此为自动分析结果），不能排除肿瘤。" * 5,
        "x" * 400,
    ):
        lines = wrap(text, 8.0, 100.0)
        assert all(width(line, 8.0) <= 100.0 + 1e-6 for line in lines)
        assert squeezed("".join(lines)) == squeezed(text)
        assert not any(line[0] in "，。）" for line in lines)
        cut = wrap(text, 8.0, 100.0, most_lines=3)
        assert len(cut) == 3
        assert cut[-1].endswith("…")
        assert width(cut[-1], 8.0) <= 100.0


def test_a_header_without_identity_says_what_is_not_stated(tmp_path):
    empty = {"PatientName": "", "PatientBirthDate": "", "AccessionNumber": None, "PatientID": None}
    job = written(tmp_path, markers=OPEN, header=empty)
    assert text_of(job).count("not stated") == 4 + 1  # and the outline's training data
    assert not [e for e in iod_errors(job.results["PDF"]) if "PatientID" not in e and "AccessionNumber" not in e]


@pytest.mark.parametrize(
    ("written_as", "shown"),
    [("20240102", "2024-01-02"), ("2024.01.02", "2024-01-02"), ("1960", "1960"), ("", ""), ("soon", "soon")],
)
def test_days_are_read_and_what_is_none_stays(written_as, shown):
    assert day(written_as) == shown


@pytest.mark.parametrize("name", ["", "^", "=", "^^Dr", "A^B^C^Dr^Jr"])
def test_names_may_lack_any_part(name):
    assert "^" not in person(name)
    assert person("A^B^C^Dr^Jr") == "A, B C Dr Jr"


def test_the_numbers_are_the_findings(tmp_path):
    job = written(tmp_path, markers=OPEN)
    text = text_of(job)
    assert f"{job.findings.tumour_mm3 / 1000:.1f} ml" in text
    for axis in (job.findings.long_axis, job.findings.short_axis):
        assert f"{axis.millimetres:.1f} mm" in text


@pytest.mark.parametrize("language", WORDS)
def test_ranges_parts_and_what_is_replaced_are_told(tmp_path, language):
    job = written(tmp_path, language, **CASES["two parts, with ranges, replacing a report"])
    text = text_of(job)
    volume, axis = job.findings.tumour_interval_mm3, job.findings.long_axis.interval_mm
    assert volume.low < job.findings.tumour_mm3 < volume.high
    assert f"{volume.low / 1000:.1f}–{volume.high / 1000:.1f}" in text
    assert f"{axis.low:.1f}–{axis.high:.1f}" in text
    assert "2026-02-28 11:30" in text
    words = WORDS[language]
    assert squeezed(words.parts.format(count=2)) in squeezed(text)
    assert squeezed(words.range.format(percent="90%")) in squeezed(text)


def test_a_tumour_without_diameters_says_so(tmp_path):
    job = made(tmp_path, markers=OPEN)
    job.findings = Findings(job.findings.tumour_mm3, job.findings.slice_index)
    write_pdf(job, "1.0", MADE_AT)
    assert text_of(job).count("not measured") == 2


def test_no_tumour_is_said_and_nothing_measured(tmp_path):
    text = text_of(written(tmp_path, semi_axes_mm=None, markers=OPEN))
    assert "No tumour detected" in text
    assert "does not exclude a tumour" in text
    assert "mm" not in text
    assert "outline of the whole tumour" not in text


def test_what_is_said_of_markers_and_why_not(tmp_path):
    text = text_of(written(tmp_path, markers=ASSESSED))
    assert "IDH mutation Likely mutant" in text.replace("0% 50% 100% ", "")
    for told in (
        "Likely mutant",
        "91%",
        "Indeterminate",
        "34%",
        "Not assessed",
        "Likely low",
        "21%",
        "RNA surrogate of Ki-67",
    ):
        assert told in text
    for marker in ASSESSED:
        assert squeezed(marker.reason[1:]) in squeezed(text)
    moved = "What moves the odds of it most: signal on FLAIR ×13, other signal on T1C ×5.4, size and outline ×0.28."
    assert squeezed(moved) in squeezed(text)
    assert squeezed("is not known. What moves the odds of it most: location ×0.53.") in squeezed(text)
    assert "The images suggest an IDH-mutant diffuse glioma, astrocytoma or oligodendroglioma" in text
    assert "Tissue must confirm: histology and grade" in text
    assert "Hint of grade: proliferation is likely low, which is commoner in lower grades (79%)." in text
    assert "no answer is given in this range" in text


def test_open_markers_suggest_nothing_and_no_markers_are_told(tmp_path):
    text = text_of(written(tmp_path, markers=OPEN))
    assert text.count("Not assessed") == len(MarkerName)
    assert "suggest" not in text
    assert "Read together" not in text
    assert "no marker was predicted" in text_of(written(tmp_path))


def test_warnings_are_counted_and_told_and_passes_are_not(tmp_path):
    text = text_of(written(tmp_path, markers=OPEN, checks=WARNED))
    assert "Quality warnings (2)" in text
    assert "FLAIR's slices lie 8.0 mm apart" in text
    assert "1400 ml" not in text
    assert "Quality checks: 1 made, no warning" in text_of(written(tmp_path, markers=OPEN, checks=WARNED[2:]))
    assert "No quality check is recorded" in text_of(written(tmp_path, markers=OPEN))


def test_much_to_say_makes_letters_smaller_and_loses_nothing(tmp_path):
    text = squeezed(text_of(written(tmp_path, **MUCH)))
    for told in (*(m.reason for m in MUCH["markers"]), *(c.reason for c in MUCH["checks"])):
        assert squeezed(told[1:]) in text
    assert "Shortened" not in text


def test_more_than_a_page_is_cut_short_and_the_page_says_so(tmp_path):
    checks = tuple(Check("x", Outcome.WARN, "very long " * 200) for _ in range(40))
    markers = tuple(replace(m, reason=m.reason + " and so on" * 300) for m in ASSESSED)
    job = written(tmp_path, markers=markers, checks=checks)
    text = text_of(job)
    assert "Quality warnings (40)" in text
    assert re.search(r"\d+ more: see the structured report", text)
    assert "Shortened to fit one page" in text
    assert "tissue diagnosis confirms." in text


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_overlaps_and_nothing_leaves_the_page(tmp_path, case, language):
    job = made(tmp_path, **CASES[case])
    said = content(job, headers_of(job.volumes)[0], WORDS[language], language, Origin("1", MADE_AT, ()), {})
    fitting, above, below, side = _fitted(said)
    piled = [*above, _pictures(said, (), side, fitting), *below, _foot(said, fitting)]
    assert sum(block.height + block.gap for block in piled) <= PAGE_HEIGHT - 34 - 28 + 1e-6
    assert side >= fitting.least
    outside = []

    def look(text, _, matrix, *__):
        if text.strip() and not (40 <= matrix[4] <= PAGE_WIDTH - 40 and 20 <= matrix[5] <= PAGE_HEIGHT - 20):
            outside.append(text)

    write_pdf(job, "1.0", MADE_AT, language)
    PdfReader(BytesIO(page_of(job))).pages[0].extract_text(visitor_text=look)
    assert not outside


def test_the_last_attempt_holds_whatever_comes(tmp_path):
    checks = tuple(Check("x", Outcome.WARN, "very long " * 200) for _ in range(40))
    markers = tuple(replace(m, reason="and so on " * 300, model="m" * 200) for m in ASSESSED)
    job = made(tmp_path, markers=markers, checks=checks, engine="an engine " * 50)
    data = {marker.model_version: {"en": "patients " * 100} for marker in markers}
    said = content(job, headers_of(job.volumes)[0], WORDS["en"], "en", Origin("1", MADE_AT, ()), data)
    last = FITTINGS[-1]
    blocks = [*_above(said, last), *_below(said, last), _pictures(said, (), last.least, last), _foot(said, last)]
    assert sum(block.height + block.gap for block in blocks) <= PAGE_HEIGHT - 34 - 28


def test_models_are_named_with_what_they_learnt_from(tmp_path):
    data = {"1.2.0": {"en": "61 patients of somewhere"}, "7ccb1c143793": {"zh": "只有中文"}}
    text = text_of(written(tmp_path, data=data, markers=ASSESSED, engine="OpenVINO 1 on CPU, f32"))
    assert "nasbranet 1.2.0 (outline) 61 patients of somewhere" in text
    assert "idh figures 82d434dd5306 (IDH mutation) training data not stated" in text
    assert "mgmt figures 44a0c98bd4c7 (MGMT promoter methylation)" in text, "it keeps silent, and is named"
    assert "the outline's network ran on OpenVINO 1 on CPU, f32" in text
    assert "Series used: FLAIR 4, T1C 2" in text
    assert "Glioma Node 1.0, made 2026-03-01 09:30" in text
    assert "61 patients of somewhere" in text_of(written(tmp_path, "zh", data=data, markers=OPEN)), (
        "better than nothing"
    )


def test_what_shipped_models_learnt_from_is_as_their_cards_say():
    said = open_training_data(load_settings())
    shipped = {
        version: name
        for card in ("nasbranet.md", "markers.md")
        for name, version in re.findall(
            r"weights/(\S+?)(?:/model.onnx)?`,? .*?`([0-9a-f]{12})`", (CARDS / card).read_text()
        )
    }
    assert set(said) == set(shipped)
    for version, name in shipped.items():
        card = (CARDS / ("markers.md" if "markers" in name else "nasbranet.md")).read_text()
        for language in WORDS:
            numbers = re.findall(r"(\d+) (?:patients|例)|\((\d+)|(\d+) 例）", said[version][language])
            first, *more = ["".join(found) for found in numbers]
            assert (f"{first} ({more[0]} altered)" if "markers" in name else f"{first} train") in card


def test_a_damaged_file_of_training_data_is_refused(tmp_path):
    (tmp_path / "training_data.json").write_text("[1]")
    with pytest.raises(ConfigError, match="does not say what models learnt from"):
        open_training_data(load_settings(inputs_dir=tmp_path))
    assert open_training_data(load_settings(inputs_dir=tmp_path / "none")) == {}


def test_a_language_that_is_not_known_is_refused(tmp_path):
    config = tmp_path / "node.yaml"
    config.write_text(json.dumps({"node": {"report": {"language": "tlh"}}}))
    with pytest.raises(ConfigError, match=r"node\.report\.language.*'en' or 'zh'"):
        load_settings(config)
    assert load_settings().report.language == "en"


def test_the_chinese_page_is_chinese(tmp_path):
    text = text_of(written(tmp_path, "zh", markers=ASSESSED, checks=WARNED))
    for told in (
        "胶质瘤 AI 分析报告",
        "仅供科研使用",
        "全肿瘤体积",
        "突变型",
        "不确定",
        "未评估",
        "质量警告（2 项）",
        "最大垂直径",
    ):
        assert squeezed(told) in squeezed(text)
    for told in (
        "最上层脑面积为最大层面的 52%：颅顶未被覆盖",
        "影像提示：IDH 突变型弥漫性胶质瘤",
        "须经组织学证实",
        "患者年龄未知",
        "对概率比值影响最大者：FLAIR 信号 ×13、T1C 其他信号 ×5.4、大小与轮廓 ×0.28。",
    ):
        assert squeezed(told) in squeezed(text)
    left = set(re.findall(r"[A-Za-z]{4,}", text)) - {"Jörg", "ller", "MGMT", "FLAIR", "FISH", "TERT", "EGFR", "CDKN"}
    assert left <= {"nasbranet", "figures", "mgmt", "proliferation", "Glioma", "Node"}
    assert "未检出肿瘤" in text_of(written(tmp_path, "zh", markers=OPEN, semi_axes_mm=None))


def english(sentence):
    """Words of English that a Chinese sentence still has."""
    return set(re.findall(r"\b[a-z]{3,}\b", sentence)) - {
        "quantile",
        "symmetry",
        "edges",
        "detail",
        "rim",
        "ribbon",
        "front",
    }


def test_every_quality_warning_is_known_in_chinese(tmp_path):
    """What the checks say where every one of them warns; a sentence that was changed there must be changed here."""
    flair = source_of(Contrast.FLAIR, spacing=(5.5, 0.9, 0.9), shape=(10, 120, 120))
    flair.volume.array[:, :50] = np.random.default_rng(2).uniform(1, 3, (10, 50, 120))  # air beside the head
    job = job_of(tmp_path, flair=flair)
    far = Alignment(40.0, 30.0, 0.0, 0.0, 0.5)
    lost = replace(far, fault="a movement by 99 mm and 80 degrees is not plausible")
    stack = replace(job.stack, alignments={Contrast.FLAIR: far, Contrast.T2: lost})
    limits = QualityLimits(
        -1.0, 1e9, -1.0, 2.0, -1.0, -1.0, 1e9, -1.0, 1e9, 1e9, -1.0, -1.0, -1.0, 0.0, 0.0, (1e9, 2e9), (-1.0, 3e9), 2.0
    )
    reference = replace(load_reference(CARDS.parent / "inputs" / "nasbranet.json"), warn=-1.0, stop=1e9)
    say = WORDS["zh"].phrases
    said = set()
    for known in (reference, None):
        for check in assess(stack, job.volumes, view_of(stack), known, limits):
            if check.outcome is Outcome.WARN:
                said.add(check.name)
                assert not english(say(check.reason)), check.reason
    assert said == {"coverage", "spacing", "signal", "motion", "registration", "brain", "input"}


def test_every_other_reason_is_known_in_chinese():
    say = WORDS["zh"].phrases
    refinement = type("Sure", (), {"doubtful": 0.7})()
    reasons = [segment._confidence(0.5, refinement).reason, segment._nothing_found(0.25, Refinement()).reason]
    reasons.append(segment._nothing_found(0.75, Refinement()).reason)
    likely = alignment._Likeness
    for shift, at, peak, gap in (
        (0.0, likely(1.0, 0.1), 1.0, 0.0), (900.0, likely(1.0, 1.0), 1.0, 0.0), (0.0, likely(9.0, 1.0), 1.0, 99.0),
        (0.0, likely(0.5, 1.0), 1.0, 0.0), (0.0, likely(9.0, 1.0), -1.0, 0.0), (0.0, likely(9.0, 1.0), 0.05, 2.9),
    ):  # fmt: skip
        reasons.append(alignment._fault(shift, 0.0, at, peak, gap))
    doubted = [Check(name, Outcome.WARN, "") for name in classify.DECISIVE_CHECKS]
    reasons += [classify.doubt_of(some, age) for some in (doubted, doubted[:1], doubted[1:]) for age in (None, 3.0)]
    reasons += [m.reason for m in (*OPEN, *ASSESSED) if m.reason] + [
        "no tumour was found",
        "no tumour lies within the brain",
        TWO_AGES,
        *influence.GROUPS,
    ]
    for idh in MarkerValue:
        for codel in MarkerValue:
            pair = [
                Marker(name, value, "why", None if value is MarkerValue.NOT_ASSESSED else 0.5)
                for name, value in ((MarkerName.IDH, idh), (MarkerName.CODEL_1P19Q, codel))
            ]
            found = integrated.read_together(pair)
            reasons += [found.text, *found.to_confirm]
    reasons += integrated.GRADE_HINTS.values()
    assert all(reasons)
    assert not {reason for reason in reasons if english(say(reason))}


def test_a_sentence_nobody_translated_stays_english():
    say = WORDS["zh"].phrases
    assert say("a sentence of tomorrow: {with} (signs)") == "a sentence of tomorrow: {with} (signs)"
    assert WORDS["en"].phrases("no tumour was found") == "no tumour was found"


def test_the_fonts_have_every_fixed_word_and_the_characters_of_names():
    for words in WORDS.values():
        for text in re.findall(r"'((?:[^'\\]|\\.)*)'", repr(words)):
            assert "□" not in clean(text)
    every = "".join(bytes((a, b)).decode("gb2312", "ignore") for a in range(0xB0, 0xF8) for b in range(0xA1, 0xFF))
    assert len(every) == 6763
    assert "□" not in clean(every + "陳東葉ŁőřığЇґΩ")


def test_no_identity_reaches_a_log_an_error_or_a_repr(tmp_path, caplog, recwarn):
    job = written(tmp_path, markers=OPEN, header={"PatientName": "SECRETNAME", "PatientID": "SECRETID"})
    assert "SECRETNAME" in text_of(job)
    said = content(job, headers_of(job.volumes)[0], WORDS["en"], "en", Origin("1", MADE_AT, ()), {})
    assert "SECRET" not in repr(said)
    assert "SECRET" not in caplog.text + " ".join(str(w.message) for w in recwarn)
    assert "SECRET" not in str(PdfReader(BytesIO(page_of(job))).metadata)


def test_the_operator_writes_what_the_function_does(tmp_path):
    job = made(tmp_path, markers=ASSESSED)
    stage = PdfOperator(Fragment(), name="write PDF", version="1.0", clock=lambda: MADE_AT, language="zh")
    stage.process(job)
    again = tmp_path / "again"
    again.mkdir()
    assert (tmp_path / "report.pdf.dcm").read_bytes() == written(again, "zh", markers=ASSESSED).results[
        "PDF"
    ].read_bytes()


def test_a_blank_image_is_still_a_page(tmp_path):
    job = made(tmp_path, markers=OPEN, semi_axes_mm=None)
    blank = np.zeros(job.stack.brain.shape, np.float32)
    job.stack = replace(job.stack, images=dict.fromkeys(job.stack.images, blank), brain=blank > 0)
    write_pdf(job, "1.0", MADE_AT)
    assert "No tumour detected" in text_of(job)


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("then", [0.0, 4.2])
def test_an_earlier_examination_is_compared(tmp_path, language, then):
    job = made(tmp_path, header={"StudyDate": "20240201"})
    job.earlier = Earlier(date(2024, 1, 2), "1.2", then, None, None, None, "nasbranet", "0.9", "1.2.3")
    write_pdf(job, "1.0", MADE_AT, language)
    now = job.findings.tumour_mm3 / 1000.0
    text = squeezed(text_of(job))
    assert squeezed(f"{now:.1f} ml") in text
    assert "2024-01-02" in text
    assert "30" in text
    assert (squeezed(f"{100 * (now / then - 1):+.0f} %") in text) if then else ("%" not in text)
    assert ("method" in text) == (language == "en"), "in Chinese all of it is Chinese"
    assert ("方法差异" in text) == (language == "zh")
