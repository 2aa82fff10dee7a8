"""A device that isn't there: its tensors lie in memory, but whoever waits for their values is noticed.

It stands for an accelerator in tests: tensors of it and of the CPU can't be mixed, and every copy to the CPU, and every
result whose shape depends on values, is a place where a real one would be waited for.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
aten = torch.ops.aten
# Operators whose answer, or its shape, is known only when the device is done.
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}


def pretend_device() -> torch.device:
    """The device, which a process has from the first call on."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
    return torch.device(NAME, 0)


class PretendTensor(Tensor):
    """A tensor on it; `values` is what it holds."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=pretend_device()
        )
        made.values = values
        return made

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor(shape={tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operator answers whose tensors, or whose result, are on the device."""
    target = kwargs.get("device")
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [leaf for leaf in leaves if isinstance(leaf, PretendTensor)]
    copies = func in (aten._to_copy.default, aten.copy_.default)
    if there and not copies:
        strangers = [leaf for leaf in leaves if not isinstance(leaf, PretendTensor) and leaf.ndim and leaf.numel()]
        assert not strangers or func in INDEXING, f"{func}: a tensor of the CPU among those of the device"
    if there and (func in WAITING or has_bool_index(func, args)):
        notice(str(func))
    if func is aten._fused_sdp_choice.default:
        return 0
    if "device" in kwargs and target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    found = func(*unwrapped(args), **unwrapped(kwargs))
    goes_home = there and (
        (func is aten._to_copy.default and target is not None and torch.device(target).type == "cpu")
        or (func is aten.copy_.default and not isinstance(args[0], PretendTensor))
    )
    if goes_home:
        notice("a copy to the CPU")
    arrives = not there and func is aten._to_copy.default and target is not None and torch.device(target).type == NAME
    if arrives and not kwargs.get("non_blocking"):
        notice("a copy from the CPU")
    stays = not there and (target is None or torch.device(target).type != NAME)
    if goes_home or stays or func is aten._local_scalar_dense.default:
        return args[0] if func is aten.copy_.default else found
    if func._schema.name.endswith("_") or kwargs.get("out") is not None:
        return kwargs.get("out", args[0])
    return tree_map_only(Tensor, PretendTensor, found)


# Indices may lie on the CPU: PyTorch brings them, without waiting.
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}


def has_bool_index(func: Any, args: Any) -> bool:
    return func in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])


def unwrapped(tree: Any) -> Any:
    return tree_map_only(PretendTensor, lambda tensor: tensor.values, tree)


class Literals(TorchFunctionMode):
    """Makes tensors of Python's numbers on the device, which PyTorch does without asking anybody."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        target = kwargs.get("device")
        if func is Tensor.new_tensor and isinstance(args[0], PretendTensor):
            func, args, kwargs = torch.tensor, args[1:], {"dtype": args[0].dtype, **kwargs}
            target = pretend_device()
        if func in (torch.tensor, torch.as_tensor) and target is not None and torch.device(target).type == NAME:
            return func(*args, **kwargs | {"device": "cpu"}).to(target)
        return func(*args, **kwargs)


class Factories(TorchDispatchMode):
    """Makes new tensors on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


waits: list[str] = []


def notice(what: str) -> None:
    """Write down a wait, with the lines of the project that led to it."""
    lines = [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_stack()
        if "sam_variants" in frame.filename and "site-packages" not in frame.filename
    ]
    waits.append(f"{what} at {' < '.join(reversed(lines[-3:]))}")


@contextmanager
def noticed_waits() -> Iterator[list[str]]:
    """Collect what waits for the device, while tensors can be made on it."""
    waits.clear()
    with torch.no_grad(), Factories(), Literals():
        yield waits


def on_pretend_device(model: Any) -> Any:
    """Move a model there, in place."""
    place: Callable[[Tensor], Tensor] = PretendTensor
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(place(parameter.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = place(buffer)
    return model
