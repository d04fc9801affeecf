"""Recall of each detector at given rates of false alarms, on our suite and on boards of DeepPCB.

    # both groups of levels: three hours of one core
    python -m benchmarks.quality --amp
    # one of them
    python -m benchmarks.quality --groups suite --amp
    # the boards as well: an hour and a half more for each seed
    python -m benchmarks.quality --deeppcb /data/DeepPCB
    # three networks of every recipe
    python -m benchmarks.quality --seeds 42 1 2 --amp

The suite (benchmarks/suite) has two groups of levels, each with tables of its own: `suite` has 140
strips of seven levels, with 1,050 defects and 1,400 distractors, and `hard` 200 strips of ten
harder levels, with 1,500 defects and 2,600 distractors. A detected distractor is a false alarm. A
missing feature, which is in both references and not in Target, counts neither as a hit nor as a
false alarm. The last row of each table, the ceiling, is a matched filter whose references are
registered perfectly (benchmarks/ceiling.py).

Networks are trained on the demo strips, never on the suite, for about 2,000 steps of 16 patches.
Gaussians are chosen on other strips like those of the suite. On DeepPCB a network learns the
templates of one group of boards and is scored on the other groups; every group takes its turn.

The benchmark may be interrupted and started again at any time: --output keeps finished trainings
and scores. With --runs 0 it trains nothing and shows what is finished. The tables show recall at
two rates of false alarms per strip, with intervals of 95 %.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.ceiling import MatchedFilter, score_ceiling
from benchmarks.choices import choose_filters, choose_sigmas
from benchmarks.command_line import add_training_flags, make_parser
from benchmarks.detectors import Predictor, classical_predictors, load_predictor
from benchmarks.quality_scores import (
    RATES,
    ImageScores,
    format_estimates,
    pool,
    print_suite_tables,
    score_board,
    score_strip,
)
from benchmarks.suite.levels import GROUPS, SHOT_COUNT, STRIP_COUNT
from benchmarks.suite.strips import make_suite_strip
from benchmarks.tables import print_header, print_row
from benchmarks.trainings import INTERRUPTED, find_demo_strips, is_finished, train
from common.device import choose_device
from common.files import atomic_write, file_hash
from data.write_images import write_strip
from evaluation.metrics import FrocMetrics
from prepare_dataset import read_grey

# Raise this number when a change of the code changes what a detector scores on the same strip: a
# change of the suite, the demo strips, the alignment, the classical methods, the networks, the
# tiling, the detections or the matching. Scores kept under another version are computed anew.
SCORES_VERSION = 4

SMALL = ("--base_channels", 16, "--bs", 16, "--num_defects_range", 4, 10)
ROBUST = ("--recipe", "robust")
DIFFERENCE = (*ROBUST, "--arch", "difference")
WEIGHTED = (*DIFFERENCE, "--align", "fine", "--weighting", "auto")
# name in the tables, name of the run, further flags of trainer.py, --align while scoring
NETWORKS = (
    ("classic recipe", "classic", (), "none"),
    ("robust recipe", "robust", ROBUST, "none"),
    ("robust, `difference` network", "difference", DIFFERENCE, "none"),
    ("the same, aligned only when it scores", "difference", DIFFERENCE, "full"),
    ("robust, `difference`, trained aligned", "aligned", (*DIFFERENCE, "--align", "full"), "full"),
    ("the flags of train.sh", "auto_weighted", WEIGHTED, "fine"),
)
ON_BOARDS = ("classic", "aligned", "auto_weighted")  # runs that are trained on boards as well
EPOCHS = {"strips": 33, "boards": 40}  # of 61 and 50 steps: about 2,000 steps in all
CEILING = "ceiling: matched filter, perfect references"


def main() -> int:
    parser = make_parser(__doc__)
    add_training_flags(parser, "quality", "strips, trainings and scores")
    parser.add_argument(
        "--deeppcb",
        type=Path,
        help="folder with group*/*/*_temp.jpg; without it there is no table of boards",
    )
    parser.add_argument(
        "--groups", nargs="+", choices=GROUPS, default=list(GROUPS), help="of levels of the suite"
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        nargs="+",
        default=[],
        help="further networks, scored as they were trained",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], help="of the trainings")
    parser.add_argument("--strips", type=int, default=STRIP_COUNT, help="of each level")
    parser.add_argument("--shots", type=int, default=SHOT_COUNT, help="of each strip")
    arguments = parser.parse_args()
    try:
        benchmark = QualityBenchmark(arguments)
        for number, group in enumerate(arguments.groups):
            print(end="\n" if number else "")
            benchmark.print_group(group)
        if arguments.deeppcb:
            benchmark.print_boards()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


class QualityBenchmark:
    """Trains and scores the detectors, keeps their scores in --output and prints the tables."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.folder, self.runs_left = arguments.output.absolute(), arguments.runs
        self.device = choose_device(None)

    def print_group(self, group: str) -> None:
        """Print the tables of a group of levels."""
        rows = {}
        for name, predictor, key in classical_predictors(self.find_sigmas(group), self.device):
            rows[name] = [self.score_group(group, key, predictor)]
        for name, run, flags, align in NETWORKS:
            networks = [
                self.find_network(
                    f"{run}_seed{seed}", flags, align, seed, self.find_strips, "strips"
                )
                for seed in self.arguments.seeds
            ]
            rows[name] = [
                self.score_group(group, key, predictor) for predictor, key in filter(None, networks)
            ]
        for path in self.arguments.checkpoints:
            key = f"checkpoint_{file_hash(path)[:16]}"
            rows[str(path)] = [self.score_group(group, key, load_predictor(path, self.device))]
        rows[CEILING] = [self.score_ceiling(group)]
        print_suite_tables({name: scores for name, scores in rows.items() if scores}, group)

    def print_boards(self) -> None:
        """Print the table of DeepPCB. Exits where --deeppcb has fewer than two groups."""
        groups = sorted({path.parent for path in self.arguments.deeppcb.rglob("*_temp.jpg")})
        if len(groups) < 2:
            found = f"found {len(groups)} groups of boards, expected two or more"
            sys.exit(f"error: {self.arguments.deeppcb}: {found}")
        rows: dict[str, list[FrocMetrics]] = {}
        sigmas = self.find_sigmas("suite")
        for trained in groups:
            others = [group for group in groups if group != trained]
            for name, predictor, key in classical_predictors(sigmas, self.device):
                rows.setdefault(name, []).append(
                    self.score_boards(f"{key}_not_{trained.name}", predictor, others)
                )
            for name, run, flags, align in NETWORKS:
                for seed in self.arguments.seeds if run in ON_BOARDS else ():
                    network = self.find_network(
                        f"boards{trained.name}_{run}_seed{seed}",
                        flags,
                        align,
                        seed,
                        lambda group=trained: self.write_templates(group),
                        "boards",
                    )
                    if network:
                        predictor, key = network
                        rows.setdefault(name, []).append(self.score_boards(key, predictor, others))
        boards = sum(metrics.strips for metrics in next(iter(rows.values())))
        defects = sum(metrics.truths for metrics in next(iter(rows.values())))
        counts = f"{boards} boards with {defects} annotated defects"
        print(f"\nDeepPCB: {counts}; mean over {len(groups)} directions")
        print_header("detector", *(f"{rate:g}" for rate in RATES))
        for name, directions in rows.items():
            tables = [metrics.table()[0]["recall"] for metrics in directions]
            print_row(
                name, *(format_estimates([table[rate] for table in tables]) for rate in RATES)
            )

    def find_sigmas(self, group: str) -> dict[str, float]:
        """Sigma of each method's Gaussian in pixels, kept or chosen."""
        return self.load_or_compute(
            self.name_of(group, "gaussians"), lambda: choose_sigmas(group, self.device)
        )

    def name_of(self, group: str, content: str) -> str:
        """The name under which a choice for a group is kept."""
        return content if group == "suite" else f"{content}_{group}"

    def find_network(
        self,
        name: str,
        flags: tuple[str, ...],
        align: str,
        seed: int,
        strips: Callable[[], Path],
        kind: str,
    ) -> tuple[Predictor, str] | None:
        """The predictor of a trained network, and a key for its scores.

        Trains the network where its run is not finished. Returns None instead once this call of the
        benchmark has started --runs trainings.

        Args:
            name: of the run's folder.
            flags: further flags of trainer.py.
            align: --align while scoring.
            seed: --seed of the training.
            strips: makes the training strips and returns their folder.
            kind: `strips` or `boards`.
        """
        run = self.folder / name
        if not is_finished(run):
            if self.runs_left <= 0:
                return None
            self.runs_left -= 1
            train(run, strips(), [*SMALL, *flags, *self.training_flags(seed, kind)])
        (best,) = run.glob("*_best.pth")
        key = f"{name}_{align}_{file_hash(best)[:12]}"
        return load_predictor(best, self.device, align), key

    def training_flags(self, seed: int, kind: str) -> list[object]:
        """The flags of trainer.py that depend on the seed, the training strips and --amp."""
        files = ["--img_format", "png_jpg", "--cache_size", 100] if kind == "boards" else []
        amp = ["--amp"] if self.arguments.amp else []
        return ["--seed", seed, "--epochs", EPOCHS[kind], *files, *amp]

    def find_strips(self) -> Path:
        """The folder of demo strips to train on."""
        return find_demo_strips(self.folder, ("train",))

    def write_templates(self, group: Path) -> Path:
        """Write the templates of a group as strips of three equal channels; returns the folder."""
        folder = self.folder / f"boards{group.name}" / "train" / "good"
        for path in sorted(group.glob("*_temp.jpg")):
            if not (folder / f"{path.stem}.png").exists():
                write_strip(folder / f"{path.stem}.png", np.stack([read_grey(path)] * 3))
        return folder

    def score_group(self, group: str, key: str, predictor: Predictor) -> list[ImageScores]:
        """The scores of a detector on every shot of every strip of a group of levels."""
        return self.score_jobs(
            group, key, lambda *job: score_strip(predictor, make_suite_strip(*job))
        )

    def score_ceiling(self, group: str) -> list[ImageScores]:
        """The scores of the filters whose references are registered perfectly."""
        kept = self.load_or_compute(self.name_of(group, "ceiling"), lambda: choose_filters(group))
        filters = {level: MatchedFilter(**values) for level, values in kept.items()}
        return self.score_jobs(
            group, "ceiling", lambda level, *job: score_ceiling(filters[level], level, *job)
        )

    def score_jobs(
        self, group: str, key: str, score: Callable[[str, int, int], ImageScores]
    ) -> list[ImageScores]:
        """What `score` gives for level, number and shot of every shot of a group's strips."""
        strips, shots = self.arguments.strips, self.arguments.shots
        jobs = [
            (level, number, shot)
            for level in GROUPS[group]
            for number in range(strips)
            for shot in range(shots)
        ]
        return self.load_or_compute(
            f"{group}_{strips}x{shots}_{key}",
            lambda: [score(*job) for job in tqdm(jobs, desc=key, unit="strip", disable=None)],
        )

    def score_boards(self, key: str, predictor: Predictor, groups: list[Path]) -> FrocMetrics:
        """The metrics of a detector on all boards of some groups."""
        boards = [path for group in groups for path in sorted(group.glob("*_temp.jpg"))]

        def score() -> list[ImageScores]:
            return [
                score_board(predictor, path)
                for path in tqdm(boards, desc=key, unit="board", disable=None)
            ]

        return pool(self.load_or_compute(f"boards_{key}", score))

    def load_or_compute(self, name: str, compute: Callable[[], object]) -> object:
        """The value kept in --output under a name and SCORES_VERSION; computed where it is missing.

        The value is returned as JSON reads it back, e.g. with lists for tuples, in either case.
        """
        path = self.folder / "scores" / f"{name}_v{SCORES_VERSION}.json"
        if not path.exists():
            content = compute()
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(content))
        return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
