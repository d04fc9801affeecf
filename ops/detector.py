"""What every detector is: strips to heatmaps, with the references aligned first."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from ops.registration import Alignment


class AligningDetector(nn.Module, ABC):
    """Strips to heatmaps, with their references aligned first in one of MODES.

    A subclass says what is made of them then.
    """

    def __init__(self, align: str):
        super().__init__()
        self.align = align
        self.alignment = None if align == "none" else Alignment(align)

    @abstractmethod
    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), aligned, to heatmaps (B, 1, H, W)."""

    def detect_with_alignment(
        self, strips: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), and what `Alignment` measured, (B, 2,
        MEASURES); None without one.
        """
        measures = None
        if self.alignment:
            strips, measures = self.alignment(strips)
        return self.heatmap(strips), measures
