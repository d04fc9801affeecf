"""The loss of the present epoch: added up where it is computed, and read from there as seldom as
possible.
"""

import torch

from common.distributed import ProcessGroup


class RunningLoss:
    """Sum and count of the present epoch, of all processes, and the first step whose loss was not
    finite.

    What a process adds stays on its device, as reading it waits for the device. `sum` and `count`
    are of all processes when last read; a resumed epoch goes on with those of its checkpoint.
    """

    def __init__(self, processes: ProcessGroup, sum: float = 0.0, count: int = 0):
        self.processes, self.sum, self.count = processes, sum, count
        own_sum, self._own_count = (sum, count) if processes.is_main else (0.0, 0)
        self._own_sum = torch.tensor(own_sum, device=processes.device)
        self._first_bad_step = torch.tensor(-1, device=processes.device)

    @property
    def mean(self) -> float:
        """Of the present epoch so far, when last read."""
        return self.sum / max(1, self.count)

    def add(self, loss: torch.Tensor, count: int, step: int) -> None:
        """Enter the mean loss of `count` samples, which were step `step` of the epoch.

        Does not wait for the device.
        """
        self._own_sum += loss * count
        self._own_count += count
        is_first_bad = ~torch.isfinite(loss) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(is_first_bad, step, self._first_bad_step)

    def read(self) -> int | None:
        """Bring together what the devices have kept; all processes must call it.

        Returns the first step of the epoch whose loss was not finite, None where all were.
        """
        own = (self._own_sum.item(), self._own_count, self._first_bad_step.item())
        sums, counts, bad_steps = zip(*self.processes.gather(own))
        self.sum, self.count = sum(sums), sum(counts)
        return min((step for step in bad_steps if step >= 0), default=None)

    def restart(self) -> None:
        """Begin a new epoch."""
        self.sum, self.count, self._own_count = 0.0, 0, 0
        self._own_sum.zero_()
