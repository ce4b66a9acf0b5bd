"""The report says what was found, no more, and machines read the same numbers as people."""

import subprocess
from dataclasses import replace
from datetime import UTC, timedelta
from itertools import count

import highdicom as hd
import pydicom
import pytest
from highdicom import sr
from monai.deploy.core import Fragment
from pydicom.sr.coding import Code

from models.refine import Spread
from operators import codes
from operators.domain import Check, Contrast, Marker, MarkerName, MarkerValue, Outcome
from operators.key_image import KeyImageOperator
from operators.measure import MeasureOperator, measure
from operators.results import writable
from operators.statements import millilitres, volume_figure
from operators.write_measurements import WriteMeasurementsOperator, write_measurements
from operators.write_seg import WriteSegOperator, write_segs
from operators.write_sr import WriteSrOperator, write_sr
from tests.support_results import MADE_AT, PATIENTS, as_multi_frame, iod_errors, job_of, source_of

OPEN = tuple(Marker(n, MarkerValue.NOT_ASSESSED, "no model for this marker is installed") for n in MarkerName)
ASSESSED = (
    Marker(MarkerName.IDH, MarkerValue.ALTERED, "", 0.91, "idh-net", "2", coverage=0.9),
    Marker(
        MarkerName.CODEL_1P19Q,
        MarkerValue.INDETERMINATE,
        "too close to call",
        0.48,
        "codel-net",
        "3",
        coverage=0.9,
        moved_by=(("location", 0.3), ("age", 1.62), ("enhancement", 1.2), ("texture on T1C", 1.15)),
    ),
    Marker(MarkerName.MGMT, MarkerValue.UNALTERED, "", 0.07, "mgmt-net", "1", coverage=0.9),
    OPEN[3],
)
ALGORITHM = ("111001", "111003")
"""Algorithm Name and Algorithm Version."""
CASES = {
    "tumour, markers open": {"markers": OPEN},
    "tumour, markers assessed": {"markers": ASSESSED, "notes": ("T2 was moved by 4 mm",)},
    "no tumour": {"semi_axes_mm": None, "markers": OPEN},
    "a speck of tumour": {"semi_axes_mm": (1.2, 1.2, 3.2), "centre_mm": (0.55, 0.45, 2.75), "markers": OPEN},
}


def written(folder, **made):
    """A job with its results written."""
    checks, engine = made.pop("checks", ()), made.pop("engine", "")
    job = job_of(folder, **made)
    job.checks, job.engine = checks, engine
    write_segs(job, "1.0", MADE_AT)
    write_sr(job, "1.0", MADE_AT)
    return job


def dump(path):
    """The report as DCMTK prints it, long values in full."""
    return subprocess.run(["dsrdump", "+Pl", str(path)], capture_output=True, check=True).stdout.decode("latin-1")


def items(node, value_type=None):
    """All content items below a node."""
    for child in node.get("ContentSequence", ()):
        if value_type in (None, child.ValueType):
            yield child
        yield from items(child, value_type)


def numbers(report):
    return {
        n.ConceptNameCodeSequence[0].CodeMeaning: float(n.MeasuredValueSequence[0].NumericValue)
        for n in items(report, "NUM")
    }


def texts(report, code):
    return [t.TextValue for t in items(report, "TEXT") if t.ConceptNameCodeSequence[0].CodeValue == code.value]


@pytest.mark.parametrize("case", CASES)
def test_the_report_is_valid_and_dcmtk_reads_it(tmp_path, case):
    job = written(tmp_path, **CASES[case])
    assert not iod_errors(job.results["SR"])
    assert "Oncology Measurement Report" in dump(job.results["SR"])


@pytest.mark.parametrize("case", ["tumour, markers open", "a speck of tumour"])
def test_the_numbers_are_the_findings(tmp_path, case):
    job = written(tmp_path, **CASES[case])
    found = numbers(pydicom.dcmread(job.results["SR"]))
    assert found["Volume"] == pytest.approx(job.findings.tumour_mm3 / 1000, abs=0.005)
    assert found["Volume"] > 0
    assert found["Long Axis"] == pytest.approx(job.findings.long_axis.millimetres, abs=0.05)
    assert found["Short Axis"] == pytest.approx(job.findings.short_axis.millimetres, abs=0.05)


@pytest.mark.parametrize(
    ("cubic_mm", "ml"), [(31416.4, 31.42), (123.4, 0.12), (99.6, 0.1), (5.4, 0.005), (0.32, 0.0003), (0.0, 0.0)]
)
def test_volumes_are_rounded_to_what_can_be_claimed(cubic_mm, ml):
    assert millilitres(cubic_mm) == ml


@pytest.mark.parametrize(
    ("cubic_mm", "said"), [(31416.4, "31.4"), (999.6, "1.0"), (950.0, "0.95"), (43.0, "0.043"), (0.32, "0.0003")]
)
def test_a_volume_is_written_alike_everywhere_and_what_was_found_is_never_nothing(cubic_mm, said):
    assert volume_figure(cubic_mm) == said


def test_the_tumour_group_points_at_its_segment(tmp_path):
    job = written(tmp_path, markers=OPEN)
    seg = pydicom.dcmread(job.results["SEG T1C"])
    report = sr.srread(job.results["SR"])
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    segment = group.referenced_segment
    assert segment.referenced_sop_instance_uid == seg.SOPInstanceUID
    assert group.tracking_uid == seg.SegmentSequence[0].TrackingUID
    assert group.finding_type == codes.NEOPLASM
    assert [s.value for s in group.finding_sites] == [codes.BRAIN]
    (volume,) = group.get_measurements(name=codes.VOLUME)
    assert (volume.unit, volume.method) == (codes.MILLILITRE, codes.VOXEL_SUM)
    source = [i for i in items(report, "UIDREF") if i.ConceptNameCodeSequence[0].CodeValue == "121232"]
    assert [i.UID for i in source] == [job.volumes[Contrast.T1C].series.uid]


def test_evidence_names_the_segmentations_and_every_source_image(tmp_path):
    job = written(tmp_path, markers=OPEN)
    report = sr.srread(job.results["SR"])
    named = {uid for _, _, uid, _ in report.get_evidence(current_procedure_only=True)}
    segs = {pydicom.dcmread(job.results[k], stop_before_pixels=True).SOPInstanceUID for k in ("SEG T1C", "SEG FLAIR")}
    images = {h.SOPInstanceUID for volume in job.volumes.values() for h in volume.headers}
    assert named == segs | images


def test_no_tumour_is_said_and_not_measured(tmp_path):
    job = written(tmp_path, semi_axes_mm=None, markers=OPEN)
    report = sr.srread(job.results["SR"])
    assert not report.content.get_volumetric_roi_measurement_groups()
    values = {i.ConceptCodeSequence[0].CodeMeaning for i in items(report, "CODE")}
    assert "Not detected" in values
    assert not numbers(report)
    assert any("does not exclude" in t for t in texts(report, codes.COMMENT))


RANGED = Spread(level=0.9, volume=1.5, long_axis=0.8, short_axis=1.0, patients=77)


def ranged(folder, spread=RANGED, apart=False):
    """A report whose measures have ranges; with a second part of the tumour if asked."""
    job = job_of(folder, markers=OPEN)
    if apart:
        probability = job.tumour.probability.copy()
        probability[0, 3:6, 3:6] = 0.9
        job.tumour = replace(job.tumour, probability=probability)
    job.findings = measure(job.stack, job.tumour, spread, 0.85)
    write_segs(job, "1.0", MADE_AT)
    write_sr(job, "1.0", MADE_AT)
    return job


def test_measures_have_their_uncertainty_in_their_own_unit(tmp_path):
    job = ranged(tmp_path)
    assert not iod_errors(job.results["SR"])
    report = pydicom.dcmread(job.results["SR"])
    reach = {}
    for item in items(report, "NUM"):
        for limit in items(item, "NUM"):
            name = limit.ConceptNameCodeSequence[0].CodeValue
            value, own = limit.MeasuredValueSequence[0], item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            assert unit == own.MeasurementUnitsCodeSequence[0].CodeValue
            reach[item.ConceptNameCodeSequence[0].CodeMeaning, name] = (
                float(own.NumericValue),
                float(value.NumericValue),
            )
    assert len(reach) == 6
    volume, interval = job.findings.tumour_mm3 / 1000, job.findings.tumour_interval_mm3
    assert reach["Volume", "371886008"] == pytest.approx((volume, interval.high / 1000 - volume), abs=0.011)
    assert reach["Volume", "371885007"] == pytest.approx((volume, volume - interval.low / 1000), abs=0.011)
    long_axis = job.findings.long_axis
    reached = long_axis.interval_mm.high - long_axis.millimetres
    assert reach["Long Axis", "371886008"] == pytest.approx((long_axis.millimetres, reached), abs=0.11)
    assert any("90%" in said for said in texts(report, codes.COMMENT))


def test_without_known_errors_nothing_is_claimed_of_them(tmp_path):
    report = pydicom.dcmread(ranged(tmp_path, spread=None).results["SR"])
    assert not [limit for item in items(report, "NUM") for limit in items(item, "NUM")]
    assert not any("uncertainty" in said for said in texts(report, codes.COMMENT))


@pytest.mark.parametrize("apart", [True, False])
def test_parts_of_a_tumour_are_counted(tmp_path, apart):
    report = pydicom.dcmread(ranged(tmp_path, apart=apart).results["SR"])
    assert any("2 parts" in said for said in texts(report, codes.COMMENT)) == apart


def marker_groups(report):
    """The TID 1501 groups of markers by tracking identifier."""
    groups = report.content.get_image_measurement_groups()
    return {g.tracking_identifier: g for g in groups}


@pytest.mark.parametrize(("markers", "told"), [(OPEN, False), (ASSESSED, True)])
def test_markers_are_read_together_where_any_was_assessed(tmp_path, markers, told):
    report = pydicom.dcmread(written(tmp_path, markers=markers).results["SR"])
    names = [item.ConceptNameCodeSequence[0].CodeValue for item in report.ContentSequence]
    assert ("READ_TOGETHER" in names) == told
    if told:
        said = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "READ_TOGETHER")
        assert "Tissue must confirm" in said.TextValue
        assert names.index("READ_TOGETHER") < len(names) - 1, "ahead of the measurements"


def test_a_marker_that_is_not_assessed_says_so_and_why(tmp_path):
    report = sr.srread(written(tmp_path, markers=OPEN).results["SR"])
    groups = marker_groups(report)
    assert len(groups) == len(MarkerName)
    for group in groups.values():
        (evaluation,) = group.get_qualitative_evaluations()
        assert evaluation.name.scheme_designator == codes.PRIVATE_SCHEME
        assert evaluation.value == codes.NOT_EVALUATED
        assert not group.get_measurements()
        (comment,) = [
            i.TextValue for i in items(group[0], "TEXT") if i.ConceptNameCodeSequence[0].CodeValue == "121106"
        ]
        assert comment == "Not assessed: no model for this marker is installed"


def test_a_model_that_keeps_silent_is_named(tmp_path):
    silent = Marker(MarkerName.MGMT, MarkerValue.NOT_ASSESSED, "no better than chance", model="m", model_version="7")
    groups = marker_groups(sr.srread(written(tmp_path, markers=(*OPEN[:2], silent, OPEN[3])).results["SR"]))
    told = {
        label: [i.TextValue for i in items(group[0], "TEXT") if i.ConceptNameCodeSequence[0].CodeValue in ALGORITHM]
        for label, group in groups.items()
    }
    assert told.pop("MGMT promoter methylation") == ["m", "7"]
    assert set(map(tuple, told.values())) == {()}, "where no model is installed there is none to name"


SAID = [
    (
        "IDH mutation status",
        Code("C18093", "NCIt", "Gene Mutation"),
        [91.0],
        "Likely mutant. Probability of IDH mutation 91%",
    ),
    (
        "1p/19q codeletion status",
        codes.INDETERMINATE,
        [],
        "Probability of 1p/19q codeletion 48%: too close to call. What moves the odds of it most: location x 0.3, "
        "age x 1.6, enhancement x 1.2.",
    ),
    (
        "MGMT promoter methylation",
        Code("C132892", "NCIt", "MGMT unmethylated"),
        [93.0],
        "Likely unmethylated. Probability of MGMT promoter methylation 7%",
    ),
]


@pytest.mark.parametrize(("label", "value", "certainty", "comment"), SAID)
def test_an_assessed_marker_has_value_certainty_and_algorithm(tmp_path, label, value, certainty, comment):
    report = sr.srread(written(tmp_path, markers=ASSESSED).results["SR"])
    group = marker_groups(report)[label]
    assert group.get_qualitative_evaluations()[0].value == value
    assert [m.value for m in group.get_measurements(name=codes.CERTAINTY)] == certainty
    (probability,) = group.get_measurements(name=codes.PROBABILITY)
    assert f"{probability.value:.0f}%" in comment, "that of the alteration, also where the answer is open"
    (coverage,) = group.get_measurements(name=codes.COVERAGE)
    assert coverage.value == 90.0
    said = {i.ConceptNameCodeSequence[0].CodeMeaning: i.TextValue for i in items(group[0], "TEXT")}
    assert said["Comment"] == comment
    assert said["Algorithm Name"].endswith("-net")
    assert said["Algorithm Version"] in {"1", "2", "3"}


def test_limits_of_use_come_before_any_number(tmp_path):
    report = pydicom.dcmread(written(tmp_path, markers=ASSESSED).results["SR"])
    names = [i.ConceptNameCodeSequence[0].CodeMeaning for i in report.ContentSequence]
    assert names.index("Limits of use") < names.index("Imaging Measurements")
    (limits,) = texts(report, codes.LIMITS_OF_USE)
    assert "Research use only" in limits
    assert "tissue" in limits


def test_what_ran_the_network_is_told_and_makes_other_objects(tmp_path):
    jobs = []
    for i, engine in enumerate(("", "OpenVINO 1 on CPU, f32", "other")):
        (tmp_path / str(i)).mkdir()
        jobs.append(written(tmp_path / str(i), markers=OPEN, engine=engine))
    reports = [pydicom.dcmread(job.results["SR"]) for job in jobs]
    assert [texts(report, codes.PROCESSING_NOTE) for report in reports] == [
        [], ["The segmenting network ran on OpenVINO 1 on CPU, f32."], ["The segmenting network ran on other."],
    ]  # fmt: skip
    assert len({pydicom.dcmread(job.results["SEG T1C"]).SOPInstanceUID for job in jobs}) == 3
    assert len({report.SOPInstanceUID for report in reports}) == 3


def test_series_used_and_notes_are_told(tmp_path):
    report = pydicom.dcmread(written(tmp_path, markers=OPEN, notes=("T2 was moved by 4 mm – no more",)).results["SR"])
    assert texts(report, codes.SERIES_USED) == [
        'FLAIR: series 4, "AX FLAIR": AX FLAIR is the best FLAIR',
        'T1C: series 2, "AX T1C": AX T1C is the best T1C',
    ]
    assert texts(report, codes.PROCESSING_NOTE) == ["T2 was moved by 4 mm - no more"]


def test_warnings_of_the_quality_gate_come_before_any_number(tmp_path):
    checks = (
        Check("spacing", Outcome.WARN, "T1C's slices lie 8.0 mm apart", 8.0, 7.5),
        Check("brain", Outcome.PASS, "1400 ml of brain are outlined", 1400.0, 900.0),
    )
    report = pydicom.dcmread(written(tmp_path, markers=OPEN, checks=checks).results["SR"])
    assert texts(report, codes.QUALITY_WARNING) == ["spacing: T1C's slices lie 8.0 mm apart"]
    names = [i.ConceptNameCodeSequence[0].CodeMeaning for i in report.ContentSequence]
    assert (
        names.index("Limits of use") < names.index("Warning of a quality check") < names.index("Imaging Measurements")
    )
    assert not iod_errors(tmp_path / "sr.dcm")


def test_every_container_is_separate_and_the_private_scheme_is_declared_once(tmp_path):
    report = pydicom.dcmread(written(tmp_path, markers=ASSESSED).results["SR"])
    containers = [report, *items(report, "CONTAINER")]
    assert {c.ContinuityOfContent for c in containers} == {"SEPARATE"}
    assert [s.CodingSchemeDesignator for s in report.CodingSchemeIdentificationSequence] == [codes.PRIVATE_SCHEME]
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert any(e.PurposeOfReferenceCodeSequence[0].CodeValue == "109102" for e in report.ContributingEquipmentSequence)


@pytest.mark.parametrize("charset", PATIENTS)
def test_patient_and_texts_survive_in_the_source_character_set(tmp_path, charset):
    t1c, flair = (source_of(c, charset=charset) for c in (Contrast.T1C, Contrast.FLAIR))
    job = written(tmp_path, t1c=t1c, flair=flair, markers=OPEN, notes=("Müller 小东 — 5 × 5",))
    report = pydicom.dcmread(job.results["SR"])
    assert str(report.PatientName) == PATIENTS[charset]
    (note,) = texts(report, codes.PROCESSING_NOTE)
    assert note == writable("Müller 小东 — 5 × 5", t1c.headers[0])
    assert not iod_errors(job.results["SR"])


def test_text_beyond_the_character_set_becomes_question_marks():
    assert writable("3°, “late”", pydicom.Dataset()) == '3?, "late"'


def test_a_second_run_writes_the_same_bytes(tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        written(folder, markers=ASSESSED)
    first, second = ((folder / "sr.dcm").read_bytes() for folder in folders)
    assert first == second


def test_no_identity_reaches_a_log_and_a_clock_may_know_its_zone(tmp_path, recwarn, caplog):
    t1c, flair = source_of(Contrast.T1C), source_of(Contrast.FLAIR)
    for header in (*t1c.headers, *flair.headers):
        header.PatientName = "SECRETNAME"
    job = job_of(tmp_path, t1c=t1c, flair=flair, markers=OPEN)
    write_segs(job, "1.0", MADE_AT.astimezone(UTC))
    write_sr(job, "1.0", MADE_AT.astimezone(UTC))
    assert pydicom.dcmread(job.results["SR"]).PatientName == "SECRETNAME"
    assert "SECRET" not in caplog.text + " ".join(str(w.message) for w in recwarn)
    assert not [error for path in job.results.values() for error in iod_errors(path)]


def test_the_operators_write_what_the_functions_do(tmp_path):
    job = job_of(tmp_path, markers=OPEN)
    job.findings = None
    minutes = count()
    stamp = {"version": "1.0", "clock": lambda: MADE_AT + timedelta(minutes=next(minutes))}
    graph = Fragment()
    stages = [
        MeasureOperator(graph, name="measure"),
        KeyImageOperator(graph, name="key image"),
        WriteSegOperator(graph, name="write SEG", **stamp),
        WriteMeasurementsOperator(graph, name="write measurements", **stamp),
        WriteSrOperator(graph, name="write SR", **stamp),
    ]
    for stage in stages:
        stage.process(job)
    assert sorted(job.results) == ["SEG FLAIR", "SEG T1C", "SR", "key image", "measurements SR"]
    names = {"key_image.png", "measurements.dcm", "seg_flair.dcm", "seg_t1c.dcm", "sr.dcm"}
    assert {path.name for path in tmp_path.iterdir()} == names
    folder = tmp_path / "again"
    folder.mkdir()
    again = job_of(folder, markers=OPEN)
    for write in (write_segs, write_measurements, write_sr):
        write(again, "1.0", MADE_AT)
    for kind, path in again.results.items():
        assert path.read_bytes() == job.results[kind].read_bytes(), f"{kind}: as all of them, of the first minute"


def test_one_multi_frame_object_as_source(tmp_path):
    classic = source_of(Contrast.T1C, tilt_degrees=(5, 4, -3))
    job = written(tmp_path, t1c=as_multi_frame(classic), markers=OPEN)
    seg = hd.seg.segread(job.results["SEG T1C"])
    volume = seg.get_volume(combine_segments=True).match_geometry(classic.volume.get_geometry(), tol=1e-3)
    assert (volume.array > 0).sum() == job.tumour.mask.sum()
    for path in job.results.values():
        assert not iod_errors(path)
