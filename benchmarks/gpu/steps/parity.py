"""PyTorch on the GPU beside PyTorch on the CPU: every network, alignment and mode."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
import torch

from benchmarks.gpu.figures import Figure, at_most, attempt, is_so
from benchmarks.gpu.materials import PATCH, make_batch, train_network
from benchmarks.gpu.setup import Setup
from common.device import full_precision
from deploy.parity import PARITY_TOLERANCE
from deploy.precision import in_half_precision
from model import (
    ARCHITECTURES,
    EXPORT_MODES,
    SegmentationNetwork,
    SegmentationNetworkONNXFullImage,
)
from ops.classical import METHODS, classical_detector
from ops.detector import AligningDetector
from ops.registration import ALIGN_MODES

# Largest differences of a probability that mantissas of 7 and 10 bits may make; only a network that
# has learnt something is judged by them.
LARGEST_OF_BFLOAT16, LARGEST_OF_FLOAT16 = 0.15, 0.02
BATCH = 3


def run(setup: Setup) -> Iterator[Figure]:
    """Yield the largest difference of each detector, and what bad strips do."""
    strips = make_batch(setup, BATCH)
    networks = {}
    for name in ARCHITECTURES:
        networks[name] = train_network(setup, name, setup.choose(16, 4))
        yield from attempt(name, partial(differences, setup, name, networks[name], strips))
    for method in METHODS:
        name = f"--method {method}, float32"
        yield from attempt(name, partial(difference_of_method, setup, method, strips, name))
    yield from attempt("bad strips", partial(bad_strips, setup, networks["difference"], strips))


def differences(
    setup: Setup, architecture: str, network: SegmentationNetwork, strips: torch.Tensor
) -> Iterator[Figure]:
    """The largest difference of a network over all alignments and modes, in each type."""
    worst = dict.fromkeys(("float32", "bfloat16", "float16"), 0.0)
    for align, mode in product(setup.choose(ALIGN_MODES, ("fine",)), EXPORT_MODES):
        if (align, mode) == ("none", "points"):
            continue  # candidates need registered references
        weighting = "strong_likelihood" if align == "fine" else "none"
        detector = SegmentationNetworkONNXFullImage(
            network, setup.strip_size, PATCH, align, mode, weighting
        ).eval()
        expected = detect(detector, strips)
        for kind, found in on_device(detector, strips, setup.device).items():
            # unlike max, np.maximum keeps a NaN
            worst[kind] = float(np.maximum(worst[kind], largest_difference(found, expected)))
    limits = PARITY_TOLERANCE, LARGEST_OF_BFLOAT16, LARGEST_OF_FLOAT16
    for (kind, difference), limit in zip(worst.items(), limits):
        is_binding = kind == "float32" or not setup.is_dry
        name = f"{architecture}, all alignments and modes, {kind}"
        yield at_most(name, difference, limit, "", is_binding)


def difference_of_method(
    setup: Setup, method: str, strips: torch.Tensor, name: str
) -> Iterator[Figure]:
    """The largest difference of a classical method."""
    detector = classical_detector(method, 1.0).eval()
    found = detect(copy.deepcopy(detector).to(setup.device), strips.to(setup.device))
    difference = largest_difference(found, detect(detector, strips))
    yield at_most(name, difference, PARITY_TOLERANCE)


def bad_strips(
    setup: Setup, network: SegmentationNetwork, strips: torch.Tensor
) -> Iterator[Figure]:
    """Equal strips in a batch, a constant strip, and one with NaN beside good ones."""
    detector = SegmentationNetworkONNXFullImage(network, setup.strip_size, PATCH, "full").eval()
    on_gpu = copy.deepcopy(detector).to(setup.device)
    same = detect(on_gpu, strips[:1].expand(BATCH, -1, -1, -1).to(setup.device))
    yield is_so("equal strips of a batch have equal heatmaps", bool((same == same[:1]).all()))
    constant = torch.full_like(strips[:1], 0.5)
    difference = largest_difference(
        detect(on_gpu, constant.to(setup.device)), detect(detector, constant)
    )
    yield at_most("a constant strip, float32", difference, PARITY_TOLERANCE)
    broken = strips.clone()
    broken[1, 0, 50, 50] = torch.nan
    found, expected = detect(on_gpu, broken.to(setup.device)), detect(detector, broken)
    others = largest_difference(found[[0, 2]], expected[[0, 2]])
    yield at_most("strips beside one with NaN, float32", others, PARITY_TOLERANCE)
    yield is_so("a strip with NaN is NaN somewhere, as on the CPU", bool(found[1].isnan().any()))


def on_device(
    detector: SegmentationNetworkONNXFullImage, strips: torch.Tensor, device: torch.device
) -> dict[str, torch.Tensor]:
    """The heatmaps on a device, by the type that its network computes in."""
    strips, moved = strips.to(device), copy.deepcopy(detector).to(device)
    half = in_half_precision(detector).to(device).eval()
    with torch.autocast(device.type, torch.bfloat16):
        bfloat16 = detect(moved, strips)
    return {
        "float32": detect(moved, strips),
        "bfloat16": bfloat16,
        "float16": detect(half, strips),
    }


@torch.inference_mode()
def detect(detector: AligningDetector | Callable, strips: torch.Tensor) -> torch.Tensor:
    """The heatmaps (B, 1, H, W) float32 on the CPU, without TF32."""
    with full_precision():
        return detector(strips)[:, :1].float().cpu()


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference; NaN where either is NaN."""
    return float((found - expected).abs().max())
