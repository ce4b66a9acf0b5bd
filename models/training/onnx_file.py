"""ONNX files as the engines read them: a free number of slices, no remarks, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from google.protobuf.message import Message
from torch import nn

_REMARKS = ("doc_string", "metadata_props")
"""Fields of ONNX messages that no engine reads; torch's exporter keeps stack traces there, with its machine's paths."""


def write_onnx(
    module: nn.Module,
    inputs: Mapping[str, tuple[int, ...]],
    path: Path,
    outputs: Sequence[str],
    about: Mapping[str, str] | None = None,
) -> None:
    """Write any module of float32 tensors; `inputs` are names and shapes of one slice, `about` the file's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.onnx.export(
        module.eval(),
        tuple(torch.ones(2, *shape) for shape in inputs.values()),
        part,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=tuple({0: torch.export.Dim("slices", min=1, max=1024)} for _ in inputs),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    clean(part, about)
    part.replace(path)


def clean(path: Path, about: Mapping[str, str] | None = None) -> None:
    """Strip an ONNX file, in place, of all remarks but its producer; its metadata become `about`."""
    model = onnx.load(path)
    _strip(model)
    onnx.helper.set_model_props(model, dict(about or {}))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _strip(message: Message) -> None:
    """Clear the remarks of a message and of all that it holds."""
    for name in _REMARKS:
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if field.is_repeated else [value]:
                _strip(child)
