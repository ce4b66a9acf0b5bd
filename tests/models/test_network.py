import numpy as np
import onnx
import pytest
import torch

from models.engine import Model, ModelError
from models.nasbranet.export import TumourProbability, export_onnx
from models.nasbranet.network import NASBraNet
from models.nasbranet.ops import build_op
from models.nasbranet.plan import NetworkPlan, Op


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return NASBraNet(NetworkPlan.load("thesis")).eval()


def test_size_is_the_theses(network):
    cells = sum(p.numel() for part in (network.shared, *(b.cells for b in network.branches)) for p in part.parameters())
    assert cells == pytest.approx(2.3e6, rel=0.1)  # thesis: 2.3 M
    assert sum(p.numel() for p in network.parameters()) < 3.1e6


def test_maps_have_their_scale(network):
    main, quarter, eighth = network.forward_all(torch.zeros(1, 2, 64, 96))
    assert main.shape == (1, 2, 64, 96)
    assert (quarter.shape[-2:], eighth.shape[-2:]) == ((16, 24), (8, 12))


def test_every_weight_learns(network):
    sum(m.sum() for m in network.forward_all(torch.randn(2, 2, 32, 32))).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    network.zero_grad()


def test_shared_cells_are_run_once(network):
    calls = []
    hooks = [cell.register_forward_hook(lambda *_: calls.append(1)) for cell in network.shared]
    network(torch.zeros(1, 2, 32, 32))
    for hook in hooks:
        hook.remove()
    assert len(calls) == network.plan.shared == 3


@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("stride", [1, 2])
def test_operators_keep_or_halve(op, stride):
    built = build_op(op, 8, 16, stride)
    assert built(torch.randn(2, 8, 12, 20)).shape == (2, 16, 12 // stride, 20 // stride)


@pytest.mark.parametrize("op", [Op.ZOOM, Op.ZOOM_X2])
def test_zoom_keeps_odd_sizes(op):
    assert build_op(op, 4, 4, 1)(torch.randn(1, 4, 13, 7)).shape[-2:] == (13, 7)


def test_skip_of_one_width_is_the_identity():
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(build_op(Op.SKIP, 8, 8, 1)(x), x)


def test_the_exported_network_answers_alike_at_any_batch(network, tmp_path):
    path = tmp_path / "net" / "model.onnx"
    export_onnx(network, path)
    onnx.checker.check_model(str(path))
    model = Model("net", path)
    image = np.random.default_rng(0).standard_normal((5, 2, 224, 224), np.float32)
    with torch.inference_mode():
        expected = TumourProbability(network)(torch.from_numpy(image)).numpy()
    assert np.abs(model.run(image) - expected).max() < 1e-3
    image[2] = 0.0
    assert not model.run_slices(image)[2].any()
    assert np.allclose(model.run_slices(image)[0], expected[0], atol=1e-3)


def test_a_missing_or_damaged_model_is_named(tmp_path):
    with pytest.raises(ModelError, match="missing"):
        Model("net", tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(ModelError, match="damaged"):
        Model("net", tmp_path / "model.onnx")
