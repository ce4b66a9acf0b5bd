"""A network in half precision: the same graph, its weights and arithmetic in float16, float32 in and out.

TensorRT's own switch for it is gone: since version 10 for RTX, and 11 otherwise, a network's types are the graph's.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.engine_base import ModelError

_KEPT = {"Softmax"}
"""Operators computed in float32: the sum of exponentials loses too much in half precision."""
_FLOAT32_INPUTS = {"Resize": {1, 2}}
"""Inputs that ONNX wants in float32 whatever the data are: region of interest and scales."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network in float16; raises ModelError for one with a weight out of its range, or of mixed types."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    kept = {n.input[i] for n in graph.node for i in _FLOAT32_INPUTS.get(n.op_type, ()) if i < len(n.input)}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(_half_weights(tensor))
    image = graph.input[0].name
    nodes = [helper.make_node("Cast", [image], [f"{image}_half"], to=TensorProto.FLOAT16)]
    for node in graph.node:
        node.input[:] = [f"{image}_half" if name == image else name for name in node.input]
        if node.op_type in _KEPT:
            nodes.append(helper.make_node("Cast", [node.input[0]], [f"{node.input[0]}_single"], to=TensorProto.FLOAT))
            node.input[0] += "_single"
        nodes.append(node)
    del graph.value_info[:]  # it tells the types of before
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    try:
        onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"the network cannot be put in half precision: {error}") from error
    return half


def _half_weights(tensor: onnx.TensorProto) -> onnx.TensorProto:
    weights = numpy_helper.to_array(tensor)
    if np.abs(weights).max(initial=0.0) > np.finfo(np.float16).max:
        raise ModelError(f"weight {tensor.name} is out of the range of half precision")
    return numpy_helper.from_array(weights.astype(np.float16), tensor.name)
