"""The processes that train together: this one alone, or all that torchrun started.

Each process computes on a device of its own.
"""

import atexit
import os
import signal
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
from common.parent import end_with_parent

Result = TypeVar("Result")
# Timeout of the control group: the others wait while the main process checks all strips and writes
# the files.
LONGEST_WAIT = timedelta(days=1)
FAILED = "failed"
# Parts of the error texts of gloo and NCCL that mean that another process has ended.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")

# The number of the process that starts the others, in their environment.
LAUNCHER = "LAUNCHER_PROCESS"


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `count` processes, and the device that it computes on.

    Process 0 is the main process. It alone prints and writes files.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    # The gloo group for Python values; gradients use the default group.
    control: distributed.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, of rank 0."""
        return self.rank == 0

    @property
    def hides_progress(self) -> bool | None:
        """The value for `disable` of a progress bar.

        The main process draws bars, and only on a terminal (None). The other processes draw none
        (True).
        """
        return None if self.is_main else True

    def share(self, items: list) -> list:
        """Return this process's part of a list; the lengths of the parts differ by one at most."""
        return items[self.rank :: self.count]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, on every process; all must call it."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        distributed.all_gather_object(values, value, group=self.control)
        return values

    def max_over_ranks(self, number: int) -> int:
        """Return the largest number of all processes, on every process; all must call it.

        It is quicker than `gather`, and does not wait for a GPU.
        """
        if self.count == 1:
            return number
        tensor = torch.tensor(number)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self.control)
        return int(tensor)

    def broadcast_from_main(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite tensors on each process's device with the main process's; all must call it."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def run_on_main(self, function: Callable[[], Result]) -> Result:
        """Call `function` on the main process and return its result on every process.

        If it fails there, the other processes exit quietly.
        """
        if self.count == 1:
            return function()
        outcome = [FAILED, None]
        try:
            if self.is_main:
                outcome = ["done", function()]
        finally:
            distributed.broadcast_object_list(outcome, src=0, group=self.control)
        if outcome[0] == FAILED:
            self.exit_quietly()
        return outcome[1]

    def abort(self, text: str) -> None:
        """End all processes, all of which must call it.

        The main process raises a `UserError`, the others exit.
        """
        if self.is_main:
            raise UserError(text)
        self.exit_quietly()

    @staticmethod
    def exit_quietly() -> None:
        """Exit with code 0: the main process reports the error.

        A failure here would make torchrun end the main process before it has done so.
        """
        sys.exit(0)


SINGLE_PROCESS = ProcessGroup(torch.device("cpu"))


@contextmanager
def join_process_group(gpu_id: int | None) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, for the block; without torchrun, this one alone.

    Raises `UserError` if the GPU does not exist, and when another process is lost.
    """
    if not distributed.is_torchelastic_launched():
        device = choose_device(gpu_id)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield ProcessGroup(device)
        return
    # torchrun that is killed would leave this process alive, with its GPU
    end_with_parent(int(os.environ.get(LAUNCHER, 0)) or None)
    try:
        device = device_of_process(gpu_id)
    except UserError:
        _end_launcher()
        raise
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    processes = ProcessGroup(device, distributed.get_rank(), distributed.get_world_size(), control)
    # What to destroy: None means all groups. After a failure NCCL's group would wait for the other
    # processes, so only the control group is destroyed then.
    to_destroy = control if device.type == "cuda" else None
    try:
        yield processes
        to_destroy = None
    except UserError:
        _end_launcher()
        raise
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        if not processes.is_main and not _is_on_one_machine():
            sys.exit(1)  # torchrun on this machine would take 0 for the end of the training
        processes.abort(
            f"another process of this training has ended ({one_line(error, 120)}); "
            "--resume continues it"
        )
    finally:
        distributed.destroy_process_group(to_destroy)


def _end_launcher() -> None:
    """Have the launcher end with this process, once this one has reported an error.

    On several machines the launcher starts its processes again when one fails. An error of the
    input would come again.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        atexit.register(os.kill, int(launcher), signal.SIGUSR1)


def _is_on_one_machine() -> bool:
    return os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]


def device_of_process(gpu_id: int | None) -> torch.device:
    """Return the device of this process among those that torchrun started: a GPU for each.

    -1 means the CPU for all. Raises `UserError` in the main process when there are too few GPUs,
    where the others exit; in all of them when `gpu_id` names a GPU.
    """
    if gpu_id is None and not torch.cuda.is_available():
        gpu_id = -1
    if gpu_id not in (None, -1):
        raise UserError(
            f"--gpu_id {gpu_id}: found several processes, "
            "expected every GPU (choose with CUDA_VISIBLE_DEVICES) or -1"
        )
    if gpu_id == -1:
        return choose_device(-1)
    rank, processes = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.device_count() >= processes:
        return choose_device(rank)
    if rank:
        ProcessGroup.exit_quietly()
    raise UserError(
        f"found {torch.cuda.device_count()} GPUs for {processes} processes (NPROC), "
        "expected a GPU for each"
    )
