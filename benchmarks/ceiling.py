"""What noise allows: a matched filter that knows how a strip of the suite was made, but its points.

It sees the same shot with references that are displaced, lit and blurred as Target is
(`suite.strips.make_aligned_strip`), and it knows how the noise is distributed over the pixels. So
what it misses is hidden in noise or looks like clutter.
"""

from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.quality_scores import ImageScores, recall_sum, score_heatmap
from benchmarks.suite.levels import SUITE_SEED
from benchmarks.suite.strips import AlignedStrip, make_aligned_strip, make_suite_strip
from ops.filters import gaussian_window

MEDIAN_OF_NORMAL = 0.6745  # of the size of a normal variable, in sigmas


@dataclass(frozen=True)
class MatchedFilter:
    """Gaussians, each less a wider one where clutter has to be told from points."""

    sigmas: tuple[float, ...]  # pixels: the one that fits best counts
    wider: float  # pixels, 0 for none
    # pixels along each axis within which something that a reference shares or has explains a point
    reach: int

    def kernels(self) -> list[np.ndarray]:
        """The weights (h, w) of each, which add up to 0 where there is a wider Gaussian."""
        kernels = []
        for sigma in self.sigmas:
            reach = int(np.ceil(3 * max(sigma, self.wider)))
            narrow, wide = (
                np.outer(*[gaussian_window(each, reach)] * 2) if each else 0
                for each in (sigma, self.wider)
            )
            kernels.append(narrow - wide * narrow.sum() / np.sum(wide) if self.wider else narrow)
        return kernels


# The first of equally good ones is chosen. A Gaussian of 0.3 px is little more than one pixel.
FILTERS = tuple(
    MatchedFilter(*row)
    for row in product(((1.0,), (0.75,), (0.3, 1.0, 2.0)), (0.0, 3.0), (0, 1, 2))
)


def likelihood_ratio(strip: AlignedStrip, matched: MatchedFilter) -> np.ndarray:
    """How much likelier a point in Target alone is than another explanation: (H, W), 0-1.

    With r the logarithm of the ratio of likelihoods, and 0 where the other explanation is likelier,
    it is r / (1 + r). The differences of Target to both references share Target's noise, which is
    in their covariance. Each explanation is a direction in the plane of both differences, and the
    strength of its point the likeliest one (Kay, "Fundamentals of Statistical Signal Processing II:
    Detection Theory", 1998). The other explanations are a point that Target shares with one
    reference, and one that is in one reference alone.
    """
    differences = strip.image[0] - strip.image[1:]
    # offsets of whole columns are no points
    differences = differences - np.median(differences, axis=1, keepdims=True)
    ratios = [
        _ratio_of_size(differences, strip.noise_sigma, kernel, matched.reach)
        for kernel in matched.kernels()
    ]
    ratio = np.max(ratios, axis=0)
    return (ratio / (1 + ratio)).astype(np.float32)


def _ratio_of_size(
    differences: np.ndarray, noise_sigma: np.ndarray, kernel: np.ndarray, reach: int
) -> np.ndarray:
    first, second = (_convolve(plane, kernel) for plane in differences)
    target, *references = (_convolve(sigma**2, kernel**2) for sigma in noise_sigma)
    # compression takes some of the noise away: only its distribution is known, not its amount
    scale = np.mean(
        [
            np.median(np.abs(plane) / np.sqrt(target + own)) / MEDIAN_OF_NORMAL
            for plane, own in zip((first, second), references)
        ]
    )
    target, one, two = (scale**2 * variance for variance in (target, *references))
    determinant = target * one + target * two + one * two
    alone = (two * first + one * second) ** 2 / (2 * determinant * (one + two))
    of_second = ((target + one) * second - target * first) ** 2 / (target + one)
    of_first = ((target + two) * first - target * second) ** 2 / (target + two)
    other = np.maximum(of_first, of_second) / (2 * determinant)
    if reach:
        other = cv2.dilate(other, np.ones([2 * reach + 1] * 2))
    return np.where(first * second > 0, np.maximum(alone - other, 0), 0)


def score_ceiling(
    matched: MatchedFilter, level: str, number: int, shot: int, seed: int = SUITE_SEED
) -> ImageScores:
    """The scores of the filter on one shot, as `quality_scores.score_strip` gives them."""
    heatmap = likelihood_ratio(make_aligned_strip(level, number, shot, seed), matched)
    return score_heatmap(heatmap, make_suite_strip(level, number, shot, seed))


def choose_filter(level: str, seed: int, numbers: range) -> MatchedFilter:
    """The filter with the highest mean of the recalls at 0.1 and 1 on other strips of a level."""
    scores: dict[MatchedFilter, list[ImageScores]] = {matched: [] for matched in FILTERS}
    for number in tqdm(numbers, desc=f"filter for {level}", disable=None, leave=False):
        aligned = make_aligned_strip(level, number, 0, seed)
        strip = make_suite_strip(level, number, 0, seed)
        for matched, images in scores.items():
            images.append(score_heatmap(likelihood_ratio(aligned, matched), strip))
    return max(FILTERS, key=lambda matched: recall_sum(scores[matched]))


def _convolve(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(H, W) float64 under a symmetric kernel, with zeros beyond the border."""
    return cv2.filter2D(plane.astype(np.float64), -1, kernel, borderType=cv2.BORDER_CONSTANT)
