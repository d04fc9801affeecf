"""The exported module: from a camera's pictures to heatmap, score, cluster and verdict."""

import torch
from torch import nn

from autoencoder.scorer import PictureScorer
from deploy.export_module import largest_value

OUTPUTS = ("heatmap", "score", "cluster", "verdict")


class PictureGraph(nn.Module):
    """Maps pictures (B, C, H, W) of one size, C as the model's, to a tuple of OUTPUTS:

    heatmap  (B, 1, H, W), 0-1, as `PictureScorer`
    score    (B,), 0-1
    cluster  (B,) int64, from 0 on
    verdict  (B,) bool: whether the score exceeds the cluster's one of the thresholds (clusters,)

    `input_kind` is one of export_module.INPUTS: `unit`, values 0-1; `raw`, in the camera's range up
    to `input_max`; `uint8`.
    """

    def __init__(self, scorer: PictureScorer, input_kind: str, input_max: float):
        super().__init__()
        self.scorer, self.input_kind = scorer, input_kind
        self.factor = None if input_kind == "unit" else 1 / largest_value(input_kind, input_max)

    def forward(self, images: torch.Tensor, thresholds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heatmap, score, cluster = self.scorer(self.to_unit_range(images))
        return heatmap, score, cluster, score > thresholds[cluster]

    def to_unit_range(self, images: torch.Tensor) -> torch.Tensor:
        """Scale pictures of the module's input kind to float32 0-1."""
        return images if self.factor is None else images.to(torch.float32) * self.factor
