"""Volume and diameters of shapes whose answers are known."""

import highdicom as hd
import numpy as np
import pytest

from models.segments import Segment
from operators.domain import Contrast, Findings, Stack, TumourMap
from operators.measure import measure
from operators.write_planes import stack_to_planes
from tests.support_phantom import small_phantom
from tests.support_segments import layered_job
from tests.test_write_seg import TILTED, lesion_job


def measured(mask, spacing_mm):
    """Findings of a mask on an axis-parallel stack."""
    geometry = hd.VolumeGeometry(np.diag([*spacing_mm, 1.0]), mask.shape, "PATIENT")
    images = {contrast: np.zeros(mask.shape, np.float32) for contrast in Contrast}
    stack = Stack(geometry, images, np.ones(mask.shape, bool), {})
    return measure(stack, TumourMap(geometry, mask.astype(np.float32), "model", "1"))


def ellipse(shape, spacing_mm, semi_long, semi_short, degrees, centre=(70.3, 69.6)):
    """Pixels whose centres lie in an ellipse; `degrees` turns its long axis from the columns' direction."""
    rows, columns = np.indices(shape)
    y, x = (rows - centre[0]) * spacing_mm[1], (columns - centre[1]) * spacing_mm[2]
    turn = np.radians(degrees)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (along / semi_long) ** 2 + (across / semi_short) ** 2 <= 1


EDGES = {
    "first plane": (0, 5, 5), "last plane": (4, 5, 5), "first row": (2, 0, 5), "last row": (2, 8, 5),
    "first column": (2, 5, 0), "last column": (2, 5, 10),
}  # fmt: skip


@pytest.mark.parametrize("edge", EDGES)
def test_what_the_edge_of_the_images_cuts_is_known(edge):
    mask = np.zeros((5, 9, 11), bool)
    mask[1:4, 1:8, 1:10] = True
    assert not measured(mask, (3.0, 1.0, 1.0)).reaches_edge, "one voxel short of it on every side"
    mask[EDGES[edge]] = True
    assert measured(mask, (3.0, 1.0, 1.0)).reaches_edge
    assert not measured(np.zeros_like(mask), (3.0, 1.0, 1.0)).reaches_edge


def test_each_part_is_told_whether_it_is_cut(tmp_path):
    job = layered_job(tmp_path, semi_axes_mm=(14, 11, 80))
    assert job.findings.reaches_edge
    assert {s: part.reaches_edge for s, part in job.findings.segments.items()}[Segment.OEDEMA]
    assert not layered_job(tmp_path).findings.reaches_edge


def test_the_border_of_slices_that_were_put_straight_is_their_own(tmp_path):
    """Their volume is wider than they are: beside a slice lies what nobody imaged."""
    job = lesion_job(tmp_path, small_phantom(**TILTED, thickness_mm=4.0, gantry_tilt_degrees=-20.0))
    t1c = job.volumes[Contrast.T1C]
    rows = int(t1c.headers[0].Rows)
    assert t1c.volume.spatial_shape[1] > rows, "it is wider"
    to_own = stack_to_planes(job.stack, t1c, Contrast.T1C)
    places = np.indices(job.stack.geometry.spatial_shape).reshape(3, -1).T @ to_own[:3, :3].T + to_own[:3, 3]
    on_border = (np.abs(places[:, 1] - (rows - 1)) < 0.6) & (np.abs(places[:, 0] - 3) < 0.01)
    mask = on_border.reshape(job.stack.geometry.spatial_shape)
    mask[..., :40] = mask[..., 50:] = False
    assert mask.any()
    tumour = TumourMap(job.stack.geometry, mask.astype(np.float32), "model", "1")
    assert measure(job.stack, tumour, t1c=t1c).reaches_edge
    assert not measure(job.stack, tumour).reaches_edge, "the stack's grid alone does not show it"


ELLIPSES = [
    (20.0, 10.0, 0, (5.5, 1.0, 1.0)),
    (20.0, 10.0, 33, (5.5, 1.0, 1.0)),
    (20.0, 12.0, 70, (5.0, 0.5, 0.9)),
    (25.0, 8.0, 120, (1.0, 0.9, 0.6)),
    (18.0, 18.0, 0, (1.0, 0.7, 0.7)),
]


@pytest.mark.parametrize(("semi_long", "semi_short", "degrees", "spacing_mm"), ELLIPSES)
def test_an_ellipse_has_the_diameters_it_was_drawn_with(semi_long, semi_short, degrees, spacing_mm):
    mask = np.zeros((3, 140, 140), bool)
    mask[1] = ellipse((140, 140), spacing_mm, semi_long, semi_short, degrees)
    mask[2] = ellipse((140, 140), spacing_mm, semi_long / 2, semi_short / 2, degrees)
    found = measured(mask, spacing_mm)
    assert found.slice_index == 1
    assert found.long_axis.millimetres == pytest.approx(2 * semi_long, abs=max(spacing_mm[1:]))
    assert found.short_axis.millimetres == pytest.approx(2 * semi_short, abs=max(spacing_mm[1:]))


@pytest.mark.parametrize("spacing_mm", [(5.5, 1.0, 1.0), (4.0, 0.5, 1.5)])
def test_the_axes_cross_at_a_right_angle_and_their_ends_give_their_lengths(spacing_mm):
    mask = ellipse((140, 140), spacing_mm, 20.0, 9.0, 40)[None]
    found = measured(mask, spacing_mm)
    lines = [np.subtract(a.end, a.start) * spacing_mm[1:] for a in (found.long_axis, found.short_axis)]
    lengths = [np.linalg.norm(line) for line in lines]
    assert lengths == pytest.approx([found.long_axis.millimetres, found.short_axis.millimetres])
    assert abs(lines[0] @ lines[1]) / np.prod(lengths) < 1e-6


def test_a_rectangle_is_as_long_as_its_diagonal():
    mask = np.zeros((1, 60, 60), bool)
    mask[0, 10:22, 8:43] = True  # 12 rows of 1 mm, 35 columns of 0.8 mm
    found = measured(mask, (5.0, 1.0, 0.8))
    assert found.long_axis.millimetres == pytest.approx(np.hypot(12.0, 28.0), abs=0.6)
    assert found.tumour_mm3 == pytest.approx(12 * 35 * 5.0 * 0.8)


def test_parts_that_do_not_touch_are_not_measured_across_the_gap():
    mask = np.zeros((1, 80, 80), bool)
    mask[0, 10:20, 10:20] = mask[0, 60:70, 60:75] = True
    found = measured(mask, (5.0, 1.0, 1.0))
    assert found.long_axis.millimetres == pytest.approx(np.hypot(10, 15), abs=0.8)
    assert found.tumour_mm3 == pytest.approx(250 * 5.0)


def test_the_short_axis_stays_inside_a_ring():
    rows, columns = np.indices((90, 90)) - 44.5
    radius = np.hypot(rows, columns)
    mask = ((radius <= 30) & (radius >= 24))[None]
    assert measured(mask, (5.0, 1.0, 1.0)).short_axis.millimetres < 50.0


def test_an_empty_tumour_has_no_diameters():
    found = measured(np.zeros((2, 9, 9), bool), (5.0, 1.0, 1.0))
    assert (found.tumour_mm3, found.slice_index, found.long_axis, found.short_axis) == (0.0, None, None, None)
    assert isinstance(found, Findings)


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 4, 4), (1, 8, 8)])
def test_a_single_voxel_is_one_pixel_long_even_in_a_corner(place):
    mask = np.zeros((2, 9, 9), bool)
    mask[place] = True
    found = measured(mask, (5.0, 0.8, 1.1))
    assert found.tumour_mm3 == pytest.approx(5.0 * 0.8 * 1.1)
    assert found.slice_index == place[0]
    assert found.long_axis.millimetres == pytest.approx(1.1)
    assert 0.3 < found.short_axis.millimetres <= 0.9


def test_a_tumour_that_fills_the_slice_is_measured_to_its_edges():
    found = measured(np.ones((1, 30, 40), bool), (5.0, 1.0, 1.0))
    assert found.long_axis.millimetres == pytest.approx(50.0, abs=0.8)
