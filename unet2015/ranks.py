"""Several processes that train one network: each draws its share of every batch.

    torchrun --nproc-per-node 2 -m unet2015 train ...

The gradients are averaged by torch's DistributedDataParallel; energies and their divisors are
summed over all processes, so that two processes with a tile each make the step of one process with
both. Only dropout differs: each process draws masks of its own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from tiling.faults import PeerFault, UsageFault
from tiling.signals import leave_at_once

__all__ = ["Ranks", "joined", "ranks_now"]

_NUMBERS = "RANK", "WORLD_SIZE", "MASTER_PORT"  # of the environment
MEETING = timedelta(minutes=10)  # for all to be there
PATIENCE = timedelta(days=1)  # the others wait while the first one measures the held-out slices

_LEFT: list[object] = []  # groups of runs that failed


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Examples
    --------
    >>> Ranks().first, Ranks(1, 2).first
    (True, False)
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """Sum of `value` over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def shared(self, net: nn.Module) -> nn.Module:
        """`net` with its gradients averaged over all processes when they are computed."""
        if self.count == 1:
            return net
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(net, gradient_as_bucket_view=True)


def ranks_now() -> Ranks:
    """The processes this one has joined (see `joined`), or this one alone.

    Examples
    --------
    >>> ranks_now()
    Ranks(rank=0, count=1)
    """
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes `torchrun` started, if any; gives the device of this process.

    Raises
    ------
    UsageFault
        If there are more processes than GPUs, or the device cannot be shared in this way.
    PeerFault
        If another of the processes ends before they are done.
    """
    if _started() < 2 or dist.is_initialized():
        yield device
        return
    if device.type not in ("cpu", "cuda"):
        raise UsageFault(f"--device {device}: several processes train on cpu or cuda only")
    if device.type == "cuda" and device.index is not None:
        raise UsageFault(f"--device {device}: each process has a GPU of its own; give cuda")
    if device.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise UsageFault(
                f"process {index} has no GPU of its own, there are {torch.cuda.device_count()};"
                " lower --nproc-per-node"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    # It keeps the group of the moment it is imported as a default, and DistributedDataParallel
    # imports it late: gloo's threads would outlive the group, and abort the process at its end.
    importlib.import_module("torch.distributed.nn.functional")
    with _together():
        meeting = next(rendezvous("env://", timeout=MEETING))
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=meeting[0], rank=meeting[1],
            world_size=meeting[2], timeout=PATIENCE,
        )  # fmt: skip
    try:
        with _together():
            yield device
            dist.barrier()  # nobody hangs up while another still speaks
    except BaseException:
        # What failed still holds tensors of the group, whose threads may be at work: to end it now,
        # or when those are freed, is to wait for threads that wait for this one.
        _LEFT.append(dist.group.WORLD)
        leave_at_once()
        raise
    dist.destroy_process_group()


def _started() -> int:
    """Number of processes that `torchrun`, or what sets the same variables, has started."""
    told = {name: os.environ.get(name, "") for name in (*_NUMBERS, "MASTER_ADDR")}
    if not all(told.values()):  # a cluster's own variable of one of these names
        return 1
    if not all(told[name].isdecimal() for name in _NUMBERS):
        raise UsageFault(
            f"{', '.join(f'{name}={told[name]}' for name in _NUMBERS)} in the environment are not"
            " all numbers; start several processes with torchrun, or unset them"
        )
    return int(told["WORLD_SIZE"])


@contextmanager
def _together() -> Iterator[None]:
    """What torch says of a connection that is lost, as a failure that is not ours.

    The process that was the first to fail has said why; the others only see it leave.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise PeerFault(
            "another process of this run has ended, or cannot be reached; what it said tells why."
            " Start all of them again, with --resume where there is a checkpoint"
        ) from error
