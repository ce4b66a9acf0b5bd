"""Measure where the cells of a trained network's last map look: the centre of their effective receptive field.

Source: W. Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS
2016, section 3: a unit's field is where the gradient of its value with respect to the input is not zero. Ours is the
centroid of the squared gradient of class maps. ResNet's centres follow from its strides; ResNeSt's do not, for its
shortcuts average 2x2 pixels and look further than the path beside them, and training decides between the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.markers.batch import SliceBatch
from models.markers.cells import Cells
from models.markers.network import MarkerNetwork
from models.markers.prediction import class_scores
from models.markers.slices import SEQUENCES, encode_metadata

SIDE = 256
"""Pixels of the noise shown: 8 cells of 32, so that the middle ones' fields are not cut. At depth 50, whose squared
gradient has a deviation of 40 pixels, 384 and 512 give the same centre within a pixel."""
SLICES = 8
"""Slices of noise: a single one's centroid has a deviation of a pixel."""


def measure_cells(network: MarkerNetwork, seed: int = 0) -> Cells:
    """Measure where a network looks, in evaluation, on its own device; the same network gives the same.

    One that answers without looking gets the centres that strides alone would give.
    """
    images, mask = _noise(network, seed)
    present = torch.ones(SLICES, len(SEQUENCES), dtype=torch.bool, device=mask.device)
    metadata = torch.tensor(encode_metadata(None, None), device=mask.device).repeat(SLICES, 1)
    training = network.training
    network.eval()
    with torch.enable_grad():
        scores = class_scores(network(SliceBatch(images, mask, present, metadata)))  # (SLICES, classes, h, w)
        cells = _middle_cells(scores)
        asked = scores[torch.arange(SLICES), torch.arange(SLICES) % scores.shape[1], cells[:, 0], cells[:, 1]]
        # Slices do not meet in evaluation: the gradient of the sum is each slice's own.
        gradients = torch.autograd.grad(asked.sum(), (images, mask), allow_unused=True)
    network.train(training)
    squared = torch.stack([g.double().square().sum(dim=1) for g in gradients if g is not None]).sum(dim=0).cpu()
    step = SIDE / scores.shape[-1]
    beside = torch.stack([_centroids(squared.sum(dim=2)), _centroids(squared.sum(dim=1))], dim=1) - step * cells
    found = beside[squared.sum(dim=(1, 2)) > 0]
    first = found.mean(dim=0).tolist() if len(found) else [0.0, 0.0]
    return Cells(first=(first[0], first[1]), step=step)


def _noise(network: MarkerNetwork, seed: int) -> tuple[Tensor, Tensor]:
    """Make images and outlines that prefer no place: white noise, tumour everywhere."""
    device = next(network.parameters()).device
    noise = torch.randn(SLICES, len(SEQUENCES), SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(SLICES, 1, SIDE, SIDE)
    return noise.to(device).requires_grad_(), mask.to(device).requires_grad_()


def _middle_cells(scores: Tensor) -> Tensor:
    """Give each slice one of the four middle cells in turn, each cell with each of two classes: (SLICES, 2)."""
    rows, columns = (side // 2 - 1 for side in scores.shape[-2:])
    turns = torch.arange(SLICES)
    return torch.stack([rows + turns // 4 % 2, columns + turns // 2 % 2], dim=1)


def _centroids(weight: Tensor) -> Tensor:
    """Return each row's centre of mass: (B, n) to (B,)."""
    places = torch.arange(weight.shape[1], dtype=weight.dtype)
    return (weight * places).sum(dim=1) / weight.sum(dim=1)
