"""A second device for torch: its tensors compute on the CPU, but mix with the CPU's no more than a GPU's do.

Refused as by CUDA: an operation on tensors of both (a CPU tensor of no dimension may take part), and a draw on the
device by a generator of the CPU. Nothing is learnt of kernels, precision or speed.
"""

from __future__ import annotations

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "standin"
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device; `inner` holds its values."""

    @staticmethod
    def __new__(cls, real):
        return torch.Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
            layout=real.layout, device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip

    def __init__(self, real):
        self.inner = real

    def __repr__(self):
        return f"OnDevice({self.inner})"

    def tolist(self):
        return self.inner.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Compute on the CPU what involves the device, and put the answer where CUDA would."""
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    here = any(isinstance(t, OnDevice) for t in tensors)
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if here and func not in MOVES:
        if strangers := [t for t in tensors if not isinstance(t, OnDevice) and t.dim()]:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, found {NAME}:0 and cpu: {func} {strangers}"
            )
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu': {func}")
    out = func(*tree_map(real_of, args), **tree_map(real_of, kwargs))
    if func is torch.ops.aten.copy_.default or (func._schema.is_mutable and tensors):
        return args[0] if isinstance(out, torch.Tensor) else out
    if torch.device(wanted).type == NAME if wanted is not None else here:
        return tree_map(lambda t: OnDevice(t) if isinstance(t, torch.Tensor) else t, out)
    return out


def real_of(value):
    return value.inner if isinstance(value, OnDevice) else value


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def stand_in():
    """Let there be the device, for good: only in a process of its own. Use it inside `Mode`."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    return torch.device(NAME, 0)
