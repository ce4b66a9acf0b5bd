"""Which series is taken for what, with which reason; tables of single series, then whole studies."""

import re
from types import SimpleNamespace

import pytest
from support_phantom import AXIAL, CORONAL, FLAIR, SAGITTAL, T1, T2, header_series, header_study, small_phantom

from app.phantom_headers import Vendor
from operators.domain import Contrast
from operators.errors import MissingSequence
from operators.load_study import load_study
from operators.pixels import HERE
from operators.select_series import SelectSeriesOperator, assess, classify, recognised, select_series
from operators.series_words import forbidden_kind, read_agent, read_words
from operators.stage import Job

TAKEN = [
    ("t1_se_tra", T1, "T1", "description and timing"),
    ("AX T1 POST GAD", T1, "T1C", "after contrast agent"),
    ("t2_tirm_tra_dark-fluid", FLAIR, "FLAIR", "description and timing"),
    ("t1_tirm_tra_dark-fluid", {"RepetitionTime": 2000, "EchoTime": 12, "InversionTime": 860}, "T1", "timing"),
    ("T2W_TSE", T2, "T2", "description and timing"),
    ("T1 3D MPRAGE", {"RepetitionTime": 2100, "EchoTime": 3, "InversionTime": 900}, "T1", "timing"),
    ("Sag CUBE T2 FLAIR", {"RepetitionTime": 6000, "EchoTime": 120, "InversionTime": 1850}, "FLAIR", "timing"),
    ("", FLAIR, "FLAIR", "says FLAIR; the description tells nothing"),
    ("", T2, "T2", "the description tells nothing"),
    ("brain 5 mm", T1 | {"ContrastBolusAgent": "Gadovist"}, "T1C", "contrast agent is recorded"),
    ("t1_se_tra ohne KM", T1 | {"ContrastBolusAgent": "Gadovist"}, "T1", "before contrast agent"),
    ("T1 axial", T1 | {"ContrastBolusAgent": "None"}, "T1", "no contrast agent is recorded"),
    ("t2_tse", FLAIR, "FLAIR", "description says T2"),
    ("FLAIR", {}, "FLAIR", "description says FLAIR"),
    ("T1 AX", T1 | {"ImageType": ["DERIVED", "PRIMARY", "M", "NORM"]}, "T1", "T1"),
]
FORBIDDEN = [
    ("T2 AX", T2 | {"Modality": "CT"}, "other modality", "modality is CT, not MR"),
    ("t1 localizer", T1, "localizer", "names localizer"),
    ("T1 AX", T1 | {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer", "image type"),
    ("ep2d_diff_3scan_trace_ADC", T2, "ADC map", "names ADC map"),
    ("DWI b1000", T2, "diffusion", "names diffusion"),
    ("T2 AX", T2 | {"DiffusionBValue": 1000.0}, "diffusion", "1000 s/mm2"),
    ("ep2d_perf_dsc", T2, "perfusion", "names perfusion"),
    ("Ax SWAN", T2, "susceptibility", "names susceptibility"),
    ("AX", {"ScanningSequence": "GR", "EchoTime": 20, "RepetitionTime": 600}, "susceptibility", "TE 20 ms"),
    ("AX", {"ScanningSequence": "EP", "EchoTime": 90, "RepetitionTime": 6000}, "echo-planar", "echo-planar"),
    ("TOF 3D multi-slab", {"RepetitionTime": 22, "EchoTime": 7}, "angiography", "names angiography"),
    ("T1 3D", T1 | {"AngioFlag": "Y"}, "angiography", "0018,0025"),
    ("T1 post - pre subtraction", T1, "derived", "names derived"),
    ("T2 sag C-Spine", T2, "spine", "names spine"),
    ("T2 sag", T2 | {"BodyPartExamined": "CSPINE"}, "spine", "body part"),
    ("STIR cor", T2, "STIR", "names STIR"),
    ("PD ax", {"RepetitionTime": 2500, "EchoTime": 15}, "proton density", "proton density"),
    ("T1 AX", T2, "unknown", "but timing"),
    ("T1 AX", {"EchoTime": 90, "RepetitionTime": 900}, "unknown", "does not"),
    ("my sequence", {}, "unknown", "neither description nor timing"),
]


@pytest.mark.parametrize(("description", "attributes", "kind", "reason"), TAKEN + FORBIDDEN)
def test_a_single_series_is_taken_for_what_it_is(description, attributes, kind, reason):
    verdict = assess(header_study(header_series(1, description, **attributes))).verdicts[0]
    assert verdict.kind == kind
    assert reason in verdict.reason


def test_two_slices_are_too_few():
    assert classify(header_series(1, "T1", slices=2, **T1)).kind == "too few slices"


def test_a_report_is_no_image():
    series = header_series(1, "T1")
    del series.header.Rows
    assert classify(series).kind == "no image"


def plain_study(*more, without=()):
    series = [
        header_series(2, "t1_se_tra", **T1),
        header_series(3, "t2_tse_tra", **T2),
        header_series(4, "t2_tirm_tra_dark-fluid", **FLAIR),
        header_series(9, "t1_se_tra_KM", **T1),
    ]
    return header_study(*(s for s in series if s.number not in without), *more)


def chosen(study):
    return {contrast: verdict.series.number for contrast, verdict in assess(study).chosen.items()}


PLAIN = {"T1": 2, "T2": 3, "FLAIR": 4, "T1C": 9}
THIN = {"slices": 176, "SpacingBetweenSlices": 1.0}
COMPETITORS = [
    (header_series(10, "t1_mprage_sag_KM", ImageOrientationPatient=SAGITTAL, **T1, **THIN), PLAIN, "axial"),
    (header_series(10, "t1_se_cor_KM", ImageOrientationPatient=CORONAL, **T1), PLAIN, "axial"),
    (header_series(10, "t1_se_tra_KM", slices=6, **T1), PLAIN, "covers more"),
    (header_series(10, "t1_se_tra_KM", ImageType=["DERIVED", "PRIMARY", "M"], **T1), PLAIN, "original"),
    (header_series(8, "t1_se_tra_KM", slices=20, **T1), PLAIN, "of more slices"),
    (header_series(5, "t2_tirm_tra_dark-fluid", **FLAIR), PLAIN | {"FLAIR": 5}, "a later repeat"),
]


@pytest.mark.parametrize(("competitor", "expected", "advantage"), COMPETITORS, ids=[a for *_, a in COMPETITORS])
def test_the_best_candidate_is_chosen_and_the_other_told_why(competitor, expected, advantage):
    study = plain_study(competitor)
    assert chosen(study) == expected
    refused = [v.reason for v in assess(study).verdicts if "better" in v.reason]
    assert len(refused) == 1
    assert advantage in refused[0]


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL])
def test_any_plane_is_taken_if_it_is_all_there_is(orientation):
    sole = header_series(10, "t1_3d_KM", ImageOrientationPatient=orientation, **T1)
    assert chosen(plain_study(sole, without=(9,)))["T1C"] == 10


def test_a_repeated_t1_without_marks_came_after_contrast():
    again = header_series(11, "t1_se_tra", **T1)
    study = plain_study(again, without=(9,))
    assert chosen(study) == PLAIN | {"T1C": 11}
    assert "repeats an earlier one" in assess(study).chosen[Contrast.T1C].reason


def test_a_repeat_where_contrast_is_marked_is_only_a_repeat():
    assert chosen(plain_study(header_series(6, "t1_se_tra", **T1))) == PLAIN | {"T1": 6}


def test_t1_after_perfusion_came_after_contrast():
    study = plain_study(header_series(5, "ep2d_perf", **T2), header_series(11, "t1_fl3d_tra", **T1), without=(9,))
    assert chosen(study) == PLAIN | {"T1C": 11}
    assert "perfusion" in assess(study).chosen[Contrast.T1C].reason


def test_an_unmarked_t1_after_a_marked_one_came_after_contrast_too():
    study = plain_study(header_series(11, "t1_se_tra", **T1))
    assert chosen(study) == PLAIN | {"T1C": 11}
    assert "after a T1 with contrast agent" in assess(study).chosen[Contrast.T1C].reason


@pytest.mark.parametrize(("without", "named"), [((9,), "no T1C"), ((4,), "no FLAIR"), ((4, 9), "no T1C and no FLAIR")])
def test_a_missing_sequence_is_named_with_what_was_seen(without, named):
    with pytest.raises(MissingSequence, match=named) as caught:
        select_series(plain_study(header_series(5, "ADC map of Doe^Jane", **T2), without=without))
    assert "series 5 ADC map" in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_t1_and_t2_may_be_missing():
    assert set(select_series(plain_study(without=(2, 3))).chosen) == {Contrast.T1C, Contrast.FLAIR}


def test_every_series_has_a_verdict_with_a_reason():
    study = plain_study(header_series(1, "localizer", slices=3), header_series(5, "DWI"))
    verdicts = select_series(study).verdicts
    assert [v.series for v in verdicts] == list(study.series)
    assert all(v.reason for v in verdicts)
    assert [v.series.number for v in verdicts if v.contrast is None] == [1, 5]


def test_what_has_arrived_so_far_is_recognised():
    assert recognised(plain_study(without=(9,))) == {Contrast.T1, Contrast.T2, Contrast.FLAIR}


@pytest.mark.parametrize("vendor", list(Vendor))
def test_each_vendors_phantom_is_resolved(vendor, tmp_path):
    job = Job("1", small_phantom(vendor=vendor).folder, tmp_path)
    job.study = load_study(job.study_folder)
    SelectSeriesOperator.process(SimpleNamespace(_rules=(), _decoder=HERE, _digest=""), job)
    assert {c: v.series.number for c, v in job.selection.chosen.items()} == {"T1": 1, "T2": 2, "FLAIR": 3, "T1C": 4}


@pytest.mark.shared
def test_the_real_study_is_resolved(shared):
    study = load_study(shared / "data" / "studies" / "TCGA-FG-6692")
    assert chosen(study) == {"T1": 1, "T2": 2, "FLAIR": 3, "T1C": 4}


WORDS = [
    ("t1w ffe", Contrast.T1, None),
    ("ax t2 flair", Contrast.FLAIR, None),
    ("t1 flair +c", Contrast.T1, True),
    ("t2 flair fs post", Contrast.FLAIR, True),
    ("mprage nativ", Contrast.T1, False),
    ("mprage mit km", Contrast.T1, True),
    ("t1 sans gado", Contrast.T1, False),
    ("t1 增强", Contrast.T1, True),
    ("t1 平扫", Contrast.T1, False),
    ("haste cor", Contrast.T2, None),
]


@pytest.mark.parametrize(("text", "contrast", "agent"), WORDS)
def test_descriptions_in_several_languages_are_read(text, contrast, agent):
    assert read_words(text)[0] == contrast
    assert read_agent(text) is agent


@pytest.mark.parametrize("text", ["t1 mpr ns sag", "t1 axial", "flair 3d", "t2 blade tra", "mp2rage"])
def test_wanted_descriptions_are_not_forbidden(text):
    assert forbidden_kind(text) is None


def test_reasons_never_quote_a_description():
    study = plain_study(header_series(5, "xqzv", **T1), header_series(6, "T1 xqzv", **T2))
    assert not any(re.search("xqzv", v.reason) for v in assess(study).verdicts)
