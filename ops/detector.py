"""The base class of every detector: strips to heatmaps, with aligned references."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from ops.inspected_contrast import NoiseModel
from ops.likelihood import POINT_SIGMA
from ops.registration import Alignment


class AligningDetector(nn.Module, ABC):
    """Strips to heatmaps, after their references are aligned in one of ALIGN_MODES.

    A subclass computes the heatmaps, and says whether it looks at a strip in tiles or as a whole,
    and in which noise it measures differences.
    """

    mode: str
    noise = NoiseModel("edges", POINT_SIGMA)
    most_points: int | None = None  # of a strip, which it can find at once; None: any number

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
        strips, measures = self.align_references(strips)
        return self.heatmap(strips), measures

    def align_references(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Strips (B, 3, H, W), values 0-1, to aligned ones and their measures, (B, 2, MEASURES).

        Without an alignment strips stay as they are, and the measures are None.
        """
        return self.alignment(strips) if self.alignment else (strips, None)
