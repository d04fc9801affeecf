"""The processes that train together: this one alone, or as many as torchrun started."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from errors import UserError
from typing import Any, TypeVar

import torch
from torch import distributed

from predictors import choose_device

Result = TypeVar("Result")
LONGEST_WAIT = timedelta(days=1)  # for the first process, which checks all strips and writes the files while the others wait
FAILED = "failed"


@dataclass(frozen=True)
class Processes:
    """This process among `count`, and the device that it computes on. Process 0 alone prints and writes files."""

    device: torch.device
    rank: int = 0
    count: int = 1
    control: distributed.ProcessGroup | None = None  # for what the processes tell each other; gradients have a group of their own

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: list) -> list:
        """This process's part of a list; the parts may differ by one in length."""
        return items[self.rank :: self.count]

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, on every process. All of them must call it."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        distributed.all_gather_object(values, value, group=self.control)
        return values

    def from_first(self, function: Callable[[], Result]) -> Result:
        """What `function` gives on the first process, on every process. If it fails there, the others end without a word."""
        if self.count == 1:
            return function()
        answer = [FAILED, None]
        try:
            if self.is_first:
                answer = ["done", function()]
        finally:
            distributed.broadcast_object_list(answer, src=0, group=self.control)
            if not self.is_first and answer[0] == FAILED:
                sys.exit(1)
        return answer[1]


ALONE = Processes(torch.device("cpu"))


@contextmanager
def join_processes(gpu_id: int | None) -> Iterator[Processes]:
    """The processes that torchrun started, joined for the block; without torchrun this process alone.

    Raises `UserError` for a GPU that is not there.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes(choose_device(gpu_id))
        return
    device = _device_of_its_own(gpu_id)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        control = distributed.group.WORLD if backend == "gloo" else distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        yield Processes(device, distributed.get_rank(), count, control)
    finally:
        distributed.destroy_process_group()


def _device_of_its_own(gpu_id: int | None) -> torch.device:
    if gpu_id is None and not torch.cuda.is_available():
        gpu_id = -1
    if gpu_id not in (None, -1):
        raise UserError(f"--gpu_id {gpu_id}: found several processes, expected every GPU (choose with CUDA_VISIBLE_DEVICES) or -1")
    return choose_device(int(os.environ["LOCAL_RANK"]) if gpu_id is None else -1)
