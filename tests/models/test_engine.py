import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import engine
from models.engine import Model, ModelError, open_model
from models.engine_cuda import CudaDevice
from models.engine_openvino import CpuSettings, OpenVinoBackend
from tests.models.support_engine import small_onnx
from tests.support_segments import layers_onnx

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_onnx(tmp_path_factory.mktemp("models") / "small" / "model.onnx")


@pytest.fixture
def a_gpu(monkeypatch):
    """A machine that has a GPU, as far as the choice of engine can see."""
    monkeypatch.setattr(engine, "find_device", lambda: CudaDevice("Some GPU", (8, 9)))


def slices(n):
    return np.random.default_rng(n).standard_normal((n, 2, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("hint", ["LATENCY", "THROUGHPUT"])
@pytest.mark.parametrize("batch", [1, 4, 26])
def test_answers_come_in_order_whatever_the_batch(path, hint, batch):
    image = slices(9)
    settings = CpuSettings(batch=batch, hint=hint, precision="f32")
    expected = OpenVinoBackend("small", path, CpuSettings(batch=9, hint="LATENCY", precision="f32")).run(image)
    assert len({float(e.mean()) for e in expected}) == 9
    assert np.allclose(OpenVinoBackend("small", path, settings).run(image), expected, atol=1e-6)


def test_precision_is_never_left_to_the_library(path):
    single = OpenVinoBackend("small", path, CpuSettings(precision="f32"))
    assert single.description.endswith("on CPU, f32")
    assert single._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_threads_and_streams_are_asked_of_openvino(path):
    settings = CpuSettings(threads=1, streams=1, precision="f32")
    compiled = OpenVinoBackend("small", path, settings)._compiled
    assert (compiled.get_property("INFERENCE_NUM_THREADS"), compiled.get_property("NUM_STREAMS")) == (1, 1)
    assert str(settings) == "throughput hint, batch 1, f32, 1 threads, 1 streams"
    assert str(CpuSettings()) == "throughput hint, batch 1, bf16"


def test_a_processor_without_bf16_computes_in_f32_and_says_so(path, monkeypatch):
    from models import engine_openvino

    class OldProcessor:
        compile_model = staticmethod(engine_openvino.core().compile_model)

        def get_property(self, *_):
            return ["FP32", "INT8"]

    monkeypatch.setattr(engine_openvino, "core", OldProcessor)
    backend = OpenVinoBackend("small", path, CpuSettings(precision="bf16"))
    assert backend.description.endswith("f32")
    assert backend._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_networks_that_go_in_any_order_leave_signal_handlers_alone(path):
    """Two OpenVINO cores, dropped in the order they came, make the next handled signal a segmentation fault."""
    code = (
        "import gc, os, signal; from pathlib import Path; from models.engine_openvino import OpenVinoBackend;"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'));"
        f"first, second = (OpenVinoBackend('small', Path({str(path)!r})) for _ in range(2));"
        "del first; gc.collect(); del second; gc.collect(); os.kill(os.getpid(), signal.SIGUSR1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "handled")


def test_without_a_gpu_the_cpu_is_taken(path):
    model = Model("small", path)
    assert model.engine.startswith("OpenVINO 20")
    assert open_model("small", path.parents[1], "openvino").engine == model.engine


def test_a_gpu_is_taken_by_itself(path, a_gpu, monkeypatch, tmp_path):
    asked = []

    class Backend:
        description = "TensorRT on Some GPU"

        def __init__(self, *given):
            asked.append(given)

    monkeypatch.setattr(engine.engine_tensorrt, "TensorRtBackend", Backend)
    assert Model("small", path, cache_dir=tmp_path).engine == "TensorRT on Some GPU"
    assert asked == [("small", path, tmp_path)]
    assert Model("small", path, "openvino").engine.startswith("OpenVINO")


def test_an_idle_gpu_is_told_of_with_the_remedy(path, a_gpu, monkeypatch, caplog):
    monkeypatch.setattr(engine.engine_tensorrt, "PACKAGES", ("no_such_package",))
    assert Model("small", path).engine.startswith("OpenVINO")
    assert "install what requirements-gpu.txt names for this GPU" in caplog.text


def test_tensorrt_asked_for_outright_never_falls_back(path, monkeypatch):
    monkeypatch.setattr(engine.engine_tensorrt, "find_device", lambda: None)
    with pytest.raises(ModelError, match=r"no CUDA device.*set node\.pipeline\.engine to openvino"):
        Model("small", path, "tensorrt")
    monkeypatch.setattr(engine.engine_tensorrt, "PACKAGES", ("no_such_package",))
    with pytest.raises(ModelError, match=r"not installed: install what requirements-gpu\.txt names"):
        Model("small", path, "tensorrt")


@pytest.mark.parametrize("several", [False, True])
def test_slices_without_brain_stay_zero(path, tmp_path, several):
    """Of a network with several channels too."""
    if several:
        path = layers_onnx(tmp_path / "model.onnx", size=32)
    image = slices(5)
    image[2] = 0.0
    model = Model("small", path)
    found = model.run_slices(image)
    assert model.answer_shape == (None, *found.shape[1:])
    assert found.shape == ((5, 4, 32, 32) if several else (5, 32, 32))
    assert not found[2].any()
    assert (found[[0, 1, 3, 4]].reshape(4, -1).max(axis=1) > 0.0).all()
    assert model.run_slices(np.zeros_like(image)).shape == (5, 32, 32)


def test_calls_from_several_threads_do_not_mix(path):
    from concurrent.futures import ThreadPoolExecutor

    model = Model("small", path)
    studies = [slices(n) for n in (3, 5, 8, 4)]
    alone = [model.run(study) for study in studies]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model.run, studies))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(alone, together, strict=True))
