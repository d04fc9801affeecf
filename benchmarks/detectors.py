"""The detectors that benchmarks score: the classical methods and trained networks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from evaluation.predictors import DetectorPredictor, TorchPredictor
from ops.classical import METHODS, baseline_name, choose_sigma, classical_detector
from ops.tiling import PATCH_SIZES
from training.checkpoint import build_network, load_checkpoint

Predictor = Callable[[np.ndarray], np.ndarray]  # strip (3, H, W), grey levels, to heatmap (H, W)


def classical_predictors(
    sigmas: dict[str, float], device: torch.device
) -> Iterator[tuple[str, Predictor, str]]:
    """Each classical method: its name in the tables, its predictor and a key for file names.

    `sigmas` holds the sigma of a method's Gaussian in pixels; a method that it lacks takes its
    default.
    """
    for method in METHODS:
        sigma = choose_sigma(method, sigmas)
        predictor = DetectorPredictor(classical_detector(method, sigma), device)
        yield baseline_name(method, sigma), predictor, f"{method}_{sigma:g}"


def load_predictor(
    checkpoint: Path, device: torch.device, align: str | None = None
) -> TorchPredictor:
    """The network of a checkpoint. `align` replaces the --align that it was trained with."""
    content = load_checkpoint(checkpoint)
    network = build_network(content, checkpoint)
    mode = content["align"] if align is None else align
    weighting = "none" if mode == "none" else content["weighting"]
    return TorchPredictor(network, PATCH_SIZES[content["image_type"]], device, mode, weighting)
