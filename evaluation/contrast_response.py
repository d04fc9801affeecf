"""How faint points a detector finds: measured by painting points into good strips.

At each painted point the contrast over the noise is kept, and the heatmap's value of the detection
that finds it. So the share of the points that a threshold finds is known for every threshold. It is
fitted by a curve of two numbers, the logistic curve over the logarithm of the contrast (Finney,
"Probit analysis", 1947).
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from scipy.optimize import minimize

from common.progress import progress_bar
from data.folder import StripFile, evenly_spaced
from data.ignored_regions import IgnoredRegions
from data.image_files import load_image, to_batch
from data.registered_copies import StripAligner
from evaluation.detections import find_peaks
from evaluation.matching import MATCH_RADIUS
from gaussian import MAX_GREY, paint_point
from ops.classical import POINT_SIGMAS
from ops.inspected_contrast import (
    NOISE_KINDS,
    ContrastResponse,
    NoiseModel,
    contrast_map,
    inspected_contrast,
    noise_map,
)
from ops.likelihood import POINT_SIGMA

SEED = 88_203_114  # of the painted points
STRIPS = 16  # that are painted on; fewer good strips are painted on several times
TURNS_OF_FEW = 8  # times as often where only a few points can be found at once
# Pixels between painted points, more than three sigmas of the window in which noise is measured: a
# point adds to the noise around it, and not to that around another one.
PITCH = 28.0
JITTER = 2.0  # pixels, along y and x
RATIOS = (1.0, 16.0)  # contrasts of the points, in units of the noise
STEEPNESSES = (1.0, 40.0)  # the least and the largest of a fit
DIGITS = 7  # that float32 has

# {"noise": kind, "sigma": pixels, "ratios": contrasts in units of the noise, "heights": the
# heatmap's values at the detections of the points, 0 where there is none}: plain values
Response = dict[str, Any]


class MeasuredPredictor(Protocol):
    """A predictor that names its alignment of the references, and the noise that it measures in."""

    align: str
    noise: NoiseModel
    most_points: int | None  # of a strip, which it can find at once; None: any number

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(3, H, W) grey levels 0-255 to the heatmap (H, W), 0-1."""
        ...


def measure_response(
    predictor: MeasuredPredictor,
    good: list[StripFile],
    input_max: float,
    ignored: IgnoredRegions,
    device: torch.device,
) -> Response | None:
    """Return what a predictor finds of points that are painted into the Target of good strips.

    It is None for a predictor that compares unregistered references: noise is not what limits it.
    """
    if predictor.align == "none" or not good:
        return None
    measure_noise = noise_measure(predictor.align, predictor.noise, device)
    sample = evenly_spaced(good, STRIPS)
    turns = max(1, round(STRIPS / len(sample))) * (TURNS_OF_FEW if predictor.most_points else 1)
    ratios, heights = [], []
    for number, strip in enumerate(
        progress_bar(sample, desc="measuring the contrast", unit="strip")
    ):
        image = load_image(strip.path, input_max, order=strip.order)
        noise, excluded = measure_noise(image), ignored.of(strip.path, image.shape[1:])
        for turn in range(turns):
            generator = np.random.default_rng((SEED, number, turn))
            painted, centers, contrasts = paint_points(
                image, noise, generator, RATIOS, predictor.most_points
            )
            found = found_heights(predictor(painted), centers)
            y, x = np.rint(centers).astype(int).T
            counts = np.ones(len(y), bool) if excluded is None else ~excluded[y, x]
            ratios += (contrasts / noise[y, x])[counts].tolist()
            heights += found[counts].tolist()
    return {
        "noise": predictor.noise.kind,
        "sigma": predictor.noise.sigma,
        "ratios": [_rounded(ratio, 4) for ratio in ratios],
        "heights": [_rounded(height, DIGITS) for height in heights],
    }


def paint_points(
    image: np.ndarray,
    noise: np.ndarray,
    generator: np.random.Generator,
    ratios: tuple[float, float],
    most: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint points into the Target of a copy of (3, H, W), all over it, far from one another.

    Each has a contrast, in units of `noise` (H, W) at its place, between the two `ratios`, evenly
    on a logarithmic scale. It is bright or dark, whichever is drawn if both lie within 0-255; a
    point that fits neither way is left out. Of all places, `most` are chosen (None: all). Returns
    the copy, the centres (N, 2) and the contrasts (N,) in grey levels.
    """
    painted, size = image.copy(), image.shape[1:]
    along = [np.arange(generator.uniform(0, PITCH), length - 0.5, PITCH) for length in size]
    centers = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 2)
    centers = centers + generator.uniform(-JITTER, JITTER, centers.shape)
    if most is not None:
        centers = generator.permutation(centers)[:most]
    contrasts = np.exp(generator.uniform(*np.log(ratios), len(centers)))
    signs = generator.choice([-1.0, 1.0], len(centers))
    kept = []
    for number, (center, sign) in enumerate(zip(centers, signs)):
        pixel = tuple(np.rint(center).astype(int))
        if not all(0 <= at < length for at, length in zip(pixel, size)):
            continue
        contrasts[number] *= noise[pixel]
        for amplitude in (sign * contrasts[number], -sign * contrasts[number]):
            if 0 <= image[0][pixel] + amplitude <= MAX_GREY:
                paint_point(painted[0], tuple(center), (POINT_SIGMA, POINT_SIGMA), amplitude)
                kept.append(number)
                break
    np.clip(painted[0], 0, MAX_GREY, out=painted[0])
    return painted, centers[kept], contrasts[kept]


def found_heights(heatmap: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The heatmap's value at the highest detection within MATCH_RADIUS of each centre, else 0.

    The heatmap is (H, W), 0-1; the centres are (N, 2), far from one another.
    """
    peaks = find_peaks(heatmap)
    if not len(peaks.points):
        return np.zeros(len(centers))
    distances = np.linalg.norm(peaks.points[None] - centers[:, None], axis=2)
    return np.where(distances <= MATCH_RADIUS, peaks.heights, 0.0).max(axis=1)


def fit_response(response: Response, threshold: float) -> ContrastResponse:
    """Return the most likely curve of the share that is found above a threshold, 0-1."""
    logarithms = np.log(response["ratios"])
    found = np.array(response["heights"]) > threshold
    middle = float(np.mean(np.log(RATIOS)))

    def surprise(values: np.ndarray) -> float:
        logits = np.exp(values[1]) * (logarithms - values[0])
        return float(np.logaddexp(0, np.where(found, -logits, logits)).sum())

    # beyond what was painted by a factor of 4, if nothing or everything was found
    bounds = [np.log([RATIOS[0] / 4, RATIOS[1] * 4]), np.log(STEEPNESSES)]
    best = minimize(surprise, [middle, math.log(8)], bounds=bounds, method="L-BFGS-B")
    half, steepness = np.exp(best.x).tolist()
    return ContrastResponse(half, steepness, NoiseModel(response["noise"], response["sigma"]))


def noise_measure(
    align: str, model: NoiseModel, device: torch.device
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from a strip (3, H, W), grey levels, to its noise (H, W), grey levels."""
    aligner = StripAligner(align, device)
    return lambda image: _noise(aligner(image)[0], model, device)[0, 0].cpu().numpy()


def contrast_maps(
    align: str, response: ContrastResponse, device: torch.device
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from a strip (3, H, W) to the contrast (H, W) that each pixel needs."""
    measure_noise = noise_measure(align, response.noise, device)
    return lambda image: contrast_map(measure_noise(image), response)


def contrast_of(
    aligned: np.ndarray,
    response: ContrastResponse,
    device: torch.device,
    ignored: np.ndarray | None = None,
) -> float:
    """Return the inspected contrast of an aligned strip (3, H, W), all in grey levels.

    Pixels that are `ignored` (H, W) bool do not count.
    """
    noise = _noise(aligned, response.noise, device)
    if ignored is not None:
        noise = noise[..., torch.from_numpy(~ignored).to(device)][:, :, None]
    return float(inspected_contrast(noise, response))


@torch.inference_mode()
def _noise(aligned: np.ndarray, model: NoiseModel, device: torch.device) -> torch.Tensor:
    """The noise (1, 1, H, W), grey levels, of an aligned strip (3, H, W) in grey levels."""
    return noise_map(to_batch(aligned, device), model)


def is_response(value: object) -> bool:
    """Whether a value read from a file has the form that `measure_response` gives."""
    if not isinstance(value, dict) or not value.keys() >= {"noise", "sigma", "ratios", "heights"}:
        return False
    ratios, heights = value["ratios"], value["heights"]
    return (
        value["noise"] in NOISE_KINDS
        and value["sigma"] in POINT_SIGMAS
        and all(isinstance(each, list) and each for each in (ratios, heights))
        and len(ratios) == len(heights)
        and all(type(ratio) is float and 0 < ratio < math.inf for ratio in ratios)
        and all(type(height) is float and 0 <= height <= 1 for height in heights)
    )


def _rounded(value: float, digits: int) -> float:
    """A number with so many significant digits, which take less room in a file."""
    return float(f"{value:.{digits}g}")
