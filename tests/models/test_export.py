import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models import frame
from models.engine import Model
from models.nasbranet.export import WEIGHTS as SHIPPED
from models.nasbranet.export import TumourProbability, export_onnx
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import SHIPPED_PLAN, CellPlan, NetworkPlan, Op
from models.training.onnx_file import clean

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"
PLACES = re.compile(
    rb"/(?:work|home|root|opt|mnt|Users)/|[A-Z]:.Users.|(?:site|dist)-packages|[\w/]{3,}\.py\b|File \"/"
)
"""What a path of the machine that made a file looks like; each is too long to turn up by chance in weights."""


@pytest.fixture(scope="module")
def network():
    """A network of two cells a branch, its weights drawn with a fixed seed."""
    torch.manual_seed(0)
    branch = tuple(CellPlan(op=Op.CONV, scale=s, expansion=4) for s in (2, 4))
    other = (branch[0], CellPlan(op=Op.ZOOM, scale=4, expansion=4))
    plan = NetworkPlan(
        name="small", source="test", in_channels=2, classes=2, stem_expansion=4, head_expansion=4, shared=1,
        branches=(branch, other),
    )  # fmt: skip
    network = NASBraNet(plan).eval()
    with torch.no_grad():
        network.head[-1].weight *= 60.0  # fresh weights are sure of nothing, and any two networks agree
    return network


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "small" / "model.onnx"
    export_onnx(network, path)
    return path


def places_in(raw):
    return {m.group().decode() for m in PLACES.finditer(raw)}


def remarks_of(message):
    """Every non-empty remark below the model itself."""
    found = []
    for field, value in message.ListFields():
        if field.name in {"doc_string", "metadata_props"}:
            found.append(f"{type(message).__name__}.{field.name}")
        elif field.message_type is not None:
            found += [r for child in (value if field.is_repeated else [value]) for r in remarks_of(child)]
    return found


def test_an_exported_file_tells_its_plan_and_nothing_of_the_machine(exported):
    model = onnx.load(exported)
    assert not places_in(exported.read_bytes())
    assert remarks_of(model) == ["ModelProto.metadata_props"]
    assert {p.key: p.value for p in model.metadata_props} == {
        "plan": "small",
        "source": "test",
        "frame": str(frame.VERSION),
    }
    assert model.producer_name == "pytorch"


@pytest.mark.parametrize("path", sorted(p for p in WEIGHTS.rglob("*") if p.is_file()), ids=lambda p: p.parent.name)
def test_no_shipped_file_names_a_place(path):
    assert not places_in(path.read_bytes())


def test_the_plan_that_is_taken_where_none_is_named_is_the_shipped_networks():
    shipped = NetworkPlan.load(SHIPPED_PLAN)
    told = {p.key: p.value for p in onnx.load(SHIPPED).metadata_props}
    assert (told["plan"], told["source"]) == (shipped.name, shipped.source)
    trained = {tuple(i.dims) for i in onnx.load(SHIPPED).graph.initializer if len(i.dims) == 4}
    fits = {name: shapes_of(NASBraNet(NetworkPlan.load(name))) >= trained for name in (SHIPPED_PLAN, "thesis")}
    assert fits == {SHIPPED_PLAN: True, "thesis": False}


def shapes_of(network):
    """Shapes of convolutions; the auxiliary heads, which are not exported, among them."""
    return {tuple(p.shape) for p in network.parameters() if p.dim() == 4}


def test_stripping_takes_the_remarks_of_every_part(exported, tmp_path):
    model = onnx.load(exported)
    expected = [i.SerializeToString() for i in model.graph.initializer]
    trace = 'File "/home/someone/net.py", line 3'
    model.doc_string = model.graph.doc_string = trace
    for part in (
        model.graph.node[0],
        model.graph.input[0],
        model.graph.initializer[0],
        model.graph.node[0].attribute[0],
    ):
        part.doc_string = trace
    model.graph.node[-1].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    dirty = tmp_path / "dirty.onnx"
    onnx.save(model, dirty)
    assert places_in(dirty.read_bytes())
    clean(dirty)
    assert not places_in(dirty.read_bytes())
    assert [i.SerializeToString() for i in onnx.load(dirty).graph.initializer] == expected


def test_the_file_answers_as_the_network_does(network, exported):
    image = 4.0 * np.random.default_rng(0).standard_normal((3, 2, 224, 224), np.float32)
    with torch.inference_mode():
        expected = TumourProbability(network)(torch.from_numpy(image)).numpy()
    assert expected.std() > 0.01
    assert np.abs(Model("small", exported).run(image) - expected).max() < 2e-2


def test_a_network_without_a_plan_is_exported_too(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(torch.nn.Conv2d(2, 2, 3, padding=1), path)
    assert Model("plain", path).run(np.ones((1, 2, 224, 224), np.float32)).shape == (1, 224, 224)
