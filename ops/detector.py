"""The base class of every detector: strips to heatmaps, with aligned references."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from ops.inspected_contrast import NoiseModel
from ops.likelihood import POINT_SIGMA
from ops.missing import missing_probability, without_missing
from ops.registration import Alignment


class AligningDetector(nn.Module, ABC):
    """Strips to heatmaps, after their references are aligned in one of ALIGN_MODES.

    A subclass computes the heatmaps, and says whether it looks at a strip in tiles or as a whole,
    and in which noise it measures differences.
    """

    mode: str
    noise = NoiseModel("edges", POINT_SIGMA)
    most_points: int | None = None  # of a strip, which it can find at once; None: any number
    ignores_missing = False  # as of --missing ignore

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
        return self.counted_heatmap(strips), measures

    def align_references(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Strips (B, 3, H, W), values 0-1, to aligned ones and their measures, (B, 2, MEASURES).

        Without an alignment strips stay as they are, and the measures are None.
        """
        return self.alignment(strips) if self.alignment else (strips, None)

    def counted_heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """`heatmap`, which is 0 on missing features where the detector ignores them."""
        heatmap = self.heatmap(strips)
        return without_missing(heatmap, strips) if self.ignores_missing else heatmap


class MissingFeatures(AligningDetector):
    """Strips to the probability that what differs at a pixel is a missing feature, as a heatmap."""

    mode = "whole"

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """Aligned strips (B, 3, H, W), values 0-1, to probabilities (B, 1, H, W)."""
        return missing_probability(strips)

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        """Strips (B, 3, H, W), values 0-1, to probabilities (B, 1, H, W)."""
        return self.detect_with_alignment(strips)[0]
