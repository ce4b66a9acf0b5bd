"""Where a marker's network looked: on which slices, held to the brain, drawn over them, sent to the PACS."""

from __future__ import annotations

import gc
import logging
import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from monai.deploy.core import Fragment

from app.config import load_settings
from app.errors import ConfigError
from app.process import open_network, open_networks
from models.markers.cells import Cells
from models.markers.slice_network import ABOUT, NETWORK, About, Answer, SliceNetworkError
from operators.attention import SHOWN, asked_for, look, strongest_slices
from operators.attention_picture import caption, render_attention
from operators.classify import ClassifyOperator, evidence_of, not_assessed
from operators.domain import Check, Contrast, Marker, MarkerName, MarkerValue, Outcome, TumourMap
from operators.key_image import KeyImageOperator, render_key_image, save_key_image
from operators.measure import measure
from operators.network_view import shown_of, view_of
from operators.write_capture import write_captures
from operators.write_pdf import write_pdf
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.benchmarks.attention import resident_mb
from tests.support_results import MADE_AT, attention_on, iod_errors, job_of, source_of

TOLD = About(
    marker="idh", network="resnest-mix (light)", sequences=("T1", "T1C", "FLAIR"), pixels=56,
    cells=Cells(first=(11.0, 11.0), step=32.0), auc=0.8, auc_interval=(0.7, 0.9),
)  # fmt: skip
WEIGHTS = load_settings().models_dir


class Network:
    """Looks at the middle of the tumour, harder on later slices, and as hard at all that is no brain."""

    about, name, version, cell_mm = TOLD, "idh resnest-mix (light)", "0123456789ab", 128.0

    def __init__(self, outside=0.0, inside=1.0):
        self.seen, self._outside, self._inside = None, outside, inside

    def answer(self, images, tumour, metadata):
        self.seen = (set(images), metadata)
        slices = np.flatnonzero(tumour.any(axis=(1, 2)))
        maps = self._inside * tumour[slices] * np.linspace(0.5, 1.0, len(slices))[:, None, None]
        maps = np.where(images["T1C"][slices] == 0.0, self._outside, maps).astype(np.float32)
        return Answer(0.8, slices, np.full(len(slices), 0.8, np.float32), maps)


class Broken(Network):
    def answer(self, images, tumour, metadata):
        raise SliceNetworkError("it is broken")


class Answering:
    """A classifier that always says the same."""

    settings, model, version = "none", "idh figures", "1"

    def __call__(self, evidence):
        return Marker(MarkerName.IDH, MarkerValue.INDETERMINATE, "as it is", 0.5)


@pytest.fixture
def job(tmp_path):
    """The left half of the images is no brain."""
    t1c = source_of(Contrast.T1C, spacing=(4.0, 1.0, 1.0), shape=(20, 96, 96))
    made = job_of(tmp_path, t1c=t1c, semi_axes_mm=(20, 15, 18), centre_mm=(-10.0, 5.0, 3.0))
    brain = made.stack.brain.copy()
    brain[..., 70:] = False
    made.stack = replace(made.stack, brain=brain)
    return made


def looked(job, network=None):
    view = view_of(job.stack)
    tumour = evidence_of(view, job.tumour, None).tumour
    found, notes = look({MarkerName.IDH: network or Network()}, job.stack, view, tumour, ("F", 51.0))
    assert not notes
    return found


def test_the_map_lies_where_the_tumour_does_on_the_stack(job):
    (found,) = looked(job)
    assert len(found.slices) == SHOWN == len(found.heat)
    for index, heat in zip(found.slices, found.heat, strict=True):
        mask = job.tumour.mask[index]
        overlap = (heat > 0.25)[mask].mean(), (heat > 0.25)[~mask].mean()
        assert overlap[0] > 0.9
        assert overlap[1] < 0.02
    assert (found.read, found.cell_mm) == (("T1C", "FLAIR"), 128.0)


def test_what_lies_outside_the_brain_is_not_shown_and_does_not_set_the_scale(job):
    (plain,), (found,) = looked(job), looked(job, Network(outside=9.0))
    shown = shown_of(job.stack)[list(found.slices)]
    assert (~shown).any()
    assert not found.heat[~shown].any()
    assert found.slices == plain.slices
    inner = job.stack.brain[list(found.slices)].copy()
    inner[..., 65:] = False
    np.testing.assert_allclose(found.heat[inner], plain.heat[inner], atol=1e-6)
    assert 0.5 < found.heat.max() <= 1.0


def test_a_network_sees_what_it_reads_and_the_study_has(job):
    network = Network()
    looked(job, network)
    assert network.seen == ({"T1C", "FLAIR"}, (1.0, 0.51)), "this study has no T1"
    job.stack.images[Contrast.T1] = job.stack.images[Contrast.T1C]
    (found,) = looked(job, network)
    assert network.seen[0] == {"T1", "T1C", "FLAIR"}
    assert found.read == ("T1", "T1C", "FLAIR")


def test_without_networks_nothing_is_framed(job):
    assert look({}, job.stack, None, None, (None, None)) == ((), ())


def test_the_strongest_slices_come_first_and_what_weighs_nothing_does_not_come():
    maps = np.zeros((4, 8, 8), np.float32)
    maps[[0, 1, 3]] = np.array([0.2, 0.9, 0.5], np.float32)[:, None, None]
    assert strongest_slices(maps, np.ones(4, np.float32)) == [1, 3, 0]
    assert strongest_slices(maps, np.array([1.0, 0.1, 1.0, 1.0], np.float32)) == [3, 0, 1]
    assert strongest_slices(maps[:3], np.ones(3, np.float32)) == [1, 0]
    assert strongest_slices(maps[2:3], np.ones(1, np.float32)) == []


# When there is no map


def classified(job, network, checks=(), classifiers=None):
    job.view, job.checks = view_of(job.stack), tuple(checks)
    known = {MarkerName.IDH: Answering()} if classifiers is None else classifiers
    networks = {MarkerName.IDH: network}
    ClassifyOperator(Fragment(), name="classify", classifiers=known, networks=networks).process(job)
    return job


def test_an_assessed_marker_has_a_map_whatever_is_said_of_it(job):
    (found,) = classified(job, Network()).attention
    assert found.name is MarkerName.IDH
    assert job.notes == ()


SILENT = [
    ("a doubtful outline", {"checks": [Check("segmentation", Outcome.WARN, "")]}, "the outline is doubtful"),
    ("images unlike those of training", {"checks": [Check("input", Outcome.WARN, "")]}, "may be unlike"),
    ("no model", {"classifiers": {}}, "no model for this marker is installed"),
    (
        "a model no better than chance",
        {"classifiers": {MarkerName.IDH: lambda _: not_assessed(MarkerName.IDH, "no better than chance")}},
        "no better than chance",
    ),
]


@pytest.mark.parametrize(("given", "reason"), [row[1:] for row in SILENT], ids=[row[0] for row in SILENT])
def test_a_marker_that_is_not_assessed_has_no_map_and_its_network_is_not_asked(job, given, reason):
    for classifier in given.get("classifiers", {}).values():
        classifier.settings = "none"
    network = Network()
    classified(job, network, **given)
    assert reason in next(m.reason for m in job.markers if m.name is MarkerName.IDH)
    assert (job.attention, job.notes, network.seen) == ((), (), None)


@pytest.mark.parametrize(
    "said", [("013Y", "20100601"), ("006M", ""), ("000Y", ""), ("", "{study}"), ("003Y", "19750301")]
)
def test_a_child_has_no_map(job, said):
    for source in job.study.series:
        born = said[1].format(study=source.header.StudyDate)
        source.header.PatientAge, source.header.PatientBirthDate = said[0], born
    classified(job, network := Network())
    assert {marker.value for marker in job.markers} == {MarkerValue.NOT_ASSESSED}
    assert "adults" in job.markers[0].reason
    assert (job.attention, network.seen) == ((), None)


def test_without_a_tumour_there_is_no_map(job):
    job.tumour = TumourMap(job.stack.geometry, np.zeros(job.stack.brain.shape, np.float32), "nasbranet", "1.2.0")
    classified(job, network := Network())
    assert (job.attention, network.seen) == ((), None)


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Broken(), "it is broken"), (Network(inside=0.0, outside=1.0), "nothing within the brain spoke for its answer")],
)
def test_a_network_that_shows_nothing_is_told_of_and_costs_nothing_else(job, caplog, network, reason):
    with caplog.at_level(logging.WARNING):
        classified(job, network)
    assert job.attention == ()
    assert job.markers[0].value is MarkerValue.INDETERMINATE
    (note,) = job.notes
    assert note == f"Where the network of IDH mutation status looked is not shown: {reason}."
    assert reason in caplog.text
    assert note in job.depends_on, "such a report is another than one that came with a map"


def test_only_networks_of_assessed_markers_are_asked():
    said = (not_assessed(MarkerName.MGMT, "why"), Marker(MarkerName.IDH, MarkerValue.ALTERED, "", 0.9))
    assert set(asked_for({MarkerName.MGMT: 1, MarkerName.IDH: 2, MarkerName.PROLIFERATION: 3}, said)) == {"idh"}


# Opening the networks


@pytest.fixture
def settings(tmp_path):
    """The shipped marker models, in a folder that a test may spoil."""
    shutil.copytree(WEIGHTS / "markers", tmp_path / "weights" / "markers")
    return load_settings(data_dir=str(tmp_path / "data"), models_dir=str(tmp_path / "weights"))


def test_the_shipped_network_is_opened_by_default_and_not_where_it_is_not_wanted(settings):
    assert {name: network.name for name, network in open_networks(settings).items()} == {
        MarkerName.IDH: "idh resnest-mix (light)"
    }
    assert open_networks(load_settings(results={"attention_maps": False})) == {}


@pytest.mark.parametrize("part", [NETWORK, ABOUT])
def test_a_damaged_network_keeps_no_node_from_work(settings, part, caplog):
    path = settings.models_dir / "markers" / "idh" / part
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:-300]), path.unlink):
        spoil()
        with pytest.raises(ConfigError, match="restore models/weights"):
            open_network(settings, MarkerName.IDH)
        caplog.clear()
        assert open_networks(settings) == {}
        assert "studies go without a map of marker idh" in caplog.text
        assert "doctor" in caplog.text


# The picture


def test_the_picture_is_warm_where_the_network_looked(job):
    (found,) = looked(job)
    picture = render_attention(found, job.stack, job.tumour).astype(int)
    plain = render_attention(replace(found, heat=np.zeros_like(found.heat)), job.stack, job.tumour).astype(int)
    warmer = picture[..., 0] - picture[..., 1] > plain[..., 0] - plain[..., 1] + 30
    assert 0.005 < warmer.mean() < 0.2
    assert picture.shape[1] > 2.3 * (picture.shape[0] - 100)


def test_a_tumour_of_one_slice_has_a_picture_as_wide_as_any(job):
    (found,) = looked(job)
    one = replace(found, slices=found.slices[:1], heat=found.heat[:1])
    pictures = [render_attention(each, job.stack, job.tumour) for each in (one, found)]
    assert pictures[0].shape == pictures[1].shape
    third = pictures[0].shape[1] // 3
    np.testing.assert_array_equal(pictures[0][:450, : third - 4], pictures[1][:450, : third - 4])
    assert not pictures[0][:450, third + 4 :].any()


def test_drawn_pictures_heap_up_no_memory_until_it_is_collected(job):
    """A picture's parts know one another: what is not let go of stays until the collector comes round."""
    (found,) = looked(job)
    render_attention(found, job.stack, job.tumour)
    gc.collect()
    gc.disable()
    try:
        before = resident_mb()
        for _ in range(10):
            render_attention(found, job.stack, job.tumour)
        assert resident_mb() - before < 40, "one alone has some 20 MB"
    finally:
        gc.enable()


def test_the_caption_keeps_the_network_apart_from_the_reported_answer(job):
    (found,) = looked(job)
    words = " ".join(line for line, _, _ in caption(found))
    assert "does NOT make the reported answer" in words
    assert "Grad-CAM for IDH mutation: its own probability of IDH mutation is 80%, not calibrated" in words
    assert "AUC 0.80, 0.70 to 0.90" in words
    assert "idh resnest-mix (light), version 0123456789ab, shown T1C, FLAIR" in words
    assert "held to the brain" in words
    assert "Research use only" in words
    assert "10 mm" not in words, "nobody measured it"
    assert "49% of it lay within 10 mm of the tumour" in caption(replace(found, near=0.4947))[3][0]
    assert "Grad-CAM against IDH mutation" in caption(replace(found, altered=False))[1][0]


# What goes to the PACS


def test_it_goes_to_the_pacs_in_a_series_of_its_own(job):
    job.attention = looked(job)
    KeyImageOperator.process(None, job)
    write_captures(job, "1.0.0", MADE_AT)
    first, second = (pydicom.dcmread(job.results[f"{kind} SC"]) for kind in ("key image", "attention idh"))
    assert not iod_errors(job.results["attention idh SC"])
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert (first.SeriesNumber, second.SeriesNumber) == (9006, 9008)
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 1)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert "not the reported answer" in second.SeriesDescription
    assert "Grad-CAM of idh resnest-mix (light) 0123456789ab" in second.DerivationDescription
    headers = job.volumes[Contrast.T1C].headers
    shown = {item.ReferencedSOPInstanceUID for item in second.SourceImageSequence}
    assert len(shown) == SHOWN
    assert shown <= {header.SOPInstanceUID for header in headers}
    assert {p.suffix for p in job.output_folder.iterdir()} == {".png", ".dcm"}


def test_maps_of_several_markers_are_one_series(job):
    job.attention = (attention_on(job), attention_on(job, name=MarkerName.PROLIFERATION))
    KeyImageOperator.process(None, job)
    write_captures(job, "1.0.0", MADE_AT)
    both = [pydicom.dcmread(job.results[f"attention {name} SC"]) for name in ("idh", "proliferation")]
    assert [ds.InstanceNumber for ds in both] == [1, 2]
    assert len({ds.SeriesInstanceUID for ds in both}) == 1
    assert len({ds.SOPInstanceUID for ds in both}) == 2


def test_neither_report_nor_page_says_that_the_network_answered(job):
    """The report names the picture in its evidence, as it does every result."""
    job.markers = (Marker(MarkerName.IDH, MarkerValue.ALTERED, "", 0.9, "idh figures", "82d434dd5306"),)
    job.attention = looked(job)
    job.findings = measure(job.stack, job.tumour)
    KeyImageOperator.process(None, job)
    for write in (write_segs, write_captures, write_pdf, write_sr):
        write(job, "1.0.0", MADE_AT)
    report = pydicom.dcmread(job.results["SR"])
    (picture,) = (pydicom.dcmread(job.results["attention idh SC"]).SOPInstanceUID,)
    assert picture in str(report.CurrentRequestedProcedureEvidenceSequence)
    for said in (str(report), job.results["PDF"].read_bytes().decode("latin-1")):
        assert "resnest" not in said
        assert "0123456789ab" not in said


def test_the_key_image_itself_is_as_before(job, tmp_path):
    job.attention = looked(job)
    KeyImageOperator.process(None, job)
    alone = save_key_image(render_key_image(job.stack, job.tumour, job.findings), tmp_path / "alone.png")
    assert job.results["key image"].read_bytes() == alone.read_bytes()
