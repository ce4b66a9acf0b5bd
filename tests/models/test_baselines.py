"""Baselines: their shapes, that all of them learns, and that they are the networks of their papers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from models.baselines import ICNet, NasUnet, UNet
from models.baselines.icnet import PyramidPooling
from models.baselines.nas_unet import DOWN, UP, Operation, SearchedCell
from models.engine import Model
from models.nasbranet.export import TumourProbability, export_onnx

NARROW = (4, 8, 16, 32, 64)
SMALL = {
    "unet": lambda: UNet(widths=NARROW),
    "icnet": lambda: ICNet(kept=0.125),
    "nas_unet": lambda: NasUnet(channels=4, depth=3),
}


def parameters(network):
    return sum(p.numel() for p in network.parameters())


WHOLE = [(UNet, []), (ICNet, [28, 14]), (NasUnet, [])]


@pytest.mark.parametrize(("network", "coarse"), WHOLE)
def test_whole_networks_give_logits_of_the_frames_size(network, coarse):
    with torch.inference_mode():
        main, *auxiliary = network().eval().forward_all(torch.randn(1, 2, 224, 224))
    assert main.shape == (1, 2, 224, 224)
    assert [tuple(a.shape) for a in auxiliary] == [(1, 2, side, side) for side in coarse]


@pytest.mark.parametrize("size", [(208, 176), (96, 80), (48, 112)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_sizes_that_do_not_halve_evenly_survive(name, size):
    network = SMALL[name]().eval()
    with torch.inference_mode():
        image = torch.randn(2, 2, *size)
        assert network(image).shape == (2, 2, *size)
        assert torch.equal(network(image), network.forward_all(image)[0])


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    network = SMALL[name]().train()
    for module in network.modules():  # a hidden layer of one unit may by chance be silent for a whole batch
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.bias, 1.0)
    loss = sum((out * torch.randn_like(out)).sum() for out in network.forward_all(torch.randn(2, 2, 96, 96)))
    loss.backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


@pytest.mark.parametrize("name", SMALL)
def test_the_engine_answers_as_torch_does(name, tmp_path):
    torch.manual_seed(0)
    network = SMALL[name]().train()
    with torch.no_grad():
        network(torch.randn(4, 2, 96, 96))  # statistics of its own, so that normalisation is not the identity
    export_onnx(network.eval(), tmp_path / "model.onnx")
    image = torch.randn(3, 2, 224, 224)
    with torch.inference_mode():
        expected = TumourProbability(network)(image).numpy()
    found = Model(name, tmp_path / "model.onnx").run(image.numpy())
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, atol=2e-2)


def unet_by_hand(inputs, classes):
    """Parameters of Ronneberger's figure 1 with normalisation (two a channel) in place of convolutions' biases."""
    widths = [64, 128, 256, 512, 1024]
    down = sum(9 * (a * b + b * b) + 4 * b for a, b in zip([inputs, *widths[:-1]], widths, strict=True))
    up = sum(4 * b * a + a + 9 * (b * a + a * a) + 4 * a for a, b in pairwise(widths))
    return down + up + 64 * classes + classes


def test_unet_is_the_papers():
    assert parameters(UNet()) == unet_by_hand(2, 2)
    assert parameters(UNet(1, 2)) == pytest.approx(31.03e6, rel=0.001)  # the paper's network, with 1 channel in


def bottleneck(inputs, inner, *, shortcut):
    return inputs * inner + 9 * inner * inner + 4 * inner * inner + (4 * inputs * inner if shortcut else 0)


def test_icnet_has_the_released_models_weights():
    """Convolutions of icnet_cityscapes.prototxt (3 channels, 19 classes), layer by layer; training's guides apart."""
    stem = 9 * (3 * 32 + 32 * 32 + 32 * 64)
    second = bottleneck(64, 32, shortcut=True) + 2 * bottleneck(128, 32, shortcut=False)
    third = bottleneck(128, 64, shortcut=True) + 3 * bottleneck(256, 64, shortcut=False)
    fourth = bottleneck(256, 128, shortcut=True) + 5 * bottleneck(512, 128, shortcut=False)
    fifth = bottleneck(512, 256, shortcut=True) + 2 * bottleneck(1024, 256, shortcut=False) + 1024 * 256
    fusion = 9 * 256 * 128 + 256 * 128 + 9 * 128 * 128 + 64 * 128 + 128 * 19
    shallow = 9 * (3 * 32 + 32 * 32 + 32 * 64)
    released = stem + second + third + fourth + fifth + fusion + shallow
    convolutions = [m for n, m in ICNet(3, 19).named_modules() if isinstance(m, nn.Conv2d) and not n.endswith("guide")]
    assert sum(m.weight.numel() for m in convolutions) == released == 6_671_424
    assert sorted({m.dilation[0] for m in convolutions}) == [1, 2, 4]


def test_icnet_before_compression_has_its_published_size():
    # Open Model Zoo, icnet-camvid-ava: 26.70 M and, in the sparse version, 25.45 M for 12 classes.
    assert parameters(ICNet(3, 12, kept=1.0)) == pytest.approx(26.0e6, rel=0.03)


def test_pyramid_pooling_adds_the_means_of_its_tiles():
    pool = PyramidPooling()
    flat = torch.full((1, 1, 7, 5), 2.0)
    assert torch.allclose(pool(flat), 5 * flat)
    x = torch.randn(1, 3, 2, 2)  # 1 bin, and three times 2 bins: each place is its own tile
    assert torch.allclose(pool(x), 4 * x + x.mean(dim=(2, 3), keepdim=True), atol=1e-6)


def test_nas_unet_has_its_published_size():
    # "About 0.8 M" in the paper's abstract, said to one digit.
    assert parameters(NasUnet(1, 2)) == pytest.approx(0.8e6, rel=0.0625)


CELLS = [
    (DOWN, True, (32, 24), (16, 12), (8, 6)),
    (DOWN, True, (13, 9), (7, 5), (4, 3)),
    (UP, False, (7, 5), (4, 3), (7, 5)),
]


@pytest.mark.parametrize(("cell", "down", "first", "second", "expected"), CELLS)
def test_cells_halve_or_return_to_the_skips_size(cell, down, first, second, expected):
    built = SearchedCell(cell, (6, 10), 4, down=down)
    out = built(torch.randn(1, 6, *first), torch.randn(1, 10, *second))
    assert out.shape == (1, 16, *expected)
    assert built.out_channels == 16


def test_genotypes_only_read_what_is_there():
    for cell in (DOWN, UP):
        assert all(source < 2 + i // 2 for i, (_, source) in enumerate(cell))
        resized = [name.startswith(("down_", "up_")) for name, source in cell if source < 2 and name != "cweight"]
        assert all(resized)
        assert not [name for name, source in cell if source >= 2 and name.startswith(("down_", "up_"))]


def test_channel_weights_are_between_none_and_all_of_a_channel():
    x = torch.rand(2, 32, 5, 5) + 0.1
    share = Operation("cweight", 32)(x, (5, 5)) / x
    assert share.min() > 0
    assert share.max() < 1
    assert torch.allclose(share.amax((2, 3)), share.amin((2, 3)), atol=1e-6)


def test_holes_reach_two_pixels_further():
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[0, 0, 4, 4] = 1.0
    conv = Operation("down_dil_conv", 1).conv
    nn.init.ones_(conv.weight)
    assert conv(impulse)[0, 0].nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (1, 2, 3)]
