"""Write how probable tumour is at each voxel of T1C: a FRACTIONAL segmentation, for those who ask for it.

The probability is the segmenting network's own, after it was refined to lesions: what refinement took for lesion is
above one half, all else is not. It says how sure the network is of a voxel; nobody has calibrated it.

Source: PS3.3 C.8.20.2.3, Segmentation Fractional Type PROBABILITY.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from operators.domain import Contrast, FloatArray, SourceVolume, Stack, TumourMap
from operators.results import Origin
from operators.write_planes import as_it_came, own_shape, put_back, stack_to_planes
from operators.write_seg_parts import build_object, describe_segment

SERIES_NUMBER = 9007
FULL = 255
"""Maximum Fractional Value: stands for a probability of 1."""


def probability_on_t1c(stack: Stack, tumour: TumourMap, source: SourceVolume) -> FloatArray:
    """Bring the probability to T1C's own planes, rows and columns.

    T1C's voxels are only put back in place; where its planes are tilted, values between them are interpolated.
    Raises AnalysisFailed as `segment_on_source` does.
    """
    if as_it_came(source, Contrast.T1C):
        return np.asarray(put_back(stack.geometry.with_array(tumour.probability), source).array, np.float32)
    back = np.linalg.inv(stack_to_planes(stack, source, Contrast.T1C))
    shape = own_shape(source, Contrast.T1C)
    found: FloatArray = ndimage.affine_transform(
        tumour.probability, back[:3, :3], back[:3, 3], shape, np.float32, order=1
    )
    return found


def in_steps(probability: FloatArray) -> NDArray[np.float64]:
    """Round probabilities to whole 255ths; one half goes down, so that 128 and more is what is above one half."""
    steps = np.ceil(probability.astype(np.float64) * FULL - 0.5)
    return np.asarray(np.clip(steps, 0, FULL) / FULL)


def build_probability(
    probability: FloatArray, source: SourceVolume, tumour: TumourMap, origin: Origin, tracking_uid: str | None = None
) -> hd.seg.Segmentation:
    """Make the object of a probability (planes, rows, columns) on T1C's own grid."""
    return build_object(
        in_steps(probability),
        source,
        [describe_segment(tumour, origin, tracking_uid, remark=", probability")],
        origin,
        ("SEG", Contrast.T1C, "probability"),
        segmentation_type=hd.seg.SegmentationTypeValues.FRACTIONAL,
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=FULL,
        series_number=SERIES_NUMBER,
        series_description="AI tumour probability on T1C (research)",
        content_label="TUMOUR_PROB",
        content_description="Whole tumour on T1C, the network's own probability, refined",
    )
