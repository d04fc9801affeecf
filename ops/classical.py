"""The baselines without a net: what Target has and neither reference has, by arithmetic alone.

Torch modules, like a net.

Each takes strips (B, 3, H, W), values 0-1, and gives heatmaps (B, 1, H, W): a difference in grey
levels as a share of their range, 0-1, or one in units of the noise around it, brought to 0-1. That
is no probability, but it ranks pixels and can be thresholded just the same.
"""

import torch
from torch import nn

from ops.detector import AligningDetector
from ops.differences import consistent_difference, envelope_excess, local_noise
from ops.filters import blur, gaussian_window

# pixels; which one serves best is found out on validation strips
SIGMAS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
DEFAULT_SIGMA = 1.0  # of a point defect of three pixels


class Smoothing(nn.Module):
    """Gaussian of `sigma` pixels over each channel of (B, C, H, W); 0 leaves it as it is.

    The border's pixels go on beyond it.
    """

    def __init__(self, sigma: float):
        super().__init__()
        self.window = gaussian_window(sigma, int(3 * sigma + 0.5)) if sigma else []

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return blur(planes, self.window) if self.window else planes


class ClassicalDetector(AligningDetector):
    """A method without a net: a subclass with a `label`, a `heatmap` and, where it needs aligned
    references, an `align`.
    """

    label: str
    align = "none"
    mode = "whole"  # pixel by pixel: no tiles

    def __init__(self, sigma: float = 0.0):
        super().__init__(self.align)
        self.sigma, self.smoothing = sigma, Smoothing(sigma)

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        return self.detect_with_alignment(strips)[0]


class DoubleDetection(ClassicalDetector):
    """min(|T - R1|, |T - R2|), each difference smoothed first: a Gaussian of `sigma` pixels, none
    for 0.
    """

    label = "double detection"

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        differences = self.smoothing(strips[:, :1] - strips[:, 1:3]).abs()
        return differences.amin(dim=1, keepdim=True)


class ToleranceEnvelope(ClassicalDetector):
    """How far Target lies outside what both references have within a pixel, smoothed by a Gaussian
    of `sigma` pixels.

    The envelope reaches from the smallest to the largest value of both references in a window of
    3x3 pixels: an edge may move by a pixel, and what is in either reference is allowed.
    """

    label = "tolerance envelope"

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        return self.smoothing(envelope_excess(strips)).abs()


class RegisteredDifference(ClassicalDetector):
    """The smaller of T - R1 and T - R2 where both have one sign, in units of the noise around it,
    x, as x / (1 + x).

    The references are registered to Target and matched first (registration.py). Each difference is
    smoothed by a Gaussian of `sigma` pixels.
    """

    label = "registered difference"
    align = "full"

    def heatmap(self, strips: torch.Tensor) -> torch.Tensor:
        differences = self.smoothing(strips[:, :1] - strips[:, 1:3])
        ratio = consistent_difference(differences).abs() / local_noise(differences)
        return ratio / (1 + ratio)


METHODS = {  # --method, beside the network: the module and the sigmas that it can be had with
    "double": (DoubleDetection, (0.0,)),
    "smoothed": (DoubleDetection, SIGMAS),
    "envelope": (ToleranceEnvelope, SIGMAS),
    "registered": (RegisteredDifference, SIGMAS),
}


def classical_detector(method: str, sigma: float) -> ClassicalDetector:
    """The module of a name in METHODS with a Gaussian of `sigma` pixels."""
    return METHODS[method][0](sigma)


def choose_sigma(method: str, chosen: dict[str, float]) -> float:
    """The sigma of a method: its only one, else the one `chosen`, else the default."""
    _, candidates = METHODS[method]
    return candidates[0] if len(candidates) == 1 else chosen.get(method, DEFAULT_SIGMA)


def baseline_name(method: str, sigma: float) -> str:
    return f"{METHODS[method][0].label}, {f'Gaussian of {sigma:g} px' if sigma else 'plain'}"
