"""False alarms of each detector against the shift of the references.

    # after benchmarks/quality.py; ten minutes on two cores
    python -m benchmarks.shifts --runs output/quality --seed 42

The strips are good ones with the demo patterns; none is in the suite or in the training. In the
first table each reference is shifted by the same length in a random direction. In the second one
the shift along y wanders between plus and minus that length, and that along x by a third of it.
Each detector's threshold gives one false alarm in ten strips where nothing is shifted. The
benchmark also draws docs/pictures/shifts.png.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.command_line import ROOT, make_parser
from benchmarks.detectors import Predictor, classical_predictors, load_predictor
from benchmarks.quality import NETWORKS
from benchmarks.suite.displacement import draw_wander, move_rows
from benchmarks.tables import print_header, print_row
from common.device import choose_device
from common.files import atomic_write
from data.demo_strips import (
    STRIP_SIZE,
    Family,
    add_sensor_noise,
    apply_exposure,
    draw_exposure,
    draw_pattern,
    sample_to_sensor,
)
from evaluation.detections import find_peaks

SEED = 5_150_901  # of these strips; no training, suite or calibration uses it
LENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of the shifts, pixels
RATE = 0.1  # false alarms per strip where nothing is shifted
# of a wandering shift, along x: an uneven speed of the strip moves rows, not columns
SHARE_X = 1 / 3
FLOOR = 0.03  # false alarms per strip at which the logarithmic picture shows a rate of zero
PICTURE = ROOT / "docs" / "pictures" / "shifts.png"

# from a generator and a length in pixels to the shift (y, x) of each row, (H, 2) in pixels
Shift = Callable[[np.random.Generator, float], np.ndarray]


def constant(generator: np.random.Generator, length: float) -> np.ndarray:
    """The same shift for all rows, in a random direction."""
    angle = generator.uniform(0, 2 * np.pi)
    return np.tile([length * np.sin(angle), length * np.cos(angle)], (STRIP_SIZE[0], 1))


def wandering(generator: np.random.Generator, length: float) -> np.ndarray:
    """A smooth shift between plus and minus `length` along y, and SHARE_X of that along x."""
    along_y, along_x = (draw_wander(generator, STRIP_SIZE[0]) for _ in range(2))
    return length * np.stack([along_y, SHARE_X * along_x], axis=1)


SHIFTS: dict[str, Shift] = {"constant": constant, "wandering": wandering}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--runs", type=Path, required=True, help="folder that benchmarks/quality.py had as --output"
    )
    parser.add_argument("--seed", type=int, default=42, help="of the networks")
    parser.add_argument("--strips", type=int, default=20, help="for each length and kind of shift")
    arguments = parser.parse_args()
    detectors = dict(find_detectors(arguments.runs, arguments.seed))
    scores = {
        (kind, length): score(detectors, shift, length, arguments.strips)
        for kind, shift in SHIFTS.items()
        for length in LENGTHS
    }
    limits = {name: choose_limit(scores["constant", 0.0][name]) for name in detectors}
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
        print_header("detector", *(f"{length:g}" for length in LENGTHS))
        for name in detectors:
            print_row(name, *(f"{rate:.3g}" for rate in rates[name, kind]))
    draw(rates, list(detectors))
    print(f"the picture is in {PICTURE}")


def find_detectors(runs: Path, seed: int) -> Iterator[tuple[str, Predictor]]:
    """The classical methods, and those NETWORKS whose runs lie in a folder, by their names."""
    device = choose_device(None)
    for name, predictor, _ in classical_predictors({}, device):
        yield name, predictor
    for name, run, _, align in NETWORKS:
        for best in (runs / f"{run}_seed{seed}").glob("*_best.pth"):
            yield name, load_predictor(best, device, align)


def score(
    detectors: dict[str, Predictor], shift: Shift, length: float, count: int
) -> dict[str, list[np.ndarray]]:
    """For each detector the scores of its detections on each of `count` good strips."""
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


def make_shifted(
    number: int, shift: Shift, length: float, families: tuple[Family, ...] | None = None
) -> np.ndarray:
    """Good strip `number`, (3, H, W) float32 in grey levels, of the given families of patterns.

    Only the shift of the references differs between lengths: pattern, exposure and noise are equal.
    """
    return make_shifted_and_shifts(number, shift, length, families)[0]


def make_shifted_and_shifts(
    number: int, shift: Shift, length: float, families: tuple[Family, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `make_shifted`, and the shift (y, x) of each row of both references, (2, H, 2)."""
    generator = np.random.default_rng((SEED, number))
    pattern = draw_pattern(generator, STRIP_SIZE, families)
    shifts = [np.zeros((STRIP_SIZE[0], 2)), *(shift(generator, length) for _ in range(2))]
    exposures = [draw_exposure(generator, STRIP_SIZE) for _ in shifts]
    seen = (sample_to_sensor(move_rows(pattern, rows), STRIP_SIZE) for rows in shifts)
    channels = [
        add_sensor_noise(apply_exposure(plane, exposure), exposure, generator)
        for plane, exposure in zip(seen, exposures)
    ]
    return np.stack(channels), np.stack(shifts[1:])


def choose_limit(scores: list[np.ndarray]) -> float:
    """The lowest threshold that at most RATE detections per strip exceed."""
    ordered = np.sort(np.concatenate(scores))[::-1]
    allowed = int(RATE * len(scores))
    return float(ordered[allowed]) if len(ordered) > allowed else -np.inf


def draw(rates: dict[tuple[str, str], list[float]], names: list[str]) -> None:
    """Draw PICTURE: `rates` of false alarms for each of LENGTHS, by detector and kind of shift."""
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
