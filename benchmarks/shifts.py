"""False alarms against how far the references are shifted: without a network, with the classic
recipe, and with references aligned.

    python -m benchmarks.shifts --runs output/quality --seed 42      # after benchmarks/quality.py; ten minutes on two cores

Good strips of the demo patterns, none of the suite or the training: once with each reference
shifted by the same length in a direction of its own, once with a shift along y that wanders between
plus and minus that length, and a third of it along x. Each detector's threshold gives one false
alarm in ten strips where nothing is shifted. Draws docs/pictures/shifts.png, too.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.quality import NETWORKS
from benchmarks.quality_scores import Predictor
from benchmarks.suite import draw_wander, move_rows
from benchmarks.trainings import ROOT
from common.files import atomic_write
from data.demo_strips import (
    STRIP_SIZE,
    add_sensor_noise,
    apply_exposure,
    draw_exposure,
    draw_pattern,
    sample_to_sensor,
)
from evaluation.detections import find_peaks
from evaluation.predictors import DetectorPredictor, TorchPredictor
from ops.classical import METHODS, baseline_name, choose_sigma, classical_detector
from ops.tiling import PATCH_SIZES
from training.checkpoint import build_network, load_checkpoint

SEED = 5_150_901  # of these strips alone
LENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # pixels
RATE = 0.1  # false alarms per strip where nothing is shifted
SHARE_X = 1 / 3  # of a wandering shift: a line camera's speed moves rows, not columns
FLOOR = 0.03  # false alarms per strip: what the picture shows of none
PICTURE = ROOT / "docs" / "pictures" / "shifts.png"

# (generator, length in pixels) to (H, 2): (y, x) for each row
Shift = Callable[[np.random.Generator, float], np.ndarray]


def constant(generator: np.random.Generator, length: float) -> np.ndarray:
    angle = generator.uniform(0, 2 * np.pi)
    return np.tile([length * np.sin(angle), length * np.cos(angle)], (STRIP_SIZE[0], 1))


def wandering(generator: np.random.Generator, length: float) -> np.ndarray:
    along_y, along_x = (draw_wander(generator, STRIP_SIZE[0]) for _ in range(2))
    return length * np.stack([along_y, SHARE_X * along_x], axis=1)


SHIFTS: dict[str, Shift] = {"constant": constant, "wandering": wandering}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=Path, required=True, help="the --output of benchmarks/quality.py"
    )
    parser.add_argument("--seed", type=int, default=42, help="of the networks")
    parser.add_argument("--strips", type=int, default=20)
    arguments = parser.parse_args()
    detectors = dict(find_detectors(arguments.runs, arguments.seed))
    scores = {
        (kind, length): score(detectors, shift, length, arguments.strips)
        for kind, shift in SHIFTS.items()
        for length in LENGTHS
    }
    limits = {name: limit_of(scores["constant", 0.0][name]) for name in detectors}
    rates = {
        (name, kind): [
            np.mean([(peaks > limits[name]).sum() for peaks in scores[kind, length][name]])
            for length in LENGTHS
        ]
        for name in detectors
        for kind in SHIFTS
    }
    for kind in SHIFTS:
        print(f"false alarms per strip, {kind} shift in pixels")
        print(
            f"| detector | {' | '.join(f'{length:g}' for length in LENGTHS)} |\n|{' --- |' * (1 + len(LENGTHS))}"
        )
        for name in detectors:
            print(f"| {name} | {' | '.join(f'{rate:.3g}' for rate in rates[name, kind])} |")
    draw(rates, list(detectors))
    print(f"the picture is in {PICTURE}")


def find_detectors(runs: Path, seed: int) -> Iterator[tuple[str, Predictor]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for method in METHODS:
        sigma = choose_sigma(method, {})
        yield (
            baseline_name(method, sigma),
            DetectorPredictor(classical_detector(method, sigma), device),
        )
    for name, run, _, align in NETWORKS:
        for best in (runs / f"{run}_seed{seed}").glob("*_best.pth"):
            content = load_checkpoint(best)
            network = build_network(content, best)
            yield name, TorchPredictor(network, PATCH_SIZES[content["image_type"]], device, align)


def score(
    detectors: dict[str, Predictor], shift: Shift, length: float, count: int
) -> dict[str, list[np.ndarray]]:
    """For each detector the scores of what it detects on `count` good strips."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in detectors}
    for number in tqdm(
        range(count),
        desc=f"{shift.__name__}, {length:g} px",
        unit="strip",
        disable=None,
        leave=False,
    ):
        strip = make_shifted(number, shift, length)
        for name, predictor in detectors.items():
            found[name].append(find_peaks(predictor(strip)).scores)
    return found


def make_shifted(number: int, shift: Shift, length: float) -> np.ndarray:
    """Good strip `number`, (3, H, W) float32 grey levels: the same but for the shift, whatever its
    length.
    """
    generator = np.random.default_rng((SEED, number))
    pattern = draw_pattern(generator, STRIP_SIZE)
    shifts = [np.zeros((STRIP_SIZE[0], 2)), *(shift(generator, length) for _ in range(2))]
    exposures = [draw_exposure(generator, STRIP_SIZE) for _ in shifts]
    seen = (sample_to_sensor(move_rows(pattern, rows), STRIP_SIZE) for rows in shifts)
    return np.stack(
        [
            add_sensor_noise(apply_exposure(plane, exposure), exposure, generator)
            for plane, exposure in zip(seen, exposures)
        ]
    )


def limit_of(scores: list[np.ndarray]) -> float:
    """What a score must exceed so that at most RATE detections per strip do."""
    ordered = np.sort(np.concatenate(scores))[::-1]
    allowed = int(RATE * len(scores))
    return float(ordered[allowed]) if len(ordered) > allowed else -np.inf


def draw(rates: dict[tuple[str, str], list[float]], names: list[str]) -> None:
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    for axis, kind in zip(figure.subplots(1, 2, sharey=True), SHIFTS):
        for name in names:
            is_aligned = any(word in name for word in ("aligned", "registered"))
            axis.plot(
                LENGTHS,
                np.maximum(rates[name, kind], FLOOR),
                marker=".",
                label=name,
                ls="-" if is_aligned else "--",
            )
        axis.set(title=f"{kind} shift", xlabel="shift of the references, pixels", yscale="log")
        axis.axhline(FLOOR, color="0.8", zorder=0)
        axis.grid(alpha=0.3)
    figure.axes[0].set(ylabel=f"false alarms per strip ({FLOOR:g} stands for none)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    with atomic_write(PICTURE) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


if __name__ == "__main__":
    main()
