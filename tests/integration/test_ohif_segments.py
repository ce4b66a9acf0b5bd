"""What a radiologist sees of a tumour whose parts were told apart: each of them, in place, named and coloured."""

from __future__ import annotations

import pytest

from models.segments import Segment
from operators.segment_table import SEGMENTS
from operators.write_measurements import DRAWN, label_of
from tests.integration.ohif import DICOMWEB, published_build, serving, viewing
from tests.integration.orthanc import Orthanc
from tests.integration.test_ohif import LOADED, MEASUREMENTS, OVERLAY, Shown, hash_of, instance_of
from tests.support_segments import LEGEND, analysed_layers

pytestmark = pytest.mark.timeout(1800)
ALL = (Segment.WHOLE, Segment.CORE, *LEGEND)
LAYERS = """() => {
  const map = services.segmentationService.getSegmentations()[0].representationData.Labelmap;
  return map.imageIds.map(id => {
    const image = cornerstone.cache.getImage(id), found = {};
    image.voxelManager.getScalarData().forEach((value, place) => {
      if (value) {
        const [count, places] = found[value] || [0, 0];
        found[value] = [count + 1, (Math.imul(places, 31) + place) >>> 0];
      }
    });
    return [image.referencedImageId, found];
  });
}"""
"""Segments that overlap lie in layers. Of each layer's images: the address of the one below, and by segment how many
voxels are marked and a hash of their places."""
COLOURS = """count => [...Array(count).keys()].map(n => services.segmentationService.getSegmentColor(
  services.viewportGridService.getState().activeViewportId,
  services.segmentationService.getSegmentations()[0].segmentationId, n + 1))"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    dist = published_build()
    truth, job = analysed_layers()
    folder = tmp_path_factory.mktemp("ohif")
    with (
        Orthanc(folder, dicomweb=True, DicomWeb=DICOMWEB) as pacs,
        serving(dist, pacs.http_port) as address,
        viewing(address) as viewer,
    ):
        binary = {kind: path for kind, path in job.results.items() if "labelmap" not in kind and "prob" not in kind}
        for path in [*truth.folder.glob("*.dcm"), *(p for p in binary.values() if p.suffix == ".dcm")]:
            pacs.post("/instances", path.read_bytes())
        yield Shown(job, viewer)


def planes_by_segment(seg):
    """The mask of each image and segment, by the image's SOP Instance UID and the segment's number."""
    return {
        (
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID,
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
        ): plane
        for group, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)
    }


@pytest.mark.parametrize("contrast", ["T1C", "FLAIR"])
def test_every_voxel_of_every_segment_is_in_place_under_its_name_and_colour(shown, contrast):
    viewer, seg = shown.viewer, shown.open(f"SEG {contrast}")
    viewer.until(LOADED)
    viewer.settled()
    planes = planes_by_segment(seg)
    found = {}
    for image, segments in viewer.ask(LAYERS):
        for number, said in segments.items():
            place = instance_of(image), int(number)
            assert place not in found, "in one layer only"
            found[place] = tuple(said)
    assert found == {place: (int(m.sum()), hash_of(m)) for place, m in planes.items() if m.any()}
    if contrast == "T1C":
        for number, part in enumerate(ALL, 1):
            mask = shown.job.tumour.mask if part is Segment.WHOLE else shown.job.tumour.labels.mask_of(part)
            assert sum(count for (_, n), (count, _) in found.items() if n == number) == mask.sum() > 0
    for colour, part in zip(viewer.ask(COLOURS, len(ALL)), ALL, strict=True):
        assert colour[:3] == pytest.approx(SEGMENTS[part].rgb, abs=2)  # CIELab rounds
    viewer.page.locator('[data-cy="panelSegmentation-btn"]').click()
    row = viewer.page.locator('[data-cy="data-row"]')
    row.first.wait_for()
    rows = [text.split("\n") for text in row.all_inner_texts()]
    assert rows == [[str(n), SEGMENTS[part].label] for n, part in enumerate(ALL, 1)]
    row.get_by_text(SEGMENTS[Segment.NECROSIS].label).click()  # leads to the segment's middle
    viewer.settled()
    overlay = viewer.ask(OVERLAY, SEGMENTS[Segment.WHOLE].rgb)
    viewer.shot(f"ohif_segments_{contrast.lower()}.png")
    expected = planes[instance_of(overlay["image"]), 1].sum() * overlay["pixel"]
    assert expected > 5000
    assert overlay["coloured"] == pytest.approx(expected, rel=0.05), "all parts lie within the whole"


def test_the_lines_of_the_whole_and_of_the_enhancing_part_hydrate(shown):
    viewer = shown.viewer
    shown.open("measurements SR")
    viewer.until(f"() => window.services && services.measurementService.getMeasurements().length === {len(DRAWN)}")
    viewer.page.locator('[data-cy="trackedMeasurements-btn"]').click()
    viewer.settled()
    found = {m["label"]: m for m in viewer.ask(MEASUREMENTS)}
    viewer.shot("ohif_segments_measurements.png")
    findings = shown.job.findings
    for part in DRAWN:
        measured = findings if part is Segment.WHOLE else findings.segments[part]
        line = found[label_of(measured, part)]
        assert line["tool"] == "Bidirectional"
        lengths = [measured.long_axis.millimetres, measured.short_axis.millimetres]
        assert [line["panel"]["length"], line["panel"]["width"]] == pytest.approx(lengths, abs=0.01)


def test_the_report_names_each_part_with_its_figures(shown):
    viewer = shown.viewer
    shown.open("SR")
    viewer.page.get_by_text("Oncology Measurement Report").first.wait_for()
    text = " ".join(viewer.page.locator('[data-cy="viewport-grid"]').inner_text().split())
    viewer.shot("ohif_segments_report.png")
    for part in ALL[1:]:
        found = shown.job.findings.segments[part]
        assert f"Tracking Identifier: {SEGMENTS[part].label}" in text
        assert f"Long Axis: {round(found.long_axis.millimetres, 1):g} mm" in text


def test_the_page_opens(shown):
    viewer = shown.viewer
    shown.open("PDF")
    viewer.page.locator('object[type="application/pdf"]').wait_for(state="attached")
    viewer.until_paper(share=0.05)
    viewer.shot("ohif_segments_pdf.png")
