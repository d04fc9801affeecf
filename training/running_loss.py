"""The mean loss of the current epoch, summed on the device and read from there rarely."""

import torch

from common.distributed import ProcessGroup


class RunningLoss:
    """Sum and count of the losses in the current epoch, and the first step that was not finite.

    What a process adds stays on its device, since reading it waits for the device. `sum` and
    `count` cover all processes, as of the last `read`. A resumed epoch starts with those of its
    checkpoint.
    """

    def __init__(self, processes: ProcessGroup, sum: float = 0.0, count: int = 0):
        self.processes, self.sum, self.count = processes, sum, count
        local_sum, self._local_count = (sum, count) if processes.is_main else (0.0, 0)
        self._local_sum = torch.tensor(local_sum, device=processes.device)
        self._first_bad_step = torch.tensor(-1, device=processes.device)

    @property
    def mean(self) -> float:
        """The mean loss of the current epoch, as of the last `read`."""
        return self.sum / max(1, self.count)

    def add(self, loss: torch.Tensor, count: int, step: int) -> None:
        """Add the mean loss (a scalar) of the `count` samples of step `step`, counted from 0.

        Does not wait for the device.
        """
        self._local_sum += loss * count
        self._local_count += count
        is_first_bad = ~torch.isfinite(loss) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(is_first_bad, step, self._first_bad_step)

    def read(self) -> int | None:
        """Combine the losses of all processes, each of which must call this.

        Returns the first step of the epoch whose loss was not finite, or None.
        """
        local = (self._local_sum.item(), self._local_count, self._first_bad_step.item())
        sums, counts, bad_steps = zip(*self.processes.gather(local))
        self.sum, self.count = sum(sums), sum(counts)
        return min((step for step in bad_steps if step >= 0), default=None)

    def restart(self) -> None:
        """Start a new epoch: reset sum and count."""
        self.sum, self.count, self._local_count = 0.0, 0, 0
        self._local_sum.zero_()
