"""A job that is killed again and again, with broken strips: is each strip in its tables once?"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale_job import command_line, descendants, job_words, started
from benchmarks.scale_materials import WAYS_TO_BREAK, break_strip, export_method, write_archive
from benchmarks.tables import print_header, print_row
from common.errors import UserError

SIZE = (200, 150)  # (height, width) of the strips
SHARD = 20  # strips
THRESHOLD = 0.06  # low: there are detections
BROKEN_SHARE = 0.01
SEED = 11
RAYLET = b"raylet/raylet"
# who is killed, in turn, and how its command line tells it from the job's other processes
VICTIMS = (
    ("local", "the job", None),
    ("local", "a worker", b"spawn_main"),
    ("ray", "the job", None),
    ("ray", "an actor", b"ray::MapWorker"),
    ("ray", "the raylet", RAYLET),
)
LONGEST = 600.0  # seconds to wait for anything
CHANGES = ("seconds",)  # columns that differ from job to job


def check_kills(folder: Path, kills: int, strips: int) -> int:
    """Print what a job finds undisturbed and killed so often; the exit code is 1 if they differ."""
    archive, model = folder / "strips", export_method("double", folder / "model.onnx", SIZE)
    paths = write_archive(archive, strips, SIZE)
    broken = np.random.default_rng(SEED).permutation(len(paths))[: round(strips * BROKEN_SHARE)]
    for way, number in enumerate(broken):
        break_strip(paths[number], way % WAYS_TO_BREAK, SIZE)
    flags = ("--threshold", THRESHOLD, "--shard", SHARD, "--workers", 1, "--threads", 1)
    print()
    print_header(
        "job",
        "killed, and the job",
        "shards before",
        "strips/",
        "errors/",
        "not once",
        "detections/",
    )
    whole = folder / "whole"
    finish(model, archive, whole, flags)
    names = sorted(path.relative_to(archive).as_posix() for path in paths)
    rows = [describe("undisturbed", whole, names)]
    disturbed = folder / "disturbed"
    for number in range(kills):
        engine, victim, mark = VICTIMS[number % len(VICTIMS)]
        before = len(done(disturbed))
        words = job_words(model, archive, disturbed, *flags, "--engine", engine)
        end = kill_once(words, disturbed, mark, np.random.default_rng((SEED, number)))
        print_row(f"`--engine {engine}`", f"{victim}: {end}", before, "", "", "", "")
    finish(model, archive, disturbed, flags)
    rows.append(describe(f"killed {kills} times", disturbed, names))
    is_equal = content(whole) == content(disturbed)
    print(f"\nsorted rows of all tables are equal: {'yes' if is_equal else 'NO'}")
    expected = strips - len(broken), len(broken), 0
    return 0 if is_equal and rows == [expected, expected] else 1


def finish(model: Path, archive: Path, output: Path, flags: tuple) -> None:
    """Run a job to its end, where some strips could not be used."""
    with started(job_words(model, archive, output, *flags)) as process:
        _, errors = process.communicate()
        if process.returncode != 1 or "error" in errors:
            raise UserError(f"a job ended with {process.returncode}: {errors}")


def kill_once(
    words: list[str], output: Path, mark: bytes | None, generator: np.random.Generator
) -> str:
    """Kill a process of a job at a random moment after its first shard, and say how it ended."""
    before = done(output)
    with started(words) as process:
        wait_until(lambda: done(output) > before or is_over(process))
        time.sleep(float(generator.uniform(0, 1)))
        victims = [process.pid]
        if mark:
            victims = [it for it in descendants(process.pid) if mark in command_line(it)]
        if not victims or is_over(process):
            raise UserError("a job had ended before it was killed: give more strips")
        now = done(output)
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        # a job that has lost a worker goes on, one that has lost Ray cannot
        can_go_on = mark and mark != RAYLET
        wait_until(lambda: is_over(process) or (can_go_on and done(output) > now))
        return f"ended with {process.returncode}" if is_over(process) else "went on"


def is_over(process: subprocess.Popen) -> bool:
    """Whether a process has ended."""
    return process.poll() is not None


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raises `UserError` where it takes too long."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        if time.monotonic() > deadline:
            raise UserError(f"found nothing new in {LONGEST:.0f} s, expected a job that goes on")
        time.sleep(0.05)


def describe(job: str, output: Path, names: list[str]) -> tuple[int, int, int]:
    """Print a row: scored strips, errors, and how many strips are not in the tables once."""
    paths = {name: [row["path"] for row in rows_of(output, name)] for name in ("strips", "errors")}
    found = sorted(path for entries in paths.values() for path in entries)
    wrong = sum(found.count(name) != 1 for name in names) if found != names else 0
    counts = len(paths["strips"]), len(paths["errors"]), wrong
    detections = len(rows_of(output, "detections"))
    print_row(job, "", "", *counts, detections)
    return counts


def done(output: Path) -> set[str]:
    """The names of the shards that a job has written."""
    from scale.output_folder import OutputFolder

    return set(OutputFolder(output).done())


def rows_of(output: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table of a job."""
    from scale.output_folder import OutputFolder
    from scale.tables import read_rows

    return list(read_rows(OutputFolder(output), table))


def content(output: Path) -> dict[str, list[str]]:
    """All rows of a job's tables, sorted, without what differs from job to job."""
    tables = {}
    for name in ("strips", "detections", "errors"):
        rows = rows_of(output, name)
        kept = [{key: row[key] for key in row if key not in CHANGES} for row in rows]
        tables[name] = sorted(repr(row) for row in kept)
    return tables
