"""The key image shows the right slice, the right way round, and nobody's name."""

import numpy as np
import pytest
from PIL import Image

from operators.domain import Contrast, Findings, Stack
from operators.key_image import render_key_image, save_key_image
from operators.slice_picture import key_slice
from operators.stage import Job
from tests.support_results import job_of, source_of

YELLOW = np.array([255, 210, 0])


def rendered(job: Job):
    return render_key_image(job.stack, job.tumour, job.findings)


def outline(picture):
    """Where the outline's colour is, as (rows, columns)."""
    return np.nonzero((np.abs(picture.astype(int) - YELLOW) < 40).all(axis=-1))


@pytest.fixture
def tumour_on_the_right(tmp_path):
    """A tumour in front on the patient's right, in a series acquired sagittally."""
    t1c = source_of(Contrast.T1C, plane="sagittal", spacing=(1.5, 1.4, 1.3), shape=(70, 70, 70))
    return job_of(tmp_path, t1c=t1c, semi_axes_mm=(12, 9, 10), centre_mm=(-25.0, -20.0, 4.0))


def test_the_patients_right_is_on_the_left_and_the_front_is_on_top(tumour_on_the_right):
    picture = rendered(tumour_on_the_right)
    rows, columns = outline(picture)
    left = columns[columns < picture.shape[1] // 2]
    assert 0 < left.mean() < picture.shape[1] * 0.25
    assert rows.mean() < picture.shape[0] * 0.45


def test_the_outline_is_on_both_panels_and_the_background_dark(tumour_on_the_right):
    picture = rendered(tumour_on_the_right)
    assert picture.dtype == np.uint8
    assert picture.shape[1] > picture.shape[0]
    columns = outline(picture)[1]
    middle = picture.shape[1] // 2
    assert min((columns < middle).sum(), (columns > middle).sum()) > 100
    assert (picture[-5:] == 0).all()


def test_pixels_keep_their_shape_on_the_picture(tmp_path):
    """A ball stays round though rows are twice as far apart as columns."""
    t1c = source_of(Contrast.T1C, spacing=(4.0, 1.6, 0.8), shape=(14, 60, 120))
    picture = rendered(job_of(tmp_path, t1c=t1c, semi_axes_mm=(20, 20, 20)))
    rows, columns = outline(picture)
    half = columns > picture.shape[1] // 2
    assert np.ptp(rows[half]) == pytest.approx(np.ptp(columns[half]), rel=0.06)


def test_the_slice_is_the_measured_one_or_else_the_one_with_most_brain(tumour_on_the_right, tmp_path):
    job = tumour_on_the_right
    assert key_slice(job.stack, job.findings) == job.findings.slice_index
    brain = np.zeros_like(job.stack.brain)
    brain[7, 10:30, 10:30] = True
    stack = Stack(job.stack.geometry, job.stack.images, brain, job.stack.to_source)
    assert key_slice(stack, Findings(0.0)) == 7


def test_without_a_tumour_nothing_is_outlined(tmp_path):
    rows, _ = outline(rendered(job_of(tmp_path, semi_axes_mm=None)))
    assert len(rows) == 0


def test_a_flat_image_without_brain_is_still_drawn(tmp_path):
    job = job_of(tmp_path, semi_axes_mm=(1.2, 1.2, 3.2), centre_mm=(0.55, 0.45, 2.75))
    blank = np.zeros(job.stack.brain.shape, np.float32)
    stack = Stack(job.stack.geometry, dict.fromkeys(job.stack.images, blank), blank > 0, job.stack.to_source)
    assert render_key_image(stack, job.tumour, job.findings).any()


def test_the_same_study_makes_the_same_file_and_it_carries_no_text(tumour_on_the_right, tmp_path):
    paths = [save_key_image(rendered(tumour_on_the_right), tmp_path / name) for name in ("a.png", "b.png")]
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert Image.open(paths[0]).info == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
