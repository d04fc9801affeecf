"""The proof that an ONNX file computes what PyTorch computes.

Both run on the CPU, on strips, on noise and on odd strips, with one image and with a batch.
"""

from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from data.demo_strips import make_strip
from data.image_files import STORED_ORDER, load_image, to_unit_range
from data.listing import list_images
from deploy.export_module import StripGraph, strongest_peaks
from deploy.onnx_predictor import to_model_input
from deploy.session import open_session
from evaluation.detections import find_peaks
from evaluation.matching import MATCH_RADIUS
from gaussian import MAX_GREY, STRIP_DEFECTS_RANGE, paint_defects
from model import with_two_zero_channels
from ops.detector import AligningDetector
from ops.missing import missing_probability

# largest difference of probabilities between ONNX Runtime and PyTorch, both on the CPU
PARITY_TOLERANCE = 1e-4
# largest difference of a shift in pixels, or of another of alignment's MEASURES, on strips, and of
# a contrast as a share of it: below the accuracy of any measurement
LARGEST_MISMATCH = 1e-2
BATCHES = (1, 3)  # images per compared call
PARITY_SEED = 0
PARITY = "ONNX Runtime - PyTorch"  # name of the report's line with the differences


def parity_strips(
    test_path: Path | None,
    image_size: tuple[int, int],
    input_max: float,
    order: tuple[int, ...] = STORED_ORDER,
) -> np.ndarray:
    """Three strips to compare on, (3, 3, H, W) in grey levels 0-255.

    They are spread over the images of `test_path`. Without it they are generated, with painted
    defects. Raises `UserError` for a strip that does not have `image_size` (height, width).
    """
    count = max(BATCHES)
    if test_path is None:
        generator = np.random.default_rng(PARITY_SEED)
        strips = [make_strip(generator, image_size) for _ in range(count)]
        for strip in strips:
            paint_defects(strip, np.zeros(image_size, np.uint8), generator, STRIP_DEFECTS_RANGE)
        return np.stack(strips)
    paths = list_images(test_path)
    strips = []
    for path in (paths[number * len(paths) // count] for number in range(count)):
        strips.append(load_image(path, input_max, order=order))
        if strips[-1].shape[1:] != image_size:
            raise UserError(
                f"{path}: found {strips[-1].shape[1:]} (height, width), expected {image_size}: "
                "see --image_size"
            )
    return np.stack(strips)


def prove_parity(
    graph: StripGraph,
    path: Path,
    strips: np.ndarray,
    channels: int,
    input_max: float,
    threshold: float,
) -> dict[str, str]:
    """Compare ONNX Runtime with PyTorch on the CPU, on strips, on noise and on `odd_strips`.

    `strips` are (B, 3, H, W) in grey levels 0-255; the file's input has `channels`. Heatmaps must
    match PyTorch's within PARITY_TOLERANCE, alignment and contrasts within LARGEST_MISMATCH. Score
    and detections must follow exactly from the file's own heatmap. Returns the report's lines.
    Raises `UserError` when an output differs.
    """
    session = open_session(path)
    noise = np.random.default_rng(PARITY_SEED).random(strips.shape, dtype=np.float32) * np.float32(
        MAX_GREY
    )
    differences, outputs = {}, []
    for name, images in (("strips", strips), ("noise", noise), ("odd", odd_strips(strips))):
        images = to_model_input(images, graph.input_kind, channels, input_max)
        for batch in BATCHES:
            results = dict(
                zip(graph.outputs, session.run(graph.output_names, {"input": images[:batch]}))
            )
            with torch.inference_mode():
                aligned, measures = graph.detector.align_references(
                    graph.to_unit_range(torch.from_numpy(images[:batch, :3]))
                )
                heatmap = graph.detector.counted_heatmap(aligned)
            differences[f"{name}, batch {batch}"] = float(
                np.abs(results["heatmap"] - with_two_zero_channels(heatmap).numpy()).max()
            )
            if "missing" in results:
                differences[f"missing, {name}, batch {batch}"] = float(
                    np.abs(results["missing"] - missing_probability(aligned).numpy()).max()
                )
            outputs.append(results["heatmap"])
            _check_derived_outputs(results, threshold)
            if "alignment" in results and name == "strips":
                _check_alignment(results["alignment"], measures.numpy())
            if name == "strips":
                _check_contrasts(results, graph.contrasts(aligned))
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    # `not all(<)` instead of `any(>=)`, so that NaN fails too
    if not all(value < PARITY_TOLERANCE for value in differences.values()):
        raise UserError(
            f"heatmaps differ from PyTorch's by {differences[worst]:.2g} on {worst}, "
            f"expected less than {PARITY_TOLERANCE:g}"
        )
    heatmaps = [output[:, 0] for output in outputs]
    zeros = [sum(float(output[:, channel].sum()) for output in outputs) for channel in (1, 2)]
    return {
        "channel 0": f"from {min(map(np.min, heatmaps)):.3g} to {max(map(np.max, heatmaps)):.3g}",
        "channels 1 and 2": f"sums {zeros[0]:g} and {zeros[1]:g}",
        PARITY: ", ".join(f"{value:.1e} ({name})" for name, value in differences.items()),
    }


def odd_strips(strips: np.ndarray) -> np.ndarray:
    """Copies of three strips (3, 3, H, W): one black, one with a lost row, one without references.

    They have no noise where a formula divides by it. An exporter may drop what guards the division.
    """
    odd = strips.copy()
    odd[0] = 0
    odd[1, :, strips.shape[2] // 2] = MAX_GREY
    odd[2, 1:] = 0
    return odd


def _check_derived_outputs(results: dict[str, np.ndarray], threshold: float) -> None:
    """Raise `UserError` unless score and detections follow exactly from the heatmap."""
    heatmap = results["heatmap"][:, :1]
    if "score" in results and not np.array_equal(results["score"], heatmap.max(axis=(1, 2, 3))):
        raise UserError(
            f"found the scores {results['score']}, "
            f"expected the heatmaps' maxima {heatmap.max(axis=(1, 2, 3))}"
        )
    if "detections" in results:
        expected = strongest_peaks(torch.from_numpy(heatmap), torch.tensor([threshold])).numpy()
        if not np.array_equal(results["detections"], expected):
            raise UserError(
                "found detections that are not the strongest local maxima "
                "of the heatmap above the threshold"
            )


def _check_alignment(found: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(found - expected).max()
    if not difference < LARGEST_MISMATCH:
        raise UserError(
            f"the alignment differs from PyTorch's by {difference:.2g}, "
            f"expected less than {LARGEST_MISMATCH:g}"
        )


def _check_contrasts(results: dict[str, np.ndarray], contrasts: dict[str, torch.Tensor]) -> None:
    for output, expected in contrasts.items():
        difference = np.abs(results[output] / expected.numpy() - 1).max()
        if not difference < LARGEST_MISMATCH:
            raise UserError(
                f"the {output} differs from PyTorch's by {difference:.2%}, "
                f"expected less than {LARGEST_MISMATCH:.0%}"
            )


def compare_modes(
    other: AligningDetector, tiles: AligningDetector, strips: np.ndarray, threshold: float
) -> dict[str, str]:
    """Compare the heatmaps of another mode with those of the training's tiles.

    `strips` are (B, 3, H, W) in grey levels 0-255. Returns the report's line.
    """
    with torch.inference_mode():
        batch = torch.from_numpy(to_unit_range(strips))
        heatmaps = [
            detector.detect_with_alignment(batch)[0][:, 0].numpy() for detector in (other, tiles)
        ]
    difference = np.abs(heatmaps[0] - heatmaps[1])
    peaks = [[find_peaks(heatmap, threshold).points for heatmap in each] for each in heatmaps]
    unmatched = [sum(map(_count_unmatched, *pair)) for pair in (peaks, peaks[::-1])]
    counts = [sum(map(len, each)) for each in peaks]
    # the heatmap of points is 0 wherever the network does not look, so its differences say little
    differences = ""
    if other.mode != "points":
        differences = f"; heatmaps differ by {difference.max():.2g} at most, "
        differences += f"{difference.mean():.1e} on average"
    same = [count - missing for count, missing in zip(counts, unmatched)]
    return {
        f"mode {other.mode}": f"above {threshold:.3g} it finds {same[1]} of the {counts[1]} "
        f"detections of mode tiles, and {unmatched[0]} that tiles do not find{differences}"
    }


def _count_unmatched(points: np.ndarray, others: np.ndarray) -> int:
    """How many of the points (N, 2) have none of `others` (M, 2) within MATCH_RADIUS."""
    if not len(others):
        return len(points)
    distances = np.sqrt(np.square(points[:, None] - others[None]).sum(axis=2))
    return int((distances.min(axis=1) > MATCH_RADIUS).sum()) if len(points) else 0
