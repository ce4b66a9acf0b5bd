"""What can be proved of the GPU's engine without a GPU: a real engine is built; data go in and out as they should."""

import ctypes
import hashlib

import numpy as np
import onnx
import pytest
import tensorrt_rtx as trt  # tests/requirements.txt installs it: without it these tests fail, they are not skipped
from onnx import TensorProto, numpy_helper

from models import engine, engine_cuda, engine_tensorrt
from models.engine import Model
from models.engine_base import ModelError
from models.engine_cache import EngineCache, EngineKey
from models.engine_cuda import CudaDevice, DeviceMemory, check, find_device
from models.engine_half import to_half
from models.engine_openvino import CpuSettings, OpenVinoBackend
from models.engine_tensorrt import BATCH, Runner, TensorRtBackend, build_engine, engine_key, parse, read_network
from models.nasbranet.benchmark import WEIGHTS
from tests.models.support_engine import small_onnx

ADA = (8, 9)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_onnx(tmp_path_factory.mktemp("models") / "small" / "model.onnx")


@pytest.fixture(scope="module")
def shipped():
    """The shipped network in half precision, as TensorRT is given it."""
    return read_network("nasbranet", WEIGHTS, "fp16")


def test_the_shipped_network_becomes_an_engine(shipped):
    plan = build_engine(trt, shipped, ADA)
    weights = sum(int(np.prod(i.dims)) for i in onnx.load(WEIGHTS).graph.initializer)
    assert 2 * weights < len(plan) < 4 * weights  # two bytes a weight, and the kernels
    assert build_engine(trt, shipped, (12, 0)) != plan


def test_tensorrt_sees_the_network_in_half_precision_with_float32_ends(shipped):
    _, network = parse(trt, shipped)
    image, tumour = network.get_input(0), network.get_output(0)
    assert (image.name, tuple(image.shape), image.dtype) == ("image", (-1, 2, 224, 224), trt.float32)
    assert (tumour.name, tuple(tumour.shape), tumour.dtype) == ("tumour", (-1, 224, 224), trt.float32)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    convolutions = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    assert len(convolutions) == sum(n.op_type == "Conv" for n in onnx.load(WEIGHTS).graph.node)
    assert {layer.get_output(0).dtype for layer in convolutions} == {trt.float16}
    assert {layer.get_output(0).dtype for layer in layers if layer.type == trt.LayerType.SOFTMAX} == {trt.float32}


def test_the_profile_takes_any_number_of_slices_up_to_the_batch(shipped, monkeypatch):
    profiles = []
    real = trt.Builder.create_optimization_profile

    class Watched(trt.Builder):
        def create_optimization_profile(self):
            profiles.append(real(self))
            return profiles[-1]

    monkeypatch.setattr(trt, "Builder", Watched)
    build_engine(trt, shipped, ADA)
    assert [tuple(s) for s in profiles[0].get_shape("image")] == [(n, 2, 224, 224) for n in (1, BATCH, BATCH)]


def test_a_device_newer_than_the_list_is_asked_for_as_the_one_at_hand(path):
    # There is none here, so that this build must fail: it proves what was asked for.
    with pytest.raises(ModelError, match=r"could not build an engine for compute capability \(13, 0\)"):
        build_engine(trt, read_network("small", path, "fp16"), (13, 0))


@pytest.mark.parametrize("capability", [(9, 0), (10, 0)])
def test_a_device_that_the_package_leaves_out_is_refused_with_the_remedy(capability, path):
    with pytest.raises(ModelError, match=r"does not run on GPUs of .* (9|10)\.0: install package tensorrt in"):
        build_engine(trt, read_network("small", path, "fp16"), capability)


def test_half_precision_answers_alike(tmp_path):
    half = tmp_path / "half.onnx"
    onnx.save(to_half(onnx.load(WEIGHTS)), half)
    image = 3.0 * np.random.default_rng(0).standard_normal((1, 2, 224, 224)).astype(np.float32)
    single = CpuSettings(precision="f32")
    expected, found = (OpenVinoBackend("net", p, single).run(image) for p in (WEIGHTS, half))
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).max() < 1e-2


def test_every_weight_is_halved_but_what_onnx_wants_single(path):
    half = to_half(onnx.load(path))
    kinds = {i.name: i.data_type for i in half.graph.initializer}
    assert kinds == {
        "w1": TensorProto.FLOAT16, "b1": TensorProto.FLOAT16, "w2": TensorProto.FLOAT16,
        "scales": TensorProto.FLOAT, "one": TensorProto.INT64,
    }  # fmt: skip
    onnx.checker.check_model(half, full_check=True)


def test_a_weight_out_of_range_is_named(path):
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((4, 2, 3, 3), 1e5, np.float32), "w1"))
    with pytest.raises(ModelError, match="w1 is out of the range"):
        to_half(model)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(ModelError, match="damaged"):
        read_network("net", tmp_path / "model.onnx", "fp16")


KEY = EngineKey(model_sha256="a" * 64, device="Some GPU (8.9)", package="tensorrt_rtx 1.7", precision="fp16", batch=32)
OTHER = [
    {"model_sha256": "b" * 64}, {"device": "Some GPU (8.6)"}, {"device": "Other GPU (8.9)"},
    {"package": "tensorrt_rtx 1.8"}, {"package": "tensorrt 1.7"}, {"precision": "fp32"}, {"batch": 16},
]  # fmt: skip


@pytest.mark.parametrize("change", OTHER, ids=str)
def test_whatever_an_engine_depends_on_has_an_engine_of_its_own(change, tmp_path):
    kept = EngineCache(tmp_path / "engines")
    assert kept.engine(KEY, lambda: b"first") == b"first"
    assert kept.engine(EngineKey(**(vars(KEY) | change)), lambda: b"second") == b"second"
    assert kept.engine(KEY, lambda: pytest.fail("built again")) == b"first"


def test_the_key_tells_model_device_package_and_version(path):
    key = engine_key(trt, path, CudaDevice("Some GPU", ADA), "fp16")
    assert key.model_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (key.device, key.package) == ("Some GPU (8.9)", f"tensorrt_rtx {trt.__version__}")


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"!", lambda raw: b"", lambda raw: b"x"]
)
def test_a_damaged_engine_is_built_anew(damage, tmp_path, caplog):
    kept = EngineCache(tmp_path / "engines")
    kept.engine(KEY, lambda: b"an engine\nof two lines")
    file = tmp_path / "engines" / KEY.file_name
    file.write_bytes(damage(file.read_bytes()))
    assert kept.engine(KEY, lambda: b"built anew") == b"built anew"
    assert "damaged" in caplog.text
    assert kept.engine(KEY, lambda: pytest.fail("built again")) == b"built anew"
    assert [p.name for p in file.parent.iterdir()] == [KEY.file_name]
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_every_folder_made_on_the_way_is_private(tmp_path):
    EngineCache(tmp_path / "data" / "engines").engine(KEY, lambda: b"built")
    assert [p.stat().st_mode & 0o777 for p in (tmp_path / "data", tmp_path / "data" / "engines")] == [0o700, 0o700]


def test_a_folder_that_cannot_be_written_costs_only_the_next_build(tmp_path, caplog):
    (tmp_path / "engines").write_bytes(b"a file, where a folder should be")
    assert EngineCache(tmp_path / "engines").engine(KEY, lambda: b"built") == b"built"
    assert "cannot be kept" in caplog.text


def test_without_a_driver_there_is_no_device_and_a_call_says_why():
    if find_device() is not None:
        pytest.skip("there is a GPU here")
    with pytest.raises(ModelError, match=r"the GPU reports .*CUDA error"):
        DeviceMemory(16)


class Gpu:
    """The CUDA runtime's calls on host memory, and an engine that doubles the first channel."""

    def __init__(self, monkeypatch):
        self.memory, self.addresses, self.shape, self.calls = {}, {}, (), []
        calls = {
            "cudaMalloc": self.malloc, "cudaFree": self.free, "cudaMemcpyAsync": self.copy,
            "cudaStreamCreate": self.create_stream, "cudaStreamSynchronize": self.synchronise,
        }  # fmt: skip
        for name, call in calls.items():
            monkeypatch.setattr(engine_cuda.cudart, name, call)
        self.status = engine_cuda.cudart.cudaError_t.cudaSuccess

    def malloc(self, size):
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return self.status, ctypes.addressof(block)

    def free(self, address):
        del self.memory[address]
        return (self.status,)

    def copy(self, to, source, size, kind, stream):
        ctypes.memmove(to, source, size)
        return (self.status,)

    def create_stream(self):
        return self.status, 7

    def synchronise(self, stream):
        return (self.status,)

    def get_tensor_name(self, index):
        return ("image", "tumour")[index]

    def get_tensor_shape(self, name):
        return (-1, 2, 4, 4) if name == "image" else (-1, 4, 4)

    def create_execution_context(self):
        return self

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def set_input_shape(self, name, shape):
        self.shape = shape

    def execute_async_v3(self, stream):
        self.calls.append(self.shape[0])
        image = np.ctypeslib.as_array((ctypes.c_float * int(np.prod(self.shape))).from_address(self.addresses["image"]))
        result = np.ascontiguousarray(2.0 * image.reshape(self.shape)[:, 0])
        ctypes.memmove(self.addresses["tumour"], result.ctypes.data, result.nbytes)
        return stream == 7


def images(n):
    return np.random.default_rng(0).standard_normal((n, 2, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("n", [1, BATCH, 2 * BATCH + 3])
def test_slices_go_in_parts_and_come_back_in_order(n, monkeypatch):
    gpu = Gpu(monkeypatch)
    found = Runner(gpu).run(images(n)[:, :, ::-1])  # not contiguous
    assert np.array_equal(found, 2.0 * images(n)[:, 0, ::-1])
    assert gpu.calls == [BATCH] * (n // BATCH) + ([n % BATCH] if n % BATCH else [])


def test_device_memory_is_freed_and_never_overrun(monkeypatch):
    gpu = Gpu(monkeypatch)
    memory = DeviceMemory(64)
    with pytest.raises(ValueError, match="do not fit 64"):
        memory.fill(images(1), 7)
    del memory
    assert not gpu.memory


def test_slices_of_another_size_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"takes slices of \(2, 4, 4\)"):
        Runner(Gpu(monkeypatch)).run(np.zeros((1, 2, 8, 8), np.float32))


def test_a_failing_gpu_is_an_error(monkeypatch):
    gpu = Gpu(monkeypatch)
    runner = Runner(gpu)
    gpu.status = engine_cuda.cudart.cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(ModelError, match="illegal memory access"):
        runner.run(images(1))
    assert check((engine_cuda.cudart.cudaError_t.cudaSuccess,)) is None


@pytest.fixture
def gpu_machine(monkeypatch):
    """A machine with a GPU in all but the loading of an engine; refuses as many engines as it is told to."""
    monkeypatch.setattr(engine_tensorrt, "PACKAGES", ("tensorrt_rtx",))
    monkeypatch.setattr(engine_tensorrt, "find_device", lambda: CudaDevice("Some GPU", ADA))
    gpu, loaded, refusals = Gpu(monkeypatch), [], []

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, plan):
            loaded.append(plan)
            return None if refusals and refusals.pop() else gpu

    monkeypatch.setattr(trt, "Runtime", Runtime)
    return loaded, refusals


def test_on_such_a_device_the_node_says_so_and_runs_on_the_cpu(path, gpu_machine, tmp_path, monkeypatch, caplog):
    hopper = CudaDevice("Some Hopper", (9, 0))
    for module in (engine_tensorrt, engine):
        monkeypatch.setattr(module, "find_device", lambda: hopper)
    assert "OpenVINO" in Model("small", path, "auto", tmp_path).engine
    assert "runs on the CPU, not on Some Hopper (9.0): tensorrt_rtx" in caplog.text
    assert not list(tmp_path.glob("*.engine"))


def test_a_second_start_takes_the_engine_that_the_first_built(path, gpu_machine, tmp_path, monkeypatch):
    loaded, _ = gpu_machine
    backend = TensorRtBackend("small", path, tmp_path)
    assert backend.description == f"tensorrt_rtx {trt.__version__} on Some GPU (8.9), fp16"
    assert np.array_equal(backend.run(images(3)), 2.0 * images(3)[:, 0])
    assert backend.answer_shape == (None, *backend.run(images(3)).shape[1:])
    monkeypatch.setattr(engine_tensorrt, "build_engine", lambda *_: pytest.fail("built again"))
    TensorRtBackend("small", path, tmp_path)
    assert loaded[0] == loaded[1]


def test_a_gpu_that_cannot_hold_the_network_is_told(path, gpu_machine, tmp_path, monkeypatch):
    monkeypatch.setattr(Gpu, "create_execution_context", lambda _: None)
    with pytest.raises(ModelError, match="cannot hold the network"):
        TensorRtBackend("small", path, tmp_path)
    monkeypatch.setattr(engine, "find_device", lambda: CudaDevice("Some GPU", ADA))
    assert "OpenVINO" in Model("small", path, "auto", tmp_path).engine


def test_a_gpu_that_answers_with_an_error_leaves_the_cpu(path, tmp_path, monkeypatch, caplog):
    def broken():
        raise ModelError("the GPU reports something")

    monkeypatch.setattr(engine, "find_device", broken)
    assert "OpenVINO" in Model("small", path, "auto", tmp_path).engine
    assert "runs on the CPU, not on the GPU: the GPU reports something" in caplog.text


def test_an_engine_that_will_not_load_is_built_once_more_then_given_up(path, gpu_machine, tmp_path):
    loaded, refusals = gpu_machine
    refusals.append(True)
    TensorRtBackend("small", path, tmp_path)
    assert len(loaded) == 2
    refusals += [True, True]
    with pytest.raises(ModelError, match="refuses the engine"):
        TensorRtBackend("small", path, tmp_path)


def packages(monkeypatch, **found):
    """A machine where these packages are (a module), or are not (an error); returns the order of the asking."""
    asked = []

    def find(name):
        asked.append(name)
        if isinstance(found.get(name), Exception):
            raise found[name]
        return found[name]

    monkeypatch.setattr(engine_tensorrt.importlib, "import_module", find)
    return asked


def test_tensorrt_is_looked_for_before_tensorrt_rtx(monkeypatch):
    asked = packages(monkeypatch, tensorrt="the one", tensorrt_rtx="the other")
    assert engine_tensorrt.load_package() == "the one"
    assert asked == ["tensorrt"]


@pytest.mark.parametrize("error", [ImportError("none"), OSError("libnvinfer.so.11: no such file")])
def test_where_tensorrt_does_not_import_tensorrt_rtx_is_taken(error, monkeypatch):
    asked = packages(monkeypatch, tensorrt=error, tensorrt_rtx="the other")
    assert engine_tensorrt.load_package() == "the other"
    assert asked == ["tensorrt", "tensorrt_rtx"]
    packages(monkeypatch, tensorrt=error, tensorrt_rtx=error)
    with pytest.raises(ModelError, match="requirements-gpu"):
        engine_tensorrt.load_package()


class Recorder:
    """Stands for any object of a package; keeps the calls made on it and what hangs from it."""

    def __init__(self, name, calls, answers, lacks=()):
        self._name, self._calls, self._answers, self._lacks = name, calls, answers, lacks

    def __getattr__(self, name):
        full = f"{self._name}.{name}"
        if full in self._lacks:
            raise AttributeError(full)
        return self._answers[full] if full in self._answers else Recorder(full, self._calls, self._answers, self._lacks)

    def __call__(self, *given):
        self._calls.append((self._name, *given))
        answer = self._answers.get(f"{self._name}()")
        return Recorder(f"{self._name}()", self._calls, self._answers, self._lacks) if answer is None else answer


IMAGE = type("Image", (), {"name": "image", "shape": (-1, 2, 32, 32)})()
CONFIG = "trt.Builder().create_builder_config()"


def stub(calls, lacks=()):
    """Package `tensorrt` in outline. It needs a GPU: what is asked of it is tested, and in which order."""
    network = "trt.Builder().create_network()"
    answers = {
        "trt.__name__": "tensorrt", "trt.__version__": "11.4", "trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED": 3,
        "trt.OnnxParser().parse()": True, f"{network}.num_inputs": 1, f"{network}.num_outputs": 1,
        f"{network}.get_input()": IMAGE, "trt.Builder().build_serialized_network()": b"an engine",
        "trt.ComputeCapability.__members__": {"SM89": "sm89"},
    }  # fmt: skip
    return Recorder("trt", calls, answers, lacks)


def test_package_tensorrt_builds_though_its_settings_name_no_compute_capability(path):
    calls = []
    package = stub(calls, lacks=(f"{CONFIG}.set_compute_capability",))
    assert build_engine(package, read_network("small", path, "fp16"), ADA) == b"an engine"
    asked = [call[0].removeprefix("trt.") for call in calls]
    assert not [name for name in asked if "compute_capabilit" in name]
    assert ("trt.Builder().create_network", 1 << 3) in calls, "types are the graph's: package tensorrt wants to be told"
    (shapes,) = [call[1:] for call in calls if call[0].endswith("create_optimization_profile().set_shape")]
    assert shapes == ("image", *((n, 2, 32, 32) for n in (1, BATCH, BATCH)))
    assert asked.index("Builder().create_builder_config().add_optimization_profile") < asked.index(
        "Builder().build_serialized_network"
    )
    assert engine_key(package, path, CudaDevice("Some GPU", ADA), "fp16").package == "tensorrt 11.4"


def test_where_the_settings_take_a_compute_capability_it_is_told(path):
    calls = []
    build_engine(stub(calls), read_network("small", path, "fp16"), ADA)
    assert (f"{CONFIG}.set_compute_capability", "sm89", 0) in calls
