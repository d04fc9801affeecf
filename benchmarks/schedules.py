"""Metrics of the small preset with each gamma schedule and with other values of alpha.

    python -m benchmarks.schedules                         # 21 trainings: 2 hours on two cores
    python -m benchmarks.schedules --amp                   # 70 minutes, where the CPU has bfloat16

Each variant is trained on the demo strips with three seeds. The benchmark may be interrupted and
started again at any time: --output keeps finished runs, and the next call resumes an unfinished
one. The table covers the finished runs; with --runs 0 it is all that the benchmark does.

The metrics are those of the best checkpoint on the 80 test strips: mean and sample standard
deviation over the seeds. The data set has no valid/, so that each epoch is validated on six strips
instead of sixty.
"""

import json
import statistics
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.command_line import add_training_flags, make_parser
from benchmarks.tables import print_header, print_row
from benchmarks.trainings import INTERRUPTED, find_demo_strips, train

SMALL_PRESET = ("--base_channels", 16, "--epochs", 10, "--num_defects_range", 4, 10)
SEEDS = (42, 1, 2)
VARIANTS = {  # name of the run: --gamma_schedule, --alpha
    "gamma_cosine": ("cosine", 0.75),  # the preset
    "gamma_linear": ("linear", 0.75),
    "gamma_exponential": ("exponential", 0.75),
    "gamma_constant": ("constant", 0.75),
    "alpha_0.25": ("cosine", 0.25),
    "alpha_0.5": ("cosine", 0.5),
    "alpha_0.9": ("cosine", 0.9),
}
METRICS = ("pixel_average_precision", "pixel_auroc", "image_average_precision", "image_auroc")


def main() -> int:
    parser = make_parser(__doc__)
    add_training_flags(parser, "schedules", "strips and runs", runs=len(VARIANTS) * len(SEEDS))
    arguments = parser.parse_args()
    folder = arguments.output.absolute()
    wanted = [
        (name, seed)
        for seed in SEEDS
        for name in VARIANTS
        if read_metrics(folder, name, seed) is None
    ][: arguments.runs]
    try:
        strips = find_demo_strips(folder, ("train", "test", "ground_truth")) if wanted else None
        for name, seed in tqdm(wanted, unit="run", disable=None):
            run, flags = run_folder(folder, name, seed), training_flags(name, seed, arguments.amp)
            train(run, strips, flags, log=folder / f"{run.name}.log")
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    print_table(folder)
    return 0


def training_flags(name: str, seed: int, amp: bool) -> list[object]:
    """The flags of trainer.py for one of VARIANTS."""
    schedule, alpha = VARIANTS[name]
    variant = ["--seed", seed, "--gamma_schedule", schedule, "--alpha", alpha]
    return [*SMALL_PRESET, *variant, *(["--amp"] if amp else [])]


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """The folder of a variant's run."""
    return folder / f"{name}_seed{seed}"


def read_metrics(folder: Path, name: str, seed: int) -> dict[str, float] | None:
    """The metrics of a finished run on the test strips; None for an unfinished one."""
    (*summaries,) = run_folder(folder, name, seed).glob("*_test/metrics.json")
    return json.loads(summaries[0].read_text()) if summaries else None


def print_table(folder: Path) -> None:
    """Print the table of the finished runs in a folder."""
    print_header("gamma", "alpha", "seeds", *(metric.replace("_", " ") for metric in METRICS))
    for name, (schedule, alpha) in VARIANTS.items():
        runs = [metrics for seed in SEEDS if (metrics := read_metrics(folder, name, seed))]
        columns = [format_spread([run[metric] for run in runs]) for metric in METRICS]
        print_row(schedule, alpha, len(runs), *columns)


def format_spread(values: list[float]) -> str:
    """Mean and sample standard deviation; the value alone where there is only one."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    sys.exit(main())
