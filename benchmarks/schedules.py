"""The small preset with every gamma schedule and with other values of alpha, three seeds each, on
the demo strips.

    python -m benchmarks.schedules                         # 21 trainings: 2 hours on two cores
    python -m benchmarks.schedules --amp                   # 70 minutes, where the CPU has bfloat16

Finished runs are kept in --output and not repeated, and an unfinished one is resumed: interrupt it
and start it again at will. The table is of what is finished, so with --runs 0 it only looks.
Figures are of the best checkpoint on the 80 test strips: mean and sample standard deviation over
the seeds. There is no valid/: then six strips, not sixty, are validated on after each epoch.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.trainings import INTERRUPTED, ROOT, demo_strips, train

SMALL_PRESET = ("--base_channels", 16, "--epochs", 10, "--num_defects_range", 4, 10)
SEEDS = (42, 1, 2)
VARIANTS = {
    "gamma_cosine": ("cosine", 0.75),  # the preset
    "gamma_linear": ("linear", 0.75),
    "gamma_exponential": ("exponential", 0.75),
    "gamma_constant": ("constant", 0.75),
    "alpha_0.25": ("cosine", 0.25),
    "alpha_0.5": ("cosine", 0.5),
    "alpha_0.9": ("cosine", 0.9),
}
FIGURES = ("pixel_average_precision", "pixel_auroc", "image_average_precision", "image_auroc")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "output" / "schedules",
        help="folder for the strips and all runs",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=len(VARIANTS) * len(SEEDS),
        help="at most so many trainings this time",
    )
    parser.add_argument("--amp", action="store_true", help="train in bfloat16")
    arguments = parser.parse_args()
    folder = arguments.output.absolute()
    wanted = [
        (name, seed)
        for seed in SEEDS
        for name in VARIANTS
        if figures_of(folder, name, seed) is None
    ][: arguments.runs]
    try:
        strips = demo_strips(folder, ("train", "test", "ground_truth")) if wanted else None
        for name, seed in tqdm(wanted, unit="run", disable=None):
            flags = flags_of(name, seed, arguments.amp)
            train(
                run_folder(folder, name, seed), strips, flags, log=folder / f"{name}_seed{seed}.log"
            )
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    print_table(folder)
    return 0


def flags_of(name: str, seed: int, amp: bool) -> list[object]:
    schedule, alpha = VARIANTS[name]
    return [
        *SMALL_PRESET,
        "--seed",
        seed,
        "--gamma_schedule",
        schedule,
        "--alpha",
        alpha,
        *(["--amp"] if amp else []),
    ]


def run_folder(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}_seed{seed}"


def figures_of(folder: Path, name: str, seed: int) -> dict[str, float] | None:
    """The figures of a finished run, None of another one."""
    (*summaries,) = run_folder(folder, name, seed).glob("*_test/metrics.json")
    return json.loads(summaries[0].read_text()) if summaries else None


def print_table(folder: Path) -> None:
    print(
        f"| gamma | alpha | seeds | {' | '.join(figure.replace('_', ' ') for figure in FIGURES)} |"
    )
    print(f"|{' --- |' * (3 + len(FIGURES))}")
    for name, (schedule, alpha) in VARIANTS.items():
        runs = [figures for seed in SEEDS if (figures := figures_of(folder, name, seed))]
        columns = [with_spread([run[figure] for run in runs]) for figure in FIGURES]
        print(f"| {schedule} | {alpha} | {len(runs)} | {' | '.join(columns)} |")


def with_spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    sys.exit(main())
