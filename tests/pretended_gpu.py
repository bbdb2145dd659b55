"""A GPU that is not there: marked tensors, computed on the CPU and held to the rules of CUDA and cuDNN.

Blind to what happens inside backward, to autocast's casts, to numerics and to speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# functions that take tensors of two devices: an index, or the lengths of a packed sequence, may be on the CPU
TAKE_BOTH = (
    "__getitem__",
    "__setitem__",
    "__set__",
    "copy_",
    "lstm",
    "gru",
    "_has_compatible_shallow_copy_type",
)
# functions that return only when the GPU has finished what was asked of it before
WAIT = (
    "item",
    "tolist",
    "__bool__",
    "__int__",
    "__float__",
    "nonzero",
    "equal",
    "masked_select",
    "new_tensor",
    "tensor",
    "multinomial",
)
COPY = ("__getitem__", "__setitem__", "copy_")  # what of their operands is on the CPU, and wait
RNNS = ("lstm", "gru")


class BrokenRule(AssertionError):
    """Something that CUDA or cuDNN would refuse, or that makes a step wait for the GPU."""


def is_on_gpu(value: Any) -> bool:
    """Return whether a tensor or generator is marked as being on the GPU."""
    return getattr(value, "on_gpu", False)


def leaves(nest: Any) -> Iterator[Any]:
    """Yield what a nest of lists, tuples and dicts holds; torch's own tree_leaves takes far longer."""
    if isinstance(nest, list | tuple | dict):
        for part in nest.values() if isinstance(nest, dict) else nest:
            yield from leaves(part)
    else:
        yield nest


def mark(values: Any, on_gpu: bool) -> Any:
    """Mark every tensor and generator in a nest of values, and return it."""
    for value in leaves(values):
        if isinstance(value, Tensor | torch._C.Generator):
            value.on_gpu = on_gpu
    return values


class PretendedGenerator(torch.Generator):
    """A generator of the device that it is asked for, its noise drawn on the CPU."""

    def __new__(cls, device: Any = "cpu") -> PretendedGenerator:
        return mark(super().__new__(cls), torch.device(device).type == "cuda")


class PretendedGPU(TorchFunctionMode):
    """Answer for a GPU: `device` and `is_cuda` say what the marks say, and broken rules raise BrokenRule.

    `strict`: waiting for the GPU is a broken rule, too. `waits` counts how often the CPU waited, `transfers`
    the copies to the GPU.
    """

    strict = False
    waits = transfers = 0

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), function.__name__
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        tensors = [value for value in leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_gpu = any(map(is_on_gpu, tensors))
        if on_gpu and name == "__get__" and attribute in ("device", "is_cuda"):
            return torch.device("cuda:0") if attribute == "device" else True
        devices = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.device)]
        to_gpu = devices[0].type == "cuda" if devices else on_gpu and name != "cpu"
        if name == "copy_":
            to_gpu = is_on_gpu(args[0])
        moves = name in ("to", "cpu") and to_gpu != on_gpu
        self._check(name, args, kwargs, tensors, to_gpu, moves)
        if name == "pin_memory":
            (result := args[0].clone()).pinned = True
            return result
        if name not in ("device", "_parse_to"):  # the computation itself is the CPU's
            args = tuple(map(_on_host, args))
            kwargs = {key: _on_host(value) for key, value in kwargs.items()}
        result = function(*args, **kwargs)
        if on_gpu and name in RNNS and torch.backends.cudnn.enabled:
            _watch_backward(result[0], training=[value for value in args if isinstance(value, bool)][1])
        if name == "__set__":
            mark(args[0], is_on_gpu(args[attribute == "data"]))
        if name == "__iter__":
            return iter(mark(list(result), on_gpu))
        return mark(result.clone() if moves else result, to_gpu)

    def _check(
        self, name: str, args: tuple, kwargs: dict, tensors: list[Tensor], to_gpu: bool, moves: bool
    ) -> None:
        """Raise BrokenRule where a GPU would refuse the call, or where it waits and must not."""
        on_gpu = any(map(is_on_gpu, tensors))
        # a number that is a tensor without dimensions may come from the CPU
        mixed = on_gpu and any(tensor.dim() and not is_on_gpu(tensor) for tensor in tensors)
        pinned = not to_gpu or any(getattr(tensor, "pinned", False) for tensor in tensors)
        copies = moves and not (kwargs.get("non_blocking") and pinned)
        waits = ((on_gpu or to_gpu) and name in WAIT) or copies or (mixed and name in COPY)
        self.waits += waits
        self.transfers += moves and to_gpu
        noise = kwargs.get("generator")
        rules = {
            "a tensor on the GPU has no array": on_gpu and name == "numpy",
            "tensors on two devices": mixed and name not in TAKE_BOTH,
            "an index on the GPU, its tensor on the CPU": name == "__getitem__"
            and on_gpu
            and not is_on_gpu(args[0]),
            "the generator is on another device": noise is not None and is_on_gpu(noise) != to_gpu,
            "autocast makes cuDNN's RNNs float16": on_gpu
            and name in RNNS
            and torch.is_autocast_enabled("cuda"),
            "waits for the GPU": self.strict and waits,
        }
        for rule, broken in rules.items():
            if broken:
                raise BrokenRule(f"{name}: {rule}")


def _on_host(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _watch_backward(output: Tensor, training: bool) -> None:
    """Raise BrokenRule in the backward pass of an RNN where cuDNN would."""

    def check(_gradient: Tensor) -> None:
        if not training:
            raise BrokenRule("cuDNN: RNN backward can only be called in training mode")
        if torch.is_grad_enabled():
            raise BrokenRule("cuDNN's RNN cannot be differentiated twice")

    if output.requires_grad:
        output.register_hook(check)


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGPU]:
    """Make torch believe that there is a GPU."""
    make = torch.nn.Parameter.__new__
    replaced = {
        "Generator": PretendedGenerator,
        "cuda.is_available": lambda: True,
        "cuda.is_bf16_supported": lambda *_: True,
        "cuda.get_device_name": lambda *_: "a pretended GPU",
        # what torch built for CUDA would ask a driver for: to pack weights, and whether a graph is captured
        "backends.cudnn.is_acceptable": lambda *_: False,
        "optim.Optimizer._accelerator_graph_capture_health_check": lambda *_: None,
        "cuda.get_rng_state": lambda *_: torch.get_rng_state(),
        "cuda.set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "nn.Parameter.__new__": lambda cls, data=None, requires_grad=True: mark(
            make(cls, data, requires_grad), is_on_gpu(data)
        ),
    }
    with monkeypatch.context() as patch, PretendedGPU() as gpu:
        for name, value in replaced.items():
            patch.setattr(f"torch.{name}", value)
        yield gpu
