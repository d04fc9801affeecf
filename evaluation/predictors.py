"""Predictors: `predictor(image)` gives the heatmap of a strip.

The image is (3, H, W) in grey levels 0-255, the heatmap (H, W) float32, defect probability 0-1. A
predictor's `align`, one of registration.ALIGN_MODES, says how it aligns the references first, and
`noise` in which noise it measures differences.
"""

import numpy as np
import torch

from common.device import full_precision
from data.image_files import to_batch
from model import SegmentationNetwork, SegmentationNetworkONNXFullImage
from ops.detector import AligningDetector
from ops.inspected_contrast import NoiseModel


class TorchPredictor:
    """A network in PyTorch: the module that is exported, for strips of at least one patch."""

    noise: NoiseModel = AligningDetector.noise
    most_points: int | None = None

    def __init__(
        self,
        network: SegmentationNetwork,
        patch: int,
        device: torch.device,
        align: str = "none",
        weighting: str = "none",
        ignores_missing: bool = False,
    ):
        # channels_last is faster, also on the CPU
        self.network = network.to(device, memory_format=torch.channels_last)
        self.patch, self.device, self.align, self.weighting = patch, device, align, weighting
        self.ignores_missing = ignores_missing
        self._full_image: SegmentationNetworkONNXFullImage | None = None

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) grey levels 0-255 to (H, W) float32, defect probability 0-1."""
        size = image.shape[1:]
        if self._full_image is None or self._full_image.tiling.image_size != size:
            self._full_image = SegmentationNetworkONNXFullImage(
                self.network, size, self.patch, self.align, weighting=self.weighting
            ).to(self.device)
            self._full_image.ignores_missing = self.ignores_missing
        was_training = self.network.training
        self._full_image.eval()
        with full_precision():
            heatmap = self._full_image(to_batch(image, self.device))[0, 0].cpu().numpy()
        self.network.train(was_training)
        return heatmap


class DetectorPredictor:
    """A detector module as a predictor.

    A detector of classical.py takes strips of any size, one that is exported those of its own size.
    """

    def __init__(self, detector: AligningDetector, device: torch.device):
        self.detector = detector.to(device)
        self.device, self.align = device, detector.align
        self.noise, self.most_points = detector.noise, detector.most_points

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) grey levels 0-255 to (H, W) float32, 0-1."""
        with full_precision():
            return self.detector(to_batch(image, self.device))[0, 0].cpu().numpy()
