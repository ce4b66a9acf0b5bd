"""What the node says of markers, when it abstains, and where a patient's age comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skops.io
from pydicom import Dataset
from sklearn.dummy import DummyClassifier

import models
from app.config import load_settings
from app.errors import ConfigError
from app.process import open_classifiers
from models.markers.calibration import Calibration, Verdict
from models.markers.figure_model import ADULTS_ALONE, CALIBRATION, INPUTS, MODEL
from models.markers.image_features import feature_names
from operators.classify import Evidence, FigureClassifier, classify, doubt_of
from operators.domain import Check, Instance, MarkerName, MarkerValue, Outcome, Series, Study
from operators.patient import TWO_AGES, age_years, childhood, sex

KNOWN = Calibration(
    slope=2.0, intercept=0.5, coverage=0.8, altered=tuple(np.linspace(0.5, 5, 19)),
    unaltered=tuple(np.linspace(-5, 0.5, 19)), auc=0.93, auc_interval=(0.87, 0.98),
)  # fmt: skip


def evidence(age=44.0, tumour=True):
    images = np.random.default_rng(0).normal(0, 1, (6, 2, 32, 32)).astype(np.float32)
    mask = np.zeros((6, 32, 32), bool)
    mask[2:4, 10:20, 8:14] = tumour
    return Evidence(images, mask, age)


class Model:
    name, version = "idh figures", "0123456789ab"

    def __init__(self, score, calibration=KNOWN):
        self.calibration, self._score, self.ages = calibration, score, []

    def score(self, figures, age):
        assert len(figures) == len(feature_names())
        self.ages.append(age)
        return self._score

    def influences(self, figures, age):
        return {"location": 1.5, "age": 0.2, "enhancement": 3.0}


@pytest.mark.parametrize(
    ("score", "value"),
    [(3.0, MarkerValue.ALTERED), (-3.0, MarkerValue.UNALTERED), (0.5, MarkerValue.INDETERMINATE)],
)
def test_only_a_lone_thinkable_answer_is_given(score, value):
    found = FigureClassifier(MarkerName.IDH, Model(score))(evidence())
    assert found.value is value
    assert found.probability == pytest.approx(1 / (1 + np.exp(-(2 * score + 0.5))))
    assert (found.model, found.model_version) == ("idh figures", "0123456789ab")
    assert "AUC 0.93, 0.87 to 0.98" in found.reason
    assert found.moved_by == (("age", 0.2), ("enhancement", 3.0), ("location", 1.5)), "the strongest first, either way"
    assert ("do not decide it" in found.reason) == (value is MarkerValue.INDETERMINATE)


def test_a_model_no_better_than_chance_says_nothing():
    weak = KNOWN.model_copy(update={"auc": 0.57, "auc_interval": (0.39, 0.76)})
    found = FigureClassifier(MarkerName.MGMT, Model(9.0, weak))(evidence())
    assert found.value is MarkerValue.NOT_ASSESSED
    assert found.reason == "no model tells it better than chance on patients it never saw (AUC 0.57, 0.39 to 0.76)"
    assert (found.model, found.model_version) == ("idh figures", "0123456789ab"), "who keeps silent is named"


@pytest.mark.parametrize("marker", ["idh", "1p19q", "mgmt", "proliferation", None])
def test_the_range_without_an_answer_is_where_the_verdict_is_indeterminate(marker):
    """Also where neither is thinkable, and where a class has too few scores to call anything strange."""
    folder = Path(models.__file__).parent / "weights" / "markers"
    few = KNOWN.model_copy(update={"altered": (1.0, 2.0), "unaltered": (-5.0, -4.0, -3.0), "coverage": 0.7})
    known = Calibration.load(folder / marker / CALIBRATION) if marker else few
    low, high = known.open_between()
    assert 0.0 <= low < high <= 1.0
    for score in np.linspace(-8, 8, 801):
        said = known.verdict(score)
        likelier = Verdict.ALTERED if known.probability(score) >= 0.5 else Verdict.UNALTERED
        assert said in {likelier, Verdict.INDETERMINATE}, "nothing is said against its own probability"
        if (said is Verdict.INDETERMINATE) != (low <= known.probability(score) <= high):
            assert min(abs(known.probability(score) - edge) for edge in (low, high)) < 1e-9, "an edge alone may differ"
    told = FigureClassifier(MarkerName.IDH, Model(3.0, known))(evidence())
    assert told.open_between == ((low, high) if known.beats_chance else None)


def test_an_unknown_age_is_told():
    model = Model(3.0)
    assert "age is not known" in FigureClassifier(MarkerName.IDH, model)(evidence(age=None)).reason
    assert model.ages == [None]


def check(name, outcome):
    return Check(name, outcome, "as measured")


@pytest.mark.parametrize(
    ("checks", "doubt"),
    [
        ([], ""),
        ([check("segmentation", Outcome.PASS), check("signal", Outcome.WARN)], ""),
        ([check("segmentation", Outcome.WARN)], "the outline is doubtful"),
        (
            [check("input", Outcome.WARN), check("segmentation", Outcome.WARN)],
            "the images may be unlike those of training and the outline is doubtful",
        ),
    ],
)
def test_doubt_about_what_a_marker_is_read_from_silences_it(checks, doubt):
    assert doubt_of(checks, None) == doubt_of(checks, 18.0) == doubt
    markers = classify(evidence(), doubt, {MarkerName.IDH: FigureClassifier(MarkerName.IDH, Model(3.0))})
    by_name = {m.name: m for m in markers}
    assert set(by_name) == set(MarkerName)
    assert by_name[MarkerName.IDH].value is (MarkerValue.NOT_ASSESSED if doubt else MarkerValue.ALTERED)
    assert not doubt or by_name[MarkerName.IDH].reason == doubt
    assert (by_name[MarkerName.IDH].model, by_name[MarkerName.IDH].model_version) == ("idh figures", "0123456789ab")
    assert by_name[MarkerName.MGMT].reason == "no model for this marker is installed"
    assert by_name[MarkerName.MGMT].model == by_name[MarkerName.MGMT].model_version == ""


def test_of_a_child_nothing_is_said():
    assert doubt_of([check("segmentation", Outcome.WARN)], 17.9) == "the models learnt from adults alone"


def test_a_child_is_told_before_all_else():
    assert doubt_of([check("segmentation", Outcome.WARN)], 44.0, TWO_AGES) == TWO_AGES


def test_the_tumour_is_described_once_for_all_markers(monkeypatch):
    asked = []
    monkeypatch.setattr("operators.classify.describe", lambda *_: asked.append(1) or np.zeros(len(feature_names())))
    everyone = {name: FigureClassifier(name, Model(3.0)) for name in MarkerName}
    assert {m.value for m in classify(evidence(), "", everyone)} == {MarkerValue.ALTERED}
    assert len(asked) == 1


def test_without_a_tumour_no_marker_is_assessed():
    found = classify(evidence(tumour=False), "", {MarkerName.IDH: FigureClassifier(MarkerName.IDH, Model(3.0))})
    assert {m.reason for m in found} == {"no tumour was found"}
    assert {m.name: m.model for m in found if m.model} == {MarkerName.IDH: "idh figures"}


def study(**header):
    ds = Dataset()
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    return Study("1.2", (Series("1.2.3", 1, "", "MR", (Instance("x.dcm", ds),)),))


@pytest.mark.parametrize(
    ("header", "age"),
    [
        ({"PatientAge": "044Y"}, 44.0),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "044Y", "PatientBirthDate": "19000101", "StudyDate": "20200101"}, 44.0),
        ({"PatientBirthDate": "19750301", "StudyDate": "20190301"}, 44.0),
        ({"PatientBirthDate": "1975.03.01", "StudyDate": "20190301"}, 44.0),
        ({"PatientAge": "000Y", "PatientBirthDate": "19750301", "StudyDate": "20190301"}, 44.0),
        ({"PatientAge": "044Y", "PatientBirthDate": "19740301", "StudyDate": "20190601"}, 44.0),
        ({"PatientAge": "003Y", "PatientBirthDate": "19750301", "StudyDate": "20190301"}, None),
        ({"PatientAge": "999Y"}, None),
        ({"PatientAge": "forty"}, None),
        ({"PatientBirthDate": "20300101", "StudyDate": "20190301"}, None),
        ({"PatientBirthDate": "00000000", "StudyDate": "20190301"}, None),
        ({"PatientBirthDate": "19750301"}, None),
        ({}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_age_comes_from_the_header_and_absurd_ones_are_none(header, age):
    found = age_years(study(**header))
    assert found is None if age is None else found == pytest.approx(age, abs=0.01)


BORN_1975 = {"PatientBirthDate": "19750301", "StudyDate": "20190301"}
CHILDREN = [
    ({"PatientAge": "006M"}, ADULTS_ALONE),
    ({"PatientAge": "011M"}, ADULTS_ALONE),
    ({"PatientAge": "200D"}, ADULTS_ALONE),
    ({"PatientAge": "012W"}, ADULTS_ALONE),
    ({"PatientAge": "000Y"}, ADULTS_ALONE),
    ({"PatientAge": "017Y"}, ADULTS_ALONE),
    ({"PatientBirthDate": "20190101", "StudyDate": "20190301"}, ADULTS_ALONE),
    ({"PatientBirthDate": "20190301", "StudyDate": "20190301"}, ADULTS_ALONE),
    ({"PatientAge": "999Y", "PatientBirthDate": "20190101", "StudyDate": "20190301"}, ADULTS_ALONE),
    ({"PatientAge": "018Y", "PatientBirthDate": "20010901", "StudyDate": "20190301"}, ADULTS_ALONE),
    ({"PatientAge": "003Y", **BORN_1975}, TWO_AGES),
    ({"PatientAge": "000Y", **BORN_1975}, TWO_AGES),
    ({"PatientAge": "044Y", "PatientBirthDate": "20160301", "StudyDate": "20190301"}, TWO_AGES),
    ({"PatientAge": "018Y"}, ""),
    ({"PatientAge": "044Y", **BORN_1975}, ""),
    ({"PatientAge": "999Y"}, ""),
    ({"PatientAge": "forty"}, ""),
    ({"PatientBirthDate": "20300101", "StudyDate": "20190301"}, ""),
    ({"PatientBirthDate": "20190101"}, ""),
    ({}, ""),
]


@pytest.mark.parametrize(("header", "reason"), CHILDREN)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_whatever_says_a_child_is_believed(header, reason):
    assert childhood(study(**header)) == reason


def test_a_child_of_one_series_is_a_child():
    both = Study("1.2", (*study(PatientAge="044Y").series, *study(PatientAge="004Y").series))
    assert childhood(both) == TWO_AGES
    assert age_years(both) == 44.0


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"PatientSex": "F"}, "F"),
        ({"PatientSex": "m "}, "M"),
        ({"PatientSex": "O"}, None),
        ({"PatientSex": "female"}, None),
        ({"PatientSex": ["M", "F"]}, None),
        ({"PatientSex": ""}, None),
        ({}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:Value length")
def test_sex_comes_from_the_header_and_any_other_is_none(header, expected):
    assert sex(study(**header)) == expected


def test_models_are_opened_where_they_lie_and_damage_is_one_error(tmp_path):
    settings = load_settings(data_dir=tmp_path / "data").model_copy(update={"models_dir": tmp_path})
    assert open_classifiers(settings) == {}
    folder = tmp_path / "markers" / "1p19q"
    folder.mkdir(parents=True)
    model = DummyClassifier(strategy="prior").fit(np.zeros((4, len(INPUTS))), [0, 1, 1, 1])
    skops.io.dump(model, folder / MODEL)
    (folder / CALIBRATION).write_text(KNOWN.model_dump_json())
    opened = open_classifiers(settings)
    assert set(opened) == {MarkerName.CODEL_1P19Q}
    assert opened[MarkerName.CODEL_1P19Q](evidence()).value is MarkerValue.ALTERED
    (folder / MODEL).write_bytes(b"")
    with pytest.raises(ConfigError, match="marker 1p19q cannot be read"):
        open_classifiers(settings)
