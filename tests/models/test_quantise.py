import json

import numpy as np
import onnx
import pytest

from models.engine_openvino import CpuSettings, OpenVinoBackend
from models.nasbranet import benchmark as benchmark_module
from models.nasbranet import quantise as tool
from models.nasbranet.benchmark import benchmark, figures_of, tune
from models.nasbranet.timing import WARM_ROUNDS, device_header, take_turns
from models.training.data import DataError
from tests.models.support_engine import small_onnx

SINGLE = CpuSettings(precision="f32", batch=4, hint="LATENCY")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_onnx(tmp_path_factory.mktemp("models") / "small" / "model.onnx", rows=224)


def slices(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2, 224, 224)).astype(np.float32)


def test_the_int8_network_answers_nearly_alike_at_a_quarter_of_the_weights(path, tmp_path):
    int8 = tmp_path / "int8.onnx"
    tool.quantise_file(path, int8, slices(6)[:, None])
    model = onnx.load(int8)
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    assert onnx.TensorProto.INT8 in kinds.values()
    assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) >= 2
    assert {p.key: p.value for p in model.metadata_props} == {"quantised": "INT8, NNCF post-training"}
    expected, found = (OpenVinoBackend("n", p, SINGLE).run(slices(3, seed=1)) for p in (path, int8))
    assert 0.0 < np.abs(found - expected).mean() < 0.02


def test_calibration_draws_from_every_case_and_only_slices_with_brain():
    views = [slices(8, seed) + 100.0 * seed for seed in (1, 2, 3)]
    views[1][4:] = 0.0
    views[2][2:] = 0.0
    chosen = tool.calibration_slices(views, 4)
    assert chosen.shape == (4 + 4 + 2, 1, 2, 224, 224)
    assert [round(float(m) / 100) for m in sorted(chosen.mean(axis=(1, 2, 3, 4)))] == [1] * 4 + [2] * 4 + [3] * 2


@pytest.fixture
def small_study(monkeypatch, path, tmp_path):
    """`quantise` with all but its decision replaced: calibrates on a case that says so, judges with given Dice."""
    from models.training.data import Case

    cases = [Case(f"c{i}", f"p{i}", "A", "G2", True, tmp_path) for i in range(3)]
    asked = []
    monkeypatch.setattr(tool.data, "read_cases", lambda folder: cases)
    monkeypatch.setattr(tool.data, "prepare", lambda case, cache: asked.append(case.name))
    monkeypatch.setattr(tool, "network_view", lambda prepared: slices(1))
    monkeypatch.setattr(tool, "STUDY_SLICES", 2)
    monkeypatch.setattr(tool, "quantise_file", lambda weights, to, images: to.write_bytes(weights.read_bytes()))

    def run(loss, training=("c0", "c1")):
        dice = iter([0.88, 0.88, 0.88 - loss])
        monkeypatch.setattr(tool, "judged", lambda *_: next(dice))
        split, to, report = (tmp_path / n for n in ("split.json", "int8.onnx", "result.json"))
        split.write_text(json.dumps({"training": training, "validation": ["c2"]}))
        tool.quantise(tmp_path, split, to, report, weights=path, rounds=1)
        return asked, to.exists(), json.loads(report.read_text())

    return run


@pytest.mark.parametrize(("loss", "kept"), [(0.0049, True), (0.0051, False), (-0.01, True)])
def test_int8_is_written_only_where_the_dice_holds(small_study, tmp_path, loss, kept):
    asked, written, result = small_study(loss)
    assert (written, result["kept"]) == (kept, kept)
    assert result["loss"] == pytest.approx(loss)
    assert asked == ["c0", "c1"]  # training cases alone calibrate
    assert set(result["time"]) == {"f32", "as shipped", "int8"}
    assert not list(tmp_path.glob("*.part"))


def test_a_split_that_shares_a_patient_is_refused(small_study):
    with pytest.raises(DataError, match="1 patients"):
        small_study(0.0, training=("c0", "c2"))


def test_candidates_take_turns():
    order = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 30)
    rounds = ["".join(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert len(rounds) == 30 + WARM_ROUNDS
    assert set(rounds) == {"ab", "ba"}, "both in each round, in an order drawn anew"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 30, "b": 30}


def test_figures_are_medians_in_ms_a_slice():
    assert figures_of([0.1, 0.2, 5.0], 10) == {"ms_per_slice": 20.0, "quartile_1": 15.0, "quartile_3": 260.0}


def test_tune_times_every_setting_and_names_the_device(path, tmp_path):
    tune(path, tmp_path / "t.json", rounds=1, batches="1,2", precisions="f32", slices=3, threads="0,1", streams="1")
    found = json.loads((tmp_path / "t.json").read_text())
    assert set(found["settings"]) == {
        f"{hint} hint, batch {batch}, f32" for hint in ("latency", "throughput") for batch in (1, 2)
    }
    assert all(f["ms_per_slice"] > 0 for f in found["settings"].values())
    shared = [name.split("f32")[1] for name in found["threads_and_streams"]]
    assert shared == ["", ", 1 streams", ", 1 threads, 1 streams"], "the best, and it with threads and streams"
    assert found["best"] in found["threads_and_streams"]
    assert found["device"]["cores"] >= 1
    assert found["device"].keys() == device_header().keys()


def test_threads_and_streams_are_tried_on_the_best_of_the_rest(path, tmp_path, monkeypatch):
    """By told times: two slices a call are the best, then one thread."""
    asked = []

    def take_turns(turns, *_):
        asked.append(list(turns))
        return {name: [4.0 - ("batch 2" in name) - ("latency" in name) - (" 1 threads" in name)] for name in turns}

    monkeypatch.setattr(benchmark_module, "take_turns", take_turns)
    monkeypatch.setattr(benchmark_module.os, "cpu_count", lambda: 2)
    result = tune(path, rounds=1, batches="1,2", precisions="f32", slices=3, streams="0,1,2,4")
    best = "latency hint, batch 2, f32"
    assert asked[1] == [
        best, *(f"{best}{more}" for more in (
            ", 1 streams", ", 2 streams", ", 1 threads", ", 1 threads, 1 streams",
        )),
    ], "never more calls at once than threads"  # fmt: skip
    assert result["best"].startswith(f"{best}, 1 threads")


def test_benchmark_times_what_is_here_and_says_why_not_the_rest(path, tmp_path, monkeypatch):
    from models import engine_tensorrt

    monkeypatch.setattr(engine_tensorrt, "find_device", lambda: None)
    benchmark(path, tmp_path / "b.json", rounds=1, batches="1,2", engines="openvino,tensorrt")
    found = json.loads((tmp_path / "b.json").read_text())
    assert any(name.startswith("OpenVINO") and set(by) == {"1", "2"} for name, by in found["engines"].items())
    assert "no CUDA device" in found["not_run"]["tensorrt"]
