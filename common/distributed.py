"""The processes that train together: this one alone, or as many as torchrun started.

And the device that each computes on.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from common.device import choose_device
from common.errors import UserError, one_line

Result = TypeVar("Result")
# for the first process, which checks all strips and writes the files while the others wait
LONGEST_WAIT = timedelta(days=1)
FAILED = "failed"
# what is said when another process is gone
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `count`, and the device that it computes on.

    Process 0 alone prints and writes files.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    # for what the processes tell each other; gradients have a group of their own
    control: distributed.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def hides_progress(self) -> bool | None:
        """For `disable` of a progress bar: only the first process draws any, and that only on a
        terminal (None).
        """
        return None if self.is_main else True

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

    def max_over_ranks(self, number: int) -> int:
        """The largest of everybody's numbers, on every process; quicker than `gather`, and without
        waiting for a GPU.
        """
        if self.count == 1:
            return number
        tensor = torch.tensor(number)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self.control)
        return int(tensor)

    def broadcast_from_main(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite tensors on the processes' devices with those of the first process."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def run_on_main(self, function: Callable[[], Result]) -> Result:
        """What `function` gives on the first process, on every process.

        If it fails there, the others end without a word.
        """
        if self.count == 1:
            return function()
        answer = [FAILED, None]
        try:
            if self.is_main:
                answer = ["done", function()]
        finally:
            distributed.broadcast_object_list(answer, src=0, group=self.control)
        if answer[0] == FAILED:
            self.exit_quietly()
        return answer[1]

    def abort(self, text: str) -> None:
        """End all processes with a `UserError`, which the first one alone raises.

        All of them must call it.
        """
        if self.is_main:
            raise UserError(text)
        self.exit_quietly()

    @staticmethod
    def exit_quietly() -> None:
        """End this process without a word: the first one says why.

        Not as a failure, or torchrun would interrupt it at that.
        """
        sys.exit(0)


SINGLE_PROCESS = ProcessGroup(torch.device("cpu"))


@contextmanager
def join_process_group(gpu_id: int | None) -> Iterator[ProcessGroup]:
    """The processes that torchrun started, joined for the block; without torchrun this process
    alone.

    Raises `UserError` for a GPU that is not there, and when another process is lost.
    """
    if not distributed.is_torchelastic_launched():
        device = choose_device(gpu_id)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield ProcessGroup(device)
        return
    device = _device_of_its_own(gpu_id)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    processes = ProcessGroup(device, distributed.get_rank(), distributed.get_world_size(), control)
    # all groups; but NCCL's waits for the others, so not after a failure
    left = control if device.type == "cuda" else None
    try:
        yield processes
        left = None
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        processes.abort(
            f"another process of this training has ended ({one_line(error, 120)}); --resume goes on"
        )
    finally:
        distributed.destroy_process_group(left)


def _device_of_its_own(gpu_id: int | None) -> torch.device:
    if gpu_id is None and not torch.cuda.is_available():
        gpu_id = -1
    if gpu_id not in (None, -1):
        raise UserError(
            f"--gpu_id {gpu_id}: found several processes, expected every GPU (choose with CUDA_VISIBLE_DEVICES) or -1"
        )
    return choose_device(int(os.environ["LOCAL_RANK"]) if gpu_id is None else -1)
