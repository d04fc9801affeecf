"""A search of settings on drawn strips: does it find better ones than the default in its budget?

    # 16 minutes of processor time; needs requirements-scale.txt
    python -m benchmarks.search
    # two processes that share the study
    python -m benchmarks.search --processes 2

Trainings get demo strips. The strips with known points and the good ones of `fp_path` are like
those of two levels of the quality suite, drawn with another seed, and so are the new strips, with
one more seed. None of them has a missing feature, which would count as a false alarm. The search
runs as a user starts it, and its report is in --output/study. The table has the settings of the
finals: their recall on the search's own strips; how much more than the default ones they find on
those that the trials had not scored, where the verdict comes from; and the same on the new strips.
Intervals are at 95 %.

The benchmark may be interrupted at any time: the next call with the same flags goes on.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.command_line import ROOT, make_parser
from benchmarks.suite.placement import DEFECTS
from benchmarks.suite.strips import make_good_strip, make_marked_strip
from benchmarks.tables import print_header, print_row
from common.errors import UserError, run_command
from common.files import new_folder
from common.packages import require_packages
from data.demo_strips import make_strip
from data.folder import GOOD
from data.true_points import write_coordinates
from data.write_images import write_strip

LEVELS = ("everything", "dirt")
SEED, NEW_SEED = 77_003, 77_004  # of the strips of the search, and of the new ones
SIZE = (488, 176)  # (height, width) of the strips: half of one, so that there may be more of them
MARKED = range(3, 10)  # of each ten strips: three with one defect, four with 18
TRAINED, GOOD_OF_LEVEL = 24, 10  # strips to train on; good ones of each level
MOST_ALARMS = 0.3  # per strip, at which recall is measured
SAMPLE = 0.4
FIXED = {"base_channels": 8, "align": "fine", "gpu_id": -1}
SEARCHED = {
    "flags": {
        "lr": {"low": 5e-4, "high": 1e-2, "log": True},
        "weighting": {"choices": ["strong_likelihood", "likelihood", "none"]},
    },
    "amounts": {
        "contrast": [{"low": 4, "high": 20}, {"low": 60, "high": 140}],
        "painted_share": {"low": 0.4, "high": 0.95},
    },
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "search", help="strips and study"
    )
    parser.add_argument("--processes", type=int, default=1, help="that share the study")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3, help="of each training")
    parser.add_argument("--finalists", type=int, default=2, help="besides the default settings")
    parser.add_argument("--seeds", type=int, default=2, help="of each setting of the finals")
    parser.add_argument("--tens", type=int, default=2, help="tens of strips of each level")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"))
    return parser.parse_args(arguments)


def run(arguments: argparse.Namespace) -> int:
    require_packages("optuna")
    folder = arguments.output.absolute()
    strips = folder / "strips"
    if not strips.exists():
        with new_folder(strips) as root:
            write_strips(root, arguments.tens, tuple(arguments.size))
    spec = folder / "search.yaml"
    spec.write_text(yaml.safe_dump(content_of_spec(folder, arguments)))
    began = time.monotonic()
    search(spec, arguments.processes)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print_result(folder, arguments)
    print(
        f"\n{(used.ru_utime + used.ru_stime) / 60:.1f} minutes of processor time, "
        f"{(time.monotonic() - began) / 60:.1f} minutes, in this call"
    )
    return 0


def write_strips(folder: Path, tens: int, size: tuple[int, int]) -> None:
    """Write the strips to train on, those of the search, and the new ones, (height, width) each."""
    for number in range(TRAINED):
        strip = make_strip(np.random.default_rng((SEED, number)), size)
        write_strip(folder / "train" / GOOD / f"{number:02}.tiff", strip)
    write_known(folder / "found", folder / "lots", SEED, tens, size)
    write_known(folder / "new" / "found", folder / "new" / GOOD, NEW_SEED, tens, size)


def write_known(found: Path, good: Path, seed: int, tens: int, size: tuple[int, int]) -> None:
    """Write strips with known points, and a table of them, into one folder, good ones into the
    other.
    """
    rows = []
    for level in LEVELS:
        for number in (10 * ten + place for ten in range(tens) for place in MARKED):
            defects, name = DEFECTS[number % 10], f"{level}_{number}.tiff"
            strip = make_marked_strip(level, number, seed, defects, size)
            write_strip(found / name, strip.image)
            rows += [(name, *point.center) for point in strip.points if point.presence == "T"]
        for number in range(GOOD_OF_LEVEL):
            image = make_good_strip(level, number, seed, size)
            write_strip(good / f"{level}_good{number}.tiff", image)
    write_coordinates(found / "points.csv", rows)


def content_of_spec(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The spec of the search, for the strips and the study in a folder."""
    strips = folder / "strips"
    return {
        "study": str(folder / "study"),
        "training_dataset_path": str(strips / "train" / GOOD),
        "test_path": str(strips / "found"),
        "fp_path": [f"{strips / 'lots'}:1"],
        "objective": {"false_alarms": MOST_ALARMS},
        "sample": SAMPLE,
        "trials": arguments.trials,
        "finalists": arguments.finalists,
        "seeds": arguments.seeds,
        "flags": FIXED | {"epochs": arguments.epochs} | SEARCHED["flags"],
        "amounts": SEARCHED.get("amounts"),
    }


def search(spec: Path, processes: int) -> None:
    """Run a search to its end. Raises `UserError` where one of its processes fails."""
    words = [sys.executable, "-m", "scale.search", "--spec", str(spec)]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    started = [
        subprocess.Popen(words, cwd=ROOT, env=environment, stdout=sys.stderr)
        for _ in range(processes)
    ]
    if any([process.wait() for process in started]):
        raise UserError(f"{spec}: the search failed; its last line says why")


def print_result(folder: Path, arguments: argparse.Namespace) -> None:
    """Print the budget, the finals, and the verdict of a search."""
    result = json.loads((folder / "study" / "result.json").read_text())
    print_header("budget", "")
    print_row("trials", arguments.trials)
    print_row("of these trained to the end", len(result["trials"]))
    print_row("epochs of each training", arguments.epochs)
    print_row("trainings of the finals", sum(len(entry["recalls"]) for entry in result["finals"]))
    print_row("known points", len(result["points"]))
    print()
    recall = f"recall at {MOST_ALARMS:g} false alarms per strip"
    print_header("settings", recall, "more, unseen strips", "more, new strips", "values")
    for entry in result["finals"]:
        if entry["trial"] is None:
            print_row("default", shown(entry["recall"]), "", "", "")
            continue
        new = more_on_new_strips(folder, entry["trial"])
        print_row(
            f"trial {entry['trial']}",
            shown(entry["recall"]),
            shown(entry["comparison"]["difference"], "+.3f"),
            shown(new, "+.3f"),
            ", ".join(f"{name} {value}" for name, value in rounded(entry["values"]).items()),
        )
    print(f"\n{result['verdict']}")


def more_on_new_strips(folder: Path, trial: int) -> dict[str, float]:
    """What the finals of a trial find more than the default's on the new strips, 0-1."""
    from scale.comparison import compare
    from scale.spec import Objective

    runs = [found_on_new_strips(folder, name) for name in (f"{trial:04d}", "default")]
    return vars(compare(*runs, Objective(false_alarms=MOST_ALARMS)).difference)


@cache
def found_on_new_strips(folder: Path, setting: str) -> list[Any]:
    """What the finals of a setting find on the new strips, by seed."""
    from scale.found_points import find_points

    new = folder / "strips" / "new"
    names = {path.relative_to(new).as_posix(): path.stem for path in new.rglob("*.tiff")}
    checkpoints = sorted((folder / "study").glob(f"runs/final_{setting}_seed*/*_best.pth"))
    return [find_points(path, new, names, torch.device("cpu")) for path in checkpoints]


def rounded(values: Any) -> Any:
    """The values of settings with three digits."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return float(f"{values:.3g}") if isinstance(values, float) else values


def shown(estimate: dict[str, float], form: str = ".3f") -> str:
    """A figure with its interval."""
    return "{value:{0}} ({low:{0}} to {high:{0}})".format(form, **estimate)


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(parse_args())))
