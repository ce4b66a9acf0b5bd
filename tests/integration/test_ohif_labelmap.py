"""What a radiologist sees of a label map: the lesion, in place, under its own name and colour."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from operators.domain import Contrast
from operators.write_seg import write_segs
from operators.write_seg_parts import SEGMENT_LABEL, SEGMENT_RGB
from tests.integration.ohif import DICOMWEB, published_build, serving, viewing
from tests.integration.orthanc import Orthanc
from tests.integration.test_ohif import COLOUR, LABELMAP, LOADED, hash_of, instance_of, planes_of
from tests.support_phantom import small_phantom
from tests.support_results import MADE_AT
from tests.test_write_seg import lesion_job

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The label maps of a phantom's true lesion, and a viewer before a PACS that holds them."""
    dist = published_build()
    folder = tmp_path_factory.mktemp("ohif")
    truth = small_phantom(contrasts=(Contrast.T1C, Contrast.FLAIR))
    job = lesion_job(folder, truth)
    write_segs(job, "1.0", MADE_AT, labelmap=True)
    settings = {"dicomweb": True, "DicomWeb": DICOMWEB, "UnknownSopClassAccepted": True}
    with (
        Orthanc(folder, **settings) as pacs,
        serving(dist, pacs.http_port) as address,
        viewing(address) as viewer,
    ):
        for path in (*truth.folder.glob("*.dcm"), *(job.results[f"SEG {c} labelmap"] for c in job.volumes)):
            pacs.post("/instances", path.read_bytes())
        yield job, viewer


@pytest.mark.parametrize("contrast", [Contrast.T1C, Contrast.FLAIR])
def test_a_label_map_shows_the_lesion_in_place_under_its_own_name_and_colour(shown, contrast):
    job, viewer = shown
    seg = pydicom.dcmread(job.results[f"SEG {contrast} labelmap"])
    viewer.open(str(seg.StudyInstanceUID), str(seg.SeriesInstanceUID))
    viewer.until(LOADED)
    viewer.settled()
    found = {instance_of(image): (count, places) for image, count, places in viewer.ask(LABELMAP)}
    assert found == {uid: (int(mask.sum()), hash_of(mask)) for uid, mask in planes_of(seg).items()}
    assert sum(count for count, _ in found.values()) == np.count_nonzero(seg.pixel_array) > 0
    assert viewer.ask(COLOUR)[:3] == pytest.approx(SEGMENT_RGB, abs=2)  # CIELab rounds
    viewer.page.locator('[data-cy="panelSegmentation-btn"]').click()
    row = viewer.page.locator('[data-cy="data-row"]')
    row.first.wait_for()
    viewer.shot(f"ohif_labelmap_{contrast.lower()}.png")
    rows = [text.split("\n") for text in row.all_inner_texts()]
    assert rows == [["0", "Background"], ["1", SEGMENT_LABEL]]
