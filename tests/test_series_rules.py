"""Words, physics, the site's own rules, and how evidence adds up; `explain` as its user meets it."""

from __future__ import annotations

import json

import pytest
import series_composed
from pydicom import dcmread
from pydicom.dataset import Dataset
from support_phantom import FLAIR, T1, T2, copy_of, header_series, header_study, small_phantom
from typer.testing import CliRunner

from app.cli import cli
from app.config import load_settings
from app.errors import ConfigError
from operators.select_series import assess, select_series
from operators.series_kinds import FORBIDDEN, Evidence, explain, weigh
from operators.series_physics import physics_evidence, read_timing
from operators.series_rules import Rule, built_in
from operators.series_words import plain, read_words


def verdict(description, *rules, **attributes):
    return assess(header_study(header_series(1, description, 4, **attributes)), rules).verdicts[0]


@pytest.mark.parametrize(("text", "kind"), [row for rows in series_composed.SETS.values() for row in rows])
def test_descriptions_of_many_hospitals_are_typed(text, kind):
    assert str(verdict(text).contrast or "-") == kind


@pytest.mark.parametrize("kind", ["T1", "T1C", "T2", "FLAIR", "derived"])
def test_a_sites_rule_outweighs_words_and_timing(kind):
    assert verdict("t2_tse_tra HX7", Rule("hx7", kind), **T2).kind == kind


FACTS = {
    "other modality": {"Modality": "CT"},
    "diffusion": {"DiffusionBValue": 800.0},
    "ADC map": {"ImageType": ["DERIVED", "PRIMARY", "ADC"]},
    "angiography": {"AngioFlag": "Y"},
    "derived": {"ImageType": ["DERIVED", "SECONDARY", "SUBTRACTION"]},
}


@pytest.mark.parametrize(("kind", "attributes"), FACTS.items())
def test_a_sites_rule_never_outweighs_a_fact(kind, attributes):
    assert verdict("HX7", Rule("hx7", "T1C", weight=15), **attributes).kind == kind


FIELDS = {
    "protocol": {"ProtocolName": "HX7"},
    "sequence_name": {"SequenceName": "*hx7"},
    "image_type": {"ImageType": ["ORIGINAL", "PRIMARY", "HX7"]},
    "body_part": {"BodyPartExamined": "HX7"},
}


@pytest.mark.parametrize(("field", "attributes"), FIELDS.items())
def test_a_rule_looks_where_it_is_told(field, attributes):
    assert verdict("x", Rule("hx7", "FLAIR", field), **attributes).kind == "FLAIR"
    assert verdict("x hx7 y", Rule("hx7", "FLAIR", field)).kind == "unknown"


WRONG = {
    "{pattern: '(', kind: T1}": "no regular expression",
    "{pattern: x, kind: T9}": "unknown kind",
    "{pattern: x, kind: T1, weight: 20}": "less than or equal to 15",
    "{pattern: x, kind: T1, field: name}": "Input should be",
    "{pattern: '', kind: T1}": "at least 1 character",
}


@pytest.mark.parametrize(("entry", "reason"), WRONG.items())
def test_a_wrong_rule_is_one_clear_error(tmp_path, entry, reason):
    config = tmp_path / "node.yaml"
    config.write_text(f"node: {{series: {{rules: [{entry}]}}}}")
    with pytest.raises(ConfigError, match=reason) as caught:
        load_settings(config)
    assert "node.series.rules.0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_built_in_kind_is_known():
    kinds = {kind for kind, *_ in built_in()}
    assert kinds - {"before contrast agent", "after contrast agent"} <= {*FORBIDDEN, "T1", "T2", "FLAIR"}


TIMES = [
    ({"RepetitionTime": 9, "EchoTime": 0.114, "InversionTime": 2.5}, (9000, 114, 2500), False),
    ({"RepetitionTime": 0, "EchoTime": 12}, (None, 12, None), True),
    ({"RepetitionTime": 520, "EchoTime": 1e6}, (520, None, None), True),
    ({"RepetitionTime": 520, "EchoTime": 12, "InversionTime": 0}, (520, 12, None), False),
    ({"RepetitionTime": 5, "EchoTime": 90}, (None, None, None), True),
    ({"EchoTime": None}, (None, None, None), False),
]


@pytest.mark.parametrize(("attributes", "times", "absurd"), TIMES)
def test_absurd_times_are_dropped(attributes, times, absurd):
    timing = read_timing(header_series(1, **attributes).header)
    assert (timing.repetition, timing.echo, timing.inversion) == pytest.approx(times)
    assert timing.absurd is absurd


PHYSICS = {
    "FLAIR": FLAIR,
    "T1": {"RepetitionTime": 2000, "EchoTime": 3, "InversionTime": 900, "ScanningSequence": "GR"},
    "T2": {"RepetitionTime": 3200, "EchoTime": 409, "ScanningSequence": "SE"},
    "STIR": {"RepetitionTime": 4000, "EchoTime": 40, "InversionTime": 160, "ScanningSequence": ["SE", "IR"]},
    "proton density": {"RepetitionTime": 2600, "EchoTime": 15, "ScanningSequence": "SE"},
    "susceptibility": {"RepetitionTime": 28, "EchoTime": 20, "ScanningSequence": "GR"},
    "echo-planar": {"ScanningSequence": "EP"},
    "steady state": {
        "RepetitionTime": 5, "EchoTime": 2, "ScanningSequence": "GR", "SequenceVariant": "SS", "FlipAngle": 60,
    },
    "diffusion": {"SequenceName": "*ep_b1000t", "ScanningSequence": "SE"},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "attributes"), PHYSICS.items())
def test_physics_speaks_for_a_kind(kind, attributes):
    pieces = physics_evidence(header_series(1, **attributes).header)
    assert kind in {piece.kind for piece in pieces}


def test_a_spoiled_gradient_echo_of_no_name_may_be_time_of_flight_and_is_left_alone():
    tof = {"RepetitionTime": 22, "EchoTime": 3.6, "FlipAngle": 18, "ScanningSequence": "GR", "SequenceVariant": "SP"}
    assert verdict("", **tof).contrast is None


def test_enhanced_mr_says_its_contrast_itself():
    assert verdict("", AcquisitionContrast="FLUID_ATTENUATED", EchoTime=None).kind == "FLAIR"
    assert verdict("t1", AcquisitionContrast="DIFFUSION", **T1).kind == "diffusion"
    assert verdict("t1", ComplexImageComponent="PHASE", **T1).kind == "phase image"


def test_points_add_up_to_a_probability():
    words, timing = Evidence("description", {"T1": 4.0}), Evidence("timing", {"T2": 3.5})
    assert weigh([words])[0] == "T1"
    assert weigh([words])[1] > 0.85
    assert weigh([words, timing])[1] < 0.7
    assert weigh([words, timing, Evidence("the image", {"T2": 3.0})]) > ("T2", 0.85)
    assert weigh([]) == ("unknown", pytest.approx(0.475, abs=0.01))
    assert explain([words, timing], "T1") == "description says T1; against it: timing says T2"


def test_cyrillic_and_full_width_letters_are_read():
    assert read_words(plain("Т1 ВИ"))[0] == "T1"
    assert read_words(plain("Ｔ２　ＴＳＥ"))[0] == "T2"


def test_a_spine_study_is_told_by_its_name_unless_the_head_is_named_too():
    assert verdict("ax", StudyDescription="MRI CERVICAL SPINE", **T2).kind == "spine"
    assert verdict("ax t2", StudyDescription="MRI BRAIN AND C-SPINE", **T2).kind == "T2"


BETTER = [
    ({"SeriesDescription": "flair motion"}, "motion"),
    ({"SeriesDescription": "flair post gd"}, "before contrast agent"),
    ({"SpacingBetweenSlices": 2.0}, "covers more"),
]


@pytest.mark.parametrize(("attributes", "why"), BETTER)
def test_a_sounder_series_wins_though_it_came_first(attributes, why):
    text = attributes.get("SeriesDescription", "flair")
    study = header_study(header_series(4, "flair", **FLAIR), header_series(9, text, **(FLAIR | attributes)))
    selection = assess(study)
    assert selection.chosen["FLAIR"].series.number == 4
    assert why in selection.verdicts[1].reason


def broken(series):
    instances = tuple(i for k, i in enumerate(series.instances) if k != 5)
    return type(series)(series.uid, series.number, series.description, series.modality, instances)


def test_a_series_with_a_gap_loses_against_any_other_and_is_the_last_resort():
    gap = broken(header_series(9, "t1 km", **T1))
    whole = header_series(8, "t1 km", slices=20, **T1)
    flair = header_series(4, "flair", **FLAIR)
    assert select_series(header_study(flair, whole, gap)).chosen["T1C"].series.number == 8
    assert "missing between" in assess(header_study(flair, whole, gap)).verdicts[2].reason
    assert select_series(header_study(flair, gap)).chosen["T1C"].series.number == 9


def run(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments])
    return done.exit_code, done.output


def test_explain_tells_all_even_where_series_are_missing(tmp_path):
    folder = copy_of(small_phantom(), tmp_path)
    for path in folder.glob("*_FLAIR_*.dcm"):
        path.unlink()
    code, shown = run("explain", folder)
    assert code == 0
    assert "not found: FLAIR" in shown
    code, text = run("explain", folder, "--json")
    found = json.loads(text)
    assert code == 0
    assert set(found["chosen"]) == {"T1", "T2", "T1C"}
    assert all({"series_number", "series_uid", "reason", "confidence"} <= set(c) for c in found["chosen"].values())
    assert all({"kind", "confidence", "contrast", "instances", "reason"} <= set(s) for s in found["series"])


def test_explain_uses_a_sites_rules_and_shows_them(tmp_path):
    folder = copy_of(small_phantom(), tmp_path)
    for path in folder.glob("*_FLAIR_*.dcm"):
        ds = dcmread(path)
        ds.SeriesDescription = ds.ProtocolName = "HX7 localizer"
        ds.save_as(path)
    config = tmp_path / "node.yaml"
    config.write_text("node: {series: {rules: [{pattern: '^HX7', kind: FLAIR}]}}")
    assert "FLAIR" not in json.loads(run("explain", folder, "--json")[1])["chosen"]
    found = json.loads(run("explain", folder, "--json", "--config", config)[1])["chosen"]["FLAIR"]
    assert "rule of this site" in found["reason"]
    shown = run("explain", "--rules", "--config", config)[1]
    assert "^HX7" in shown
    assert "mdc" in shown


def test_no_description_is_ever_quoted():
    names = [header_series(k, f"{text} Xqzv^Jane", **T1) for k, text in enumerate(("t1", "t2", "dwi", "", "t1 km"), 1)]
    assert not any("xqzv" in v.reason.lower() for v in assess(header_study(*names)).verdicts)


def test_an_empty_header_is_unknown_and_raises_nothing():
    header = Dataset()
    header.Modality, header.Rows, header.SeriesDescription = "MR", 64, ""
    header.ImageOrientationPatient, header.SpacingBetweenSlices = [1, 0, 0, 0, 1, 0], 5.0
    from support_phantom import series_of

    assert assess(header_study(series_of(header, 12))).verdicts[0].kind == "unknown"
