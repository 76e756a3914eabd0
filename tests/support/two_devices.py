"""Two accelerators where there is none: tensors that say they are on ``lazy:0`` or ``lazy:1`` and compute on the CPU.

As on GPUs, an operation on tensors of two devices is an error; numbers without dimensions, copies, and indices that are
on the CPU are not. ("lazy" is the one kind of device that every build of PyTorch knows and that needs no driver.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

KIND = "lazy"


class Placed(torch.Tensor):
    """A tensor that says it is on ``device``; ``data_`` is where it really is."""

    data_: torch.Tensor

    @staticmethod
    def __new__(cls, data: torch.Tensor, device: torch.device) -> Placed:
        layout = {"strides": data.stride(), "storage_offset": data.storage_offset(), "dtype": data.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, **layout, device=device)  # type: ignore[attr-defined]

    def __init__(self, data: torch.Tensor, device: torch.device) -> None:
        self.data_ = data

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextlib.contextmanager
def two_devices() -> Iterator[None]:
    """Within the block, ``lazy:0`` and ``lazy:1`` are there."""
    enabled = torch.is_autocast_enabled

    def is_enabled(kind: str | None = None) -> bool:  # older models ask, and PyTorch does not know the kind
        return kind != KIND and (enabled() if kind is None else enabled(kind))

    with _Copied(), _Placing(), mock.patch.object(torch, "is_autocast_enabled", is_enabled):
        yield


class _Copied(TorchFunctionMode):
    """Makes tensors of Python's numbers on the CPU first: that is written in C++, and asks no dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[1], tuple):
            places = tuple(torch.tensor(x) if isinstance(x, list | tuple) else x for x in args[1])
            return func(args[0], places, *args[2:])
        if func is torch.Tensor.new_tensor:
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(args[0].device)
        if getattr(func, "__name__", "") in ("matmul", "__matmul__") and args[0].dim() == 1 < args[1].dim():
            return (args[0][None] @ args[1])[0]  # PyTorch reshapes its result in place, where a wrapper cannot follow
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


class _Placing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        return _run(func, args, kwargs) if asked is not None and asked.type == KIND else func(*args, **kwargs)


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    name = func.__name__
    device = _device(name, args, kwargs, tensors)
    inside = {**kwargs, "device": torch.device("cpu")} if kwargs.get("device") is not None else kwargs
    args, inside = tree_map_only(Placed, lambda x: x.data_, (args, inside))
    out = func(*args, **inside)
    if device.type != KIND:
        return out
    known = {
        id(x.data_): x for x in tensors if isinstance(x, Placed)
    }  # in-place operations return what they were given
    return tree_map_only(torch.Tensor, lambda x: known[id(x)] if id(x) in known else Placed(x, device), out)


def _device(name: str, args: Any, kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> torch.device:
    """Where the result is."""
    places = {x.device for x in tensors if x.dim() or isinstance(x, Placed)}
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    if name.startswith("copy_"):
        return args[0].device
    if name.startswith("index"):  # indices may be on the CPU
        places = {x.device for x in tensors if isinstance(x, Placed)}
    if len(places) > 1:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {sorted(map(str, places))}")
    return places.pop() if places else torch.device("cpu")
