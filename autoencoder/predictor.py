"""A predictor of pictures in PyTorch: the module that is exported, for pictures of any size."""

import numpy as np
import torch

from autoencoder.calibration import Scorers
from autoencoder.nearest_good import NEAREST_PANEL, NearestGood
from autoencoder.scorer import PictureScorer
from common.device import full_precision
from data.image_files import to_batch
from evaluation.stream import ScoredHeatmap
from gaussian import MAX_GREY

OUTPUT_PANEL = "output"


class PicturePredictor:
    """Maps pictures (C, H, W), grey levels 0-255, to a `ScoredHeatmap`.

    `thresholds` are those of the clusters, 0-1. The panels are what the first network with a
    picture as its output makes of the picture, and the nearest good picture of a library (None:
    there is none). Without `has_panels` they are left out, which takes less time.
    """

    def __init__(
        self,
        scorers: Scorers,
        thresholds: list[float],
        nearest: NearestGood | None = None,
        has_panels: bool = True,
    ):
        self.scorers, self.thresholds, self.nearest = scorers, thresholds, nearest
        self.has_panels, self.device = has_panels, scorers.device

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> ScoredHeatmap:
        scorer, batch = self.scorers.of(image.shape[1:]), to_batch(image, self.device)
        with full_precision():
            heatmap, score, cluster = scorer(batch)
            heatmap = heatmap[0, 0].cpu().numpy()
            panels = self._panels(scorer, batch, cluster, heatmap) if self.has_panels else {}
        return ScoredHeatmap(heatmap, float(score), panels, self.thresholds[int(cluster)])

    def _panels(
        self, scorer: PictureScorer, batch: torch.Tensor, cluster: torch.Tensor, heatmap: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Pictures by caption, (H, W) or (H, W, 3) uint8."""
        panels, output = {}, scorer.output(batch, cluster)
        if output is not None:
            panels[OUTPUT_PANEL] = as_panel(output[0].cpu().numpy() * MAX_GREY)
        if self.nearest:
            place = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
            good = self.nearest(batch, place, cluster)
            if good is not None:
                panels[NEAREST_PANEL] = as_panel(good)
        return panels


def as_panel(image: np.ndarray) -> np.ndarray:
    """A picture (C, H, W), grey levels 0-255, as (H, W) or (H, W, 3) uint8."""
    levels = np.clip(np.rint(image), 0, MAX_GREY).astype(np.uint8)
    return levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)
