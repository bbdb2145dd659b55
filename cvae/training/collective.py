"""What the processes of one run do together, by torch.distributed; with a single process nothing."""

from __future__ import annotations

import io
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cvae.errors import LostProcess, UserError
from cvae.runs import world

ARRIVAL = timedelta(minutes=10)  # of all processes; the first one waits for the last
PATIENCE = timedelta(hours=2)  # the others wait while rank 0 evaluates
ANSWER = timedelta(seconds=5)  # for a process to say that it still runs

T = TypeVar("T")
_store: dist.Store | None = None  # through which the processes met


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connect the processes of this run, and give each its GPU; with a single process do nothing.

    Raises UserError where a process has no GPU of its own, LostProcess where another does not come.
    """
    if world.size() == 1:
        yield
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _take_gpu()
    # gloo carries what must not wait for a GPU: signals, records and, where a process is lost, its name
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    _together(lambda: _meet(backend))
    try:
        yield
    finally:
        leave()


def leave() -> None:
    """Take leave of the other processes: what follows training is rank 0's alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Leave the name of this process, and wait for the others."""
    global _store
    _store, rank, size = next(dist.rendezvous("env://", timeout=ARRIVAL))
    _store.set(f"cvae/name/{rank}", f"{platform.node()}, process {os.getpid()}")
    dist.init_process_group(backend, store=_store, rank=rank, world_size=size, timeout=PATIENCE)


def _take_gpu() -> None:
    """Make the GPU of this process the current one. Raises UserError where there are too few."""
    if world.local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"this machine has {torch.cuda.device_count()} GPUs, and torchrun started more processes here:"
            " --nproc-per-node must be at most that, or device=cpu"
        )
    torch.cuda.set_device(world.local_rank())


def share(value: T) -> T:
    """Return rank 0's value, plain containers and tensors, in every process, with tensors on the CPU."""
    if world.size() == 1:
        return value
    content = torch.empty(0, dtype=torch.uint8)
    if world.rank() == 0:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    size = torch.tensor(len(content))
    _together(lambda: dist.broadcast(size, src=0))
    content.resize_(int(size))
    _together(lambda: dist.broadcast(content, src=0))
    return torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)


def agreed(number: int) -> int:
    """Return the highest number that a process has, such as that of a signal to stop."""
    return int(_summed(torch.tensor(number), dist.ReduceOp.MAX)) if world.size() > 1 else number


def summed(values: Tensor) -> Tensor:
    """Return the sum over all processes, without a gradient."""
    return _summed(values.detach().clone(), dist.ReduceOp.SUM) if world.size() > 1 else values


def total(values: Tensor) -> Tensor:
    """Return the sum over all processes.

    Its gradient here is that of the sum of what all processes make of it, which must be the same.
    """
    if world.size() == 1:
        return values
    return summed(values) + world.size() * (values - values.detach())


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; one that has none counts as zeros."""
    if world.size() == 1:
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    flat = _summed(torch.cat([gradient.flatten() for gradient in gradients]), dist.ReduceOp.SUM)
    for parameter, part in zip(learning, flat.split([p.numel() for p in learning]), strict=True):
        parameter.grad = part.view_as(parameter)


@contextmanager
def own_noise(seed: int, step: int) -> Iterator[None]:
    """Draw from a stream of this process, a function of (seed, step, rank), and go back to the common one."""
    if world.size() == 1:
        yield
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        (own,) = np.random.SeedSequence([seed, step, world.rank()]).generate_state(1, np.uint64)
        torch.manual_seed(int(own))
        yield


def _summed(values: Tensor, how: Any) -> Tensor:
    """Reduce values over all processes in place, and return them."""
    _together(lambda: dist.all_reduce(values, how))
    return values


def _together(work: Callable[[], Any]) -> None:
    """Do what takes all processes. Raises LostProcess, naming who did not take part."""
    try:
        work()
    except dist.DistError as error:
        raise LostProcess(_missing(error)) from None
    except RuntimeError as error:
        if "gloo" not in str(error).lower() and "connection" not in str(error).lower():
            raise
        raise LostProcess(_missing(error)) from None


def _missing(error: Exception) -> str:
    """Return a sentence about the processes that do not answer any more."""
    # without the place in torch's source before the first sentence, and its advice after that
    reason = re.sub(r"^\[\S+\] ", "", str(error).strip()).partition("\n")[0].partition(". ")[0]
    if _store is None or not dist.is_initialized():
        return f"rank {world.rank()} of {world.size()} did not meet the others: {reason}"
    leave()  # which ends the waiting of those that would wait for this one
    try:
        _store.set(f"cvae/alive/{world.rank()}", "yes")
        others = (rank for rank in range(world.size()) if rank != world.rank())
        lost = [rank for rank in others if not _answers(_store, rank)]
        names = [f"rank {rank} ({_store.get(f'cvae/name/{rank}').decode()})" for rank in lost]
    except dist.DistError:  # the process that held the store is gone
        names = ["rank 0 (see what it said)"]
    # one that measures, or waits for one that does, does not answer either
    who = f"at least one of {', '.join(names)}" if len(names) > 1 else "".join(names) or "a process"
    return f"{who} is lost: {reason}"


def _answers(store: dist.Store, rank: int) -> bool:
    """Return whether a process says that it still runs."""
    try:
        store.wait([f"cvae/alive/{rank}"], ANSWER)
    except dist.DistStoreError:
        return False
    return True
