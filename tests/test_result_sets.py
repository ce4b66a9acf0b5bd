"""Every kind of outcome gives a whole set of valid objects that belong together and claim no more than was found."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from app.summary import describe_job
from models.refine import Spread
from operators import codes
from operators.domain import Check, Contrast, Marker, MarkerName, MarkerValue, Outcome, TumourMap
from operators.key_image import render_key_image, save_key_image
from operators.measure import measure
from operators.report_content import content_of
from operators.report_words import WORDS
from operators.results import Origin
from operators.segmentation_form import LABELMAP_TWINS
from operators.validators import Ruling, references
from operators.verify import EVIDENCE, verify_folder
from operators.write_capture import write_captures
from operators.write_measurements import write_measurements
from operators.write_pdf import write_pdf
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_results import MADE_AT, PATIENTS, job_of, source_of

SHAPE, SPACING = (10, 64, 48), (5.5, 0.9, 1.1)
OPEN = tuple(Marker(n, MarkerValue.NOT_ASSESSED, "no model for this marker is installed") for n in MarkerName)
SPREAD = Spread(level=0.9, volume=1.5, long_axis=0.8, short_axis=1.0, patients=77)
SEGS = ("SEG T1C", "SEG FLAIR")


def boxes(*corners):
    """A mask on the stack's grid: first and last index along each axis for each box."""
    mask = np.zeros(SHAPE, bool)
    for (z0, z1), (r0, r1), (c0, c1) in corners:
        mask[z0 : z1 + 1, r0 : r1 + 1, c0 : c1 + 1] = True
    return mask


OUTCOMES = {
    "no tumour": boxes(),
    "tumour on one slice": boxes(((4, 4), (20, 40), (10, 30))),
    "one voxel": boxes(((4, 4), (20, 20), (10, 10))),
    "a line of voxels": boxes(((4, 4), (20, 20), (10, 30))),
    "several lesions": boxes(((2, 4), (10, 20), (5, 15)), ((6, 8), (40, 50), (30, 40)), ((2, 2), (50, 52), (30, 32))),
    "at the edge of the planes": boxes(((3, 6), (0, 12), (0, 47))),
    "on the first and last plane": boxes(((0, 9), (20, 40), (10, 30))),
    "all of it": boxes(((0, 9), (0, 63), (0, 47))),
}


def result_set(folder, mask, charset="ISO_IR 100", markers=OPEN, checks=(), **asked):
    """A job whose tumour is `mask`, with every object of its result set written."""
    folder.mkdir(exist_ok=True)
    sources = [source_of(c, spacing=SPACING, shape=SHAPE, charset=charset) for c in (Contrast.T1C, Contrast.FLAIR)]
    job = job_of(folder, *sources, markers=markers)
    job.checks = checks
    job.tumour = TumourMap(job.stack.geometry, np.where(mask, 0.9, 0.1).astype(np.float32), "nasbranet", "1.2.0")
    job.findings = measure(job.stack, job.tumour, SPREAD, 0.85)
    picture = render_key_image(job.stack, job.tumour, job.findings)
    job.results["key image"] = save_key_image(picture, folder / "key_image.png")
    write_segs(job, "1.0.0", MADE_AT, **asked)
    for write in (write_measurements, write_captures, write_pdf, write_sr):
        write(job, "1.0.0", MADE_AT)
    return job


def objects(job):
    return {kind: pydicom.dcmread(path) for kind, path in job.results.items() if path.suffix == ".dcm"}


def faults(folder):
    return [(j.subject, j.validator, j.complaints) for j in verify_folder(folder) if j.ruling is not Ruling.PASSED]


def texts_of(node):
    """Every text, at any depth."""
    found = [str(item.TextValue) for item in node.get("ContentSequence", ()) if item.ValueType == "TEXT"]
    return found + [text for item in node.get("ContentSequence", ()) for text in texts_of(item)]


def values_of(report, code):
    """Numeric values under a concept, at any depth."""
    found = []
    for item in report.get("ContentSequence", ()):
        name = item.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in item else ""
        if name == code.value and item.ValueType == "NUM":
            found.append(float(item.MeasuredValueSequence[0].NumericValue))
        found += values_of(item, code)
    return found


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_a_valid_set_that_says_what_was_found(tmp_path, outcome):
    mask = OUTCOMES[outcome]
    job = result_set(tmp_path / "set", mask)
    assert not faults(tmp_path / "set")
    made = objects(job)
    expected = {"SEG T1C", "SEG FLAIR", "SR", "key image SC", "PDF"} | ({"measurements SR"} if mask.any() else set())
    assert set(made) == expected
    for kind in SEGS:
        assert int(made[kind].pixel_array.sum()) == int(mask.sum()), "both lie on one grid here"
        assert made[kind].NumberOfFrames == SHAPE[0], "empty planes too"
    volumes = values_of(made["SR"], codes.VOLUME)
    if mask.any():
        assert volumes == [pytest.approx(mask.sum() * np.prod(SPACING) / 1000, abs=0.006)]
    else:
        assert volumes == []
        assert "Not detected" in str(made["SR"])


def reachable(root, made):
    """UIDs of results that a document's evidence leads to, at however many removes, and its own."""
    found, waiting = set(), [root]
    by_uid = {ds.SOPInstanceUID: ds for ds in made}
    while waiting:
        ds = waiting.pop()
        found.add(ds.SOPInstanceUID)
        named = (r.ReferencedSOPInstanceUID for k in EVIDENCE for r in references(*ds.get(k, ())))
        waiting += [by_uid[uid] for uid in named if uid in by_uid and uid not in found]
    return found


CUT = ("at the edge of the planes", "on the first and last plane", "all of it")


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_the_edge_cuts_is_told_as_a_lower_bound_and_nothing_else_is(tmp_path, outcome):
    job = result_set(tmp_path / "set", OUTCOMES[outcome])
    made, cut = objects(job), outcome in CUT
    assert any(text.endswith("volume and diameters are lower bounds.") for text in texts_of(made["SR"])) is cut
    if "measurements SR" in made:
        labels = texts_of(made["measurements SR"])
        assert any(text.startswith("Whole tumour at least ") for text in labels) is cut
    assert describe_job(job)["reaches_edge"] is cut
    header = job.volumes[Contrast.T1C].headers[0]
    for language, said in (("en", "are lower bounds."), ("zh", "体积和径线均为下限。")):
        warnings = content_of(job, header, WORDS[language], language, Origin("1", MADE_AT, ()), {}).warnings
        assert any(warning.endswith(said) for warning in warnings) is cut


@pytest.mark.parametrize("form", ["", " labelmap"])
def test_the_report_is_the_root_from_which_every_object_is_reached(tmp_path, form):
    job = result_set(tmp_path / "set", OUTCOMES["several lesions"], labelmap=True, probability_map=True)
    assert not [
        fault
        for fault in faults(tmp_path / "set")
        if "does not know" not in str(fault) and "shown to" not in str(fault)
    ]
    twins = {*LABELMAP_TWINS} if form else {*LABELMAP_TWINS.values()}
    sent = {kind: ds for kind, ds in objects(job).items() if kind not in twins}
    assert len(sent) == 7
    assert {kind.split()[0] for kind in sent} == {"SEG", "measurements", "SR", "key", "PDF"}
    assert reachable(sent[f"SR{form}"], sent.values()) == {ds.SOPInstanceUID for ds in sent.values()}


@pytest.mark.parametrize("charset", PATIENTS)
def test_every_object_carries_the_patient_in_the_sources_own_bytes(tmp_path, charset):
    job = result_set(tmp_path / "set", OUTCOMES["several lesions"], charset)
    assert not faults(tmp_path / "set")
    source = job.volumes[Contrast.T1C].headers[0]
    made = objects(job)
    assert len(made) == 6
    for kind, ds in made.items():
        assert ds.get("SpecificCharacterSet") == source.get("SpecificCharacterSet"), kind
        assert str(ds.PatientName) == PATIENTS[charset], kind
        assert (ds.StudyInstanceUID, ds.PatientID) == (source.StudyInstanceUID, source.PatientID), kind
        encoded = job.results[kind].read_bytes()
        plain = {"ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8", "GB18030": "gb18030", None: "ascii"}[charset]
        assert PATIENTS[charset].encode(plain) in encoded, kind
    for kind, ds in made.items():
        shown = Contrast.FLAIR if kind == "SEG FLAIR" else Contrast.T1C
        if "FrameOfReferenceUID" in ds:
            assert ds.FrameOfReferenceUID == job.volumes[shown].headers[0].FrameOfReferenceUID, kind
    assert {kind for kind, ds in made.items() if "FrameOfReferenceUID" in ds} == {*SEGS}
    assert made["SEG T1C"].FrameOfReferenceUID != made["SEG FLAIR"].FrameOfReferenceUID, "told apart above"


def test_the_same_input_gives_the_same_bytes_of_every_object(tmp_path):
    first, second = (result_set(tmp_path / n, OUTCOMES["several lesions"]) for n in ("a", "b"))
    for kind, path in first.results.items():
        assert path.read_bytes() == second.results[kind].read_bytes(), kind


def test_doubt_is_told_in_report_and_page_and_markers_stay_open(tmp_path):
    doubt = Check(
        "segmentation", Outcome.WARN, "the network is not sure of its outline: it expects a Dice of 0.52", 0.52
    )
    job = result_set(tmp_path / "set", OUTCOMES["one voxel"], checks=(doubt,))
    assert not faults(tmp_path / "set")
    assert "not sure of its outline" in str([i.get("TextValue") for i in objects(job)["SR"].ContentSequence])


def test_no_markers_at_all_is_a_valid_set(tmp_path):
    result_set(tmp_path / "set", OUTCOMES["tumour on one slice"], markers=())
    assert not faults(tmp_path / "set")
