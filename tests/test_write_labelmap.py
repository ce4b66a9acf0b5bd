"""Label maps are the BINARY segmentations once more, voxel by voxel, and the second report refers to them alone."""

from __future__ import annotations

import shutil

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom import sr
from monai.deploy.core import Fragment
from pydicom import uid

from app import process
from app.config import load_settings
from app.errors import ConfigError
from operators.domain import Contrast
from operators.earlier import latest_before
from operators.segmentation_form import LABEL_MAP_STORAGE, LABELMAP_TWINS
from operators.validators import Ruling, references
from operators.verify import describe_judgements, verify_folder
from operators.write_labelmap import SERIES_NUMBERS
from operators.write_seg import WriteSegOperator, write_segs
from operators.write_sr import write_sr
from tests.support_phantom import small_phantom
from tests.support_results import MADE_AT, iod_errors, job_of, source_of
from tests.test_earlier import header_of, study
from tests.test_write_seg import FLAIRS, SOURCES, TILTED, WAYS, assert_names_its_planes, lesion_job, rigid
from tests.test_write_sr import ASSESSED, items

T1C, FLAIR = Contrast.T1C, Contrast.FLAIR
FORMS = [("SEG T1C", "SEG T1C labelmap"), ("SEG FLAIR", "SEG FLAIR labelmap")]


def written(folder, **made):
    """A job with its segmentations, in both forms, and its reports written."""
    job = job_of(folder, **made)
    write_segs(job, "1.0", MADE_AT, labelmap=True)
    write_sr(job, "1.0", MADE_AT)
    return job


def frames_of(ds):
    """Where each frame lies and which image it names."""
    return [
        (
            list(group.PlanePositionSequence[0].ImagePositionPatient),
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID,
        )
        for group in ds.PerFrameFunctionalGroupsSequence
    ]


def assert_same_segmentation(job):
    """Both forms hold the same voxels in the same frames of the same planes."""
    for kind, twin in FORMS:
        binary, labelmap = (pydicom.dcmread(job.results[k]) for k in (kind, twin))
        assert labelmap.SOPClassUID == LABEL_MAP_STORAGE
        assert np.array_equal(binary.pixel_array, labelmap.pixel_array)
        assert set(np.unique(labelmap.pixel_array)) <= {0, 1}
        assert frames_of(binary) == frames_of(labelmap)
        shared = [ds.SharedFunctionalGroupsSequence[0] for ds in (binary, labelmap)]
        assert shared[0].PlaneOrientationSequence == shared[1].PlaneOrientationSequence
        assert shared[0].PixelMeasuresSequence == shared[1].PixelMeasuresSequence
        assert not iod_errors(job.results[twin])


@pytest.mark.parametrize("name", SOURCES)
def test_a_label_map_is_the_binary_segmentation_on_t1cs_own_planes(tmp_path, name):
    t1c = source_of(T1C, **SOURCES[name])
    job = job_of(tmp_path, t1c=t1c, centre_mm=t1c.volume.center_position)
    write_segs(job, "1.0", MADE_AT, labelmap=True)
    assert_same_segmentation(job)
    binary, labelmap = (hd.seg.segread(job.results[k]).get_volume(combine_segments=True) for k in FORMS[0])
    assert np.array_equal(binary.array, labelmap.array)
    assert np.array_equal(binary.affine, labelmap.affine)
    assert labelmap.array.sum() == job.tumour.mask.sum() > 0
    back = t1c.volume.get_geometry()
    if len(t1c.headers) > 1:  # a single plane has no spacing to read back
        on_stack = labelmap.match_geometry(back, tol=1e-4).with_array(labelmap.match_geometry(back, tol=1e-4).array)
        on_stack = on_stack.match_geometry(job.stack.geometry, tol=1e-3)
        assert np.array_equal(on_stack.array > 0, job.tumour.mask)


@pytest.mark.parametrize("flair", FLAIRS)
def test_a_label_map_is_the_binary_segmentation_on_flairs_own_planes(tmp_path, flair):
    moved = rigid((8, -6, 5), (10, -7, 6))
    job = job_of(tmp_path, flair=source_of(FLAIR, **FLAIRS[flair]), to_flair=moved)
    write_segs(job, "1.0", MADE_AT, labelmap=True)
    assert_same_segmentation(job)


@pytest.mark.parametrize("way", ["tilted by -20 degrees, oblique", "tilted, enhanced"])
def test_a_label_map_is_the_binary_segmentation_on_the_planes_as_they_came(tmp_path, way):
    truth = small_phantom(**TILTED, thickness_mm=4.0, **WAYS[way])
    job = lesion_job(tmp_path, truth)
    write_segs(job, "1.0", MADE_AT, labelmap=True)
    assert_same_segmentation(job)
    for _, twin in FORMS:
        assert_names_its_planes(job.results[twin], truth.folder)


def test_an_empty_tumour_makes_a_valid_empty_label_map(tmp_path):
    job = written(tmp_path, semi_axes_mm=None)
    assert_same_segmentation(job)
    assert not pydicom.dcmread(job.results["SEG T1C labelmap"]).pixel_array.any()
    assert not iod_errors(job.results["SR labelmap"])


def test_each_pixel_value_is_described_and_the_background_comes_last(tmp_path):
    """The background is what Pixel Padding Value says (PS3.3 C.8.20.2.4); viewers that count items get the tumour."""
    job = written(tmp_path)
    for kind, twin in FORMS:
        binary, labelmap = (pydicom.dcmread(job.results[k]) for k in (kind, twin))
        assert [int(s.SegmentNumber) for s in labelmap.SegmentSequence] == [1, 0]
        tumour, background = labelmap.SegmentSequence
        assert tumour == binary.SegmentSequence[0], "tracking UID, colour and algorithm too"
        assert labelmap.PixelPaddingValue == background.SegmentNumber == 0
        assert background.SegmentedPropertyTypeCodeSequence[0].CodeValue == "125040"
        read = hd.seg.segread(job.results[twin])
        assert read.segment_numbers == [1]
        assert read.get_segment_description(1).segment_label == "Whole tumour"


def test_every_object_has_uids_and_a_series_of_its_own(tmp_path):
    job = written(tmp_path)
    found = {kind: pydicom.dcmread(path) for kind, path in job.results.items()}
    assert set(found) == {*LABELMAP_TWINS, *LABELMAP_TWINS.values()}
    assert (
        len({ds.SOPInstanceUID for ds in found.values()}) == len({ds.SeriesInstanceUID for ds in found.values()}) == 6
    )
    assert all(ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID for ds in found.values())
    numbers = {kind: found[kind].SeriesNumber for kind in LABELMAP_TWINS.values()}
    assert numbers == dict(zip(LABELMAP_TWINS.values(), SERIES_NUMBERS.values(), strict=True))
    assert {path.name for path in tmp_path.iterdir()} == {
        "seg_t1c.dcm", "seg_flair.dcm", "sr.dcm", "seg_t1c_labelmap.dcm", "seg_flair_labelmap.dcm", "sr_labelmap.dcm",
    }  # fmt: skip
    syntax = pydicom.dcmread(job.results["SEG T1C labelmap"]).file_meta.TransferSyntaxUID
    assert syntax == uid.ExplicitVRLittleEndian, "which every PACS takes"


def test_the_binary_objects_and_their_report_are_those_of_a_job_without_label_maps(tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "plain")]
    for folder in folders:
        folder.mkdir()
    written(folders[0])
    written(folders[1])
    plain = job_of(folders[2])
    write_segs(plain, "1.0", MADE_AT)
    write_sr(plain, "1.0", MADE_AT)
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()
    assert len(list(folders[2].iterdir())) == 3
    for path in folders[2].iterdir():
        assert path.read_bytes() == (folders[0] / path.name).read_bytes()


def test_the_second_report_says_the_same_of_the_label_maps(tmp_path):
    job = written(tmp_path, markers=ASSESSED)
    binary, labelmap = (pydicom.dcmread(job.results[kind]) for kind in ("SR", "SR labelmap"))
    (group,) = sr.srread(job.results["SR labelmap"]).content.get_volumetric_roi_measurement_groups()
    seg = pydicom.dcmread(job.results["SEG T1C labelmap"])
    assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
    assert group.tracking_uid == seg.SegmentSequence[0].TrackingUID
    said = [
        [str(i) for i in items(report) if i.ValueType not in ("IMAGE", "CONTAINER")] for report in (binary, labelmap)
    ]
    assert said[0] == said[1], "tracking UIDs too"
    named = {str(r.ReferencedSOPClassUID) for r in references(labelmap)}
    assert LABEL_MAP_STORAGE in named
    assert uid.SegmentationStorage not in named


def test_what_either_destination_gets_is_whole(tmp_path):
    job = written(tmp_path, markers=ASSESSED)
    judged = verify_folder(tmp_path)
    assert {j.ruling for j in judged} == {Ruling.PASSED, Ruling.NOT_JUDGED}
    for kinds in (LABELMAP_TWINS.keys(), LABELMAP_TWINS.values()):
        folder = tmp_path / "one"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for kind in kinds:
            shutil.copy(job.results[kind], folder)
        assert not [j for j in verify_folder(folder) if j.ruling is Ruling.FAILED]


def test_a_validator_that_does_not_know_label_maps_is_said_to_have_judged_nothing(tmp_path):
    written(tmp_path)
    judged = verify_folder(tmp_path)
    silent = {(j.subject, j.validator) for j in judged if j.ruling is Ruling.NOT_JUDGED}
    assert silent == {("seg_t1c_labelmap.dcm", "dciodvfy"), ("seg_flair_labelmap.dcm", "dciodvfy")}
    told = describe_judgements(judged, strict=True)
    assert told["passed"]
    assert "dciodvfy does not know" in told["closing"]
    shown = [j for j in judged if (j.subject, j.kind) == ("sr_labelmap.dcm", "SR") and j.complaints]
    assert [(j.validator, j.ruling) for j in shown] == [(v, Ruling.PASSED) for v in ("dciodvfy", "DCMTK dsrdump")]
    assert all("shown to the program as segmentations" in j.complaints[0] for j in shown)
    assert "seg_t1c_labelmap.dcm" in told["closing"]


def unlabelled(ds):
    ds.SegmentSequence[0].SegmentLabel = None


def undescribed(ds):
    ds.PixelData = ds.PixelData.replace(b"\1", b"\2")


def test_what_else_is_wrong_with_a_report_on_label_maps_is_found_by_every_program(tmp_path):
    path = written(tmp_path).results["SR labelmap"]
    ds = pydicom.dcmread(path)
    del ds.CompletionFlag
    del next(i for i in ds.ContentSequence if i.ValueType == "TEXT").TextValue
    ds.save_as(path)
    found = {j.validator: " ".join(j.complaints) for j in verify_folder(tmp_path) if j.ruling is Ruling.FAILED}
    assert "CompletionFlag" in found["dciodvfy"]
    assert "TextValue" in found["DCMTK dsrdump"]
    assert pydicom.dcmread(path) == ds, "only what the programs see was changed"


def cut(ds):
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]


@pytest.mark.parametrize(("spoil", "complaint"), [(unlabelled, "SegmentLabel"), (undescribed, "segment 2"), (cut, "")])
def test_a_spoilt_label_map_is_found_without_dciodvfy(tmp_path, spoil, complaint):
    job = written(tmp_path)
    path = job.results["SEG T1C labelmap"]
    ds = pydicom.dcmread(path)
    spoil(ds)
    ds.save_as(path)
    faults = iod_errors(path)
    assert faults
    assert complaint in " ".join(faults)


def test_the_patient_is_neither_altered_nor_told_to_a_log(tmp_path, recwarn, caplog):
    t1c, flair = source_of(T1C), source_of(FLAIR)
    for header in (*t1c.headers, *flair.headers):
        header.PatientName, header.PatientID = "SECRETNAME", "SECRETID"
    job = written(tmp_path, t1c=t1c, flair=flair)
    for kind in ("SEG T1C labelmap", "SR labelmap"):
        assert pydicom.dcmread(job.results[kind]).PatientName == "SECRETNAME"
    assert "SECRET" not in caplog.text + " ".join(str(w.message) for w in recwarn)


def test_the_stage_writes_label_maps_where_it_is_asked_to(tmp_path):
    stamp = {"version": "1.0", "clock": lambda: MADE_AT}
    graph = Fragment()
    for name, asked in (("plain", {}), ("asked", {"labelmap": True, "probability_map": True})):
        folder = tmp_path / name
        folder.mkdir()
        job = job_of(folder)
        WriteSegOperator(graph, name=f"write SEG {name}", **stamp, **asked).process(job)
        extra = {"SEG T1C labelmap", "SEG FLAIR labelmap", "SEG T1C probability"} if asked else set()
        assert set(job.results) == {"SEG T1C", "SEG FLAIR"} | extra


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_one_destination_is_enough_for_label_maps_to_be_written(form):
    peers = [{"name": name, "ae_title": "A", "host": "h", "port": 1} for name in ("a", "b")]
    peers[1]["segmentation"] = form
    settings = load_settings(sender={"destinations": peers})
    assert [peer.segmentation for peer in settings.sender.destinations] == ["binary", form]
    assert settings.wants_labelmap == (form == "labelmap")


@pytest.mark.parametrize("asked", [False, True])
def test_node_and_command_build_the_graph_as_the_settings_say(monkeypatch, asked):
    made = {}
    monkeypatch.setattr(process, "GliomaPipeline", lambda *_, **options: made.update(options))
    for part in ("segmenter", "reference", "refinement", "classifiers", "networks", "training_data", "channels"):
        monkeypatch.setattr(process, f"open_{part}", lambda *_: None)
    peer = {"name": "a", "ae_title": "A", "host": "h", "port": 1, "segmentation": "labelmap"}
    sender = {"destinations": [peer]} if asked else {}
    process.open_pipeline(load_settings(sender=sender, results={"probability_map": asked}), lambda _: None)
    assert (made["labelmap"], made["probability_map"]) == (asked, asked)


def test_another_form_is_refused():
    peer = {"name": "a", "ae_title": "A", "host": "h", "port": 1, "segmentation": "fractional"}
    with pytest.raises(ConfigError, match=r"destinations\.0\.segmentation"):
        load_settings(sender={"destinations": [peer]})


def test_of_both_reports_of_one_analysis_the_same_one_counts_in_any_order(tmp_path):
    before = study(tmp_path / "first", "20240102", labelmap=True)
    header = header_of(study(tmp_path / "now", "20250102"))
    binary, labelmap = (pydicom.dcmread(before.results[kind]) for kind in ("SR", "SR labelmap"))
    found = [latest_before(reports, header) for reports in ([binary, labelmap], [labelmap, binary], [labelmap])]
    assert [e.report_uid for e in found] == [binary.SOPInstanceUID, binary.SOPInstanceUID, labelmap.SOPInstanceUID]
    assert len({(e.tumour_ml, e.tracking_uid, e.examined_on) for e in found}) == 1


def test_of_both_reports_that_no_tumour_was_found_the_same_one_counts(tmp_path):
    before = study(tmp_path / "first", "20240102", semi_axes_mm=None, labelmap=True)
    header = header_of(study(tmp_path / "now", "20250102"))
    pair = [pydicom.dcmread(before.results[kind]) for kind in ("SR", "SR labelmap")]
    assert {latest_before(reports, header).report_uid for reports in (pair, pair[::-1])} == {pair[0].SOPInstanceUID}
