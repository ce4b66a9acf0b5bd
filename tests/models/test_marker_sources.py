"""Marker networks: that they are those of the thesis and of the papers."""

from __future__ import annotations

import pytest
import torch
from support_markers import batch_of, settle
from torch import nn
from torch.nn import functional as F

from models.markers.backbone import DEPTH_50, LIGHT, STAGES
from models.markers.batch import InputMode, input_channels
from models.markers.centralnet import CentralNet, WeightedSum
from models.markers.fusion import EarlyFusion, MiddleFusion
from models.markers.kinet import KiNet, Parts, stage_input
from models.markers.mgmt import patient_value
from models.markers.network import Setup
from models.markers.prediction import total_loss
from models.markers.resnest import ResNeSt, SplitAttention, radix_softmax
from models.markers.resnet import ResNet
from models.markers.slices import SEQUENCES
from models.markers.zoo import build

LIGHT_SETUP = Setup(ResNeSt(LIGHT))


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def as_published(backbone):
    """Three channels in, a thousand classes out, as for ImageNet."""
    stem = backbone.stem(3)
    return parameters(stem) + sum(parameters(backbone.stage(n)) for n in STAGES) + 2048 * 1000 + 1000


def test_resnet_50_has_its_published_size():
    assert as_published(ResNet(DEPTH_50)) == 25_557_032


def test_resnest_50_has_its_published_size():
    attention = 3 * 32 + 4 * 64 + 6 * 128 + 3 * 256  # biases before normalisation, which ours has not
    assert as_published(ResNeSt(DEPTH_50)) == 27_483_240 - attention


def normalise(x, norm):
    """Batch normalisation in evaluation, by hand."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return (x - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)


def split_attention_by_loops(block, x, radix, cardinality):
    """Section 3.1 of the ResNeSt paper, group by group and split by split."""
    conv, norm = block.splits
    squeeze, squeeze_norm = block.squeeze
    width = conv.weight.shape[0] // (radix * cardinality)
    reads = x.shape[1] // (radix * cardinality)
    every = torch.cat(
        [
            F.conv2d(x[:, g * reads : (g + 1) * reads], conv.weight[g * width : (g + 1) * width], padding=1)
            for g in range(radix * cardinality)
        ],
        dim=1,
    )
    every = F.relu(normalise(every, norm))
    hidden = squeeze.weight.shape[0] // cardinality
    outputs = []
    for k in range(cardinality):
        splits = [every[:, (r * cardinality + k) * width :][:, :width] for r in range(radix)]
        s = sum(splits).mean(dim=(2, 3))  # equation 1
        rows = slice(k * hidden, (k + 1) * hidden)
        z = s @ squeeze.weight[rows, :, 0, 0].T
        scale = squeeze_norm.weight / torch.sqrt(squeeze_norm.running_var + squeeze_norm.eps)
        z = F.relu((z - squeeze_norm.running_mean[rows]) * scale[rows] + squeeze_norm.bias[rows])
        answers = []
        for r in range(radix):
            rows = slice((k * radix + r) * width, (k * radix + r + 1) * width)
            answers.append(z @ block.excite.weight[rows, :, 0, 0].T + block.excite.bias[rows])
        total = sum(torch.exp(g) for g in answers)
        gates = [torch.exp(g) / total if radix > 1 else 1 / (1 + torch.exp(-g)) for g in answers]  # equation 3
        outputs.append(sum(a[:, :, None, None] * u for a, u in zip(gates, splits, strict=True)))  # equation 2
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize(("radix", "cardinality"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 4)])
def test_split_attention_is_the_papers(radix, cardinality):
    torch.manual_seed(0)
    block = SplitAttention(24, 16, radix, cardinality)
    for norm in (block.splits[1], block.squeeze[1]):
        for value in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(value, 0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    nn.init.normal_(block.excite.weight)
    x = torch.randn(3, 24, 7, 5)
    with torch.inference_mode():
        torch.testing.assert_close(
            block.eval()(x), split_attention_by_loops(block, x, radix, cardinality), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("radix", "cardinality"), [(2, 1), (2, 3), (4, 2)])
def test_splits_share_one(radix, cardinality):
    weights = radix_softmax(torch.randn(5, radix * 12), radix, cardinality)
    assert weights.shape == (5, radix, 12)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5, 12))
    assert weights.std() > 0.1


def test_a_single_split_is_gated():
    logits = torch.randn(5, 12)
    assert torch.equal(radix_softmax(logits, 1, 3)[:, 0], torch.sigmoid(logits))


def test_resnest_halves_by_averages():
    block = ResNeSt(LIGHT).stage(2)[0]
    assert [type(m) for m in block.middle] == [SplitAttention, nn.AvgPool2d]
    assert isinstance(block.shortcut[0], nn.AvgPool2d)
    assert not [m for m in block.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
    x = torch.randn(1, 64, 5, 5)
    pooled = block.shortcut[0](x)
    assert torch.allclose(pooled[..., 2, 2], x[..., 4, 4])  # a corner by itself, no padding in its mean


def test_early_fusion_is_the_plain_network_with_images_and_tumours():
    assert [type(m) for m in (build("early"), build("resnest-mix"))] == [EarlyFusion, EarlyFusion]
    early = build("early", seed=3).state_dict()
    assert all(torch.equal(value, early[key]) for key, value in build("resnest-mix", seed=3).state_dict().items())


def caught(module):
    """Keep what goes into a module and what comes out."""
    seen = []
    module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    return seen


def test_late_fusion_joins_four_networks_before_one_layer():
    network = settle(build("late"))
    batch = batch_of(2, missing=["T2"])
    kept = [caught(n) for n in network.networks]
    with torch.inference_mode():
        found = network(batch)
    for index, ((given, features),) in enumerate(kept):
        assert torch.equal(given, input_channels(batch, InputMode.MIX, [SEQUENCES[index]]))
        part = found.features[:, 384 * index : 384 * (index + 1)]
        assert torch.equal(part, features if SEQUENCES[index] != "T2" else torch.zeros_like(features))
    assert torch.allclose(found.logits, network.head(found.features))


@pytest.mark.parametrize(("name", "maps"), [("middle-a", 4), ("middle-b", 5)])
def test_middle_fusion_joins_shallow_maps_before_the_blocks(name, maps):
    network = settle(build(name))
    batch = batch_of(2, missing=["T1C"])
    stems, entrance = [caught(s) for s in network.stems], caught(network.stages)
    with torch.inference_mode():
        network(batch)
    joined = entrance[0][0]
    assert joined.shape == (2, maps * LIGHT.stem, 16, 16)
    shallow = [s[0][1] for s in stems]
    shallow[1] = torch.zeros_like(shallow[1])
    assert torch.equal(joined[:, : 4 * LIGHT.stem], torch.cat(shallow, 1))
    if name == "middle-b":  # the joint path reads all four and is as wide as one of them
        with torch.inference_mode():
            assert torch.equal(joined[:, 4 * LIGHT.stem :], network.joint(torch.cat(shallow, 1)))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_middle_fusion_can_join_later(stage, joint):
    network = MiddleFusion(LIGHT_SETUP, joint=joint, join_before=stage).eval()
    with torch.inference_mode():
        assert network(batch_of(1)).features.shape == (1, 384, 2, 2)
    with pytest.raises(ValueError, match="before stage 1, 2, 3 or 4, not 5"):
        MiddleFusion(LIGHT_SETUP, join_before=5)


def test_central_sums_are_equation_2_3():
    weigh = WeightedSum(3)
    assert weigh.weights.tolist() == pytest.approx([1 / 3] * 3)
    nn.init.constant_(weigh.weights, 0.0)
    with torch.no_grad():
        weigh.weights += torch.tensor([0.5, 0.25, 2.0])
    a, b, c = torch.randn(3, 2, 4, 5, 5)
    torch.testing.assert_close(weigh(a, [b, c]), 0.5 * a + 0.25 * b + 2.0 * c)


def test_central_net_without_its_sides_weights_is_its_own_network():
    network = settle(CentralNet(LIGHT_SETUP))
    for weigh in network.sums:
        nn.init.zeros_(weigh.weights)
        with torch.no_grad():
            weigh.weights[0] = 1.0
    batch = batch_of(2)
    with torch.inference_mode():
        maps, logits = network.central(input_channels(batch, InputMode.MIX, ("T1C", "FLAIR")))
        found = network(batch)
        torch.testing.assert_close(found.logits, logits)
        torch.testing.assert_close(found.features, maps[-1])
        with torch.no_grad():
            network.sums[4].weights[1] = 1.0  # the classifier's own sum: T1C's last map is added
        sides, _ = network.sides(batch)
        torch.testing.assert_close(network(batch).features, maps[-1] + sides[0][-1])


def cross_entropy(logits, target):
    return -torch.log_softmax(logits, 1)[torch.arange(len(target)), target].mean()


def test_central_nets_loss_is_equation_2_4():
    found = CentralNet(LIGHT_SETUP, side_weight=0.3).eval()(batch_of(3))
    target = torch.tensor([1, 0, 1])
    sides = sum(cross_entropy(term.logits, target) for term in found.auxiliary)
    assert [term.name for term in found.auxiliary] == ["T1C", "FLAIR"]
    torch.testing.assert_close(total_loss(found, target), cross_entropy(found.logits, target) + 0.3 * sides)


@pytest.mark.parametrize("backbone", [ResNeSt(LIGHT), ResNeSt(DEPTH_50)], ids=["light", "50"])
def test_kinets_channels_have_the_thesis_ratios(backbone):
    network = KiNet(Setup(backbone))
    kept = [caught(join) for join in network.main.joins]
    narrow = [[caught(n) for n in join.narrow] for join in network.main.joins]
    with torch.inference_mode():
        network.eval()(batch_of(1))
    for index, ratio in enumerate((2, 4)):
        (main, joined), sides = kept[index][0], [n[0][1] for n in narrow[index]]
        share = main.shape[1] // ratio
        assert [side.shape[1] for side in sides] == [share, share]
        assert torch.equal(joined, torch.cat([sides[0], main, sides[1]], dim=1))  # side : main : side
        assert joined.shape[1] == stage_input(backbone, index + 1) == (ratio + 2) * share
    assert len(network.main.joins) == 2  # stages 3 and 4 take nothing from the sides
    assert [stage_input(backbone, n) for n in (3, 4)] == [backbone.channels(n) for n in (2, 3)]


def test_kinets_loss_is_the_thesis_formula():
    found = settle(build("kinet"))(batch_of(4))
    target = torch.tensor([1, 0, 1, 1])
    loss = {term.name: cross_entropy(term.logits, target) for term in found.auxiliary}
    joined = cross_entropy(found.logits, target)
    main = 0.025 * loss["s1"] + 0.025 * loss["s2"] + 0.2 * loss["s3"] + 0.35 * loss["s4"] + 0.4 * joined
    torch.testing.assert_close(total_loss(found, target), 0.35 * loss["T1C"] + 0.25 * loss["FLAIR"] + 0.4 * main)
    assert found.weight + sum(term.weight for term in found.auxiliary) == pytest.approx(1.0)


def test_kinet_joins_its_scales_with_the_metadata():
    network = settle(build("kinet"))
    batch, kept = batch_of(3), caught(network.joined)
    with torch.inference_mode():
        found = network(batch)
    scales = [term.logits for term in found.auxiliary if term.name.startswith("s")]
    assert len(scales) == 4
    assert torch.equal(kept[0][0], torch.cat([*scales, batch.metadata], dim=1))


@pytest.mark.parametrize("name", ["kinet", "centralnet"])
def test_a_side_without_its_sequence_hands_on_zeros(name):
    with torch.inference_mode():
        (without, beside), _ = settle(build(name)).sides(batch_of(2, missing=["T1C"]))
    assert [bool(x.any()) for x in without] == [False] * 5
    assert all(x.any() for x in beside)


def test_a_side_without_its_sequence_costs_nothing():
    network, target = settle(build("kinet")), torch.tensor([1, 0])
    found = network(batch_of(2, missing=["T1C"]))
    assert {term.name: term.counted.tolist() for term in found.auxiliary if term.counted is not None} == {
        "T1C": [False, False],
        "FLAIR": [True, True],
    }
    total_loss(found, target).backward()
    side, other = (n.head.weight.grad.abs().max() for n in network.sides.networks)
    assert side == 0
    assert other > 0


ABLATIONS = [
    (Parts(multi_scale=False), 3, 10, 2 * 16 + 32),
    (Parts(merge=False), 7, 10, 2 * 16),
    (Parts(metadata=False), 7, 8, 2 * 16 + 32),
]


@pytest.mark.parametrize(("parts", "terms", "joined", "first"), ABLATIONS, ids=str)
def test_kinet_can_be_taken_apart_as_in_table_5_3(parts, terms, joined, first):
    network = KiNet(LIGHT_SETUP, parts).eval()
    entrance = caught(network.main.stages[0])
    found = network(batch_of(1))
    assert 1 + len(found.auxiliary) == terms
    assert network.joined.in_features == joined
    assert entrance[0][0].shape[1] == first


def test_mgmt_reads_no_tumour_mask():
    network, batch = settle(build("mgmt")), batch_of(2)
    other = type(batch)(batch.images, 1 - batch.mask, batch.present, batch.metadata)
    with torch.inference_mode():
        assert torch.equal(network(batch).logits, network(other).logits)


def test_a_patients_mgmt_value_is_its_slices_mean():
    assert patient_value(torch.tensor([[0.2, 0.8], [0.4, 0.6]])).tolist() == pytest.approx([0.3, 0.7])
    with pytest.raises(ValueError, match="without slices"):
        patient_value(torch.zeros(0, 2))
