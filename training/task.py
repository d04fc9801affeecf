"""What a tool gives to the training loop: a network, the loss of a batch, validation, and samples
to show.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from common.distributed import ProcessGroup

Batch = dict[str, torch.Tensor]  # tensors by name, each (B, ...)
# the network, as it is wrapped for several processes or compiled
Forward = Callable[[torch.Tensor], Any]


class Samples(Protocol):
    """Training samples by (epoch, index), each a dict of tensors, that follow from the seed, the
    epoch and the index alone.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]: ...

    def origin(self, index: int) -> dict[str, Any]:
        """Where a sample is from, as plain values: what a user looks up when it broke the training."""
        ...


@dataclass(frozen=True)
class Validation:
    """What an epoch's validation found: figures by name, or why there are none.

    `is_broken` says that the network answers with what is no number; `problem` that something else
    is wrong, in one line.
    """

    figures: dict[str, float | None]
    is_broken: bool = False
    problem: str | None = None


class Task(ABC):
    """What a tool trains.

    Of steps, signals, processes, checkpoints and files it knows nothing: those are the loop's.
    """

    tool: str  # written into checkpoints: another tool's are refused by it
    command: str  # the script that trains it, as a user calls it after `python`
    samples: Samples
    # the figure of `validate` that the best epoch has most of; None: the last epoch is the best
    metric: str | None
    headlines: tuple[str, ...] = ()  # figures that the curves and the line of an epoch show
    has_validation: bool = False  # whether `validate` has anything to look at

    @abstractmethod
    def make_network(self) -> nn.Module:
        """The network with its first weights, from torch's global generator, which the loop has
        seeded.
        """

    @abstractmethod
    def predict(self, forward: Forward, batch: Batch) -> Any:
        """What the loss needs of a batch, on the device; the loop calls it in the precision of the
        run.
        """

    @abstractmethod
    def loss(self, predicted: Any, batch: Batch, epoch: int) -> torch.Tensor:
        """The mean loss of a batch, a scalar, in float32; `epoch` counts from 0."""

    def scheduled(self, epoch: int) -> dict[str, float]:
        """What moves over the epochs besides the learning rate, by name: it is shown and kept in
        the history.
        """
        return {}

    def validate(self, network: nn.Module, processes: ProcessGroup) -> Validation:
        """How good the network is on held-out data, of which each process scores its share."""
        return Validation({})

    @abstractmethod
    def describe(self) -> tuple[str, str, str]:
        """The data, the network, and what else there is to say ("" or a text that ends in "; "),
        each in some words.
        """

    def facts(self) -> dict[str, Any]:
        """Plain values, by name, that a checkpoint holds besides the settings and the state of the
        loop.
        """
        return {}

    def samples_to_show(self) -> list[dict[str, np.ndarray]]:
        """A few samples of the first epoch."""
        return []

    def draw(
        self, samples: list[dict[str, np.ndarray]], network: nn.Module | None
    ) -> np.ndarray | None:
        """A picture (H, W, 3) uint8 of samples, blue first, with the network's answers where it is
        given; None: no picture.
        """
        return None
