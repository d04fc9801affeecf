"""Baselines without a network: how Target differs from both references, by arithmetic alone.

Each is a torch module, like a network, that takes strips (B, 3, H, W), values 0-1, to heatmaps (B,
1, H, W), 0-1. A heatmap holds a difference as a share of the range of grey levels, or a difference
in units of the noise around the pixel, or a likelihood ratio, both mapped to 0-1. None is a
probability, but all rank pixels and can be thresholded.
"""

import torch
from torch import nn

from ops.detector import AligningDetector
from ops.differences import consistent_difference, envelope_excess, local_noise
from ops.filters import blur, gaussian_window
from ops.inspected_contrast import NoiseModel
from ops.likelihood import likelihood_ratio

# pixels; the best one is chosen on validation strips
SIGMAS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
POINT_SIGMAS = (*SIGMAS, 2.5, 3.0)  # pixels, of the likelihood ratio: boards have larger defects
DEFAULT_SIGMA = 1.0  # pixels: fits a point defect of three pixels
# The likelihood ratio that a heatmap shows as 0.5. Ratios of a few thousand keep the resolution of
# float32, the slope at 0 does not enlarge its errors, and thresholds lie near the middle.
HALF = 5.0


class Smoothing(nn.Module):
    """Gaussian of `sigma` pixels over each channel of (B, C, H, W); 0 changes nothing.

    Border pixels are repeated outwards.
    """

    def __init__(self, sigma: float):
        super().__init__()
        self.window = gaussian_window(sigma) if sigma else []

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Planes (B, C, H, W) to planes of the same shape."""
        return blur(planes, self.window) if self.window else planes


class ClassicalDetector(AligningDetector):
    """A detector without a network.

    A subclass has a `label`, a `heatmap` and, if it needs aligned references, an `align`. `sigma`
    is in pixels, 0 for no smoothing.
    """

    label: str
    align = "none"
    mode = "whole"  # pixel by pixel: no tiles

    def __init__(self, sigma: float = 0.0):
        super().__init__(self.align)
        self.sigma, self.smoothing = sigma, Smoothing(sigma)

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        """Strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), 0-1."""
        return self.detect_with_alignment(strips)[0]


class DoubleDetection(ClassicalDetector):
    """min(|T - R1|, |T - R2|), of differences smoothed by a Gaussian of `sigma` pixels, if any."""

    label = "double detection"

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """Strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), 0-1."""
        differences = self.smoothing(strips[:, :1] - strips[:, 1:3]).abs()
        return differences.amin(dim=1, keepdim=True)


class ToleranceEnvelope(ClassicalDetector):
    """How far Target lies outside the values that both references have within a pixel, smoothed.

    The envelope is the range of both references in a window of 3x3 pixels. So an edge may be
    displaced by a pixel, and everything that either reference has is allowed. The Gaussian has
    `sigma` pixels.
    """

    label = "tolerance envelope"

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """Strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), 0-1."""
        return self.smoothing(envelope_excess(strips)).abs()


class RegisteredDifference(ClassicalDetector):
    """The consistent difference x, in units of the noise around the pixel, as x / (1 + x).

    It is the smaller of T - R1 and T - R2 where both have one sign, 0 elsewhere. The references are
    registered to Target and matched first (registration.py). Each difference is smoothed by a
    Gaussian of `sigma` pixels.
    """

    label = "registered difference"
    align = "full"

    @property
    def noise(self) -> NoiseModel:
        """What the Gaussian leaves of the noise: edges count as noise."""
        return NoiseModel("smoothed", self.sigma)

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """Aligned strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), 0-1."""
        differences = self.smoothing(strips[:, :1] - strips[:, 1:3])
        ratio = consistent_difference(differences).abs() / local_noise(differences)
        return ratio / (1 + ratio)


class LikelihoodRatio(ClassicalDetector):
    """The log likelihood ratio L of "a point in Target alone" (likelihood.py), as L / (L + HALF).

    The references are registered to Target and matched first (registration.py), with the local
    field and the rows' shifts: a line that lies a tenth of a pixel beside its reference looks like
    points. The point has a Gaussian's shape of `sigma` pixels, above 0.
    """

    label = "likelihood ratio"
    align = "fine"

    @property
    def noise(self) -> NoiseModel:
        """That of the ratio."""
        return NoiseModel("edges", self.sigma)

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        """Aligned strips (B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), 0-1."""
        ratio = likelihood_ratio(strips, self.sigma)
        return ratio / (ratio + HALF)


METHODS = {  # --method, besides the network: the module and the sigmas to choose from, in pixels
    "double": (DoubleDetection, (0.0,)),
    "smoothed": (DoubleDetection, SIGMAS),
    "envelope": (ToleranceEnvelope, SIGMAS),
    "registered": (RegisteredDifference, SIGMAS),
    "likelihood": (LikelihoodRatio, POINT_SIGMAS),
}


def classical_detector(method: str, sigma: float) -> ClassicalDetector:
    """Return the detector of a name in METHODS with a Gaussian of `sigma` pixels."""
    return METHODS[method][0](sigma)


def choose_sigma(method: str, chosen: dict[str, float]) -> float:
    """Return a method's only sigma, else the one in `chosen`, else the default; in pixels."""
    _, candidates = METHODS[method]
    return candidates[0] if len(candidates) == 1 else chosen.get(method, DEFAULT_SIGMA)


def baseline_name(method: str, sigma: float) -> str:
    """Return the name of a baseline in tables: its label and its smoothing."""
    return f"{METHODS[method][0].label}, {f'Gaussian of {sigma:g} px' if sigma else 'plain'}"
