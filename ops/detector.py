"""The base class of every detector: strips to heatmaps, with aligned references."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from ops.registration import Alignment


class AligningDetector(nn.Module, ABC):
    """Strips to heatmaps, after their references are aligned in one of ALIGN_MODES.

    A subclass computes the heatmaps, and says whether it looks at a strip in tiles or as a whole.
    """

    mode: str

    def __init__(self, align: str):
        super().__init__()
        self.align = align
        self.alignment = None if align == "none" else Alignment(align)

    @abstractmethod
    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """Aligned strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W)."""

    def detect_with_alignment(
        self, strips: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W) and measures (B, 2, MEASURES).

        The measures are those of `Alignment`, None without one.
        """
        measures = None
        if self.alignment:
            strips, measures = self.alignment(strips)
        return self.heatmap(strips), measures
