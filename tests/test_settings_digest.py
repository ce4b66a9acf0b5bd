"""Results made by other settings are other objects: the same UID never stands for two masks or two readings."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime

import pydicom
import pytest
from monai.deploy.core import Fragment

from app.config import load_settings
from app.process import open_channels, open_classifiers, open_segmenter
from models.markers.figure_model import CALIBRATION
from models.novelty import Reference
from models.refine import Refinement
from operators.classify import ClassifyOperator
from operators.compare_earlier import CompareEarlierOperator
from operators.domain import Stack
from operators.errors import HistoryUnavailable
from operators.measure import measure
from operators.network_view import view_of
from operators.quality import QualityOperator
from operators.quality_limits import QualityLimits
from operators.results import Origin
from operators.segment import SegmentOperator
from operators.select_series import SelectSeriesOperator
from operators.series_rules import Rule
from operators.settings_digest import digest_of
from operators.write_seg import write_segs
from tests.support_results import MADE_AT, ellipsoid, job_of
from tests.support_segments import WEIGHTS, models_folder


def two_blobs(folder):
    """A job in whose images the made-up network sees a large lesion and a small one; not yet segmented."""
    folder.mkdir(exist_ok=True)
    job = job_of(folder, semi_axes_mm=None)
    geometry = job.stack.geometry
    bright = (ellipsoid(geometry, (12, 9, 12), (8, 8, 0)) > 0.5) | (ellipsoid(geometry, (3, 3, 6), (-14, -14, 0)) > 0.5)
    images = {contrast: image + 400.0 * bright for contrast, image in job.stack.images.items()}
    job.stack = Stack(geometry, images, job.stack.brain, job.stack.to_source)
    job.view = view_of(job.stack)
    return job


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    settings = load_settings(**models_folder(tmp_path_factory.mktemp("models")))
    model = open_segmenter(settings)
    return model, open_channels(settings, model)


def segmented(folder, segmenter, smallest_ml):
    model, channels = segmenter
    job, refinement = two_blobs(folder), Refinement(smallest_ml=smallest_ml)
    SegmentOperator(Fragment(), name="segment", model=model, refinement=refinement, channels=channels).process(job)
    job.findings = measure(job.stack, job.tumour)
    write_segs(job, "1.0", MADE_AT)
    return pydicom.dcmread(job.results["SEG T1C"])


def test_another_mask_of_the_same_model_is_another_object(tmp_path, segmenter):
    both, large = (segmented(tmp_path / str(ml), segmenter, ml) for ml in (0.0, 2.0))
    assert 0 < int(large.pixel_array.sum()) < int(both.pixel_array.sum()), "the settings do make another mask"
    assert both.SOPInstanceUID != large.SOPInstanceUID
    assert both.SeriesInstanceUID != large.SeriesInstanceUID
    again = segmented(tmp_path / "again", segmenter, 2.0)
    assert again.SOPInstanceUID == large.SOPInstanceUID
    assert again.PixelData == large.PixelData


def depends_on(job, stage):
    """What a stage adds to what results depend on."""
    before = job.depends_on
    stage.process(job)
    return job.depends_on[len(before) :]


def test_a_markers_calibration_counts_though_its_model_is_the_same(tmp_path):
    said, uids = [], []
    for name, slope in (("shipped", None), ("steeper", 9.0), ("same", None)):
        folder = tmp_path / name
        shutil.copytree(WEIGHTS / "markers", folder / "markers")
        path = folder / "markers" / "idh" / CALIBRATION
        known = json.loads(path.read_text())
        path.write_text(json.dumps(known | ({"slope": slope} if slope else {})))
        classifiers = open_classifiers(load_settings(models_dir=str(folder)))
        stage = ClassifyOperator(Fragment(), name="classify", classifiers=classifiers, networks={})
        job = two_blobs(tmp_path / f"job {name}")
        said.append(depends_on(job, stage))
        uids.append(Origin("1", MADE_AT, said[-1]).uid("instance"))
    assert said[0] == said[2] != said[1]
    assert uids[0] == uids[2] != uids[1]
    assert "slope" not in str(said), "digests, not the settings themselves"


def test_quality_limits_and_what_the_network_learnt_from_count(tmp_path):
    reference = Reference(("a",), (0.0,), (1.0,), ((1.0,),), 2.0, 1e9, 9, 1)
    loose = QualityLimits(**dict.fromkeys(("extent_stop_mm", "signal_stop", "overlap_stop"), 0.0))
    digests = [
        QualityOperator(Fragment(), name="quality", reference=r, limits=limits)._digest
        for r, limits in ((reference, loose), (None, loose), (reference, replace(loose, ghost_warn=0.2)))
    ]
    assert len(set(digests)) == 3
    again = QualityOperator(Fragment(), name="quality", reference=replace(reference), limits=replace(loose))
    assert again._digest == digests[0]


def test_rules_for_series_count():
    rules = (), (Rule("t1 km", "T1C", 3.0, "ours"),)
    assert len({SelectSeriesOperator(Fragment(), name="select", rules=r)._digest for r in rules}) == 2


def test_a_report_that_tells_of_an_archive_that_did_not_answer_is_another(tmp_path):
    def lost(_):
        raise HistoryUnavailable("PACS at pacs:104 does not answer")

    job = job_of(tmp_path)
    assert len(depends_on(job, CompareEarlierOperator(Fragment(), name="compare", find=lost))) == 1
    assert depends_on(job, CompareEarlierOperator(Fragment(), name="compare", find=lambda _: ())) == ()


def test_a_digest_tells_order_and_kind():
    said = [digest_of("x", 1, 2), digest_of("x", 2, 1), digest_of("x", "1", 2), digest_of("y", 1, 2)]
    assert len(set(said)) == 4
    assert Origin("1", datetime(2026, 1, 1), ("a",)).uid("b") == Origin("1", MADE_AT, ("a",)).uid("b")
