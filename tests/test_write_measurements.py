"""The diameters lie on the image that they were measured on, to the hundredth of a millimetre."""

import numpy as np
import pydicom
import pytest
from highdicom import sr

from app.phantom import Plane
from operators.domain import Contrast, Findings
from operators.measure import measure
from operators.write_measurements import NOT_ON_AN_IMAGE, label_of, write_measurements
from tests.support_phantom import small_phantom
from tests.support_results import MADE_AT, PATIENTS, iod_errors, job_of, source_of
from tests.test_write_seg import TILTED, lesion_job
from tests.test_write_sr import items

T1C = Contrast.T1C
SOURCES = {
    "axial, anisotropic": {},
    "oblique": {"tilt_degrees": (9, -12, 5), "centre": (3, -4, 20)},
    "one slice": {"shape": (1, 64, 48)},
}


def written(job):
    write_measurements(job, "1.0", MADE_AT)
    return pydicom.dcmread(job.results["measurements SR"])


def lines_of(report):
    """By name: the figure in mm, the line's (column, row) end points, and the image and frame it lies on."""
    found = {}
    for number in items(report, "NUM"):
        (line,) = items(number, "SCOORD")
        (image,) = items(line, "IMAGE")
        points = np.array(line.GraphicData, float).reshape(2, 2)
        reference = image.ReferencedSOPSequence[0]
        named = reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")
        found[number.ConceptNameCodeSequence[0].CodeMeaning] = (
            float(number.MeasuredValueSequence[0].NumericValue), points, named,
        )  # fmt: skip
    return found


def in_patient(header, points):
    """Points of an image in LPS mm (PS3.3 C.7.6.2.1.1), whose first pixel's centre is at .5, .5."""
    row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    across, down = (points - 0.5).T * np.array(header.PixelSpacing, float)[::-1, None]
    return np.array(header.ImagePositionPatient, float) + np.outer(across, row) + np.outer(down, column)


def assert_exact(job, report):
    """Lines are as long as their figures, and lie where the diameters lie on the stack."""
    lines = lines_of(report)
    frames = {id(i.header): i.frames[0] + 1 for i in job.volumes[T1C].series.instances if i.frames}
    headers = {(h.SOPInstanceUID, frames.get(id(h))): h for h in job.volumes[T1C].headers}
    assert set(lines) == {"Long Axis", "Short Axis"}
    for name, axis in (("Long Axis", job.findings.long_axis), ("Short Axis", job.findings.short_axis)):
        figure, points, image = lines[name]
        header = headers[image]
        spacing = np.array(header.PixelSpacing, float)[::-1]
        assert np.linalg.norm(np.diff(points, axis=0) * spacing) == pytest.approx(axis.millimetres, abs=1e-3)
        assert figure == pytest.approx(axis.millimetres, abs=0.051)
        index = np.array([(job.findings.slice_index, *end) for end in (axis.start, axis.end)])
        affine = job.stack.to_source[T1C] @ job.stack.geometry.affine
        assert in_patient(header, points) == pytest.approx(index @ affine[:3, :3].T + affine[:3, 3], abs=0.01)


@pytest.mark.parametrize("name", SOURCES)
def test_lines_lie_exactly_on_their_image(tmp_path, name):
    t1c = source_of(T1C, **SOURCES[name])
    job = job_of(tmp_path, t1c=t1c, semi_axes_mm=(14, 9, 12), centre_mm=t1c.volume.center_position)
    report = written(job)
    assert_exact(job, report)
    assert not iod_errors(job.results["measurements SR"])


WAYS = {"tilted": {"gantry_tilt_degrees": -20.0, "tilt_degrees": (8.0, 5.0, -4.0)}, "enhanced": {"enhanced": True}}


@pytest.mark.parametrize("way", WAYS)
def test_lines_lie_exactly_on_planes_that_were_put_straight_and_on_frames(tmp_path, way):
    job = lesion_job(tmp_path, small_phantom(**TILTED, thickness_mm=4.0, **WAYS[way]))
    job.findings = measure(job.stack, job.tumour)
    assert_exact(job, written(job))
    assert not iod_errors(job.results["measurements SR"])


@pytest.mark.parametrize("plane", [Plane.SAGITTAL, Plane.CORONAL])
def test_where_no_image_holds_the_lines_nothing_is_written_and_a_note_says_why(tmp_path, plane):
    t1c = source_of(T1C, plane=plane.value, spacing=(1.4, 1.0, 1.1), shape=(40, 48, 56))
    job = job_of(tmp_path, t1c=t1c)
    write_measurements(job, "1.0", MADE_AT)
    assert "measurements SR" not in job.results
    assert not list(tmp_path.iterdir())
    assert job.notes == (NOT_ON_AN_IMAGE,)


def test_no_tumour_has_no_lines_and_needs_no_note(tmp_path):
    job = job_of(tmp_path, semi_axes_mm=None)
    write_measurements(job, "1.0", MADE_AT)
    assert (job.results, job.notes) == ({}, ())


def test_viewers_find_what_they_look_for(tmp_path):
    """Title, the tool's name, one group, a line under every figure, and a comment as label."""
    job = job_of(tmp_path)
    report = written(job)
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"
    groups = sr.srread(job.results["measurements SR"]).content.get_image_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["Cornerstone3DTools@^0.1.0:Bidirectional"]
    assert [t.TextValue for t in items(groups[0][0], "TEXT")][-1] == label_of(job.findings)
    assert {c.ContinuityOfContent for c in (report, *items(report, "CONTAINER"))} == {"SEPARATE"}
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [len(s.ReferencedSOPSequence) for s in evidence] == [1]


def test_the_label_says_volume_and_limits():
    assert label_of(Findings(31_440.0)) == "Whole tumour 31.4 ml (automatic, research)"
    assert label_of(Findings(5.4)) == "Whole tumour 0.005 ml (automatic, research)"
    assert label_of(Findings(31_440.0, reaches_edge=True)) == "Whole tumour at least 31.4 ml (automatic, research)"


@pytest.mark.parametrize("charset", PATIENTS)
def test_the_patient_stays_the_patient_and_a_second_run_writes_the_same_bytes(tmp_path, charset):
    written_bytes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        job = job_of(tmp_path / name, t1c=source_of(T1C, charset=charset))
        assert str(written(job).PatientName) == PATIENTS[charset]
        written_bytes.append(job.results["measurements SR"].read_bytes())
    assert written_bytes[0] == written_bytes[1]
