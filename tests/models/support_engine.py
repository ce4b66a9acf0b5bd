"""A tiny ONNX network of the shipped one's form, made without torch's slow exporter."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def small_onnx(path, rows=32):
    """Write (N, 2, rows, rows) to probabilities (N, rows, rows): convolution, halving, resize, softmax."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((4, 2, 3, 3)), "b1": rng.standard_normal(4), "w2": rng.standard_normal((2, 4, 1, 1)),
    }  # fmt: skip
    constants = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()]
    constants.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    constants.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Resize", ["r", "", "scales"], ["u"], mode="linear"),
        helper.make_node("Conv", ["u", "w2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"], axis=1),
        helper.make_node("Gather", ["p", "one"], ["tumour"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2, rows, rows])],
        [helper.make_tensor_value_info("tumour", TensorProto.FLOAT, ["batch", rows, rows])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
