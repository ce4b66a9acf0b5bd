"""What a radiologist sees: the node's results of a phantom in OHIF, exactly where and what they are.

The real graph makes the results, a real Orthanc holds them, OHIF's published build shows them in Chromium.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from app.config import load_settings
from app.process import process_folder
from operators import native
from operators.domain import Contrast
from operators.stage import Job
from operators.statements import millilitres
from operators.write_measurements import label_of
from operators.write_seg_parts import SEGMENT_LABEL, SEGMENT_RGB
from tests.integration.ohif import ARTEFACTS, DICOMWEB, Viewer, published_build, serving, viewing
from tests.integration.orthanc import Orthanc
from tests.support_study import phantom
from tests.test_write_measurements import in_patient, lines_of

pytestmark = pytest.mark.timeout(1800)
LOADED = """() => {
  const found = window.services ? services.segmentationService.getSegmentations() : [];
  return found.length === 1 && Object.keys(found[0].segments).length > 0 && !!found[0].representationData.Labelmap;
}"""
LABELMAP = """() => {
  const map = services.segmentationService.getSegmentations()[0].representationData.Labelmap;
  return map.imageIds.map((id, k) => {
    const voxels = cornerstone.cache.getImage(id).voxelManager.getScalarData();
    let count = 0, places = 0;
    voxels.forEach((value, place) => {
      if (value) { count += value; places = (Math.imul(places, 31) + place) >>> 0; }
    });
    return [map.referencedImageIds[k], count, places];
  });
}"""
"""Of each image: its address, how many voxels are marked, and a hash of their places."""
COLOUR = """() => services.segmentationService.getSegmentColor(
  services.viewportGridService.getState().activeViewportId,
  services.segmentationService.getSegmentations()[0].segmentationId, 1)"""
OVERLAY = """([red, green, blue]) => {
  const canvas = document.querySelector('canvas.cornerstone-canvas');
  const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let coloured = 0, exact = 0;
  for (let i = 0; i < d.length; i += 4) {
    const [r, g, b] = [d[i], d[i + 1], d[i + 2]];
    coloured += Math.max(r, g, b) - Math.min(r, g, b) >= 30;
    exact += Math.abs(r - red) + Math.abs(g - green) + Math.abs(b - blue) < 12;
  }
  const viewport = cornerstone.getEnabledElements()[0].viewport;
  const grid = viewport.getImageData().imageData;
  const [from, right, down] = [[0, 0, 0], [100, 0, 0], [0, 100, 0]].map(
    index => viewport.worldToCanvas(grid.indexToWorld(index)));
  const [wide, high] = [right, down].map(to => Math.hypot(to[0] - from[0], to[1] - from[1]) / 100);
  return {coloured, exact, pixel: wide * high, image: viewport.getCurrentImageId()};
}"""
"""Canvas pixels that are not grey, those of the segment's own colour, canvas pixels per image pixel, and the image."""
PICTURE = """() => {
  const image = cornerstone.cache.getImage(cornerstone.getEnabledElements()[0].viewport.getCurrentImageId());
  const values = image.getPixelData(), step = values.length / (image.rows * image.columns), sums = [0, 0, 0];
  values.forEach((value, place) => { if (place % step < 3) sums[place % step] += value; });
  return [image.rows, image.columns, ...sums];
}"""
"""Rows and columns of the picture that is shown, and the sum of its red, green and blue."""
MEASUREMENTS = """() => services.measurementService.getMeasurements().map(m => ({
  label: m.label, tool: m.toolName, text: m.displayText.primary, image: m.SOPInstanceUID, points: m.points,
  panel: Object.values(m.data)[0]}))"""


@dataclass
class Shown:
    """A phantom's results, and the viewer that shows them."""

    job: Job
    viewer: Viewer

    def dataset(self, result: str) -> Dataset:
        return pydicom.dcmread(self.job.results[result])

    def open(self, result: str) -> Dataset:
        ds = self.dataset(result)
        self.viewer.open(str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))
        return ds


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Iterator[Shown]:
    dist = published_build()
    folder = tmp_path_factory.mktemp("ohif")
    study = phantom(folder, "study").folder
    with (
        Orthanc(folder, dicomweb=True, DicomWeb=DICOMWEB) as pacs,
        serving(dist, pacs.http_port) as address,
        viewing(address) as viewer,
    ):
        job = analysed(study, folder / "results")
        # Beside the screenshots, so that the README's pictures are of one run.
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        shutil.copy(job.results["key image"], ARTEFACTS)
        for path in [*study.glob("*.dcm"), *(p for p in job.results.values() if p.suffix == ".dcm")]:
            pacs.post("/instances", path.read_bytes())
        yield Shown(job, viewer)


def analysed(study: Path, folder: Path) -> Job:
    """The study through the real graph, with time limits for a machine that does much else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "START_SECONDS", 900.0)
        job = process_folder(study, folder, load_settings(preprocess={"timeout_seconds": 900.0}))
    assert job.failure is None, job.failure
    return job


def instance_of(image_id: str) -> str:
    """SOP Instance UID in the address of an image."""
    return image_id.split("/instances/")[1].split("/", maxsplit=1)[0]


def planes_of(seg: Dataset) -> dict[str, np.ndarray]:
    """The mask of each image, by the image's SOP Instance UID."""
    return {
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID: plane
        for group, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)
    }


def hash_of(mask: np.ndarray) -> int:
    """Of the places of its voxels, as `LABELMAP` makes it."""
    return reduce(lambda value, place: (31 * value + int(place)) & 0xFFFFFFFF, np.flatnonzero(mask), 0)


@pytest.mark.parametrize("contrast", [Contrast.T1C, Contrast.FLAIR])
def test_a_segmentation_opens_by_its_address_and_every_voxel_is_in_place(shown, contrast):
    viewer, seg = shown.viewer, shown.open(f"SEG {contrast}")
    viewer.until(LOADED)
    viewer.settled()
    planes = planes_of(seg)
    found = {instance_of(image): (count, places) for image, count, places in viewer.ask(LABELMAP)}
    assert found == {uid: (int(mask.sum()), hash_of(mask)) for uid, mask in planes.items()}
    if contrast is Contrast.T1C:
        assert sum(count for count, _ in found.values()) == shown.job.tumour.mask.sum() > 0
    assert viewer.ask(COLOUR)[:3] == pytest.approx(SEGMENT_RGB, abs=2)  # CIELab rounds
    viewer.page.locator('[data-cy="panelSegmentation-btn"]').click()
    row = viewer.page.locator('[data-cy="data-row"]')
    row.first.wait_for()
    assert [text.split("\n") for text in row.all_inner_texts()] == [["1", SEGMENT_LABEL]]
    row.get_by_text(SEGMENT_LABEL).click()  # leads to the segment's middle
    viewer.settled()
    overlay = viewer.ask(OVERLAY, SEGMENT_RGB)
    viewer.shot(f"ohif_seg_{contrast.lower()}.png")
    expected = planes[instance_of(overlay["image"])].sum() * overlay["pixel"]
    assert expected > 5000
    # The outline is as wide as two canvas pixels, one of them outside.
    assert overlay["coloured"] == pytest.approx(expected, rel=0.05)
    assert overlay["exact"] > 200


def test_the_diameters_appear_in_the_list_of_measurements_and_end_where_they_should(shown):
    viewer, report = shown.viewer, shown.open("measurements SR")
    viewer.until("() => window.services && services.measurementService.getMeasurements().length > 0")
    viewer.page.locator('[data-cy="trackedMeasurements-btn"]').click()
    viewer.settled()
    (found,) = viewer.ask(MEASUREMENTS)
    viewer.shot("ohif_measurements.png")
    findings = shown.job.findings
    assert (found["label"], found["tool"]) == (label_of(findings), "Bidirectional")
    lengths = [findings.long_axis.millimetres, findings.short_axis.millimetres]
    assert found["text"] == [f"L: {lengths[0]:.1f} mm", f"W: {lengths[1]:.1f} mm"]
    assert [found["panel"]["length"], found["panel"]["width"]] == pytest.approx(lengths, abs=0.01)
    lines = lines_of(report)
    (header,) = (h for h in shown.job.volumes[Contrast.T1C].headers if h.SOPInstanceUID == found["image"])
    ends = np.concatenate([in_patient(header, lines[name][1]) for name in ("Long Axis", "Short Axis")])
    assert np.array(found["points"]) == pytest.approx(ends, abs=0.01)
    said = " ".join(viewer.page.locator("body").inner_text().split())
    for words in (label_of(findings), *found["text"], "Brain", "Neoplasm"):
        assert words in said
    # The overlay joins the lines, as for a reader who opens one after the other.
    viewer.page.get_by_text(shown.dataset("SEG T1C").SeriesDescription, exact=True).first.dblclick()
    viewer.until(LOADED)
    viewer.settled()
    viewer.page.get_by_text(label_of(findings), exact=True).first.click()  # leads to the lines
    viewer.until(
        "uid => cornerstone.getEnabledElements()[0].viewport.getCurrentImageId().includes(uid)", found["image"]
    )
    viewer.settled()
    viewer.shot("ohif.png")
    assert len(viewer.ask(MEASUREMENTS)) == 1


def test_the_report_is_text_with_names_and_values(shown):
    viewer = shown.viewer
    shown.open("SR")
    viewer.page.get_by_text("Oncology Measurement Report").first.wait_for()
    text = " ".join(viewer.page.locator('[data-cy="viewport-grid"]').inner_text().split())
    viewer.shot("ohif_report.png")
    findings = shown.job.findings
    for words in (
        "Limits of use: Research use only",
        f"Long Axis: {round(findings.long_axis.millimetres, 1):g} mm",
        f"Short Axis: {round(findings.short_axis.millimetres, 1):g} mm",
        f"Volume: {round(millilitres(findings.tumour_mm3), 1):g}",
        "Predicted IDH mutation status (image-based): ",
        "Predicted MGMT promoter methylation (image-based): Not Evaluated",
        "Tracking Identifier: Whole tumour",
    ):
        assert words in text


def test_the_page_opens(shown):
    viewer = shown.viewer
    shown.open("PDF")
    viewer.page.locator('object[type="application/pdf"]').wait_for(state="attached")
    begins = viewer.ask(
        """async () => {
          const document_ = await fetch(document.querySelector('object[type="application/pdf"]').data);
          return new TextDecoder().decode((await document_.arrayBuffer()).slice(0, 5));
        }"""
    )
    assert begins == "%PDF-"
    viewer.until_paper(share=0.05)
    viewer.shot("ohif_pdf.png")


@pytest.mark.parametrize("kind", ["key image SC", "attention idh SC"])
def test_a_picture_opens_by_its_address_and_is_what_was_drawn(shown, kind):
    viewer, picture = shown.viewer, shown.open(kind)
    viewer.until(
        """uid => window.cornerstone
          && cornerstone.getEnabledElements()[0]?.viewport.getCurrentImageId?.()?.includes(uid)""",
        str(picture.SOPInstanceUID),
    )
    viewer.settled()
    viewer.shot(f"ohif_{kind.split()[0]}.png")
    assert viewer.ask(PICTURE) == [picture.Rows, picture.Columns, *picture.pixel_array.sum(axis=(0, 1)).tolist()]


def test_nothing_was_asked_of_anybody_else(shown):
    assert shown.viewer.outside == []
    for error in shown.viewer.errors:
        # OHIF's own: leaving a page while it loads makes one now and then, so they are told and judge nothing.
        warnings.warn(f"OHIF: {error}", stacklevel=1)
