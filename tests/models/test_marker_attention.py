"""Where a marker network looks: the share on the tumour, and the exported file as the node runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import models
from models import frame
from models.markers.attention import attention_of
from models.markers.batch import SliceBatch
from models.markers.cells import Cells
from models.markers.export import WithMaps, export_onnx
from models.markers.image_features import NoTumour
from models.markers.metrics import attention_shares
from models.markers.prediction import Prediction
from models.markers.receptive_field import measure_cells
from models.markers.slice_network import ABOUT, NETWORK, About, SliceNetwork, SliceNetworkError, _shrunk
from models.markers.slices import SEQUENCES, encode_metadata
from models.markers.zoo import build
from tests.models.support_markers import settle

READ = ("T1", "T1C", "FLAIR")
WEIGHTS = Path(models.__file__).parent / "weights"
PIXELS = 80
"""No part of the frame's 224."""
EACH_PIXEL = Cells(first=(0.0, 0.0), step=1.0)
"""Of maps that are made here, as large as the input."""


def prediction_with_map(heat):
    """A network's answer whose map of class 1 is `heat` (B, P, P) and of class 0 nothing."""
    maps = torch.as_tensor(heat, dtype=torch.float32)[:, None]
    return Prediction(torch.zeros(len(maps), 2), maps, torch.tensor([[-1.0], [1.0]]))


def slices_with(mask, brain=None):
    """Slices that are brain everywhere, or where told."""
    mask = torch.as_tensor(mask, dtype=torch.float32)[:, None]
    images = torch.ones(len(mask), 4, *mask.shape[-2:]) if brain is None else torch.as_tensor(brain).repeat(1, 4, 1, 1)
    return SliceBatch(images.float(), mask, torch.ones(len(mask), 4, dtype=torch.bool), torch.zeros(len(mask), 2))


def test_shares_are_those_of_a_map_made_by_hand():
    """224 pixels of 1 mm: a square tumour of 20, heat in it, 5 mm beside it and far away."""
    mask, heat = np.zeros((1, 224, 224)), np.zeros((1, 224, 224))
    mask[0, 100:120, 100:120] = 1.0
    heat[0, 110, 110], heat[0, 110, 124], heat[0, 10, 10] = 2.0, 1.0, 1.0
    found = attention_of(prediction_with_map(heat), slices_with(mask), 1, EACH_PIXEL)
    assert found.inside == pytest.approx(0.5)
    assert found.around == pytest.approx(0.75)
    assert found.covered == pytest.approx(
        (20 * 20 + 4 * 20 * 10 + np.pi * 100) / 224**2, rel=0.03
    )  # to pixels' centres


def test_heat_outside_the_brain_is_not_counted_and_no_heat_is_no_number():
    mask, heat = np.zeros((2, 64, 64)), np.ones((2, 64, 64))
    mask[0, 20:30, 20:30] = 1.0
    brain = np.zeros((2, 1, 64, 64))
    brain[:, :, 20:30, 20:30] = 1.0
    found = attention_of(prediction_with_map(heat), slices_with(mask, brain), 1, EACH_PIXEL)
    assert found.inside == pytest.approx(0.5), "the second slice has heat on the brain and no tumour"
    assert attention_of(prediction_with_map(heat), slices_with(mask), 0, EACH_PIXEL) is None


def test_heat_is_counted_where_its_cell_looks():
    """A tumour of 21 pixels round pixel (96, 107), where cell (3, 3) looks: heat falls to zero over 32 each way."""
    heat, mask = np.zeros((1, 7, 7)), np.zeros((2, 1, 224, 224))
    heat[0, 3, 3] = 1.0
    mask[0, :, 86:107, 97:118] = 1.0
    mask[1, :, 102:123, 102:123] = 1.0  # round the middle of the fourth of seven parts
    cells = Cells(first=(0.0, 11.0), step=32.0)
    there, beside = (attention_of(prediction_with_map(heat), slices_with(m), 1, cells) for m in mask)
    assert there.inside == pytest.approx(((21 - 2 * sum(range(11)) / 32) / 32) ** 2, rel=1e-5)
    assert beside.inside < 0.7 * there.inside


def test_shares_of_patients_are_averaged_with_an_interval():
    found = attention_shares([{"inside": 0.2}, {"inside": 0.4}, {"inside": 0.9}])
    assert found["inside"].value == pytest.approx(0.5)
    assert 0.2 <= found["inside"].low < 0.5 < found["inside"].high <= 0.9
    assert attention_shares([]) == {}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A settled network and its files as the node finds them."""
    folder = tmp_path_factory.mktemp("network")
    network = settle(build("resnest-mix", sequences=READ), PIXELS)
    export_onnx(network, folder / NETWORK, {}, PIXELS)
    about = About(
        marker="idh", network="resnest-mix (light)", sequences=READ, pixels=PIXELS, cells=measure_cells(network),
        auc=0.8, auc_interval=(0.7, 0.9),
    )  # fmt: skip
    (folder / ABOUT).write_text(about.model_dump_json())
    return network, folder


def study(seed=0, slices=5):
    """Frames of three sequences and a tumour on the middle slices."""
    rng = np.random.default_rng(seed)
    size = frame.FRAME_SIZE
    images = {name: rng.standard_normal((slices, size, size)).astype(np.float32) for name in (*READ, "T2")}
    tumour = np.zeros((slices, size, size), bool)
    tumour[1:4, 80:120, 100:132] = True
    return images, tumour


def by_torch(network, images, tumour, metadata, read=READ):
    """The same question put to the network itself."""

    def shrink(planes):
        return F.interpolate(torch.from_numpy(planes)[:, None], size=(PIXELS, PIXELS), mode="area")

    shown = torch.zeros(3, 4, PIXELS, PIXELS)
    for name in read:
        shown[:, SEQUENCES.index(name)] = shrink(images[name][1:4])[:, 0]
    mask = (shrink(tumour[1:4].astype(np.float32)) >= 0.5).float()
    present = torch.tensor([float(name in read) for name in SEQUENCES]).repeat(3, 1)
    with torch.inference_mode():
        return WithMaps(network)(shown, mask, present, torch.tensor(metadata).repeat(3, 1))


def drawn_by_hand(coarse, cells):
    """Each cell's value at its centre on the frame, linear between them."""
    scale = frame.FRAME_SIZE / PIXELS
    rows, columns = (
        (first + cells.step * np.arange(count) + 0.5) * scale - 0.5
        for first, count in zip(cells.first, coarse.shape[1:], strict=True)
    )
    every = np.arange(frame.FRAME_SIZE)
    wide = np.apply_along_axis(lambda values: np.interp(every, columns, values), 2, coarse)
    return np.apply_along_axis(lambda values: np.interp(every, rows, values), 1, wide)


@pytest.mark.parametrize("pixels", [32, 80, 100, 112, 223, 224])
def test_the_node_shrinks_as_training_does(pixels):
    """Masks too: half a pixel's share is one half on both sides, so that no pixel changes sides."""
    rng = np.random.default_rng(pixels)
    planes = rng.standard_normal((3, frame.FRAME_SIZE, frame.FRAME_SIZE)).astype(np.float32)
    mask = (rng.random(planes.shape) > 0.5).astype(np.float32)
    for given in (planes, mask):
        expected = F.interpolate(torch.from_numpy(given)[None], size=(pixels, pixels), mode="area")[0].numpy()
        np.testing.assert_allclose(_shrunk(given, pixels), expected, rtol=0, atol=2e-6)
    assert (expected == 0.5).any() == (pixels not in {32, 224}), "ties were tried"
    assert np.array_equal(_shrunk(mask, pixels) >= 0.5, expected >= 0.5)


@pytest.mark.parametrize("missing", [(), ("T1",)])
def test_the_node_gets_what_the_network_says_of_the_slices_with_tumour(exported, missing):
    network, folder = exported
    images, tumour = study()
    read = tuple(name for name in READ if name not in missing)
    metadata = encode_metadata("F", 51.0)
    given = {name: array for name, array in images.items() if name not in missing}
    found = SliceNetwork(folder).answer(given, tumour, metadata)
    chances, maps = by_torch(network, images, tumour, metadata, read)
    assert found.slices.tolist() == [1, 2, 3]
    assert found.probability == pytest.approx(float(chances[:, 1].mean()), abs=1e-3)
    answer = int(found.altered)
    np.testing.assert_allclose(found.of_slices, chances[:, answer], atol=1e-3)
    assert found.maps.shape == (3, frame.FRAME_SIZE, frame.FRAME_SIZE)
    assert found.maps.max() == pytest.approx(1.0)
    expected = drawn_by_hand(maps[:, answer].numpy(), SliceNetwork(folder).about.cells)
    np.testing.assert_allclose(found.maps, expected / expected.max(), atol=2e-3)


def test_what_the_network_does_not_read_is_not_shown_to_it(exported):
    _, folder = exported
    images, tumour = study()
    network = SliceNetwork(folder)
    with_t2 = network.answer(images, tumour, encode_metadata(None, None))
    del images["T2"]
    assert network.answer(images, tumour, encode_metadata(None, None)).probability == with_t2.probability


def test_a_study_without_tumour_has_no_answer(exported):
    images, tumour = study()
    with pytest.raises(NoTumour):
        SliceNetwork(exported[1]).answer(images, np.zeros_like(tumour), (0.5, 0.45))


def test_damage_is_told_in_a_line(exported, tmp_path):
    with pytest.raises(SliceNetworkError, match="export it anew"):
        SliceNetwork(tmp_path)
    (tmp_path / ABOUT).write_text((exported[1] / ABOUT).read_text())
    with pytest.raises(SliceNetworkError, match="is missing"):
        SliceNetwork(tmp_path)
    (tmp_path / NETWORK).write_bytes(b"no network")
    with pytest.raises(SliceNetworkError, match="damaged or not ONNX"):
        SliceNetwork(tmp_path)
    told = json.loads((tmp_path / ABOUT).read_text())
    (tmp_path / NETWORK).write_bytes((exported[1] / NETWORK).read_bytes())
    for odd in ({"pixels": 16}, {"pixels": 225}, {"cells": {"first": [0.0, 0.0], "step": 0.0}}, {"cells": None}):
        (tmp_path / ABOUT).write_text(json.dumps(told | odd))
        with pytest.raises(SliceNetworkError, match="does not describe a marker network"):
            SliceNetwork(tmp_path)


def test_a_network_of_another_form_is_told_when_it_is_opened(exported, tmp_path):
    told = json.loads((exported[1] / ABOUT).read_text())
    (tmp_path / ABOUT).write_text(json.dumps(told))
    shutil.copy(WEIGHTS / "nasbranet" / "model.onnx", tmp_path / NETWORK)
    with pytest.raises(SliceNetworkError, match=r"idh resnest-mix \(light\) does not answer what it is asked"):
        SliceNetwork(tmp_path)


def test_what_is_no_number_is_no_answer(exported, monkeypatch):
    network = SliceNetwork(exported[1])
    images, tumour = study()
    run = network._network.run
    monkeypatch.setattr(network._network, "run", lambda given: {n: a * np.nan for n, a in run(given).items()})
    with pytest.raises(SliceNetworkError, match="does not answer with numbers"):
        network.answer(images, tumour, encode_metadata(None, None))


@pytest.mark.parametrize("slices", [1, 2, 3, 7])
def test_slices_asked_together_or_apart_get_the_same_answer(exported, slices):
    """What a call takes at a time is chosen for memory; the scale of the maps is the study's."""
    network = SliceNetwork(exported[1])
    images, tumour = study(slices=9)
    tumour[:] = False
    tumour[1 : 1 + slices, 80:120, 100:132] = True
    whole = network.answer(images, tumour, (1.0, 0.5))
    assert whole.slices.tolist() == list(range(1, 1 + slices))
    for place, index in enumerate(whole.slices):
        alone = np.zeros_like(tumour)
        alone[index] = tumour[index]
        one = network.answer(images, alone, (1.0, 0.5))
        if one.altered == whole.altered:
            assert one.of_slices[0] == pytest.approx(float(whole.of_slices[place]), abs=1e-5)
            np.testing.assert_allclose(whole.maps[place] / whole.maps[place].max(), one.maps[0], atol=1e-4)
