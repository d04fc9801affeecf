"""What a step of the GPU check is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.demo_strips import STRIP_SIZE

SMALL_STRIP = (200, 150)  # (height, width) in pixels, of a dry run


@dataclass(frozen=True)
class Setup:
    """Where a step runs: the device, and an empty folder of its own.

    `is_dry` takes the CPU for the GPU, with sizes that take seconds.
    """

    folder: Path
    is_dry: bool

    @property
    def device(self) -> torch.device:
        """The first GPU, or the CPU of a dry run."""
        return torch.device("cpu") if self.is_dry else torch.device("cuda", 0)

    @property
    def strip_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the strips."""
        return SMALL_STRIP if self.is_dry else STRIP_SIZE

    @property
    def longest_command(self) -> float:
        """Seconds after which a command that a step runs is ended, so that the rest is measured."""
        return self.choose(100, 3600)  # other work may slow a dry run down

    def choose(self, full: Any, dry: Any) -> Any:
        """The first on a GPU, the second in a dry run."""
        return dry if self.is_dry else full
