"""Predictors: `predictor(image)` gives the heatmap of a strip.

The image is (3, H, W) in grey levels 0-255, the heatmap (H, W) float32, defect probability 0-1. A
predictor's `align`, one of registration.ALIGN_MODES, says how it aligns the references first, and
`noise` in which noise it measures differences.
"""

from collections.abc import Sequence

import numpy as np
import torch

from common.device import full_precision
from data.image_files import to_batch
from model import SegmentationNetwork, SegmentationNetworkONNXFullImage
from ops.detector import AligningDetector
from ops.inspected_contrast import NoiseModel

STRIPS_ON_GPU = 8  # strips that a network takes at once


class TorchPredictor:
    """A network in PyTorch: the module that is exported, for strips of at least one patch.

    On a GPU it takes several strips at once: one alone keeps the process busy with starting small
    computations, and the GPU waits.
    """

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
        self.batch = STRIPS_ON_GPU if device.type == "cuda" else 1
        self._full_image: SegmentationNetworkONNXFullImage | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) grey levels 0-255 to (H, W) float32, defect probability 0-1."""
        return self.predict([image])[0]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return the image itself."""
        return image

    @torch.inference_mode()
    def predict(self, images: list[np.ndarray]) -> Sequence[np.ndarray]:
        """Each (3, H, W) grey levels 0-255 to its (H, W) float32, defect probability 0-1."""
        size = images[0].shape[1:]
        if any(image.shape[1:] != size for image in images):
            return [self(image) for image in images]
        if self._full_image is None or self._full_image.tiling.image_size != size:
            self._full_image = SegmentationNetworkONNXFullImage(
                self.network, size, self.patch, self.align, weighting=self.weighting
            ).to(self.device)
            self._full_image.ignores_missing = self.ignores_missing
        was_training = self.network.training
        self._full_image.eval()
        with full_precision():
            strips = torch.cat([to_batch(image, self.device) for image in images])
            heatmaps = self._full_image(strips)[:, 0].cpu().numpy()
        self.network.train(was_training)
        return heatmaps


class LastAlignment:
    """The aligned strip of the last image, for detectors that look at each image in turn.

    The detectors have the same alignment, which takes longer than the rest of a classical one.
    """

    def __init__(self) -> None:
        self._image: np.ndarray | None = None
        self._aligned: torch.Tensor | None = None

    def of(
        self, image: np.ndarray, detector: AligningDetector, device: torch.device
    ) -> torch.Tensor:
        """The strip (1, 3, H, W), values 0-1, with aligned references."""
        if image is not self._image:
            self._aligned = detector.align_references(to_batch(image, device))[0]
            self._image = image
        return self._aligned


class DetectorPredictor:
    """A detector module as a predictor.

    A detector of classical.py takes strips of any size, one that is exported those of its own size.
    With `last`, classical detectors of one alignment align each image once.
    """

    def __init__(
        self, detector: AligningDetector, device: torch.device, last: LastAlignment | None = None
    ):
        self.detector, self.last = detector.to(device), last
        self.device, self.align = device, detector.align
        self.noise, self.most_points = detector.noise, detector.most_points

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) grey levels 0-255 to (H, W) float32, 0-1."""
        with full_precision():
            if self.last:
                aligned = self.last.of(image, self.detector, self.device)
                return self.detector.counted_heatmap(aligned)[0, 0].cpu().numpy()
            return self.detector(to_batch(image, self.device))[0, 0].cpu().numpy()
