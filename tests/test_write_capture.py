"""The key image as DICOM: valid, of the right patient and image, pixel for pixel what was drawn."""

import numpy as np
import pydicom
import pytest
from PIL import Image

from operators.domain import Contrast
from operators.key_image import render_key_image, save_key_image
from operators.write_capture import plane_of, write_captures
from tests.support_results import MADE_AT, PATIENTS, iod_errors, job_of, source_of


def written(folder, **kwargs):
    folder.mkdir(exist_ok=True)
    job = job_of(folder, **kwargs)
    picture = render_key_image(job.stack, job.tumour, job.findings)
    job.results["key image"] = save_key_image(picture, folder / "key_image.png")
    write_captures(job, "1.0.0", MADE_AT)
    return job


@pytest.mark.parametrize("charset", PATIENTS)
def test_it_is_valid_and_of_the_patient(tmp_path, charset):
    job = written(tmp_path, t1c=source_of(Contrast.T1C, charset=charset))
    capture, source = pydicom.dcmread(job.results["key image SC"]), job.volumes[Contrast.T1C].headers[0]
    assert not iod_errors(job.results["key image SC"])
    assert capture.PatientName == source.PatientName
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.SeriesInstanceUID != source.SeriesInstanceUID
    assert capture.BurnedInAnnotation == "NO"
    assert list(capture.PatientOrientation) == ["L", "P"]


def test_its_pixels_are_the_picture(tmp_path):
    job = written(tmp_path)
    drawn = np.asarray(Image.open(job.results["key image"]).convert("RGB"))
    np.testing.assert_array_equal(pydicom.dcmread(job.results["key image SC"]).pixel_array, drawn)


def test_the_same_study_makes_the_same_file(tmp_path):
    first, second = (written(tmp_path / name).results["key image SC"].read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("semi_axes_mm", [(14, 11, 12), None])
def test_it_names_the_image_it_was_drawn_on(tmp_path, semi_axes_mm):
    """Planes from head to feet, so that the stack's slices run the other way than they do."""
    t1c = source_of(Contrast.T1C, plane="axial")
    job = written(tmp_path, t1c=t1c, semi_axes_mm=semi_axes_mm, centre_mm=(0, 0, 8.0))
    (named,) = pydicom.dcmread(job.results["key image SC"]).SourceImageSequence
    (header,) = [h for h in t1c.headers if h.SOPInstanceUID == named.ReferencedSOPInstanceUID]
    if semi_axes_mm:
        shown_mm = (job.stack.geometry.affine @ (job.findings.slice_index, 0, 0, 1))[2]
        assert float(header.ImagePositionPatient[2]) == pytest.approx(shown_mm, abs=0.01)


@pytest.mark.parametrize("feet_first", [True, False])
def test_a_slice_is_found_among_planes_of_either_order(tmp_path, feet_first):
    t1c = source_of(Contrast.T1C, spacing=(5.0, 1.0, 1.0))
    if not feet_first:
        flipped = t1c.volume.flip_spatial(0)
        t1c = type(t1c)(t1c.series, flipped, t1c.headers[::-1])
    job = job_of(tmp_path, t1c=t1c)
    for index in range(job.stack.geometry.spatial_shape[0]):
        header = plane_of(job.stack, index, t1c)
        assert float(header.ImagePositionPatient[2]) == pytest.approx(
            (job.stack.geometry.affine @ (index, 0, 0, 1))[2], abs=0.01
        )


def test_planes_cut_otherwise_are_no_source(tmp_path):
    t1c = source_of(Contrast.T1C, plane="sagittal", spacing=(1.5, 1.4, 1.3), shape=(40, 40, 40))
    job = written(tmp_path, t1c=t1c)
    assert "SourceImageSequence" not in pydicom.dcmread(job.results["key image SC"])
    assert not iod_errors(job.results["key image SC"])
