"""How well the defect classifier tells kinds and finds masks, one thing changed at a time.

    # one seed of architectures, guidance and weights
    python -m benchmarks.classifier --quick
    # three seeds, two trainings at a time: half an hour of two cores
    python -m benchmarks.classifier --jobs 2
    # further losses and backbones, masks for a part, fewer images, a kind that training lacked
    python -m benchmarks.classifier --all
    # kinds of defects on real boards, trained on one group and tested on the other
    python -m benchmarks.classifier --rows --deeppcb DeepPCB/PCBData
    # some rows alone, by the beginnings of their names
    python -m benchmarks.classifier --rows recommended trees
    # what a review of the strip detector's detections brings, with the flags of benchmarks.review
    python -m benchmarks.classifier --review --model_path checkpoints/RUN_best.pth

The images are those of `prepare_defect_data.py dummy`: 1,000 to train, 400 to validate, 1,000 to
test, half of each good. Each row of benchmarks/classifier_rows.py is trained by the tool's own
command, and its best checkpoint by balanced accuracy on valid/ is measured on test/. The
recommended row has the command's defaults; all others are short trainings, which are compared with
the base row. IoU and Dice are means over the defective images. Cells have the mean over the seeds,
with the lowest and the highest. The last column is the gain in balanced accuracy over the base row
of the same seed.

The benchmark may be interrupted and started again at any time: --output keeps trainings and
results. With --runs 0 it shows what is finished.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks import review
from benchmarks.classifier_data import boards, dummy_set, part_of
from benchmarks.classifier_rows import (
    BASE,
    BOARD_FLAGS,
    BOARD_ROWS,
    DEFAULTS,
    LEAST_BOARDS,
    LEAST_TEMPLATE_GAIN,
    LEFT_OUT,
    RECOMMENDED,
    ROWS,
    SHORT,
    TABLES,
    TINY,
    TREES,
    WEIGHTS,
    Row,
)
from benchmarks.classifier_runs import Result, score_run, score_trees, score_unknown, train_once
from benchmarks.classifier_tables import print_asked, print_recommended
from benchmarks.command_line import ROOT, digest, make_parser
from benchmarks.tables import format_seeds, print_header, print_row
from benchmarks.trainings import INTERRUPTED
from classifier.dummy_set import DEFECTS
from classifier.metrics import balanced_accuracy
from common.errors import run_command
from common.files import atomic_write
from ops.efficientnet_lite0 import find_weights

# Raise this number when a change of the code changes what a row scores.
VERSION = 4
SEEDS = (42, 1, 2)
REVIEW = "--review"
FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "image_auroc": "good/bad AUROC",
    "iou": "IoU",
    "dice": "Dice",
    "good_masked": "good ones masked",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line (None: that of the process)."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=ROOT / "output" / "classifier_benchmark",
        help="folder for data sets, trainings and results",
    )
    add("--quick", action="store_true", help="one seed")
    add("--all", action="store_true", help="all tables")
    add("--seeds", type=int, nargs="+", help=f"of the trainings; default: {SEEDS}")
    add("--data_seed", type=int, default=42, help="of the images; settings are chosen on others")
    add("--rows", nargs="*", help="beginnings of the names of rows; default: those of the tables")
    add("--deeppcb", type=Path, help="PCBData folder of DeepPCB")
    add("--runs", type=int, default=1000, help="largest number of results to compute this time")
    add("--jobs", type=int, default=1, help="rows of the dummy set to compute at a time")
    add(REVIEW, action="store_true", help="run benchmarks.review, with its flags, in place of this")
    add("--tiny", action="store_true", help="all as small as a test needs")
    parsed = parser.parse_args(arguments)
    parsed.seeds = parsed.seeds or list(SEEDS[:1] if parsed.quick else SEEDS)
    return parsed


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if REVIEW in words:
        return review.main([word for word in words if word != REVIEW])
    parsed = parse_args(words)
    benchmark = ClassifierBenchmark(parsed)
    try:
        if parsed.rows != []:
            benchmark.print_dummy()
        if parsed.deeppcb:
            benchmark.print_boards()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


class ClassifierBenchmark:
    """Computes the results, keeps them and prints the tables."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.folder = arguments, arguments.output.absolute()
        self.runs_left = arguments.runs

    def print_dummy(self) -> None:
        """Print all tables of the dummy set."""
        if self.arguments.jobs > 1:
            self.compute_at_once()
        results: dict[str, list[Result]] = {}
        for table, title in TABLES.items():
            rows = [row for row in ROWS if row.table == table and self.is_asked(row)]
            if not rows:
                continue
            print(f"\n{title}; seeds {', '.join(map(str, self.arguments.seeds))}")
            print_header("row", *FIGURES.values(), "CPU minutes", "gain")
            for row in rows:
                found = {
                    seed: one for seed in self.arguments.seeds if (one := self.find(row, seed))
                }
                if found:
                    results[row.name] = list(found.values())
                    self.print_line(row, found)
        if RECOMMENDED in results:
            print_recommended(results[RECOMMENDED])
        if self.arguments.all and self.is_named(LEFT_OUT):
            self.print_unknown()

    def compute_at_once(self) -> None:
        """Compute the results of the rows, --jobs at a time, each in a process with one thread.

        Those of another row's training wait for it.
        """
        rows = [row for row in ROWS if self.is_asked(row) and not row.averages_flips]
        for row in rows:  # before two processes make the same one
            self.part(row.images, row.masked)
        jobs = [(row, seed) for row in rows for seed in self.arguments.seeds]
        missing = [job for job in jobs if not self.find(*job, is_kept=True)]
        with get_context("spawn").Pool(self.arguments.jobs, torch.set_num_threads, (1,)) as pool:
            run = partial(_compute, self.arguments)
            for _ in pool.imap(run, missing[: self.runs_left], chunksize=1):
                self.runs_left -= 1

    def print_line(self, row: Row, found: dict[int, Result]) -> None:
        """Print a row's line of its table."""
        cells = [format_seeds([one.get(name) for one in found.values()]) for name in FIGURES]
        minutes = [one["cpu_seconds"] / 60 for one in found.values() if one["cpu_seconds"]]
        base = {seed: self.find(_row(BASE), seed, is_kept=True) for seed in found}
        gains = [
            one["balanced_accuracy"] - base[seed]["balanced_accuracy"]
            for seed, one in found.items()
            if base[seed] and row.table != DEFAULTS and row.name != BASE
        ]
        shown = format_seeds(gains, "+.3f")
        print_row(row.name, *cells, f"{np.mean(minutes):.1f}" if minutes else "-", shown)

    def print_unknown(self) -> None:
        """Print how well a kind that training lacked is told from what it had."""
        print(f"\n{LEFT_OUT}: told by the distance to the training's images")
        print_header("kind", "AUROC against all others", "AUROC against defects", "called unknown")
        for kind in DEFECTS:
            found = [one for seed in self.arguments.seeds if (one := self.find_unknown(kind, seed))]
            if found:
                names = ("auroc", "auroc_defects", "called_unknown")
                print_row(kind, *(format_seeds([one[name] for one in found]) for name in names))

    def print_boards(self) -> None:
        """Print the table of DeepPCB: the kinds of defects, tested on the other group."""
        groups = sorted({path.parent.name for path in self.arguments.deeppcb.rglob("*_temp.jpg")})
        print(f"\nDeepPCB: balanced accuracy over six kinds, tested on each group of {len(groups)}")
        print_header("row", *groups, "pooled")
        pooled: dict[str, list[float]] = {}
        for name, has_template, flags in BOARD_ROWS:
            found = [
                [self.find_boards(group, has_template, flags, seed) for group in groups]
                for seed in self.arguments.seeds
            ]
            found = [of_seed for of_seed in found if all(of_seed)]
            if not found:
                continue
            pooled[name] = [
                balanced_accuracy(sum(np.array(one["confusion"]) for one in of_seed))
                for of_seed in found
            ]
            each = [[one["balanced_accuracy"] for one in of_group] for of_group in zip(*found)]
            print_row(name, *map(format_seeds, each), format_seeds(pooled[name]))
        both, alone = (pooled.get(name) for name, *_ in BOARD_ROWS[:2])
        if both and alone:
            print()
            print_header("asked", "found", "kept")
            print_asked(f"pooled at least {LEAST_BOARDS:g}", np.mean(both), LEAST_BOARDS)
            gain = np.mean(both) - np.mean(alone)
            print_asked(f"template worth {LEAST_TEMPLATE_GAIN:g}", gain, LEAST_TEMPLATE_GAIN)

    def is_asked(self, row: Row) -> bool:
        """Whether a row is among --rows or in the tables, and has what it needs."""
        if not self.is_named(row.name):
            return False
        is_short = self.arguments.rows is None and not self.arguments.all
        if is_short and row.table not in (DEFAULTS, WEIGHTS):
            return False
        return not row.needs_lite0 or find_weights() is not None

    def is_named(self, name: str) -> bool:
        """Whether a row's name begins like one of --rows, or there are none."""
        return self.arguments.rows is None or name.startswith(tuple(self.arguments.rows))

    def find(self, row: Row, seed: int, is_kept: bool = False) -> Result | None:
        """What a row scores, kept or computed; None where --runs are used up.

        With `is_kept` only a result that is kept counts.
        """
        is_trees = row.name == TREES
        setting = [row.training_flags, row.images, row.masked, is_trees, self.arguments.tiny]
        key = digest([*setting, "flips"] if row.averages_flips else setting)

        def compute() -> Result:
            root = self.part(images=row.images, masked=row.masked)
            if row.name == TREES:
                return score_trees(root)
            run = self.train(root, row.training_flags, seed)
            return score_run(run, root, row.averages_flips)

        return self.load_or_compute(f"{key}_seed{seed}", compute, is_kept)

    def find_unknown(self, kind: str, seed: int) -> Result | None:
        """What the distance says of a kind that the training lacked."""

        def compute() -> Result:
            root = self.part(without=kind)
            return score_unknown(self.train(root, SHORT, seed), root, kind)

        return self.load_or_compute(f"unknown_{kind}_{self.arguments.tiny}_seed{seed}", compute)

    def find_boards(
        self, group: str, has_template: bool, flags: tuple[object, ...], seed: int
    ) -> Result | None:
        """What a training on the other groups of DeepPCB says of one group."""

        def compute() -> Result:
            root = boards(self.arguments.deeppcb, self.folder, group, has_template)
            return score_run(self.train(root, (*BOARD_FLAGS, *flags), seed), root)

        key = digest([group, has_template, BOARD_FLAGS, flags, self.arguments.tiny])
        return self.load_or_compute(f"boards_{key}_seed{seed}", compute)

    def part(
        self, images: int | None = None, masked: float = 1.0, without: str | None = None
    ) -> Path:
        """The dummy set, or a part of it."""
        root = dummy_set(self.folder, self.arguments.data_seed, self.arguments.tiny)
        return part_of(root, self.folder, images, masked, without)

    def train(self, root: Path, flags: tuple[object, ...], seed: int) -> Path:
        """The folder of a finished training of this VERSION, whose defaults flags do not name."""
        words = [*flags, *(TINY if self.arguments.tiny else ())]
        return train_once(self.folder / f"trainings_v{VERSION}", root, words, seed)

    def load_or_compute(
        self, name: str, compute: Callable[[], Result], is_kept: bool = False
    ) -> Result | None:
        """The result kept under a name and VERSION; computed where it is missing."""
        folder = self.folder / f"results_seed{self.arguments.data_seed}"
        path = folder / f"{name}_v{VERSION}.json"
        if not path.exists():
            if is_kept or self.runs_left <= 0:
                return None
            self.runs_left -= 1
            content = compute()
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(content))
        return json.loads(path.read_text())


def _compute(arguments: argparse.Namespace, job: tuple[Row, int]) -> None:
    ClassifierBenchmark(arguments).find(*job)


def _row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


if __name__ == "__main__":
    sys.exit(run_command(main))
