"""T1 before or after contrast agent: marks, order of acquisition, injection, midnight, and what images add."""

from __future__ import annotations

import numpy as np
import pytest
from support_phantom import CORONAL, FLAIR, T1, T2, header_series, header_study

from operators import select_series as module
from operators.select_series import assess
from operators.series_agent import agent_recorded, moments_of, seconds_of
from operators.series_pixels import Look

GD = {"ContrastBolusAgent": "Gadovist"}
MPRAGE = {"RepetitionTime": 2000, "EchoTime": 3, "InversionTime": 900, "ScanningSequence": "GR"}
SIDE = [header_series(3, "t2_tse", **T2), header_series(4, "flair", **FLAIR)]


def kinds(*series):
    return {
        v.series.number: v.kind for v in assess(header_study(*SIDE, *series)).verdicts if v.series.number not in {3, 4}
    }


def plain(number, description="T1/SE/extrp", **attributes):
    return header_series(number, description, **(T1 | attributes))


STUDIES = {
    "the same twice, nothing said": ([plain(2), plain(9)], {2: "T1", 9: "T1C"}),
    "agent on both": ([plain(2, **GD), plain(9, **GD)], {2: "T1", 9: "T1C"}),
    "no times, numbers tell": (
        [plain(2, AcquisitionTime=None), plain(9, AcquisitionTime=None)], {2: "T1", 9: "T1C"},
    ),
    "across midnight, without dates": (
        [
            plain(2, AcquisitionDate=None, AcquisitionTime="235500"),
            plain(9, AcquisitionDate=None, AcquisitionTime="001500"),
        ],
        {2: "T1", 9: "T1C"},
    ),
    "three, one coronal": (
        [plain(2, "t1 ax"), plain(8, "t1 ax"), plain(9, "t1 cor gd", ImageOrientationPatient=CORONAL)],
        {2: "T1", 8: "T1", 9: "T1C"},
    ),
    "perfusion between two protocols": (
        [plain(2, "t1 se"), header_series(6, "ep2d_perf", **T2), header_series(8, "mprage", **MPRAGE)],
        {2: "T1", 6: "perfusion", 8: "T1C"},
    ),
    "spin labelling needs no agent": (
        [plain(2, "t1 se"), header_series(6, "3D pCASL", **T2), header_series(8, "mprage", **MPRAGE)],
        {2: "T1", 6: "perfusion", 8: "T1"},
    ),
    "injection between": (
        [plain(2, "t1 se"), header_series(8, "mprage", ContrastBolusStartTime="100500", **MPRAGE)],
        {2: "T1", 8: "T1C"},
    ),
    "marked by a volume alone": ([plain(2, "t1", ContrastBolusVolume=7.5)], {2: "T1C"}),
    "alone, nothing said": ([plain(2, "t1")], {2: "T1"}),
    "called native, agent recorded": ([plain(2, "t1 nativ", **GD), plain(9, "t1 km", **GD)], {2: "T1", 9: "T1C"}),
    "agent on everything but one": ([plain(2, "t1 a"), plain(9, "t1 b", **GD)], {2: "T1", 9: "T1C"}),
    "two protocols, both enhanced": (
        [plain(8, "t1 ax +c"), header_series(9, "bravo +c", **MPRAGE)], {8: "T1C", 9: "T1C"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("series", "expected"), STUDIES.values(), ids=STUDIES)
def test_t1_before_and_after_agent_are_parted(series, expected):
    assert kinds(*series) == expected


def test_a_lone_t1_of_which_nothing_is_said_is_taken_with_little_confidence():
    verdict = next(v for v in assess(header_study(plain(2))).verdicts if v.series.number == 2)
    assert verdict.kind == "T1"
    assert verdict.confidence < 0.8


LOOKS = {2: (1.2, 0.2), 9: (2.4, 0.4)}
"""Brightest and darkest percentile of an unenhanced and an enhanced T1."""


def looking(looks):
    def look(series, decoder):
        if series.number not in looks:
            return None
        high, low = looks[series.number]
        return Look(np.array([low, 0.5, 2 * low, 0.9, 1.1, 1.1, 1.2, high, 1.1, 2.0, 0.9, 0.2, high]))

    return look


def test_images_part_what_headers_leave_open(monkeypatch):
    monkeypatch.setattr(module, "look_at", looking(LOOKS))
    assert kinds(plain(2, "t1 a", AcquisitionTime=None), plain(9, "t1 b", AcquisitionTime=None))[9] == "T1C"


def test_images_outweigh_words_that_the_order_contradicts_too(monkeypatch):
    monkeypatch.setattr(module, "look_at", looking(LOOKS))
    found = kinds(plain(2, "t1 post gd"), plain(9, "t1 pre gd"))
    assert found[2] != "T1C"
    assert found[9] != "T1"


def test_images_that_agree_make_it_surer(monkeypatch):
    study = header_study(plain(2), plain(9))
    before = assess(study).verdicts[1].confidence
    monkeypatch.setattr(module, "look_at", looking(LOOKS))
    verdict = assess(study).verdicts[1]
    assert verdict.confidence > before
    assert "the image looks after contrast agent" in verdict.reason


CLOCKS = {"101500": 36900, "101500.25": 36900.25, "10:15:00": 36900, "1015": 36900, "": None, "soon": None}


@pytest.mark.parametrize(("text", "seconds"), CLOCKS.items())
def test_clock_times_are_read(text, seconds):
    assert seconds_of(text) == seconds


def test_days_count():
    evening = header_series(1, AcquisitionTime="235900")
    morning = header_series(2, AcquisitionDate="20260916", AcquisitionTime="000100")
    moments = moments_of([evening, morning])
    assert moments[id(morning)] - moments[id(evening)] == 120


AGENTS = {"Gadovist": True, "": None, "None": False, "no contrast": False, "ohne KM": False, "15 ml Dotarem": True}


@pytest.mark.parametrize(("text", "recorded"), AGENTS.items())
def test_agents_are_read(text, recorded):
    assert agent_recorded(header_series(1, "t1", ContrastBolusAgent=text)) is recorded
