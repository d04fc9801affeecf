"""Recall of small networks trained alone and taught by a larger one (trainer.py --teacher).

    # half an hour
    python -m benchmarks.distillation --teacher output/quality/aligned_seed42/RUN_best.pth --amp

Students learn the demo strips for 12 epochs, alone and taught, from the same initial weights and
the same samples. Teacher and students are scored on 70 strips like those of the quality suite
(benchmarks/suite), ten of each level, drawn with another seed.

The benchmark may be interrupted at any time: finished trainings stay in --output, and the next call
resumes an unfinished one. With --runs 0 it only shows the finished ones. The table shows recall at
two rates of false alarms per strip. The intervals of 95 % cover the choice of strips, not the
spread between trainings.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.command_line import add_training_flags, make_parser
from benchmarks.detectors import load_predictor
from benchmarks.quality_scores import RATES, format_estimates, pool, score_strip
from benchmarks.suite.levels import LEVELS
from benchmarks.suite.strips import make_suite_strip
from benchmarks.tables import print_header, print_row
from benchmarks.trainings import INTERRUPTED, find_demo_strips, is_finished, train
from common.device import choose_device

SETTINGS = (
    *("--recipe", "robust", "--align", "full", "--bs", 16),
    *("--num_defects_range", 4, 10, "--epochs", 12),
)
STUDENTS = (("difference", 8), ("mobile", 8))  # --arch, --base_channels
STRIPS_SEED = 77_002  # of strips on which nothing was chosen
NUMBERS = range(10)  # strips of a level: any ten in sequence contain equally many defects


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--teacher",
        type=Path,
        required=True,
        help="checkpoint of a network trained with --align full",
    )
    add_training_flags(parser, "distillation", "strips and trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], help="of the trainings")
    arguments = parser.parse_args()
    try:
        print_table({"the teacher": [arguments.teacher]} | train_students(arguments))
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


def train_students(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    """The best checkpoints of each student's finished trainings, by its name in the table.

    Starts at most --runs trainings for those that are not finished.
    """
    folder, rows, runs_left = arguments.output.absolute(), {}, arguments.runs
    folder.mkdir(parents=True, exist_ok=True)
    ways = (("alone", "", ()), ("taught", "_taught", ("--teacher", arguments.teacher.absolute())))
    for arch, base_channels in STUDENTS:
        for way, suffix, more in ways:
            runs = []
            for seed in arguments.seeds:
                run = folder / f"{arch}{base_channels}{suffix}_seed{seed}"
                if not is_finished(run) and runs_left > 0:
                    runs_left -= 1
                    flags = [*SETTINGS, "--arch", arch, "--base_channels", base_channels]
                    flags += ["--seed", seed, *more, *(["--amp"] if arguments.amp else [])]
                    strips = find_demo_strips(folder, ("train",))
                    train(run, strips, flags, log=folder / f"{run.name}.log")
                if is_finished(run):
                    runs.append(next(run.glob("*_best.pth")))
            rows[f"`{arch}`, {base_channels} channels, {way}"] = runs
    return rows


def print_table(rows: dict[str, list[Path]]) -> None:
    """Score the checkpoints of each row and print its mean recalls."""
    print_header("network", "seeds", *(f"recall at {rate:g}" for rate in RATES))
    for name, checkpoints in rows.items():
        tables = [measure_recall(path) for path in checkpoints]
        cells = [
            format_estimates([table[rate] for table in tables]) if tables else "" for rate in RATES
        ]
        print_row(name, len(tables), *cells)


def measure_recall(path: Path) -> dict[float, tuple[float, float, float]]:
    """Recall of a checkpoint, 0-1, with the ends of its interval, for each of RATES."""
    predictor = load_predictor(path, choose_device(None))
    jobs = [(level, number) for level in LEVELS for number in NUMBERS]
    bar = tqdm(jobs, desc=path.parent.name, unit="strip", disable=None)
    return pool(
        [score_strip(predictor, make_suite_strip(*job, 0, STRIPS_SEED)) for job in bar]
    ).table()[0]["recall"]


if __name__ == "__main__":
    sys.exit(main())
