"""Marker networks: one interface, all of them learns, a missing sequence is not seen, maps are Grad-CAM's."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import openvino
import pytest
import torch
from support_markers import batch_of, settle

from models.markers.batch import (
    InputMode,
    SequenceDropout,
    SliceBatch,
    check_sequences,
    drop_sequences,
    input_channels,
)
from models.markers.export import WithMaps, export_onnx
from models.markers.prediction import Auxiliary, Prediction, class_maps, total_loss
from models.markers.slices import INPUTS, SEQUENCES, UNKNOWN_AGE, UNKNOWN_SEX, encode_metadata
from models.markers.zoo import NETWORKS, build

FUSIONS = ("early", "late", "middle-a", "middle-b", "centralnet", "kinet", "mgmt", "resnet-mix")
"""One of each kind: modes of one network differ only in their input."""
READ = dict.fromkeys(NETWORKS, SEQUENCES) | dict.fromkeys(("centralnet", "kinet"), ("T1C", "FLAIR"))
MAPS = dict.fromkeys(NETWORKS, 384) | {"late": 4 * 384}
"""Channels of each light network's last map."""


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_alike(name):
    with torch.inference_mode():
        found = build(name, classes=3).eval()(batch_of(2))
    assert found.logits.shape == (2, 3)
    assert found.features.shape == (2, MAPS[name], 2, 2)
    assert found.head_weight.shape == (3, MAPS[name])
    assert all(term.logits.shape == (2, 3) for term in found.auxiliary)


@pytest.mark.parametrize("size", [(224, 224), (72, 56), (33, 47)], ids=str)
@pytest.mark.parametrize("name", ["resnet-img", "middle-b", "kinet"])
def test_sizes_that_do_not_halve_evenly_survive(name, size):
    flat = torch.zeros(1, 4, *size)
    batch = SliceBatch(flat, flat[:, :1], torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 2))
    with torch.inference_mode():
        assert build(name).eval()(batch).features.shape[-2:] == tuple(-(-side // 32) for side in size)


@pytest.mark.parametrize("name", ["resnet-mix", "resnest-mix", "mgmt"])
def test_depth_50_answers_too(name):
    with torch.inference_mode():
        found = build(name, "50").eval()(batch_of(1))
    assert found.logits.shape == (1, 2)
    assert found.features.shape == (1, 2048, 2, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name):
    network = build(name).train()
    loss = total_loss(network(batch_of(6)), torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([0.4, 0.6]))
    loss.backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_a_step_at_depth_50(name):
    network = build(name, "50", sequences=("T1", "T1C", "FLAIR")).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    batch, target = batch_of(2), torch.tensor([0, 1])
    loss = total_loss(network(batch), target, torch.tensor([0.4, 0.6]))
    loss.backward()
    assert torch.isfinite(loss)
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
    optimizer.step()
    assert all(p.isfinite().all() for p in network.parameters())


def test_light_networks_are_light():
    sizes = {name: sum(p.numel() for p in build(name).parameters()) for name in NETWORKS}
    assert all(0.3e6 < size < 1.65e6 for size in sizes.values())


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match=r"no marker network 'resnet'; there is resnet-img, .*kinet, mgmt"):
        build("resnet")
    with pytest.raises(ValueError, match=r"no size 'heavy'; there is 50, light"):
        build("kinet", "heavy")
    with pytest.raises(ValueError, match=r"no backbone 'vgg'; there is resnet, resnest"):
        build("late", backbone="vgg")


def test_a_seed_makes_the_same_network_and_leaves_the_world_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (build("resnet-img", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize("name", FUSIONS)
def test_evaluation_is_deterministic(name):
    network = settle(build(name, dropout=0.5))
    with torch.inference_mode():
        one, two = network(batch_of(3)), network(batch_of(3))
    assert torch.equal(one.logits, two.logits)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_missing_sequence_is_not_seen(name):
    network = settle(build(name))
    batch = batch_of(2)
    with torch.inference_mode():
        whole = network(batch).logits
        for sequence in SEQUENCES:
            less = batch.only([s for s in SEQUENCES if s != sequence])
            noise = less.images.clone()
            noise[:, SEQUENCES.index(sequence)] = float("nan")
            answer = network(less).logits
            assert torch.equal(answer, network(replace(less, images=noise)).logits)
            assert torch.equal(answer, whole) == (sequence not in READ[name])


@pytest.mark.parametrize("name", ["early", "late", "middle-a", "middle-b", "mgmt"])
def test_a_sequence_that_training_never_had_has_no_part_in_the_network(name):
    network = settle(build(name, sequences=("FLAIR", "T1", "T1C")))
    assert network.sequences == ("T1", "T1C", "FLAIR")
    batch = batch_of(2)
    with torch.inference_mode():
        expected = network(batch.only(("T1", "T1C", "FLAIR"))).logits
        assert torch.equal(network(batch).logits, expected)
    whole, less = (sum(p.numel() for p in n.parameters()) for n in (build(name), network))
    assert less < whole


@pytest.mark.parametrize("name", ["kinet", "centralnet"])
def test_sides_must_be_there(name):
    with pytest.raises(ValueError, match="reads T1C and FLAIR, but only T1, FLAIR may be read"):
        build(name, sequences=("T1", "FLAIR"))


@pytest.mark.parametrize("sequences", [("T1", "DWI"), ()], ids=str)
def test_sequences_are_of_the_four(sequences):
    with pytest.raises(ValueError, match=r"a network reads some of T1, T1C, T2, FLAIR, not (DWI|none of them)"):
        check_sequences(sequences)


def test_input_modes_show_what_they_say():
    batch = batch_of(2, missing=["T2"])
    image, tumour = (input_channels(batch, mode, ("T1C", "T2")) for mode in (InputMode.IMG, InputMode.ROI))
    assert torch.equal(image[:, 0], batch.images[:, 1])
    assert torch.equal(tumour[:, 0], batch.images[:, 1] * batch.mask[:, 0])
    assert not image[:, 1].any()
    mixed = input_channels(batch, InputMode.MIX, ("T1C", "T2"))
    outline = batch.present[:, [1, 2], None, None] * batch.mask
    assert torch.equal(mixed, torch.cat([image, outline], 1))
    assert [mode.channels(3) for mode in InputMode] == [3, 3, 6]


def test_a_batch_whose_tensors_disagree_is_refused():
    batch = batch_of(2)
    with pytest.raises(ValueError, match=r"mask of a slice batch has shape \(2, 64, 64\), not \(2, 1, 64, 64\)"):
        replace(batch, mask=batch.mask[:, 0])
    with pytest.raises(ValueError, match=r"present of a slice batch has shape \(1, 4\), not \(2, 4\)"):
        replace(batch, present=batch.present[:1])


PATIENTS = [
    (("M", 45.0), (0.0, 0.45)),
    (("female", 70.0), (1.0, 0.7)),
    (("O", 0.0), (UNKNOWN_SEX, 0.0)),
    ((None, None), (UNKNOWN_SEX, UNKNOWN_AGE)),
    (("", 13.0), (UNKNOWN_SEX, 0.13)),
]


@pytest.mark.parametrize(("patient", "expected"), PATIENTS)
def test_metadata_have_a_code_for_the_unknown(patient, expected):
    assert encode_metadata(*patient) == expected


def test_dropout_never_drops_the_last_and_never_adds():
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).bool().repeat(500, 1)
    kept = drop_sequences(present, 0.9, torch.Generator().manual_seed(0)).view(500, 4, 4)
    assert kept[:, :3].any(dim=2).all()
    assert not (kept & ~present.view(500, 4, 4)).any()
    # Where nearly all fall, each of the present ones is the last in turn.
    assert kept[:, 0].float().mean(dim=0).min() > 0.15


def test_dropout_has_its_probability_and_its_seed():
    present = torch.ones(4000, 4, dtype=torch.bool)
    one, same, other = (drop_sequences(present, 0.25, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (~one).float().mean() == pytest.approx(0.25, abs=0.015)


def test_dropout_is_for_training_only():
    dropout, batch = SequenceDropout(0.6, seed=1), batch_of(8)
    assert dropout.eval()(batch) is batch
    assert not dropout.train()(batch).present.all()
    assert SequenceDropout(0.0).train()(batch) is batch
    with pytest.raises(ValueError, match="from 0 to below 1, not 1"):
        SequenceDropout(1.0)


def test_a_network_hides_only_what_it_reads():
    network = build("kinet", dropout=0.9, seed=2).train()
    seen = []
    network.predict = seen.append
    network(batch_of(64))
    present = seen[0].present
    assert not present[:, [SEQUENCES.index("T1"), SEQUENCES.index("T2")]].any()
    assert present.any(dim=1).all()
    assert (present.sum(dim=1) == 1).float().mean() > 0.5


def test_networks_can_be_copied():
    network = build("resnest-img", dropout=0.3).eval()
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(network)(batch_of(1)).logits, network(batch_of(1)).logits)


def grad_cam(network, batch, target):
    """Selvaraju et al., equations 1 and 2, by autograd."""
    found = network(batch)
    (gradient,) = torch.autograd.grad(found.logits[:, target].sum(), found.features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return torch.relu((weights * found.features).sum(dim=1))


@pytest.mark.parametrize("name", FUSIONS)
def test_class_maps_are_grad_cam(name):
    network = settle(build(name, classes=3))
    batch = batch_of(2)
    maps = class_maps(network(batch)).detach()
    assert maps.shape == (2, 3, 2, 2)
    for target in range(3):
        expected = grad_cam(network, batch, target).detach()
        torch.testing.assert_close(maps[:, target], expected, rtol=1e-4, atol=1e-6 + 1e-4 * float(expected.max()))
    assert maps.max() > 0


def test_total_loss_is_the_weighted_sum_over_what_was_seen():
    log = torch.log
    main, side = torch.tensor([[0.2, 0.8], [0.5, 0.5]]), torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    target, weights = torch.tensor([1, 0]), torch.tensor([1.0, 3.0])
    base = Prediction(log(main), torch.zeros(2, 1, 1, 1), torch.zeros(2, 1), 0.5)
    # by class: weights 3 and 1 in both means
    first = -(3 * log(main[0, 1]) + log(main[1, 0])) / 4
    second = -(3 * log(side[0, 1]) + log(side[1, 0])) / 4
    assert total_loss(base, target, weights) == pytest.approx(float(0.5 * first))
    for counted, expected in [(None, second), ([1, 1], second), ([0, 1], -log(side[1, 0])), ([0, 0], 0.0)]:
        seen = None if counted is None else torch.tensor(counted).bool()
        both = replace(base, auxiliary=(Auxiliary("side", 0.25, log(side), seen),))
        assert total_loss(both, target, weights) == pytest.approx(float(0.5 * first + 0.25 * expected))


@pytest.mark.parametrize("name", ["kinet", "mgmt"])
def test_the_engine_answers_as_torch_does(name, tmp_path):
    network = settle(build(name))
    export_onnx(network, tmp_path / "model.onnx", size=64)
    batch = batch_of(3, missing=["T1"])
    tensors = (batch.images, batch.mask, batch.present.float(), batch.metadata)
    with torch.inference_mode():
        expected = WithMaps(network)(*tensors)
    model = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = model({name: value.numpy() for name, value in zip(INPUTS, tensors, strict=True)})
    assert expected[0].std() > 1e-3
    for output, value in zip(("probabilities", "maps"), expected, strict=True):
        np.testing.assert_allclose(found[output], value.numpy(), atol=1e-4 * max(1.0, float(value.abs().max())))
