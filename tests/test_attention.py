"""Where a marker's network looked: asked for on the right slices, drawn over them, sent to the PACS."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from models.markers.cells import Cells
from models.markers.slice_network import About, Answer
from operators.attention import SHOWN, look, strongest_slices
from operators.attention_picture import caption, render_attention
from operators.classify import evidence_of
from operators.domain import Attention, Contrast, MarkerName
from operators.key_image import KeyImageOperator, render_key_image, save_key_image
from operators.network_view import view_of
from operators.write_capture import write_captures
from tests.support_results import MADE_AT, iod_errors, job_of, source_of

ABOUT = About(
    marker="idh", network="resnest-mix (light)", sequences=("T1", "T1C", "FLAIR"), pixels=56,
    cells=Cells(first=(11.0, 11.0), step=32.0), auc=0.8, auc_interval=(0.7, 0.9),
)  # fmt: skip


class Network:
    """Looks at the middle of the tumour, harder on later slices."""

    about, name, version = ABOUT, "idh resnest-mix (light)", "0123456789ab"

    def __init__(self):
        self.seen = None

    def answer(self, images, tumour, metadata):
        self.seen = (set(images), metadata)
        slices = np.flatnonzero(tumour.any(axis=(1, 2)))
        maps = tumour[slices].astype(np.float32) * np.linspace(0.5, 1.0, len(slices), dtype=np.float32)[:, None, None]
        return Answer(0.8, slices, np.full(len(slices), 0.8, np.float32), maps)


@pytest.fixture
def job(tmp_path):
    t1c = source_of(Contrast.T1C, spacing=(4.0, 1.0, 1.0), shape=(20, 96, 96))
    return job_of(tmp_path, t1c=t1c, semi_axes_mm=(20, 15, 18), centre_mm=(-10.0, 5.0, 3.0))


def looked(job, network=None):
    view = view_of(job.stack)
    tumour = evidence_of(view, job.tumour, None).tumour
    return look({MarkerName.IDH: network or Network()}, job.stack, view, tumour, ("F", 51.0))


def test_the_map_lies_where_the_tumour_does_on_the_stack(job):
    (found,) = looked(job)
    assert len(found.slices) == SHOWN == len(found.heat)
    for index, heat in zip(found.slices, found.heat, strict=True):
        mask = job.tumour.mask[index]
        overlap = (heat > 0.25)[mask].mean(), (heat > 0.25)[~mask].mean()
        assert overlap[0] > 0.9
        assert overlap[1] < 0.02


def test_a_network_sees_what_it_reads_and_the_study_has(job):
    network = Network()
    looked(job, network)
    assert network.seen == ({"T1C", "FLAIR"}, (1.0, 0.51)), "this study has no T1"
    job.stack.images[Contrast.T1] = job.stack.images[Contrast.T1C]
    looked(job, network)
    assert network.seen[0] == {"T1", "T1C", "FLAIR"}


def test_without_networks_nothing_is_framed(job):
    assert look({}, job.stack, None, None, (None, None)) == ()


def test_the_strongest_slices_come_first():
    maps = np.zeros((4, 8, 8), np.float32)
    maps[[0, 1, 3]] = np.array([0.2, 0.9, 0.5], np.float32)[:, None, None]
    assert strongest_slices(maps, np.ones(4, np.float32)) == [1, 3, 0]
    assert strongest_slices(maps, np.array([1.0, 0.1, 1.0, 1.0], np.float32)) == [3, 0, 1]


def test_the_picture_is_warm_where_the_network_looked(job):
    (found,) = looked(job)
    picture = render_attention(found, job.stack, job.tumour).astype(int)
    plain = render_attention(cooled(found), job.stack, job.tumour).astype(int)
    warmer = picture[..., 0] - plain[..., 0] > 20
    assert 0.005 < warmer.mean() < 0.2
    assert picture.shape[1] > 2.5 * (picture.shape[0] - 100)


def cooled(found):
    return Attention(
        found.name, found.altered, found.probability, found.slices, np.zeros_like(found.heat), found.worth,
        found.model, found.model_version,
    )  # fmt: skip


def test_the_caption_keeps_the_network_apart_from_the_reported_answer(job):
    (found,) = looked(job)
    words = " ".join(line for line, _, _ in caption(found))
    assert "80%, not calibrated" in words
    assert "AUC 0.80, 0.70 to 0.90" in words
    assert "does not make the reported answer" in words


def test_it_goes_to_the_pacs_as_a_second_picture(job):
    job.attention = looked(job)
    KeyImageOperator.process(None, job)
    write_captures(job, "1.0.0", MADE_AT)
    first, second = (pydicom.dcmread(job.results[f"{kind} SC"]) for kind in ("key image", "attention idh"))
    assert not iod_errors(job.results["attention idh SC"])
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert "Grad-CAM of idh resnest-mix" in second.DerivationDescription
    assert {p.suffix for p in job.output_folder.iterdir()} == {".png", ".dcm"}


def test_the_key_image_itself_is_as_before(job, tmp_path):
    job.attention = looked(job)
    KeyImageOperator.process(None, job)
    alone = save_key_image(render_key_image(job.stack, job.tumour, job.findings), tmp_path / "alone.png")
    assert job.results["key image"].read_bytes() == alone.read_bytes()
