"""Studies whose headers mislead: each has the right end, and no wrong series is ever taken."""

from __future__ import annotations

import pytest
from pydicom import dcmread
from support_phantom import change, copy_of, small_phantom

from app.phantom_extra import add_diffusion, add_reformat, add_subtraction
from operators.domain import Contrast
from operators.errors import MissingSequence, MixedPatients
from operators.load_study import load_study
from operators.select_series import assess, select_series

ORDER = {"T1": 1, "T2": 2, "FLAIR": 3, "T1C": 4}
SEEN = {"rows": 96, "columns": 96, "pixel_mm": 2.4}
"""Large enough that the images are looked at."""


@pytest.fixture
def folder(tmp_path):
    return copy_of(small_phantom(**SEEN), tmp_path)


def rewrite(folder, contrast=None, **attributes):
    """Give one sequence's files, or all, other attributes; None removes one."""
    for path in sorted(folder.glob(f"*_{contrast}_*.dcm" if contrast else "*.dcm")):
        ds = dcmread(path)
        for keyword, value in attributes.items():
            if value is None:
                ds.pop(keyword, None)
            else:
                setattr(ds, keyword, value)
        ds.save_as(path)


def described(folder, contrast, text):
    rewrite(folder, contrast, SeriesDescription=text, ProtocolName=text)


def chosen(folder):
    return {str(c): v.series.number for c, v in assess(load_study(folder)).chosen.items()}


def kinds(folder):
    return {v.series.number: v.kind for v in assess(load_study(folder)).verdicts}


NO_TIMES = {"RepetitionTime": None, "EchoTime": None, "InversionTime": None}
NO_TEXTS = {"SeriesDescription": "", "ProtocolName": ""}
MISLEADING = {
    "no descriptions": NO_TEXTS,
    "no times": NO_TIMES,
    "times of 0": {"RepetitionTime": 0, "EchoTime": 0, "InversionTime": 0},
    "times beyond reason": {"RepetitionTime": 1_000_000, "EchoTime": 1_000_000},
    "negative times": {"RepetitionTime": -1, "EchoTime": -12},
    "echo after repetition": {"RepetitionTime": 10, "EchoTime": 300, "InversionTime": None},
    "no clock": {"AcquisitionTime": None, "SeriesTime": None, "ContentTime": None},
    "no image type": {"ImageType": None},
    "agent entered at registration": {"ContrastBolusAgent": "Gadovist"},
}


@pytest.mark.parametrize("attributes", MISLEADING.values(), ids=MISLEADING)
def test_one_kind_of_evidence_may_fail_everywhere(folder, attributes):
    rewrite(folder, **attributes)
    assert chosen(folder) == ORDER


def test_times_in_seconds_are_read_as_such(folder):
    rewrite(folder, **NO_TEXTS)
    for path in folder.glob("*.dcm"):
        ds = dcmread(path)
        change(path, **{k: ds[k].value / 1000 for k in NO_TIMES if k in ds})
    assert chosen(folder) == ORDER


def test_swapped_texts_never_swap_the_series(folder):
    described(folder, "T1", "t2_tse_tra")
    described(folder, "T2", "t1_se_tra")
    found = kinds(folder)
    assert found[1] in {"T1", "unknown"}
    assert found[2] in {"T2", "unknown"}
    assert set(chosen(folder)) >= {"T1C", "FLAIR"}


def test_a_flair_called_t1_is_not_t1(folder):
    described(folder, "FLAIR", "t1_se_tra_KM")
    assert kinds(folder)[3] in {"FLAIR", "unknown"}
    assert chosen(folder)["T1C"] == 4


def test_without_any_text_or_time_nothing_is_guessed_wrongly(folder):
    rewrite(folder, **NO_TEXTS, **NO_TIMES, ContrastBolusAgent=None, ScanningSequence="RM", SequenceVariant="NONE")
    assert all(number == ORDER[contrast] for contrast, number in chosen(folder).items())
    with pytest.raises(MissingSequence) as caught:
        select_series(load_study(folder))
    assert caught.value.code == "missing-sequence"


OTHERS = {"PatientID": "PHANTOM-0002", "PatientName": "Other^Somebody", "PatientBirthDate": "19010101"}


@pytest.mark.parametrize("keyword", OTHERS)
def test_two_patients_in_one_study_are_refused_without_naming_them(folder, keyword):
    rewrite(folder, "FLAIR", **{keyword: OTHERS[keyword]})
    with pytest.raises(MixedPatients, match="more than one patient") as caught:
        load_study(folder)
    assert caught.value.code == "mixed-patients"
    assert not any(text in str(caught.value) for text in ("PHANTOM", "Phantom", "Other", "1901"))


@pytest.mark.parametrize("name", ["PHANTOM^GLIOMA ", "Phantom^Glioma^^^", "Phantom Glioma", "Phantom^Glioma^M", ""])
def test_one_patient_spelt_in_two_ways_is_one(folder, name):
    rewrite(folder, "FLAIR", PatientName=name)
    assert len(load_study(folder).series) == 4


def test_of_one_contrast_twice_the_later_is_taken_and_the_reason_given(folder):
    for path in sorted(folder.glob("*_FLAIR_*.dcm")):
        new = {"SeriesInstanceUID": "1.2.3.4", "SeriesNumber": 7, "AcquisitionTime": "103000"}
        change(path, name=f"again_{path.name}", **new)
    assert chosen(folder) == ORDER | {"FLAIR": 7}
    reason = next(v.reason for v in assess(load_study(folder)).verdicts if v.series.number == 3)
    assert "series 7 is better: a later repeat" in reason


def test_a_derived_copy_loses_against_its_original(folder):
    for path in sorted(folder.glob("*_FLAIR_*.dcm")):
        new = {"SeriesInstanceUID": "1.2.3.4", "SeriesNumber": 7, "ImageType": ["DERIVED", "SECONDARY"]}
        change(path, name=f"again_{path.name}", **new)
    assert chosen(folder) == ORDER


@pytest.mark.parametrize("description", ["T2 FLAIR", "t2_tse_tra", "", "T1 post Gd"])
def test_diffusion_is_diffusion_whatever_it_is_called(tmp_path, description):
    truth = small_phantom(**SEEN)
    folder = copy_of(truth, tmp_path)
    add_diffusion(type(truth)(truth.options, folder, truth.study_uid, truth.lesion, truth.head), description)
    assert chosen(folder) == ORDER


def test_what_is_made_of_other_images_is_never_taken(tmp_path):
    truth = small_phantom(**SEEN)
    folder = copy_of(truth, tmp_path)
    extra = type(truth)(truth.options, folder, truth.study_uid, truth.lesion, truth.head)
    add_subtraction(extra)
    add_reformat(extra)
    for path in folder.glob("*_T1C_*.dcm"):
        path.unlink()
    assert chosen(folder) == {c: n for c, n in ORDER.items() if c != "T1C"}


def test_a_broken_t1_is_left_out_and_a_broken_flair_is_not(folder):
    for contrast in ("T1", "FLAIR"):
        sorted(folder.glob(f"*_{contrast}_*.dcm"))[5].unlink()
    selection = assess(load_study(folder))
    assert set(selection.chosen) == {Contrast.T1C, Contrast.T2, Contrast.FLAIR}
    assert "missing between" in selection.verdicts[0].reason


def test_pixels_that_cannot_be_read_only_leave_doubt(folder):
    described(folder, "T1", "t2_tse_tra")
    for path in folder.glob("*_T1_*.dcm"):
        ds = dcmread(path)
        ds.PixelData = b"\xfe\xff\x00\xe0\x04\x00\x00\x00abcd\xfe\xff\xdd\xe0\x00\x00\x00\x00"
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
        ds["PixelData"].is_undefined_length = True
        ds.save_as(path)
    assert kinds(folder)[1] == "unknown"
