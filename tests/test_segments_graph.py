"""A network of several channels, made up but real, through the engine, the segment stage, and the whole graph."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from io import BytesIO
from types import SimpleNamespace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pypdf import PdfReader

from app import doctor
from app.config import load_settings
from app.errors import ConfigError
from app.process import open_channels, open_segmenter
from models.engine import Model
from models.refine import Refinement
from models.segments import FILE, Channels, Segment
from operators.classify import evidence_of
from operators.domain import Check, Contrast, Earlier, Outcome, Stack, TumourMap
from operators.errors import AnalysisFailed
from operators.network_view import view_of
from operators.report_content import content_of
from operators.report_page import FITTINGS, _above, _below, _foot, _pictures
from operators.report_pen import PAGE_HEIGHT
from operators.report_words import WORDS
from operators.results import Origin, headers_of
from operators.segment import segment
from operators.segment_table import SEGMENTS
from operators.statements import volume_figure
from operators.validators import Ruling
from operators.verify import verify_folder
from operators.write_pdf import write_pdf
from tests.models.support_engine import small_onnx
from tests.support_results import MADE_AT, job_of
from tests.support_segments import (
    LEGEND,
    NAME,
    ORDER,
    analysed_layers,
    described,
    layers_of,
    layers_onnx,
    models_folder,
    segments_of,
    with_labels,
)
from tests.test_write_pdf import ASSESSED, made

T1C, FLAIR = Contrast.T1C, Contrast.FLAIR
ENHANCING, NECROSIS, OEDEMA = LEGEND
ALL = (Segment.WHOLE, Segment.CORE, *LEGEND)
SHAPE = (10, 64, 48)


def boxed(*boxes):
    """A stack of noise whose boxes (slices, rows, columns, part) look like a part of a tumour."""
    rng = np.random.default_rng(3)
    images = {c: (100 + rng.normal(0, 1, SHAPE)).astype(np.float32) for c in (T1C, FLAIR)}
    for place, part in boxes:
        images[FLAIR][place] += 40
        images[T1C][place] += {ENHANCING: 40, NECROSIS: -40, OEDEMA: 0}[part]
    return images


LESION = ((slice(3, 7), slice(10, 34), slice(10, 34)), OEDEMA)
RIM = ((slice(4, 6), slice(14, 30), slice(14, 30)), ENHANCING)
SPECK = ((slice(5, 6), slice(50, 53), slice(40, 43)), ENHANCING)
"""Apart from the lesion, and smaller than one that is kept."""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return layers_onnx(tmp_path_factory.mktemp("layers") / NAME / "model.onnx")


def segmented(folder, network, boxes, refinement=None, channels=None, **described_as):
    """What the segment stage makes of a stack."""
    job = job_of(folder)
    brain = np.ones(SHAPE, bool)
    job.stack = Stack(job.stack.geometry, boxed(*boxes), brain, job.stack.to_source)
    channels = channels or Channels.model_validate(described(**described_as))
    view = view_of(job.stack)
    tumour, _ = segment(job.stack, view, Model(NAME, network), refinement or Refinement(smallest_ml=0.5), channels)
    return tumour, view


def test_a_lesion_that_is_dropped_is_dropped_in_all_its_parts(tmp_path, network):
    kept, _ = segmented(tmp_path, network, (LESION, RIM, SPECK), Refinement())
    tumour, _ = segmented(tmp_path, network, (LESION, RIM, SPECK))
    place = SPECK[0]
    assert kept.labels.mask_of(ENHANCING)[place].any()
    assert not tumour.labels.array[place].any()
    assert tumour.labels.mask_of(ENHANCING)[RIM[0]].mean() > 0.8
    assert np.array_equal(tumour.labels.array > 0, tumour.mask)
    assert {Segment.WHOLE, Segment.CORE, ENHANCING, OEDEMA} <= set(segments_of(tumour))


def test_what_hysteresis_adds_belongs_to_a_part_too(tmp_path, network):
    tumour, _ = segmented(tmp_path, network, (LESION, RIM), Refinement(low=0.05, high=0.5, flips=True))
    plain, _ = segmented(tmp_path, network, (LESION, RIM))
    assert tumour.mask.sum() > plain.mask.sum()
    assert np.array_equal(tumour.labels.array > 0, tumour.mask)


def test_markers_read_the_whole_tumour(tmp_path, network):
    tumour, view = segmented(tmp_path, network, (LESION, RIM))
    alone = TumourMap(tumour.geometry, tumour.probability, tumour.model, tumour.model_version)
    assert evidence_of(view, tumour, 50.0).tumour.any()
    assert np.array_equal(evidence_of(view, tumour, 50.0).tumour, evidence_of(view, alone, 50.0).tumour)


def test_nothing_found_has_no_parts(tmp_path, network):
    tumour, _ = segmented(tmp_path, network, (SPECK,))
    assert segments_of(tumour) == (Segment.WHOLE,)
    assert tumour.labels.found == ()


def even(probability):
    """A network that says the same everywhere."""
    return SimpleNamespace(
        name=NAME, version="1", run_slices=lambda images: np.full_like(images[:, 0], probability, np.float32)
    )


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.25, "no tumour was found, and how sure that is cannot be told"),
        (0.75, "no tumour was found, but something smaller than one that is kept, which is from 500.00 ml"),
    ],
)
def test_nothing_found_is_no_sure_result(tmp_path, probability, words):
    """Neither where nothing is likely, nor where what is likely was too small to be kept."""
    stack = job_of(tmp_path).stack
    tumour, said = segment(stack, view_of(stack), even(probability), Refinement(smallest_ml=500.0))
    assert not tumour.mask.any()
    assert said.outcome is Outcome.WARN
    assert said.reason.startswith(words)
    assert said.value is None, "no Dice is expected of it"


def test_a_tumour_that_the_network_is_sure_of_passes(tmp_path):
    stack = job_of(tmp_path).stack
    tumour, said = segment(stack, view_of(stack), even(0.9), Refinement())
    assert tumour.mask.any()
    assert said.outcome is Outcome.PASS


def test_a_network_without_its_softmax_ends_the_study_with_the_reason(tmp_path):
    path = layers_onnx(tmp_path / "model.onnx", logits=True)
    with pytest.raises(AnalysisFailed, match=r"model layers: the network answers with values .* no probabilities"):
        segmented(tmp_path, path, (LESION,))


def test_a_network_of_one_answer_is_as_it_was_and_one_of_several_needs_a_description(tmp_path, network):
    job = job_of(tmp_path)
    job.stack = Stack(job.stack.geometry, boxed(LESION), np.ones(SHAPE, bool), job.stack.to_source)
    with pytest.raises(AnalysisFailed, match="nothing says what they stand for"):
        segment(job.stack, view_of(job.stack), Model(NAME, network), Refinement())
    one = small_onnx(tmp_path / "one" / "model.onnx", rows=224)
    tumour, _ = segment(job.stack, view_of(job.stack), Model("one", one), Refinement())
    assert tumour.labels is None
    assert segments_of(tumour) == (Segment.WHOLE,)


def opened(folder, description):
    settings = load_settings(**models_folder(folder, description))
    return open_channels(settings, open_segmenter(settings))


def test_the_description_is_read_beside_the_network(tmp_path):
    assert opened(tmp_path, described()).legend == LEGEND


@pytest.mark.parametrize("order", [ORDER[:3], (*ORDER, Segment.NON_ENHANCING)])
def test_a_description_of_another_network_stops_the_node_with_the_remedy(tmp_path, order):
    with pytest.raises(ConfigError, match=rf"model layers: .* names {len(order)} channels.*mend .*{FILE}"):
        opened(tmp_path, described(order))


def test_a_network_that_nobody_described_stops_the_node_with_the_remedy(tmp_path):
    settings = load_settings(**models_folder(tmp_path))
    (settings.models_dir / NAME / FILE).unlink()
    with pytest.raises(ConfigError, match=f"several channels.*write .*{FILE}"):
        open_channels(settings, open_segmenter(settings))


def test_the_doctor_tells_the_parts_or_what_is_wrong_with_their_description(tmp_path):
    settings = load_settings(**models_folder(tmp_path))
    (settings.inputs_dir / f"{NAME}.json").write_text((load_settings().inputs_dir / "nasbranet.json").read_text())
    assert "tells apart enhancing part, necrosis, oedema" in doctor._model(settings).found
    (settings.models_dir / NAME / FILE).write_text(json.dumps(described(ORDER[1:])))
    found = doctor._model(settings)
    assert not found.ok
    assert "background" in found.found


@pytest.fixture(scope="module")
def analysed():
    return analysed_layers()


def test_the_whole_graph_finds_each_layer_of_the_phantom(analysed):
    truth, job = analysed
    grid, labels = job.stack.geometry, job.tumour.labels
    assert segments_of(job.tumour) == ALL
    for part in LEGEND:
        true = truth.lesion_occupancy(grid.affine, grid.spatial_shape, part=part) > 0.5
        found = labels.mask_of(part)
        dice = 2 * (true & found).sum() / (true.sum() + found.sum())
        assert dice > 0.7, (part, dice)


def test_every_object_of_the_graph_is_valid(analysed):
    _, job = analysed
    judged = verify_folder(job.results["SR"].parent)
    assert [(j.subject, j.complaints) for j in judged if j.ruling is Ruling.FAILED] == []
    assert {j.subject for j in judged} >= {p.name for p in job.results.values() if p.suffix == ".dcm"}


def test_voxels_in_highdicoms_reading_are_those_of_our_masks(analysed):
    _, job = analysed
    seg = hd.seg.segread(job.results["SEG T1C"])
    back = job.volumes[T1C].volume.get_geometry()
    for number, part in enumerate(ALL, 1):
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True).match_geometry(back, tol=1e-3)
        mask = job.tumour.mask if part is Segment.WHOLE else job.tumour.labels.mask_of(part)
        expected = job.stack.geometry.with_array(mask.astype(np.uint8)).match_geometry(back, tol=1e-3)
        assert np.array_equal(volume.array > 0, expected.array > 0)
        assert (volume.array > 0).sum() == mask.sum() > 0


def page_of(path):
    return PdfReader(BytesIO(pydicom.dcmread(path).EncapsulatedDocument))


def test_the_page_has_a_row_for_each_part_and_is_still_one_page(analysed, tmp_path):
    _, job = analysed
    page = page_of(job.results["PDF"])
    text = " ".join(page.pages[0].extract_text().split())
    assert len(page.pages) == 1
    for part in ALL[1:]:
        found = job.findings.segments[part]
        assert SEGMENTS[part].label in text
        assert f"{volume_figure(found.tumour_mm3)} ml" in text
        assert f"{found.long_axis.millimetres:.1f} mm" in text
    job.output_folder, kept = tmp_path, dict(job.results)
    write_pdf(job, "1.0.0", MADE_AT, "zh")
    page = page_of(job.results["PDF"])
    text = "".join(page.pages[0].extract_text().split())
    job.results = kept
    assert len(page.pages) == 1
    for words in ("肿瘤核心", "强化部分", "坏死", "水肿", "肿瘤各部分", "可信范围未经测定"):
        assert words in text


EVERY = (ENHANCING, Segment.NON_ENHANCING, NECROSIS, OEDEMA)


@pytest.mark.parametrize("language", WORDS)
def test_the_page_holds_every_part_there_can_be_however_much_else_there_is_to_say(tmp_path, language):
    checks = tuple(Check("x", Outcome.WARN, "very long " * 200) for _ in range(40))
    markers = tuple(replace(m, reason="and so on " * 300, model="m" * 200) for m in ASSESSED)
    job = made(tmp_path, markers=markers, checks=checks, engine="an engine " * 50)
    labels = layers_of(job.stack.geometry)
    labels[labels == 3] = 4
    labels[labels == 2] = 3
    labels[tuple(np.argwhere(labels == 3)[0])] = 2
    with_labels(job, labels, EVERY)
    job.earlier = Earlier(date(2024, 1, 2), "1.2", 3.0, None, None, None, "n", "0", "1.2.3", dict.fromkeys(EVERY, 1.0))
    data = {marker.model_version: {"en": "patients " * 100} for marker in markers}
    header = headers_of(job.volumes)[0]
    said = content_of(job, header, WORDS[language], language, Origin("1", MADE_AT, ()), data)
    assert [part.found for part in said.parts] == [True] * 5
    if language == "zh":
        assert not set("abcdefghijklmnopqrstuvwxyz") & set(said.comparison.replace("ml", ""))
        assert not any(part.label.isascii() for part in said.parts)
    last = FITTINGS[-1]
    blocks = [*_above(said, last), *_below(said, last), _pictures(said, (), last.least, last), _foot(said, last)]
    assert sum(block.height + block.gap for block in blocks) <= PAGE_HEIGHT - 34 - 28
