"""What a small network finds alone, and what it finds when a larger one has taught it (trainer.py
--teacher).

    python -m benchmarks.distillation --teacher output/quality/aligned_seed42/RUN_best.pth --amp     # half an hour

Students learn the demo strips for 12 epochs, alone and taught, from the same first weights and the
same samples. All are scored on 70 strips of the quality suite's kind (benchmarks/suite.py) with a
seed of their own, ten of each level. Finished trainings are kept in --output, and unfinished ones
go on: interrupt it at will; with --runs 0 it shows what is there. Figures are recalls at so many
false alarms per strip, with intervals at 95 %: over strips, not over what another training would
have given.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.quality import is_finished
from benchmarks.quality_scores import RATES, pool, score_strip, with_interval
from benchmarks.suite import LEVELS, make_suite_strip
from benchmarks.trainings import INTERRUPTED, ROOT, demo_strips, train
from evaluation.predictors import TorchPredictor
from ops.tiling import PATCH_SIZES
from training.checkpoint import build_network, load_checkpoint

SETTINGS = (
    "--recipe",
    "robust",
    "--align",
    "full",
    "--bs",
    16,
    "--num_defects_range",
    4,
    10,
    "--epochs",
    12,
)
STUDENTS = (("difference", 8), ("mobile", 8))  # --arch, --base_channels
STRIPS_SEED = 77_002  # nothing was chosen on these strips
NUMBERS = range(10)  # strips of a level: ten have as many defects as any other ten


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        required=True,
        help="checkpoint of a network trained with --align full",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "output" / "distillation",
        help="folder for strips and trainings",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--amp", action="store_true", help="train in bfloat16")
    parser.add_argument(
        "--runs", type=int, default=1000, help="at most so many trainings this time"
    )
    arguments = parser.parse_args()
    try:
        rows = {name: [best for best in runs if best] for name, runs in students(arguments).items()}
        print_table({"the teacher": [arguments.teacher]} | rows)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


def students(arguments: argparse.Namespace) -> dict[str, list[Path | None]]:
    """The best checkpoints of each student by its name in the table, one for each seed; None for
    those not trained yet.
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
                    flags = [
                        "--arch",
                        arch,
                        "--base_channels",
                        base_channels,
                        "--seed",
                        seed,
                        *more,
                    ]
                    amp = ["--amp"] if arguments.amp else []
                    train(
                        run,
                        demo_strips(folder, ("train",)),
                        [*SETTINGS, *flags, *amp],
                        log=folder / f"{run.name}.log",
                    )
                runs.append(next(run.glob("*_best.pth")) if is_finished(run) else None)
            rows[f"`{arch}`, {base_channels} channels, {way}"] = runs
    return rows


def print_table(rows: dict[str, list[Path]]) -> None:
    print("| network | seeds | " + " | ".join(f"recall at {rate:g}" for rate in RATES) + " |")
    print(f"|{' --- |' * (2 + len(RATES))}")
    for name, checkpoints in rows.items():
        tables = [recalls(path) for path in checkpoints]
        cells = [
            with_interval([table[rate] for table in tables]) if tables else "" for rate in RATES
        ]
        print(f"| {name} | {len(tables)} | {' | '.join(cells)} |")


def recalls(path: Path) -> dict[float, tuple[float, float, float]]:
    """For each rate the recall with its interval."""
    content = load_checkpoint(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictor = TorchPredictor(
        build_network(content, path), PATCH_SIZES[content["image_type"]], device, content["align"]
    )
    jobs = [(level, number) for level in LEVELS for number in NUMBERS]
    bar = tqdm(jobs, desc=path.parent.name, unit="strip", disable=None)
    return pool(
        [score_strip(predictor, make_suite_strip(*job, 0, STRIPS_SEED)) for job in bar]
    ).table()[0]["recall"]


if __name__ == "__main__":
    sys.exit(main())
