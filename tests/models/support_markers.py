"""Batches for the marker networks' tests."""

from __future__ import annotations

import torch
from torch import nn

from models.markers.batch import SliceBatch
from models.markers.slices import SEQUENCES


def batch_of(count=2, size=64, seed=0, missing=()):
    """Random slices with a square tumour; `missing` sequences are absent from all of them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, len(SEQUENCES), size, size, generator=generator)
    mask = torch.zeros(count, 1, size, size)
    mask[:, :, size // 4 : size // 2 + 3, size // 4 : size // 2] = 1.0
    present = torch.tensor([name not in missing for name in SEQUENCES]).repeat(count, 1)
    metadata = torch.tensor([[i % 2, 0.3 + 0.1 * i] for i in range(count)])
    return SliceBatch(images * present[:, :, None, None], mask, present, metadata)


def settle(network, size=64):
    """Give the network statistics of its own, so that normalisation in evaluation is not the identity."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 0.5
    with torch.no_grad():
        for seed in range(3):
            network.train()(batch_of(4, size, seed))
    return network.eval()
