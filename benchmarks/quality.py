"""What each detector finds at how many false alarms: on a suite of our own, and on real boards of
DeepPCB.

    python -m benchmarks.quality --amp                         # the suite: two hours of one core
    python -m benchmarks.quality --deeppcb /data/DeepPCB       # and the boards: an hour more for each seed
    python -m benchmarks.quality --seeds 42 1 2 --amp          # three networks of every recipe

The suite (benchmarks/suite.py) has 140 strips of seven levels, with 1,050 defects and 1,400
distractors. A detected distractor is a false alarm; a missing feature, which is in both references
and not in Target, is neither hit nor false alarm. Networks are trained on the demo strips, never on
the suite, for about 2,000 steps of 16 patches; Gaussians are chosen on other strips of the suite's
kind. On DeepPCB a network learns the templates of one group of boards and is scored on the others,
every group in turn. Finished trainings and scorings are kept in --output: interrupt it and start it
again at will; with --runs 0 it trains nothing and shows what is there. Figures are recalls at so
many false alarms per strip, with intervals at 95 %.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.quality_scores import (
    RATES,
    Predictor,
    Scored,
    pool,
    print_suite_tables,
    score_board,
    score_strip,
    with_interval,
)
from benchmarks.suite import LEVELS, SHOT_COUNT, STRIP_COUNT, make_suite_strip
from benchmarks.trainings import INTERRUPTED, ROOT, demo_strips, train
from common.files import atomic_write, file_hash
from data.registered_copies import ALIGNED_BY
from evaluation.metrics import FrocMetrics
from evaluation.predictors import DetectorPredictor, TorchPredictor
from ops.classical import METHODS, baseline_name, choose_sigma, classical_detector
from ops.tiling import PATCH_SIZES
from prepare_dataset import read_grey, write_strip
from training.checkpoint import build_network, load_checkpoint

SMALL = ("--base_channels", 16, "--bs", 16, "--num_defects_range", 4, 10)
ROBUST = ("--recipe", "robust")
DIFFERENCE = (*ROBUST, "--arch", "difference")
# name in the tables, name of the run, further flags of trainer.py, --align when it scores
NETWORKS = (
    ("classic recipe", "classic", (), "none"),
    ("robust recipe", "robust", ROBUST, "none"),
    ("robust, `difference` network", "difference", DIFFERENCE, "none"),
    ("the same, aligned only when it scores", "difference", DIFFERENCE, "full"),
    ("robust, `difference`, trained aligned", "aligned", (*DIFFERENCE, "--align", "full"), "full"),
)
ON_BOARDS = ("classic", "aligned")  # runs that learn boards, too
EPOCHS = {"strips": 33, "boards": 40}  # 61 and 50 steps each: about 2,000 in all
# strips to choose Gaussians on; of each level with one defect and with many
CHOICE_SEED, CHOICE_STRIPS = 77_001, range(3, 7)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "output" / "quality",
        help="folder for strips, trainings and scores",
    )
    parser.add_argument(
        "--deeppcb",
        type=Path,
        help="folder with group*/*/*_temp.jpg; without it there is no table of boards",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--amp", action="store_true", help="train in bfloat16")
    parser.add_argument(
        "--runs", type=int, default=1000, help="at most so many trainings this time"
    )
    parser.add_argument("--strips", type=int, default=STRIP_COUNT, help="of each level")
    parser.add_argument("--shots", type=int, default=SHOT_COUNT, help="of each strip")
    arguments = parser.parse_args()
    try:
        bench = Bench(arguments)
        bench.print_suite()
        if arguments.deeppcb:
            bench.print_boards()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


class Bench:
    """The detectors, their scores kept in --output, and the tables."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.folder, self.runs_left = (
            arguments,
            arguments.output.absolute(),
            arguments.runs,
        )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.sigmas = self.kept("gaussians", self.choose_sigmas)

    def print_suite(self) -> None:
        rows = {}
        for name, predictor, key in self.classical():
            rows[name] = [self.scored_suite(key, predictor)]
        for name, run, flags, align in NETWORKS:
            places = [(f"{run}_seed{seed}", seed) for seed in self.arguments.seeds]
            nets = [
                self.network(place, flags, align, seed, self.strips, "strips")
                for place, seed in places
            ]
            rows[name] = [
                self.scored_suite(key, predictor) for predictor, key in filter(None, nets)
            ]
        print_suite_tables({name: scored for name, scored in rows.items() if scored})

    def print_boards(self) -> None:
        groups = sorted({path.parent for path in self.arguments.deeppcb.rglob("*_temp.jpg")})
        if len(groups) < 2:
            sys.exit(
                f"error: {self.arguments.deeppcb}: found {len(groups)} groups of boards, expected two or more"
            )
        rows: dict[str, list[FrocMetrics]] = {}
        for trained in groups:
            scored = [group for group in groups if group != trained]
            for name, predictor, key in self.classical():
                rows.setdefault(name, []).append(
                    self.scored_boards(f"{key}_not_{trained.name}", predictor, scored)
                )
            for name, run, flags, align in NETWORKS:
                for seed in self.arguments.seeds if run in ON_BOARDS else ():
                    place = f"boards{trained.name}_{run}_seed{seed}"
                    net = self.network(
                        place,
                        flags,
                        align,
                        seed,
                        lambda group=trained: self.templates(group),
                        "boards",
                    )
                    if net:
                        rows.setdefault(name, []).append(self.scored_boards(net[1], net[0], scored))
        boards = sum(figures.strips for figures in next(iter(rows.values())))
        defects = sum(figures.truths for figures in next(iter(rows.values())))
        print(
            f"\nDeepPCB: {boards} boards with {defects} annotated defects; mean over {len(groups)} directions"
        )
        print("| detector | 0.1 | 1 |\n| --- | --- | --- |")
        for name, figures in rows.items():
            tables = [each.table()[0]["recall"] for each in figures]
            print(
                f"| {name} | {' | '.join(with_interval([table[rate] for table in tables]) for rate in RATES)} |"
            )

    def classical(self) -> Iterator[tuple[str, Predictor, str]]:
        for method in METHODS:
            sigma = choose_sigma(method, self.sigmas)
            predictor = DetectorPredictor(classical_detector(method, sigma), self.device)
            yield baseline_name(method, sigma), predictor, f"{method}_{sigma:g}"

    def choose_sigmas(self) -> dict[str, float]:
        """For each method the Gaussian with the highest mean recall at 0.1 and 1 on strips of the
        suite's kind.
        """
        strips = [
            make_suite_strip(level, number, 0, CHOICE_SEED)
            for level in LEVELS
            for number in CHOICE_STRIPS
        ]
        chosen = {}
        for method, (_, candidates) in METHODS.items():
            worth = {}
            for sigma in tqdm(candidates, desc=f"Gaussian for {method}", disable=None):
                predictor = DetectorPredictor(classical_detector(method, sigma), self.device)
                figures = pool([score_strip(predictor, strip) for strip in strips]).compute()
                worth[sigma] = figures["point_recall_at_0.1"] + figures["point_recall_at_1"]
            chosen[method] = max(worth, key=worth.get)
        return chosen

    def network(
        self,
        place: str,
        flags: tuple[str, ...],
        align: str,
        seed: int,
        strips: Callable[[], Path],
        kind: str,
    ) -> tuple[Predictor, str] | None:
        """A trained network and a key for what it scores; None when no more trainings are wanted."""
        run = self.folder / place
        if not is_finished(run):
            if self.runs_left <= 0:
                return None
            self.runs_left -= 1
            train(run, strips(), [*SMALL, *flags, *self.flags(seed, kind)])
        (best,) = run.glob("*_best.pth")
        content = load_checkpoint(best)
        predictor = TorchPredictor(
            build_network(content, best), PATCH_SIZES[content["image_type"]], self.device, align
        )
        return predictor, f"{place}_{align}_{file_hash(best)[:12]}"

    def flags(self, seed: int, kind: str) -> list[object]:
        of_boards = ["--img_format", "png_jpg", "--cache_size", 100] if kind == "boards" else []
        amp = ["--amp"] if self.arguments.amp else []
        return ["--seed", seed, "--epochs", EPOCHS[kind], *of_boards, *amp]

    def strips(self) -> Path:
        return demo_strips(self.folder, ("train",))

    def templates(self, group: Path) -> Path:
        """The templates of a group as strips of three equal channels."""
        folder = self.folder / f"boards{group.name}" / "train" / "good"
        for path in sorted(group.glob("*_temp.jpg")):
            if not (folder / f"{path.stem}.png").exists():
                write_strip(folder / f"{path.stem}.png", np.stack([read_grey(path)] * 3))
        return folder

    def scored_suite(self, key: str, predictor: Predictor) -> list[Scored]:
        """What a detector says of every shot of every strip."""
        strips, shots = self.arguments.strips, self.arguments.shots
        jobs = [
            (level, number, shot)
            for level in LEVELS
            for number in range(strips)
            for shot in range(shots)
        ]

        def score() -> list[Scored]:
            return [
                score_strip(predictor, make_suite_strip(*job))
                for job in tqdm(jobs, desc=key, unit="strip", disable=None)
            ]

        return self.kept(f"suite_{strips}x{shots}_{key}", score)

    def scored_boards(self, key: str, predictor: Predictor, groups: list[Path]) -> FrocMetrics:
        boards = [path for group in groups for path in sorted(group.glob("*_temp.jpg"))]

        def score() -> list[Scored]:
            return [
                score_board(predictor, path)
                for path in tqdm(boards, desc=key, unit="board", disable=None)
            ]

        return pool(self.kept(f"boards_{key}", score))

    def kept(self, name: str, make: Callable[[], object]) -> object:
        """What `make` gave the last time, of this code; else what it gives now."""
        path = self.folder / "scores" / f"{name}_{CODE}.json"
        if not path.exists():
            content = make()
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(content))
        return json.loads(path.read_text())


def is_finished(run: Path) -> bool:
    arguments = list(run.glob("*_arguments.json"))
    history = list(run.glob("*_metrics.jsonl"))
    return (
        bool(arguments and history)
        and len(history[0].read_text().splitlines())
        == json.loads(arguments[0].read_text())["epochs"]
    )


SCORED_BY = (
    "benchmarks/suite.py",
    "benchmarks/quality_scores.py",
    "data/demo_strips.py",
    *(f"ops/{name}" for name in ALIGNED_BY),
    "ops/classical.py",
    "ops/differences.py",
    "model.py",
    "evaluation/detections.py",
    "evaluation/matching.py",
    "ops/tiling.py",
)
CODE = file_hash(*(ROOT / name for name in SCORED_BY))[:8]

if __name__ == "__main__":
    sys.exit(main())
