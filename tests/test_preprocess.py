"""What preprocessing makes of studies it can and cannot use."""

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
