"""The interface between a tool and the training loop: network, loss, validation, samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from common.distributed import ProcessGroup
from dataloader import Batch
from training.run_folder import RunFolder
from training.selection import History

# the network, possibly compiled or wrapped for several processes
Forward = Callable[[torch.Tensor], Any]


class Samples(Protocol):
    """Training samples by (epoch, index), each a dict of tensors.

    A sample depends on the seed, the epoch and the index alone.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]: ...

    def origin(self, index: int) -> dict[str, Any]:
        """The source of a sample as plain values, for a user who looks into a failed training."""
        ...


@dataclass(frozen=True)
class Validation:
    """The result of an epoch's validation: metrics by name, or the reason why there are none.

    `is_broken` says that the network's output is not finite. `problem` describes any other failure
    in one line.
    """

    figures: dict[str, float | None]
    is_broken: bool = False
    problem: str | None = None


class Task(ABC):
    """What a tool trains.

    The loop alone handles steps, signals, processes, checkpoints and files.
    """

    tool: str  # written into checkpoints, so that a tool can refuse those of another
    command: str  # the script that trains it, as a user calls it after `python`
    samples: Samples
    # entry of the history that is highest in the best epoch; None: the last epoch is the best
    metric: str | None
    lowest_is_best: bool = False  # whether the best epoch has the lowest `metric` instead
    # further best checkpoints: the suffix of each one's file, and its entry of the history
    more_bests: Mapping[str, str] = MappingProxyType({})
    held_out: str = "the validation strips"  # what `validate` measures on, for the user
    headlines: tuple[str, ...] = ()  # metrics that the curves and the line of an epoch show
    has_validation: bool = False  # whether there is held-out data for `validate`
    weight_decay: float = 0.0  # Adam's

    @abstractmethod
    def make_network(self) -> nn.Module:
        """The network with initial weights from torch's global generator, which the loop seeds."""

    @abstractmethod
    def predict(self, forward: Forward, batch: Batch) -> Any:
        """What `loss` needs of a batch on the device; the loop calls it in the run's precision."""

    @abstractmethod
    def loss(self, predicted: Any, batch: Batch, epoch: int) -> torch.Tensor:
        """The mean loss of a batch, a float32 scalar; `epoch` counts from 0."""

    def scheduled(self, epoch: int) -> dict[str, float]:
        """Scheduled values besides the learning rate, by name; the history stores them.

        `epoch` counts from 0.
        """
        return {}

    def is_validated(self, epoch: int) -> bool:
        """Whether `validate` measures the network after this epoch, which counts from 0."""
        return True

    def validate(self, network: nn.Module, processes: ProcessGroup) -> Validation:
        """Measure the network on held-out data, of which each process scores its share."""
        return Validation({})

    @abstractmethod
    def describe(self) -> tuple[str, str, str]:
        """Short texts on the data, the network and anything else.

        The last one is empty or ends in "; ".
        """

    def facts(self) -> dict[str, Any]:
        """Plain values by name that a checkpoint stores besides settings and the loop's state."""
        return {}

    def after_epoch(self, history: History, network: nn.Module, folder: RunFolder) -> None:
        """Write and say what the tool keeps of the last epoch of `history`.

        It is called in the main process, after the checkpoints are written.
        """
        return None

    def samples_to_show(self) -> list[dict[str, np.ndarray]]:
        """A few samples of the first epoch, for `draw`."""
        return []

    def draw(
        self, samples: list[dict[str, np.ndarray]], network: nn.Module | None
    ) -> np.ndarray | None:
        """A picture of samples (H, W, 3) uint8, BGR; None: no picture.

        With a `network` it also shows the network's predictions.
        """
        return None
