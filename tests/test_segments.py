"""A tumour of several parts: every object holds each of them, in place, under its own code, and nothing more."""

from __future__ import annotations

import json

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom import sr
from PIL import Image
from pydicom.sr.coding import Code

from app.summary import describe_job
from models.refine import Spread
from models.segments import Segment
from operators import codes
from operators.domain import Contrast, LabelMap
from operators.earlier import latest_before, read_earlier
from operators.results import headers_of
from operators.segment_table import SEGMENTS
from operators.validators import Ruling
from operators.verify import verify_folder
from operators.write_measurements import label_of
from operators.write_resample import resample_labels, resample_mask
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_phantom import small_phantom
from tests.support_results import MADE_AT, iod_errors, source_of
from tests.support_segments import LEGEND, label_map, layered_job, layers_of, segments_of, with_labels, write_all
from tests.test_write_seg import (
    FLAIRS,
    MOVES,
    SOURCES,
    TILTED,
    WAYS,
    assert_names_its_planes,
    centroid_mm,
    lesion_job,
    rigid,
)

T1C, FLAIR = Contrast.T1C, Contrast.FLAIR
ENHANCING, NECROSIS, OEDEMA = LEGEND
ALL = (Segment.WHOLE, Segment.CORE, *LEGEND)
SEGS = ("SEG T1C", "SEG FLAIR")


def without(segment):
    """The layers, one of them taken for oedema."""
    return lambda labels: np.where(labels == LEGEND.index(segment) + 1, LEGEND.index(OEDEMA) + 1, labels)


def one_voxel(labels):
    """Oedema with one voxel that enhances."""
    changed = without(ENHANCING)(without(NECROSIS)(labels))
    changed[tuple(np.argwhere(labels == LEGEND.index(NECROSIS) + 1)[0])] = LEGEND.index(ENHANCING) + 1
    return changed


CASES = {
    "all parts": (lambda labels: labels, ALL),
    "no enhancing part": (without(ENHANCING), (Segment.WHOLE, Segment.CORE, NECROSIS, OEDEMA)),
    "oedema alone": (lambda labels: np.where(labels > 0, 3, 0), (Segment.WHOLE, OEDEMA)),
    "one voxel enhances": (one_voxel, (Segment.WHOLE, Segment.CORE, ENHANCING, OEDEMA)),
    "no tumour": (np.zeros_like, (Segment.WHOLE,)),
}


def mask_of(job, segment):
    return job.tumour.mask if segment is Segment.WHOLE else job.tumour.labels.mask_of(segment)


def made(folder, case="all parts", **asked):
    folder.mkdir(parents=True, exist_ok=True)
    job = layered_job(folder)
    spread = Spread(level=0.9, volume=1.5, long_axis=0.8, short_axis=1.0, patients=77)
    with_labels(job, CASES[case][0](job.tumour.labels.array), spread=spread, confidence=0.85)
    return write_all(job, **asked)


def voxels(path, label):
    """One segment's voxels as highdicom reads them: bool (slice, row, column), with their affine."""
    seg = hd.seg.segread(path)
    (number,) = seg.get_segment_numbers(segment_label=label)
    volume = seg.get_volume(segment_numbers=[number], combine_segments=True)
    return volume.array > 0, volume


def faults(folder):
    return [(j.subject, j.validator, j.complaints) for j in verify_folder(folder) if j.ruling is Ruling.FAILED]


def groups_of(path):
    """A report's measurement groups on the tumour, by tracking identifier."""
    content = sr.srread(path).content
    found = (*content.get_volumetric_roi_measurement_groups(), *content.get_image_measurement_groups())
    labels = {row.label for row in SEGMENTS.values()}
    return {g.tracking_identifier: g for g in found if g.tracking_identifier in labels}


def comments(group):
    return " ".join(i.TextValue for i in group[0].ContentSequence if i.ValueType == "TEXT" and "Comment" in str(i))


def texts_of(path):
    """What a report says in sentences of its own."""
    return " ".join(i.TextValue for i in pydicom.dcmread(path).ContentSequence if i.ValueType == "TEXT")


def volume_ml(group):
    return group.get_measurements(name=Code(*codes.VOLUME[:3]))[0].value


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_and_holds_what_was_found(tmp_path, case):
    job, expected = made(tmp_path / "set", case), CASES[case][1]
    assert not faults(tmp_path / "set")
    assert segments_of(job.tumour) == expected
    for kind in SEGS:
        seg = pydicom.dcmread(job.results[kind])
        assert [s.SegmentLabel for s in seg.SegmentSequence] == [SEGMENTS[s].label for s in expected]
        assert [s.SegmentNumber for s in seg.SegmentSequence] == list(range(1, len(expected) + 1))
        assert seg.NumberOfFrames == len(expected) * len(job.volumes[T1C].headers), "empty planes too"
        for segment in expected:
            mask, _ = voxels(job.results[kind], SEGMENTS[segment].label)
            assert mask.sum() == mask_of(job, segment).sum(), "both lie on one grid here"


@pytest.mark.parametrize("case", CASES)
def test_label_maps_hold_the_parts_alone_and_their_report_says_what_the_whole_is(tmp_path, case):
    job, expected = made(tmp_path / "set", case, labelmap=True, probability_map=True), CASES[case][1]
    assert not faults(tmp_path / "set")
    parts = [s for s in expected if s in LEGEND] or [Segment.WHOLE]
    for contrast in (T1C, FLAIR):
        seg = pydicom.dcmread(job.results[f"SEG {contrast} labelmap"])
        assert [s.SegmentLabel for s in seg.SegmentSequence] == [SEGMENTS[s].label for s in parts] + ["Background"]
        pixels = seg.pixel_array
        counts = [int((pixels == number).sum()) for number in range(1, len(parts) + 1)]
        assert counts == [mask_of(job, s).sum() for s in parts]
        assert np.count_nonzero(pixels) == job.tumour.mask.sum()
    if case == "all parts":
        report = sr.srread(job.results["SR labelmap"]).content
        referred = {
            g.tracking_identifier: g.referenced_segment.referenced_segment_numbers[0]
            for g in report.get_volumetric_roi_measurement_groups()
        }
        assert referred == {SEGMENTS[s].label: n for n, s in enumerate(parts, 1)}
        groups = groups_of(job.results["SR labelmap"])
        assert "The whole tumour is the union of: enhancing part, necrosis, oedema." in comments(groups["Whole tumour"])
        assert "has no segment for a union" in comments(groups["Tumour core"])
        assert {k: volume_ml(g) for k, g in groups.items()} == {
            k: volume_ml(g) for k, g in groups_of(job.results["SR"]).items()
        }


@pytest.mark.parametrize("name", SOURCES)
def test_each_part_lies_exactly_where_it_was_found(tmp_path, name):
    t1c = source_of(T1C, **SOURCES[name])
    job = layered_job(tmp_path, t1c=t1c, centre_mm=t1c.volume.center_position)
    write_segs(job, "1.0", MADE_AT)
    assert segments_of(job.tumour) == ALL
    back, on_stack = t1c.volume.get_geometry(), job.stack.geometry
    for segment in ALL:
        mask, volume = voxels(job.results["SEG T1C"], SEGMENTS[segment].label)
        expected = on_stack.with_array(mask_of(job, segment).astype(np.uint8)).match_geometry(back, tol=1e-4).array > 0
        # A single plane has no spacing to read back.
        found = mask if len(mask) == 1 else volume.match_geometry(back, tol=1e-4).array > 0
        assert np.array_equal(found, expected)
    assert not iod_errors(job.results["SEG T1C"])


@pytest.mark.parametrize(("degrees", "shift_mm"), MOVES)
@pytest.mark.parametrize("flair", FLAIRS)
def test_on_flair_parts_keep_volume_and_place_and_neither_overlap_nor_leave_gaps(tmp_path, flair, degrees, shift_mm):
    t1c = source_of(T1C, spacing=(5.5, 0.9, 0.9), shape=(18, 80, 80))
    moved, centre = rigid(degrees, shift_mm), np.array([3.0, -5.0, 4.0])
    source = source_of(FLAIR, **FLAIRS[flair])
    job = layered_job(tmp_path, t1c=t1c, flair=source, to_flair=moved, semi_axes_mm=(20, 16, 18), centre_mm=centre)
    write_segs(job, "1.0", MADE_AT)
    found = {s: voxels(job.results["SEG FLAIR"], SEGMENTS[s].label) for s in ALL}
    assert np.array_equal(sum(found[s][0].astype(int) for s in LEGEND), found[Segment.WHOLE][0].astype(int))
    assert np.array_equal(found[ENHANCING][0] | found[NECROSIS][0], found[Segment.CORE][0])
    for segment in ALL:
        mask, volume = found[segment]
        expected_mm3 = mask_of(job, segment).sum() * job.stack.geometry.voxel_volume
        assert mask.sum() * volume.voxel_volume == pytest.approx(expected_mm3, rel=0.03)
        expected = moved @ (*centroid_mm(mask_of(job, segment), job.stack.geometry.affine), 1.0)
        off = volume.inverse_affine[:3, :3] @ (centroid_mm(mask, volume.affine) - expected[:3])
        assert np.abs(off).max() < 0.6


def test_the_same_grid_gives_the_same_labels():
    labels = np.random.default_rng(5).integers(0, 4, (6, 30, 30)).astype(np.uint8)
    assert np.array_equal(resample_labels(labels, labels > 0, np.eye(4), (5.0, 1.0, 1.0)), labels)


@pytest.mark.parametrize("slices", [5, 3, 60])
def test_a_part_of_one_voxel_is_not_lost_on_another_grid(slices):
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[8:22, 8:22, 8:22] = 3
    labels[15, 12, 14] = 1
    scale = np.diag([slices / 30, 1.0, 1.0, 1.0])
    scale[0, 3] = (slices / 30 - 1) / 2
    whole = resample_mask(labels > 0, scale, (1, 1, 1), (slices, 30, 30))
    found = resample_labels(labels, whole, scale, (1, 1, 1))
    assert np.array_equal(found > 0, whole)
    places = np.argwhere(found == 1)
    assert 1 <= len(places) <= max(1, slices // 30)
    assert np.abs(places[0] - (scale @ (15, 12, 14, 1))[:3]).max() <= 1


def test_what_the_other_series_does_not_cover_of_a_part_is_left_out():
    labels = np.zeros((20, 30, 30), np.uint8)
    labels[4:16, 8:20, 8:20] = 3
    labels[4:8, 10:16, 10:16] = 1
    shift = np.eye(4)
    shift[0, 3] = -10.0  # the target begins ten slices higher
    whole = resample_mask(labels > 0, shift, (1, 1, 1), (20, 30, 30))
    assert np.unique(resample_labels(labels, whole, shift, (1, 1, 1))).tolist() == [0, 3]
    assert not resample_labels(labels, np.zeros_like(whole), shift, (1, 1, 1)).any()


@pytest.mark.parametrize("way", [*WAYS, "upright"])
def test_each_layer_of_a_phantom_lies_right_on_the_planes_as_they_came(tmp_path, way):
    """Also where the gantry was tilted, and where the series is one object."""
    truth = small_phantom(**TILTED, thickness_mm=4.0, high_grade=True, **WAYS.get(way, {}))
    job = lesion_job(tmp_path, truth)
    grid = job.stack.geometry
    shares = [truth.lesion_occupancy(grid.affine, grid.spatial_shape, part=part) for part in LEGEND]
    with_labels(job, np.where(job.tumour.mask, np.argmax(shares, axis=0) + 1, 0))
    write_segs(job, "1.0", MADE_AT)
    for contrast in (T1C, FLAIR):
        path, own = job.results[f"SEG {contrast}"], truth.grid(contrast)
        assert not iod_errors(path)
        assert_names_its_planes(path, truth.folder)
        to_index = np.linalg.inv(own.affine[:3, :3])
        for part in LEGEND:
            share = truth.lesion_occupancy(own.affine, own.shape, contrast, part=part)
            index = np.indices(own.shape).reshape(3, -1).T
            middle = (index * share.reshape(-1, 1)).sum(axis=0) / share.sum()
            points = points_of(path, part, own)
            assert len(points) == pytest.approx(share.sum(), rel=0.05)
            assert np.abs(to_index @ (points.mean(axis=0) - own.affine[:3, 3]) - middle).max() < 0.5
        whole = points_of(path, Segment.WHOLE, own)
        assert len(whole) * abs(np.linalg.det(own.affine[:3, :3])) == pytest.approx(truth.lesion_mm3, rel=0.02)


def points_of(path, segment, grid):
    """Where one segment's voxels lie, in patient coordinates, plane by plane: tilted ones are no volume to a reader."""
    seg = pydicom.dcmread(path)
    (number,) = [s.SegmentNumber for s in seg.SegmentSequence if s.SegmentLabel == SEGMENTS[segment].label]
    points = [
        np.array(g.PlanePositionSequence[0].ImagePositionPatient, float) + np.argwhere(plane) @ grid.affine[:3, 1:3].T
        for g, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)
        if g.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
    ]
    return np.concatenate(points)


def test_parts_that_are_not_the_whole_are_no_tumour():
    with pytest.raises(ValueError, match="among the 3 of the legend"):
        label_map(np.full((1, 2, 2), 4))
    assert isinstance(label_map(np.zeros((1, 2, 2))), LabelMap)


def test_a_tumour_whose_parts_are_not_the_whole_cannot_be(tmp_path):
    job = layered_job(tmp_path)
    labels = job.tumour.labels.array.copy()
    labels[tuple(np.argwhere(labels)[0])] = 0
    with pytest.raises(ValueError, match="not the whole tumour"):
        type(job.tumour)(job.stack.geometry, job.tumour.probability, "m", "1", label_map(labels))


def test_codes_colours_and_algorithm_are_each_parts_own(tmp_path):
    seg = pydicom.dcmread(made(tmp_path / "set").results["SEG T1C"])
    for item, segment in zip(seg.SegmentSequence, ALL, strict=True):
        row = SEGMENTS[segment]
        assert Code(*map(str, code_parts(item.SegmentedPropertyTypeCodeSequence[0]))) == row.code
        assert list(item.RecommendedDisplayCIELabValue) == list(hd.color.CIELabColor.from_rgb(*row.rgb).value)
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2.0"
    assert seg.SegmentsOverlap == "YES"
    assert seg.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == codes.PRIVATE_SCHEME


def code_parts(item):
    return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning


def tracking(path):
    return {s.SegmentLabel: s.TrackingUID for s in pydicom.dcmread(path).SegmentSequence if "TrackingUID" in s}


def test_a_part_keeps_its_tracking_uid_on_every_grid_in_every_form_and_in_the_report(tmp_path):
    job = made(tmp_path / "set", labelmap=True)
    first = tracking(job.results["SEG T1C"])
    assert len(set(first.values())) == len(ALL)
    assert tracking(job.results["SEG FLAIR"]) == first
    assert tracking(job.results["SEG T1C labelmap"]).items() <= first.items()
    for kind in ("SR", "SR labelmap"):
        assert {k: g.tracking_uid for k, g in groups_of(job.results[kind]).items()} == first


def test_the_same_input_gives_the_same_bytes_and_another_reading_of_the_channels_other_uids(tmp_path):
    first, second = (made(tmp_path / name, labelmap=True) for name in ("a", "b"))
    for kind, path in first.results.items():
        assert path.read_bytes() == second.results[kind].read_bytes(), kind
    (tmp_path / "c").mkdir()
    other = layered_job(tmp_path / "c")
    object.__setattr__(other.tumour.labels, "read_as", "nested")
    write_segs(other, "1.0.0", MADE_AT)
    uids = [pydicom.dcmread(j.results["SEG T1C"]).SOPInstanceUID for j in (first, other)]
    assert uids[0] != uids[1]


def test_the_report_has_a_group_for_each_part_against_its_segment(tmp_path):
    job = made(tmp_path / "set")
    seg = pydicom.dcmread(job.results["SEG T1C"])
    groups = groups_of(job.results["SR"])
    assert list(groups) == [SEGMENTS[s].label for s in ALL]
    for number, (segment, group) in enumerate(zip(ALL, groups.values(), strict=True), 1):
        found = job.findings if segment is Segment.WHOLE else job.findings.segments[segment]
        assert group.finding_type == SEGMENTS[segment].code
        assert group.referenced_segment.referenced_segment_numbers[0] == number
        assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
        mm3 = mask_of(job, segment).sum() * np.prod(job.stack.spacing_mm)
        assert volume_ml(group) == pytest.approx(mm3 / 1e3, abs=0.006)
        for name, axis in ((codes.LONG_AXIS, found.long_axis), (codes.SHORT_AXIS, found.short_axis)):
            (length,) = group.get_measurements(name=Code(*name[:3]))
            assert length.value == pytest.approx(axis.millimetres, abs=0.06)
        said, uncertain = comments(group), "measurement uncertainty" in str(group)
        assert uncertain == (segment is Segment.WHOLE), "nobody has measured how far parts can be trusted"
        assert ("has not been measured" in said) == (segment is not Segment.WHOLE)
    assert "The tumour core is the union of: enhancing part, necrosis." in comments(groups["Tumour core"])


def test_a_part_that_was_looked_for_and_not_found_is_reported_so(tmp_path):
    job = made(tmp_path / "set", "no enhancing part")
    group = groups_of(job.results["SR"])["Enhancing part"]
    assert isinstance(group, sr.MeasurementsAndQualitativeEvaluations)
    (said,) = group.get_qualitative_evaluations(name=Code(*codes.PART_DETECTION[:3]))
    assert said.value == codes.NOT_DETECTED
    assert group.finding_type == SEGMENTS[ENHANCING].code
    assert not group.get_measurements()
    assert "does not exclude it" in comments(group)
    assert describe_job(job)["segments"]["enhancing part"] | {"code": None} == {
        "code": None, "volume_ml": 0.0, "diameters_mm": {}, "parts": 0, "reaches_edge": False,
    }  # fmt: skip


def test_the_summary_names_each_part_with_its_code(tmp_path):
    told = json.loads(json.dumps(describe_job(made(tmp_path / "set"))))
    assert list(told["segments"]) == [str(s) for s in ALL[1:]]
    enhancing = told["segments"]["enhancing part"]
    assert enhancing["code"] == ["C113842", "NCIt", "Enhancing Lesion"]
    assert set(enhancing["diameters_mm"]) == {"long", "short"}
    parts = sum(told["segments"][str(s)]["volume_ml"] for s in LEGEND)
    assert parts == pytest.approx(told["volumes_ml"]["tumour"], abs=0.002)


def test_the_lines_of_the_enhancing_part_join_those_of_the_whole(tmp_path):
    job = made(tmp_path / "set")
    groups = sr.srread(job.results["measurements SR"]).content.get_image_measurement_groups()
    assert [g.finding_type for g in groups] == [codes.NEOPLASM, codes.ENHANCING_LESION]
    assert len({g.tracking_uid for g in groups}) == 2
    part = job.findings.segments[ENHANCING]
    assert label_of(part, ENHANCING) in comments(groups[1])
    assert label_of(part, ENHANCING).startswith("Enhancing part ")
    lengths = [m.value for m in groups[1].get_measurements()]
    assert lengths == [round(a.millimetres, 1) for a in (part.long_axis, part.short_axis)]
    job = made(tmp_path / "other", "no enhancing part")
    assert len(sr.srread(job.results["measurements SR"]).content.get_image_measurement_groups()) == 1


def test_diameters_of_a_rim_do_not_cross_what_it_encloses(tmp_path):
    job = made(tmp_path / "set")
    rim, core = (job.findings.segments[s] for s in (ENHANCING, Segment.CORE))
    assert rim.long_axis.millimetres == pytest.approx(core.long_axis.millimetres)
    assert rim.short_axis.millimetres < core.short_axis.millimetres - 2


def examined(folder, day, labels, earlier=None, legend=LEGEND):
    """One examination on a day; `labels` None is by a network that outlines the whole alone."""
    folder.mkdir(parents=True)
    sources = {c: source_of(c) for c in (T1C, FLAIR)}
    for source in sources.values():
        for number, header in enumerate(source.headers):
            header.StudyDate, header.StudyInstanceUID = day, f"1.2.{day}"
            header.SOPInstanceUID = f"1.2.{day}.{header.SeriesNumber}.{number + 1}"
    job = layered_job(folder, t1c=sources[T1C], flair=sources[FLAIR])
    if labels is None:
        job.tumour = type(job.tumour)(job.stack.geometry, job.tumour.probability, "nasbranet", "1.2.0")
        job.findings = type(job.findings)(job.findings.tumour_mm3)
    else:
        with_labels(job, labels(job.tumour.labels.array), legend)
    job.earlier = earlier
    write_segs(job, "1.0.0", MADE_AT, labelmap=True)
    write_sr(job, "1.0.0", MADE_AT)
    return job


def compared(tmp_path, then, now, kind="SR"):
    before = examined(tmp_path / "then", "20240102", then)
    header = headers_of(before.volumes)[0]
    later = type(header)(header)
    later.StudyDate, later.StudyInstanceUID = "20250102", "1.2.20250102"
    earlier = latest_before([pydicom.dcmread(before.results[kind])], later)
    return before, examined(tmp_path / "now", "20250102", now, earlier)


def grown(labels):
    """Less necrosis, more that enhances."""
    changed = labels.copy()
    changed[(labels == 2) & (np.indices(labels.shape)[2] % 2 == 0)] = 1
    return changed


@pytest.mark.parametrize("kind", ["SR", "SR labelmap"])
def test_a_part_is_compared_with_the_same_part_and_keeps_its_tracking_uid(tmp_path, kind):
    before, after = compared(tmp_path, lambda labels: labels, grown, kind)
    assert not faults(tmp_path / "now")
    assert tracking(after.results["SEG T1C"]) == tracking(before.results["SEG T1C"])
    assert after.earlier.parts_ml == {
        s: pytest.approx(before.findings.segments[s].tumour_mm3 / 1e3, abs=0.006) for s in ALL[1:]
    }
    content = sr.srread(after.results["SR"]).content
    then = {
        g.tracking_identifier: g
        for g in content.get_image_measurement_groups()
        if g.get_measurements(name=Code(*codes.DAYS_BETWEEN[:3]))
    }
    assert list(then) == [SEGMENTS[s].label for s in ALL]
    (change,) = then["Enhancing part"].get_measurements(name=Code(*codes.VOLUME_CHANGE[:3]))
    sizes = [job.findings.segments[ENHANCING].tumour_mm3 for job in (before, after)]
    assert change.value == pytest.approx(100 * (sizes[1] / sizes[0] - 1), abs=0.3)
    assert then["Enhancing part"].tracking_uid == tracking(before.results["SEG T1C"])["Enhancing part"]
    said = texts_of(after.results["SR"])
    assert f"Enhancing part: {sizes[0] / 1e3:.1f} ml then, {sizes[1] / 1e3:.1f} ml now, +" in said
    again = read_earlier(pydicom.dcmread(after.results["SR"]))
    assert again.parts_ml[ENHANCING] == pytest.approx(sizes[1] / 1e3, abs=0.006), "its own, not the earlier one's"


def test_what_was_not_told_apart_then_is_not_compared(tmp_path):
    _, after = compared(tmp_path, None, lambda labels: labels)
    assert after.earlier.parts_ml == {}
    said = texts_of(after.results["SR"])
    assert "Whole tumour" in said
    assert "ml then" not in said


def test_a_part_that_was_looked_for_then_and_not_found_is_compared_with_none(tmp_path):
    _, after = compared(tmp_path, without(ENHANCING), lambda labels: labels)
    assert after.earlier.parts_ml[ENHANCING] == 0.0
    said = texts_of(after.results["SR"])
    now = after.findings.segments[ENHANCING].tumour_mm3 / 1e3
    assert f"Enhancing part: 0 ml then, {now:.1f} ml now." in said
    assert not faults(tmp_path / "now")


def colours_in(picture):
    """Which segments' colours are seen in a picture."""
    return {s for s, row in SEGMENTS.items() if (np.abs(picture.astype(int) - row.rgb) < 12).all(axis=-1).sum() > 20}


def test_the_key_image_outlines_each_part_in_its_colour(tmp_path):
    job = made(tmp_path / "set")
    with Image.open(job.results["key image"]) as png:
        picture = np.asarray(png.convert("RGB"))
    assert colours_in(picture[:600]) >= {Segment.WHOLE, *LEGEND}
    assert colours_in(picture[600:]) >= {Segment.CORE, *LEGEND}, "the legend"
    assert picture.shape[0] == pydicom.dcmread(job.results["key image SC"]).Rows
    assert layers_of(job.stack.geometry).max() == 3


def test_a_segmentation_that_says_its_segments_do_not_overlap_is_found_out(tmp_path):
    path = made(tmp_path / "set").results["SEG T1C"]
    ds = pydicom.dcmread(path)
    ds.SegmentsOverlap = "NO"
    ds.save_as(path)
    assert any("do not overlap, and they do" in fault for fault in iod_errors(path))
