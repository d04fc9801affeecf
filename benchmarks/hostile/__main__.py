"""Give the commands files that are damaged at random, and count how they end.

    python -m benchmarks.hostile --minutes 5
    python -m benchmarks.hostile --only settings --seed 7 --keep output/hostile

1,000 TIFFs beside good ones, 300 checkpoints, 300 ONNX files and 100 runs that are resumed with a
changed setting. A command may refuse a file with one line, or use it where the damage does no harm.
It may not print a traceback, be ended by a signal, take longer than 20 s or 2 GB, or write outside
of its output folder. The exit code is 1 when one of them did. When the minutes are over, the rest
is left out and the table says so. Linux only.
"""

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch

import inference_pytorch
import trainer
from benchmarks.command_line import ROOT, make_parser
from benchmarks.hostile.children import Job, Outcome, run_jobs
from benchmarks.hostile.damage import (
    damage_bytes,
    damage_content,
    damage_model,
    damage_setting,
    damage_tags,
)
from benchmarks.hostile.materials import Materials
from benchmarks.tables import print_header, print_row
from deploy.metadata import write_entries
from deploy.onnx_file import GRAPH_HASH

TIFFS_AT_ONCE = 10  # damaged strips in one folder
COUNTS = {"tiff": 1000, "checkpoint": 300, "onnx": 300, "settings": 100}
MOST_BYTES = 2e9
COLUMNS = ("tracebacks", "ended by a signal", "over 20 s", "over 2 GB", "wrote elsewhere")


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        help="time for all of it, once the whole files are made",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--only", choices=COUNTS, help="one kind of files")
    parser.add_argument("--keep", type=Path, help="folder for the files that ended badly")
    parser.add_argument("--at_once", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


def new_job(
    folder: Path, name: str, command: Callable[[], int | None], allowed: str, files: int = 1
) -> Job:
    """A job whose working folder lies deep enough that a path of `..` stays in the job's root."""
    working = folder / "a" / "b" / "c" / "work"
    working.mkdir(parents=True, exist_ok=True)
    return Job(name, command, folder, working, (f"a/b/c/work/{allowed}",), files)


def score(module: object, strips: Path, *words: object) -> int:
    """Score a folder with one of the inference commands."""
    arguments = [*words, "--test_path", strips, "--output_dir", "out"]
    return module.infer(module.parse_args([str(word) for word in arguments]))


def score_onnx(strips: Path) -> int:
    """The same in ONNX Runtime, whose threads do not survive a fork: it is imported here."""
    import inference_onnx

    words = ("--model_path", "model.onnx", "--device", "cpu", "--threads", 1)
    return score(inference_onnx, strips, *words)


def resume() -> int:
    """Resume the run, whose epochs are done, and print what it would go on with."""
    trainer.train(trainer.parse_args(["--resume", "run/run.pth", "--gpu_id", "-1"]))
    return 0


def tiff_jobs(materials: Materials, folder: Path, seed: int) -> Iterator[Job]:
    for number in range(COUNTS["tiff"] // TIFFS_AT_ONCE):
        root = folder / f"tiff_{number}"
        words = ("--method", "smoothed", "--threshold", 1, "--gpu_id", -1)
        command = functools.partial(score, inference_pytorch, Path("strips"), *words)
        job = new_job(root, "tiff", command, "out/", TIFFS_AT_ONCE)
        strips = job.folder / "strips"
        shutil.copytree(materials.strips, strips)
        for part in range(TIFFS_AT_ONCE):
            generator = np.random.default_rng((seed, 0, number, part))
            content = materials.tiffs[int(generator.integers(len(materials.tiffs)))]
            is_classic = content[2] in (42, 0) and b"\x2b" not in content[2:4]
            damage = damage_tags if is_classic and generator.random() < 0.5 else damage_bytes
            (strips / f"damaged_{part}.tiff").write_bytes(damage(content, generator))
        yield job


def checkpoint_jobs(materials: Materials, folder: Path, seed: int) -> Iterator[Job]:
    content = torch.load(materials.checkpoint, weights_only=True)
    words = ("--model_path", "model_best.pth", "--gpu_id", -1)
    command = functools.partial(score, inference_pytorch, materials.one_strip, *words)
    for number in range(COUNTS["checkpoint"]):
        generator = np.random.default_rng((seed, 1, number))
        job = new_job(folder / f"checkpoint_{number}", "checkpoint", command, "out/")
        path = job.folder / "model_best.pth"
        if generator.random() < 0.5:
            path.write_bytes(damage_bytes(materials.checkpoint.read_bytes(), generator))
        else:
            torch.save(damage_content(content, generator), path)
        yield job


def onnx_jobs(materials: Materials, folder: Path, seed: int) -> Iterator[Job]:
    for number in range(COUNTS["onnx"]):
        generator = np.random.default_rng((seed, 2, number))
        command = functools.partial(score_onnx, materials.one_strip)
        job = new_job(folder / f"onnx_{number}", "onnx", command, "out/")
        path, model = job.folder / "model.onnx", onnx.load(materials.model)
        # without the hash, or with a right one, the file gets further
        entries = {entry.key: entry.value for entry in model.metadata_props}
        entries.pop(GRAPH_HASH)
        onnx.helper.set_model_props(model, entries)
        if generator.random() < 0.5:
            path.write_bytes(damage_bytes(model.SerializeToString(), generator))
        else:
            damage_model(model, generator)
            onnx.save(model, path)
            if generator.random() < 0.5:
                write_entries(path, {entry.key: entry.value for entry in model.metadata_props})
        yield job


def settings_jobs(materials: Materials, folder: Path, seed: int) -> Iterator[Job]:
    content = torch.load(materials.checkpoint, weights_only=True)
    for number in range(COUNTS["settings"]):
        generator = np.random.default_rng((seed, 3, number))
        job = new_job(folder / f"settings_{number}", "settings", resume, "run/")
        (job.folder / "run").mkdir()
        torch.save(damage_setting(content, generator), job.folder / "run" / "run.pth")
        yield job


JOBS = {
    "tiff": tiff_jobs,
    "checkpoint": checkpoint_jobs,
    "onnx": onnx_jobs,
    "settings": settings_jobs,
}


def failures(outcome: Outcome) -> tuple[bool, ...]:
    """Which of COLUMNS an outcome belongs to."""
    return (
        outcome.is_traceback,
        outcome.signal != 0 and not outcome.is_hang,
        outcome.is_hang,
        outcome.peak_bytes > MOST_BYTES,
        bool(outcome.outside),
    )


def run_kind(
    kind: str, materials: Materials, folder: Path, options: argparse.Namespace, deadline: float
) -> int:
    """Run all jobs of a kind, print its row, and return the number of failures."""
    files = refused = peak = 0
    counts, slowest = np.zeros(len(COLUMNS), int), 0.0

    def in_time() -> Iterator[Job]:
        for job in JOBS[kind](materials, folder, options.seed):
            if time.monotonic() > deadline:
                return
            yield job

    for outcome in run_jobs(in_time(), options.at_once):
        files += outcome.job.files
        refused += outcome.job.files if outcome.code else 0
        peak, slowest = max(peak, outcome.peak_bytes), max(slowest, outcome.seconds)
        failed = failures(outcome)
        counts += failed
        if any(failed):
            _report(outcome, failed, options.keep)
        shutil.rmtree(outcome.job.root, ignore_errors=True)
    print_row(
        kind, f"{files} of {COUNTS[kind]}", refused, *counts, f"{peak / 1e9:.2f}", f"{slowest:.1f}"
    )
    return int(counts.sum())


def _report(outcome: Outcome, failed: tuple[bool, ...], keep: Path | None) -> None:
    names = [name for name, is_so in zip(COLUMNS, failed) if is_so]
    last = outcome.printed.strip().splitlines()[-3:]
    print(f"{outcome.job.root.name}: {', '.join(names)}: {last} {outcome.outside}", file=sys.stderr)
    if keep:
        shutil.copytree(outcome.job.root, keep / outcome.job.root.name, dirs_exist_ok=True)


def main() -> int:
    options = parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hostile_") as name:
        folder = Path(name)
        # in a process of its own, as its threads would not survive a fork
        words = ["from pathlib import Path; from benchmarks.hostile.materials import Materials;"]
        words += [f"Materials(Path({str(folder)!r})).make()"]
        subprocess.run(
            [sys.executable, "-c", " ".join(words)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        materials = Materials(folder)
        deadline = time.monotonic() + 60 * options.minutes
        print_header("files", "tried", "refused", *COLUMNS, "peak, GB", "slowest, s")
        kinds = [options.only] if options.only else list(JOBS)
        return int(any([run_kind(kind, materials, folder, options, deadline) for kind in kinds]))


if __name__ == "__main__":
    sys.exit(main())
