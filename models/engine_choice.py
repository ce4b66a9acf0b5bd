"""Which engine runs a network; by itself, so that settings are read before numpy starts threads."""

from __future__ import annotations

from typing import Literal

EngineChoice = Literal["auto", "openvino", "tensorrt"]
"""`auto` is TensorRT where a CUDA device and the package are present, else OpenVINO."""
