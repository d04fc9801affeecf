"""How well each way of the reference-free detector finds defects: the plan, and what works.

    # one seed, short trainings, every second test picture, all rows on three classes alone:
    # half an hour of two cores
    python -m benchmarks.autoencoder --quick
    # three seeds: two hours
    python -m benchmarks.autoencoder
    # further data sets in the layout of MVTec AD, of one kind of object or several
    python -m benchmarks.autoencoder --mvtec /data/mvtec --folders /data/tiles
    # some rows alone, by the beginnings of their names
    python -m benchmarks.autoencoder --rows segment library --quick

The data sets are `textures`, of nine classes (python prepare_dataset.py textures), and its class
`target`, the first channel of demo strips, by itself. With --quick, `three` of the classes have all
rows (a photo, an object that turns, and `target`), and the nine have those that might win. Each row
of benchmarks/autoencoder_rows.py is trained and built by the tool's own commands and scored by
autoencoder.inference on all test pictures: image AUROC and average precision, pixel average
precision, AUPRO, as the mean over the classes, and pooled over all classes, with one threshold and
without labels. Rows whose name says "classes given" or "a class" know each picture's class.
`purity` is that of the clusters against the classes, and `routed` the share of test pictures that
reach a library of their class.

The benchmark may be interrupted and started again at any time: --output keeps finished trainings,
libraries and scores. With --runs 0 it shows what is finished. After each row it says on stderr how
long the others take, by what was slow so far.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.autoencoder_data import data_sets, rows_of
from benchmarks.autoencoder_kept import Kept
from benchmarks.autoencoder_progress import USUAL_CLASSES, Parts, Progress, parts_of
from benchmarks.autoencoder_rows import QUICK, ROWS, TINY, Row
from benchmarks.autoencoder_runs import Runs
from benchmarks.autoencoder_scores import (
    MEAN,
    METRICS,
    POOLED,
    cluster_purity,
    make_baselines,
    make_predict,
    routed_right,
    score_pictures,
)
from benchmarks.command_line import ROOT, as_words, digest, make_parser
from benchmarks.tables import format_seeds, print_header, print_row
from benchmarks.trainings import INTERRUPTED
from common.errors import run_command
from common.files import atomic_write
from data.pictures import group_folders, list_test_pictures
from ops.efficientnet_lite0 import find_weights

# Raise this number when a change of the code changes what a row scores: of the data sets, the
# training, the features, the library or the scorer. Scores of another version are computed anew.
VERSION = 5
SEEDS = (42, 1, 2)
TITLES = {
    "image_auroc": "image AUROC",
    "image_average_precision": "image AP",
    "pixel_average_precision": "pixel AP",
    "pixel_aupro_0.3": "AUPRO",
}
Result = dict[str, object]  # of one row, data set and seed, as JSON holds it


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=ROOT / "output" / "autoencoder_benchmark",
        help="folder for data sets, trainings, libraries and scores",
    )
    add("--quick", action="store_true", help="one seed, short trainings, --every 2")
    add("--every", type=int, help="score every Nth test picture; default: each")
    add("--seeds", type=int, nargs="+", help=f"of trainings and libraries; default: {SEEDS}")
    add("--data_seed", type=int, default=42, help="of the textures; settings are chosen on others")
    add("--mvtec", type=Path, help="ROOT of MVTec AD, or of any data set in its layout")
    add("--folders", type=Path, nargs="+", default=[], help="further such data sets")
    add("--no_textures", action="store_true", help="leave out `textures` and `target`")
    add("--data_sets", nargs="+", help="names of those to score; default: all")
    add("--rows", nargs="+", default=[""], help="beginnings of the names of rows; default: all")
    add("--runs", type=int, default=1000, help="largest number of results to compute this time")
    add("--tiny", action="store_true", help="all as small as a test needs")
    parsed = parser.parse_args(arguments)
    parsed.seeds = parsed.seeds or list(SEEDS[:1] if parsed.quick else SEEDS)
    parsed.every = parsed.every or (2 if parsed.quick else 1)
    return parsed


def main(arguments: list[str] | None = None) -> int:
    parsed = parse_args(arguments)
    try:
        benchmarks = [
            DataSetBenchmark(name, root, parsed)
            for name, root in data_sets(parsed).items()
            if not parsed.data_sets or name in parsed.data_sets
        ]
        left: Parts = {}
        for benchmark in benchmarks:
            left |= benchmark.parts_left()
        progress = Progress(left if parsed.runs else {}, print_aside)
        for number, benchmark in enumerate(benchmarks):
            print(end="\n" if number else "")
            benchmark.progress = progress
            benchmark.print_tables()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


class DataSetBenchmark:
    """Scores the rows on one data set, keeps their results and prints the tables."""

    def __init__(self, name: str, root: Path, arguments: argparse.Namespace):
        self.name, self.root, self.arguments = name, root, arguments
        self.folder = arguments.output.absolute() / name.replace(" ", "_")
        if not arguments.no_textures and root.is_relative_to(arguments.output.absolute()):
            self.folder = self.folder.with_name(f"{self.folder.name}_{arguments.data_seed}")
        self.pictures = list_test_pictures(root)[:: arguments.every]
        self.groups = [group for group in group_folders(root) if group]
        more = TINY if arguments.tiny else QUICK if arguments.quick else ()
        self.runs = Runs(root, self.folder, self.groups, more, arguments.tiny)
        self.kept = Kept()
        self.runs_left = arguments.runs
        self.progress = Progress({}, print_aside)

    def parts_left(self) -> Parts:
        """What the rows without a result need."""
        return {
            part: seconds
            for row in filter(self.is_asked, ROWS)
            for seed in self.seeds_of(row)
            if not self.result_path(row, seed).exists()
            for part, seconds in self.parts_of(row, seed).items()
        }

    def parts_of(self, row: Row, seed: int) -> Parts:
        """What a row needs."""
        share = max(1, len(self.groups)) / USUAL_CLASSES
        parts = parts_of(row, self.name, self.members(row, seed))
        return {
            part: seconds * (1.0 if "training" in part else share)
            for part, seconds in parts.items()
        }

    def print_tables(self) -> None:
        """Print the metrics of all rows, and then their image AUROC of each class."""
        defective = sum(picture.is_defective is True for picture in self.pictures)
        classes = f" of {len(self.groups)} classes" if self.groups else ""
        seeds = ", ".join(map(str, self.arguments.seeds))
        print(
            f"{self.name}: {len(self.pictures) - defective} good and {defective} defective test "
            f"pictures{classes}; seeds {seeds}"
        )
        parts = (MEAN, POOLED) if self.groups else (MEAN,)
        titles = [
            f"{TITLES[metric]}{', pooled' if part == POOLED else ''}"
            for part in parts
            for metric in METRICS
        ]
        more = ("purity", "routed") if self.groups else ()
        print_header("row", *titles, *more, "what it shows")
        rows: dict[str, list[Result]] = {}
        for row in filter(self.is_asked, ROWS):
            results = [result for seed in self.seeds_of(row) if (result := self.find(row, seed))]
            if not results:
                continue
            rows[row.name] = results
            cells = [
                format_seeds([result["figures"][part][metric] for result in results])
                for part in parts
                for metric in METRICS
            ]
            cells += [format_seeds([result[name] for result in results]) for name in more]
            print_row(row.name, *cells, row.sentence)
        if self.groups:
            print(f"\n{self.name}: image AUROC by class")
            print_header("row", *self.groups)
            for name, results in rows.items():
                of_groups = [
                    [result["figures"][group]["image_auroc"] for result in results]
                    for group in self.groups
                ]
                print_row(name, *map(format_seeds, of_groups))

    def is_asked(self, row: Row) -> bool:
        """Whether a row is among --rows, and the data set has what it needs."""
        if not row.name.startswith(tuple(self.arguments.rows)):
            return False
        if row.needs == "groups" and not self.groups:
            return False
        known = rows_of(self.name, self.arguments.quick)
        if known is not None and row.name not in known:
            return False
        return row.needs != "lite0" or find_weights() is not None

    def seeds_of(self, row: Row) -> list[int]:
        """The seeds of a row's results; an ensemble is of all of them."""
        return self.arguments.seeds[:1] if row.is_ensemble else self.arguments.seeds

    def members(self, row: Row, seed: int) -> list[int]:
        """The seeds of the models that score together: SEEDS where one is asked for."""
        if not row.is_ensemble:
            return [seed]
        return self.arguments.seeds if len(self.arguments.seeds) > 1 else list(SEEDS)

    def find(self, row: Row, seed: int) -> Result | None:
        """What a row scores, kept or computed; None where --runs are used up."""
        path = self.result_path(row, seed)
        if not path.exists():
            if self.runs_left <= 0:
                return None
            self.runs_left -= 1
            self.progress.begin()
            content = self.compute(row, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(content))
            self.progress.finish(f"{self.name}: {row.name}", self.parts_of(row, seed))
        return json.loads(path.read_text())

    def result_path(self, row: Row, seed: int) -> Path:
        """The file of a result, named after all that it depends on, and VERSION."""
        setting = asdict(replace(row, sentence="", needs=""))
        members = self.members(row, seed)
        key = digest([setting, self.runs.flags_of(row), members, self.arguments.every])
        return self.folder / "scores" / f"{key}_seed{seed}_v{VERSION}.json"

    def compute(self, row: Row, seed: int) -> Result:
        """Train and build what a row needs, and score the test pictures."""
        path = clusters = None
        if row.baseline:
            predict = make_baselines(self.root, row.baseline)
        else:
            seeds = self.members(row, seed) if row.model else []
            models = [self.runs.models(row.model, each) for each in seeds]
            first = models[0].get("") if models else None
            if row.library:
                path = self.runs.library(row.library, seed, first)
            if row.clusters:
                clusters = self.runs.library(row.clusters, seed, first)
            flags = [*row.score, *(["--library", path] if path else [])]
            predict = {
                group: make_predict(
                    as_words(
                        *(["--models", *(own[group] for own in models)] if models else []), *flags
                    ),
                    self.kept,
                )
                for group in (models[0] if models else [""])
            }
        figures, found = score_pictures(self.pictures, predict)
        groups = [picture.group for picture in self.pictures]
        return {
            "row": row.name,
            "figures": figures,
            "purity": cluster_purity(clusters or path) if clusters or path else None,
            "routed": routed_right(path, found, groups) if path else None,
        }


def print_aside(text: str) -> None:
    """Print a line that is no part of the tables."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
