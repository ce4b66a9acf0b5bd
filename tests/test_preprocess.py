"""Registration on known movements, and what preprocessing makes of a study it cannot use."""

from __future__ import annotations

import numpy as np
import pytest

from app.phantom import Motion, PhantomOptions, make_phantom
from operators.build_volumes import build_volumes
from operators.domain import Contrast, SourceVolume
from operators.errors import UnusableImage
from operators.load_study import load_study
from operators.preprocess import DISPLAY_ORDER, preprocess, register, to_image
from operators.select_series import select_series

MOVES = [Motion((3.0, -2.0, 1.0), (2.0, -1.0, 3.0)), Motion((12.0, -9.0, 8.0), (10.0, -6.0, 9.0))]


@pytest.mark.parametrize("motion", MOVES, ids=["a little", "far"])
def test_a_known_movement_is_found(motion, tmp_path):
    options = PhantomOptions(
        seed=1, contrasts=(Contrast.T1C, Contrast.FLAIR), rows=128, columns=128, pixel_mm=1.8,
        motion={Contrast.FLAIR: motion},
    )  # fmt: skip
    truth = make_phantom(tmp_path, options)
    volumes = build_volumes(select_series(load_study(tmp_path)))
    t1c = volumes[Contrast.T1C].volume.to_patient_orientation(DISPLAY_ORDER)
    flair = volumes[Contrast.FLAIR].volume
    found = register(to_image(t1c.array, t1c.affine), to_image(flair.array, flair.affine))
    off = found.matrix - truth.motion[Contrast.FLAIR]
    points = np.array([[x, y, z, 1.0] for x in (-60, 60) for y in (-70, 70) for z in (-30, 60)])
    assert np.linalg.norm((points @ off.T)[:, :3], axis=1).mean() < 1.0  # mm
    assert found.metric_after < found.metric_before


def test_an_image_registered_to_itself_stays():
    rng = np.random.default_rng(0)
    z, r, c = np.ogrid[:20, :64, :64]
    head = (((z - 10) * 6.0) ** 2 + ((r - 30) * 2.5) ** 2 + ((c - 33) * 2.5) ** 2 < 55.0**2) * 100.0
    image = to_image(
        (head + rng.normal(0, 3, head.shape)).astype(np.float32), np.diag([6.0, 2.5, 2.5, 1.0])[[2, 1, 0, 3]]
    )
    assert register(image, image).matrix == pytest.approx(np.eye(4), abs=0.05)


def test_a_study_without_a_brain_is_refused(tmp_path):
    make_phantom(tmp_path, PhantomOptions(slices=12, rows=64, columns=64, pixel_mm=3.6, spacing_mm=11.0))
    volumes = build_volumes(select_series(load_study(tmp_path)))
    blank = {
        contrast: SourceVolume(v.series, v.volume.with_array(np.zeros_like(v.volume.array)), v.headers)
        for contrast, v in volumes.items()
        if contrast is Contrast.T1C
    }
    with pytest.raises(UnusableImage, match="brain"):
        preprocess(blank)
