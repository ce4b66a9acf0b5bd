"""Where the cells of a network's maps look, and that they are drawn there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models import frame
from models.markers.batch import SliceBatch
from models.markers.cells import Cells
from models.markers.receptive_field import measure_cells
from models.markers.zoo import build
from tests.models.support_markers import settle

INNER = [
    ("resnet-mix", 224, 3),
    ("resnet-mix", 112, 2),
    ("resnest-mix", 224, 3),
    ("middle-a", 224, 3),
    ("kinet", 224, 3),
]
"""Networks, pixels of their input, and a cell whose field, 75 pixels in a light network, is not cut there."""


def looked_at(network, pixels, cell, slices=6):
    """(row, column) of the input that an inner cell's features depend on, by their gradients at the input's own size.

    Features are asked for at random, not as class maps weigh them, and the tumour is everywhere.
    """
    generator = torch.Generator().manual_seed(71)
    images = torch.randn(slices, 4, pixels, pixels, generator=generator).requires_grad_()
    there, metadata = torch.ones(slices, 4, dtype=torch.bool), torch.full((slices, 2), 0.5)
    features = network(SliceBatch(images, torch.ones(slices, 1, pixels, pixels), there, metadata)).features
    asked = features[:, :, cell, cell] * torch.randn(features.shape[:2], generator=generator)
    (gradient,) = torch.autograd.grad(asked.sum(), images)
    weight = gradient.double().square().sum(dim=1)
    weight = (weight / weight.sum(dim=(1, 2), keepdim=True)).mean(dim=0)
    places = torch.arange(pixels).double()
    return float(weight.sum(dim=1) @ places), float(weight.sum(dim=0) @ places)


def drawn_at(cells, pixels, cell):
    """(row, column) of the frame round which one cell's value is drawn: its centre of mass."""
    count = -(-pixels // 32)
    alone = np.zeros((1, count, count), np.float32)
    alone[0, cell, cell] = 1.0
    heat = cells.draw(alone, pixels, frame.FRAME_SIZE)[0]
    places = np.arange(frame.FRAME_SIZE)
    return float(heat.sum(axis=1) @ places / heat.sum()), float(heat.sum(axis=0) @ places / heat.sum())


@pytest.mark.parametrize(("name", "pixels", "cell"), INNER)
def test_a_cell_is_drawn_where_it_looks(name, pixels, cell):
    network = settle(build(name, sequences=("T1", "T1C", "FLAIR")))
    scale = frame.FRAME_SIZE / pixels
    truth = [(place + 0.5) * scale - 0.5 for place in looked_at(network, pixels, cell)]
    assert drawn_at(measure_cells(network), pixels, cell) == pytest.approx(truth, abs=2.0 * scale)
    in_equal_parts = (cell + 0.5) * frame.FRAME_SIZE / -(-pixels // 32) - 0.5
    assert min(in_equal_parts - place for place in truth) > 3.0, "the middle of its part is somewhere else"


def test_resnets_centres_are_those_of_its_strides():
    cells = measure_cells(settle(build("resnet-img")))
    assert cells.step == 32.0
    assert cells.first == pytest.approx((0.0, 0.0), abs=1.0)


def test_measuring_is_repeatable_and_leaves_everything_as_it_was():
    network = build("resnest-roi").train()
    before, world = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    with torch.no_grad():
        assert measure_cells(network) == measure_cells(network)
    assert network.training
    assert torch.equal(world, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_does_not_look_is_placed_by_its_strides():
    network = build("resnet-img").eval()
    nn.init.zeros_(network.head.weight)
    assert measure_cells(network) == Cells(first=(0.0, 0.0), step=32.0)


def test_maps_are_linear_between_centres_and_level_beyond_them():
    maps = np.array([[[0.0, 8.0, 4.0]]], np.float32)  # one row of cells, three columns
    drawn = Cells(first=(5.0, 2.0), step=4.0).draw(maps, 12, 12)
    assert drawn.shape == (1, 12, 12)
    assert drawn[0, 0].tolist() == [0, 0, 0, 2, 4, 6, 8, 7, 6, 5, 4, 4]
    assert np.array_equal(drawn, np.broadcast_to(drawn[:, :1], drawn.shape))
    # On a grid twice as fine a pixel's centre lies a quarter pixel to either side of the coarse one's.
    fine = Cells(first=(5.0, 2.0), step=4.0).draw(maps, 12, 24)
    assert fine[0, 0, 4:8].tolist() == [0.0, 0.5, 1.5, 2.5]
