"""What scoring an archive costs: strips/s, memory, requests, Ray's start, and 10 million strips.

    # everything: 20 minutes on two cores; needs requirements-scale-dev.txt and Linux
    python -m benchmarks.scale
    # parts of it
    python -m benchmarks.scale --prefetch         # what fetching ahead hides of a latency
    python -m benchmarks.scale --kills 10         # killed so often, it leaves the same tables
    python -m benchmarks.scale --sampling         # what it saves to measure a sample in full
    python -m benchmarks.scale --listing          # time and memory of a listing
    # bytes, hours and money of your own archive; needs neither
    python -m benchmarks.scale --arithmetic --archive 3000000 --link 25 --gpu_hour 2.5

The strips are drawn, 976x176 float32, and the model is the likelihood ratio, on one thread a
worker. Strips on disk come from the system's cache. The S3 server runs on the same cores. Each row
is a job as a user starts it. `others` is how many cores the machine's other work used just before
it, and processor time says more than strips/s where that is not 0.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks.command_line import make_parser
from benchmarks.scale_arithmetic import CASES, FIGURES, Plan, byte_rows, time_rows
from benchmarks.scale_job import Measured, cores_in_use, measure
from benchmarks.scale_materials import export_method, write_archive
from benchmarks.scale_reading import (
    LATENCY,
    WAYS,
    call_ms,
    listing_cost,
    names_cost,
    ray_start,
    reading,
)
from benchmarks.scale_server import CountingServer, add_empty_objects, serving
from benchmarks.tables import print_header, print_row
from common.errors import run_command
from common.packages import DEVELOPMENT, require_packages

WORKERS = (1, 2)
# attributes of `Bench` by what they are; those in the cache come after those that fill it
SOURCES = {"disk": "strips", "S3, nothing in the cache": "url", "S3, all in the cache": "url"}
AHEAD = (0, 16, 32)
SHARD = 32  # strips: rates come from the times when shards are written
SMALL_STRIPS = 2000  # of --kills, 1 % of them broken in six ways
SHORTEST = 0.01  # ms of processor time a strip that can be measured
LISTED = 50_000  # empty objects
NAMES = 3_000_000  # in a listing without storage: what is there once does not count
METHOD, CHEAPEST = "likelihood", "double"


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    from scale.score_archive import ENGINES

    parser = make_parser(__doc__)
    parser.add_argument("--strips", type=int, default=384, help="a multiple of 128")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--rounds", type=int, default=3, help="of --prefetch; the median is shown")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--prefetch", action="store_true", help="only what fetching ahead hides")
    parts.add_argument("--kills", type=int, metavar="N", help="only what N kills do to a job")
    parts.add_argument(
        "--sampling", action="store_true", help="only what measuring a sample in full saves"
    )
    parts.add_argument("--listing", action="store_true", help="only what a listing takes")
    parts.add_argument("--arithmetic", action="store_true", help="only the arithmetic")
    plan = parser.add_argument_group(
        "figures of the arithmetic; those measured replace the default"
    )
    for name, figure in FIGURES.items():
        plan.add_argument(
            f"--{name}",
            type=figure.type,
            help=f"{figure.metadata['says']}; default: {figure.default:.10g}",
        )
    parsed = parser.parse_args(arguments)
    for name in FIGURES:
        value = getattr(parsed, name)
        if value is not None and value <= 0:
            parser.error(f"--{name}: found {value:g}, expected a number above 0")
    return parsed


def run(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, name) for name in FIGURES}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.arithmetic:
        print_arithmetic(replace(Plan(), **given))
        return 0
    require_packages("pyarrow", "ray", "moto", requirements=DEVELOPMENT)
    with tempfile.TemporaryDirectory(prefix="scale_") as folder, said_load():
        return run_parts(arguments, Path(folder), given)


@contextmanager
def said_load() -> Iterator[None]:
    """Print how busy the machine is, before and after."""
    print(f"{os.cpu_count()} cores, load average {load()}", flush=True)
    try:
        yield
    finally:
        print(f"\nload average at the end: {load()}", flush=True)


def load() -> str:
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def run_parts(arguments: argparse.Namespace, folder: Path, given: dict[str, float]) -> int:
    if arguments.kills:
        from benchmarks.scale_kills import check_kills  # it has pyarrow

        return check_kills(folder, arguments.kills, SMALL_STRIPS)
    strips, models = folder / "strips", {}
    if arguments.listing:
        with serving(strips, folder / "cache"):  # without any strip
            print_listing(folder)
        return 0
    write_archive(strips, arguments.strips)
    for method in (METHOD, CHEAPEST):
        models[method] = export_method(method, folder / f"{method}.onnx")
    with serving(strips, folder / "cache") as (server, url):
        half = f"{url}/day0", arguments.strips // 2
        if arguments.prefetch:
            print_prefetch(server, *half, models[CHEAPEST], folder, arguments.rounds)
            return 0
        bench = Bench(server, url, strips, arguments.strips, models, folder)
        if arguments.sampling:
            bench.print_sampling()
            return 0
        measured = bench.print_rest(arguments.engines)
        for engine in arguments.engines:
            bench.print_jobs(engine)
        measured |= bench.print_sampling()
        print_start()
        measured |= print_listing(folder)
        print_prefetch(server, *half, models[CHEAPEST], folder, arguments.rounds)
    print_arithmetic(replace(Plan(), **(measured | given)))
    return 0


@dataclass(frozen=True)
class Bench:
    """What jobs are measured with: the strips in a folder and at a URL, and models by method."""

    server: CountingServer
    url: str
    strips: Path
    count: int
    models: dict[str, Path]
    folder: Path

    def print_jobs(self, engine: str) -> None:
        """Print a row for each source of strips and number of workers."""
        self._print_header(f"`--engine {engine} --measure_every 1`")
        flags = ("--engine", engine, "--shard", SHARD, "--measure_every", 1)
        for workers in WORKERS:
            for name, source in SOURCES.items():
                self._print_job(name, METHOD, getattr(self, source), workers, *flags)
            shutil.rmtree(self.folder / "cache")

    def print_sampling(self) -> dict[str, float]:
        """Print rows with each strip measured in full, and a sample; figures of the latter."""
        from scale.listed import MEASURE_EVERY

        self._print_header("from disk, `--engine local`")
        for every in (1, MEASURE_EVERY):
            flags = ("--engine", "local", "--shard", SHARD, "--measure_every", every)
            found = self._print_job(f"`--measure_every {every}`", METHOD, self.strips, 1, *flags)
        return print_call(self, found)

    def print_rest(self, engines: Sequence[str]) -> dict[str, float]:
        """Print rows of the least a model can cost, and return figures for the arithmetic.

        What one process hands out and writes is that of the last engine.
        """
        self._print_header(f"from disk, `--method {CHEAPEST}`")
        for engine in engines:
            # few shards: as in a long job, their files cost little
            flags = ("--engine", engine, "--shard", self.count // 2)
            found = self._print_job(f"`{engine}`", CHEAPEST, self.strips, 1, *flags)
        return {"driver_ms": max(SHORTEST, round(found.driver_ms, 2))}

    def _print_header(self, first: str) -> None:
        titles = (first, "workers", "first results, s", "strips/s")
        titles += ("processor, ms a strip: worker", "the job's process", "memory, MB: each worker")
        print()
        print_header(*titles, "all else", "requests a strip", "others, cores")

    def _print_job(
        self, name: str, method: str, place: Path | str, workers: int, *flags: object
    ) -> Measured:
        """Run a job and print its row."""
        others, output = cores_in_use(), self.folder / "judged"
        self.server.requests.clear()
        more = ("--workers", workers, "--threads", 1, "--threshold", 0.5)
        found = measure(self.models[method], place, output, *flags, *more)
        shutil.rmtree(output)
        cells = (f"{found.first:.1f}", f"{found.rate:.1f}", f"{found.worker_ms:.0f}")
        cells += (f"{found.driver_ms:.1f}", f"{found.worker_memory:.0f}")
        cells += (f"{found.other_memory:.0f}", f"{self.server.requests.total() / self.count:.2f}")
        print_row(name, workers, *cells, f"{others:.1f}")
        return found


def print_call(bench: Bench, job: Measured) -> dict[str, float]:
    """Print how much of a worker's time is the model's, and return the rest."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        milliseconds = pool.submit(call_ms, bench.models[METHOD], bench.strips).result()
    rest = max(0.0, job.worker_ms - milliseconds)
    print()
    print_header("processor time of a strip in a worker", "the model, ms", "beside it, ms")
    print_row(f"`--method {METHOD}`", f"{milliseconds:.0f}", f"{rest:.0f}")
    return {"host_ms": round(rest)}


def print_start() -> None:
    """Print what Ray's start costs."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        imported, started, ended = pool.submit(ray_start).result()
    print()
    print_header("Ray on this machine", "import, s", "start, s", "end, s")
    print_row("one actor", f"{imported:.1f}", f"{started:.1f}", f"{ended:.1f}")


def print_listing(folder: Path) -> dict[str, float]:
    """Print what a listing of many objects costs, and return its figures."""
    url = add_empty_objects("many", LISTED)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        path = folder / "listing.parquet"
        microseconds, size = pool.submit(listing_cost, url, LISTED, path).result()
    print()
    print_header("listing, without the server", "processor, us each", "memory, bytes each")
    print_row(f"{LISTED:,} objects of S3", f"{microseconds:.0f}", f"{size:,.0f}")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        size = pool.submit(names_cost, NAMES, path).result()
    print_row(f"{NAMES:,} names alone", "", f"{size:,.0f}")
    return {"listing_us": round(microseconds), "listing_bytes": round(size, -1)}


def print_prefetch(
    server: CountingServer, url: str, strips: int, model: Path, folder: Path, rounds: int
) -> None:
    """Print the share of an added latency that fetching ahead hides."""
    print()
    title = f"{strips} strips, {1000 * LATENCY:.0f} ms added to each"
    print_header(title, "--prefetch", "without it, s", "with it, s", "hidden")
    with reading(server, folder) as reader:
        for way in WAYS:
            for ahead in AHEAD:
                rows = [
                    [reader.seconds(way, url, model, ahead, late) for late in (0.0, LATENCY)]
                    for _ in range(rounds)
                ]
                plain, late = (statistics.median(column) for column in zip(*rows))
                hidden = 1 - (late - plain) / (strips * LATENCY)
                print_row(way, ahead, f"{plain:.1f}", f"{late:.1f}", f"{hidden:.0%}")


def print_arithmetic(plan: Plan) -> None:
    """Print what `plan` leads to."""
    print()
    print_header("figure", "value")
    for name, value in asdict(plan).items():
        print_row(f"`--{name}`: {FIGURES[name].metadata['says']}", f"{value:,.10g}")
    print()
    print_header(f"{plan.archive:,} strips", "")
    for row in byte_rows(plan):
        print_row(*row)
    for case in CASES:
        print()
        titles = ("GPUs, strips/s", "workers, strips/s", "network, strips/s", "writing, strips/s")
        print_header(f"{case.name}: GPUs", *titles, "bound by", "time", "machines, $")
        for row in time_rows(plan, case):
            print_row(*row)


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(parse_args())))
