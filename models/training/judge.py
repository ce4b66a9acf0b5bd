"""Judge a segmenter on whole patients: 3-D Dice on the slices' own grid, as a reader would see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from models import frame
from models.refine import Segmenter
from models.training.data import FIELD, Case, Prepared
from models.training.metrics import dice
from models.training.network import SegmentationNetwork


def network_view(prepared: Prepared) -> NDArray[np.float32]:
    """Cut the prepared field to the frame and strip it: exactly what the node feeds the network."""
    rim = (FIELD - frame.FRAME_SIZE) // 2
    inner = slice(rim, rim + frame.FRAME_SIZE)
    images = prepared.images[..., inner, inner].astype(np.float32)
    return images * prepared.brain[:, None, inner, inner]


def framed_tumour(prepared: Prepared) -> NDArray[np.bool_]:
    """Cut the drawn tumour to the frame, (slices, size, size), where `network_view` has the images."""
    rim = (FIELD - frame.FRAME_SIZE) // 2
    inner = slice(rim, rim + frame.FRAME_SIZE)
    cut: NDArray[np.bool_] = prepared.tumour[:, inner, inner]
    return cut


def map_dice(probability: NDArray[np.float32], prepared: Prepared) -> float:
    """Dice over all of a patient's slices, of probabilities in the frame (slices, size, size) above one half."""
    _, truth = prepared.case.read()
    return dice(frame.from_frame(probability, prepared.placement, *truth.shape[1:]) > 0.5, truth)


def patient_dice(segment: Segmenter, prepared: Prepared) -> float:
    """Ask a segmenter, and give its Dice over all of a patient's slices."""
    return map_dice(segment(network_view(prepared)), prepared)


def judge(segment: Segmenter, cases: Iterable[Prepared]) -> dict[str, float]:
    """Dice of each case by name."""
    return {prepared.case.name: patient_dice(segment, prepared) for prepared in cases}


def per_patient(cases: Iterable[Case], by_case: Mapping[str, float]) -> dict[str, float]:
    """Average the cases of each patient; cases without a value are left out."""
    patients: dict[str, list[float]] = {}
    for case in cases:
        if case.name in by_case:
            patients.setdefault(case.patient, []).append(by_case[case.name])
    return {patient: float(np.mean(values)) for patient, values in patients.items()}


def segmenter(network: SegmentationNetwork) -> Segmenter:
    """Wrap a torch network."""

    def segment(image: NDArray[np.float32]) -> NDArray[np.float32]:
        network.eval()
        device = next(network.parameters()).device
        with torch.inference_mode():
            parts = [
                network(part.to(device, memory_format=torch.channels_last)).softmax(dim=1)[:, 1].cpu()
                for part in torch.from_numpy(image).split(8)
            ]
        return torch.cat(parts).numpy()

    return segment
