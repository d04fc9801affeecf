"""What fetching ahead hides of a server's latency, measured in a process of its own."""

import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale_arithmetic import SHARD
from benchmarks.scale_server import CountingServer
from common.errors import UserError
from common.fetch_ahead import AHEAD_VARIABLE
from common.locations import FOLDER_VARIABLE
from common.parent import end_with_parent
from data.demo_strips import make_strip
from data.folder import list_strips
from data.image_files import DEFAULT_INPUT_MAX
from data.remote_folder import local_view
from data.verify import verify_strips
from deploy.session import SessionSettings
from reporting.score_folder import ScoringSettings

LATENCY = 0.05  # seconds that are added to each object
CHUNK = 32  # strips that a worker of an archive job gets at once
CALLS = 4
WARM_UP = 10_000  # strips of a first listing
ETAG = 32 * "0"  # as long as those of S3
WAYS = ("check of a folder", "archive job")
_scorers: dict[Path, Any] = {}  # the StripScorer of each model, of this process


def read_strips(way: str, url: str, model: Path, ahead: int, cache: Path) -> float:
    """Seconds that one of WAYS takes for the strips of a URL, with `ahead` fetched ahead.

    The listing and the model are there before the clock starts; `cache` is an empty folder.
    """
    os.environ[AHEAD_VARIABLE], os.environ[FOLDER_VARIABLE] = str(ahead), str(cache)
    if way == WAYS[0]:
        strips = list_strips(local_view(url))
        started = time.perf_counter()
        usable = len(verify_strips(strips, DEFAULT_INPUT_MAX).usable)
    else:
        chunks = [tuple(part) for part in _archive(url).list_strips(None).parts(CHUNK)]
        scorer = _scorer(url, model)
        started = time.perf_counter()
        usable = sum(len(scorer.score(chunk).strips) for chunk in chunks)
    seconds = time.perf_counter() - started
    assert usable
    return seconds


def _archive(url: str) -> Any:
    from scale.archive import Archive

    return Archive(url)


def _scorer(url: str, model: Path) -> Any:
    from scale.strip_scorer import Job, StripScorer

    if model not in _scorers:
        settings = ScoringSettings(test_path=Path(), output_dir=Path(), threshold=0.5)
        job = Job(model, _archive(url), SessionSettings("cpu", 8, 1), settings)
        _scorers[model] = StripScorer(job)
        _scorers[model].warm_up()
    return _scorers[model]


class Reader:
    """Reads strips in another process, so that the server does not share its interpreter."""

    def __init__(self, pool: ProcessPoolExecutor, server: CountingServer, folder: Path):
        self._pool, self._server, self._folder, self._numbers = pool, server, folder, count()

    def seconds(self, way: str, url: str, model: Path, ahead: int, latency: float) -> float:
        """Seconds that one of WAYS takes where each object has a latency (seconds)."""
        self._server.latency = latency
        cache = self._folder / f"cache{next(self._numbers)}"
        try:
            return self._pool.submit(read_strips, way, url, model, ahead, cache).result()
        finally:
            self._server.latency = 0.0


@contextmanager
def reading(server: CountingServer, folder: Path) -> Iterator[Reader]:
    """A reader, with caches in a folder; its process ends with the block."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, end_with_parent) as pool:
        yield Reader(pool, server, folder)


def call_ms(model: Path, strips: Path) -> float:
    """Milliseconds of processor time that a strip takes in the model alone, in calls of several."""
    predictor = _scorer(str(strips), model).detector.predictor
    prepared = [predictor.prepare(make_strip(np.random.default_rng(0)))] * predictor.batch
    predictor.predict(prepared)
    began = time.process_time()
    for _ in range(CALLS):
        predictor.predict(prepared)
    return 1000 * (time.process_time() - began) / CALLS / len(prepared)


def ray_start() -> tuple[float, float, float]:
    """Seconds that Ray's import, start and end take."""
    began = time.perf_counter()
    from scale.ray_engine import Actors, connected

    imported = time.perf_counter()
    with connected(Actors(1, 1)):
        ready = time.perf_counter()
    return imported - began, ready - imported, time.perf_counter() - ready


def listing_cost(url: str, count: int, path: Path) -> tuple[float, float]:
    """Processor microseconds and bytes of memory that each of `count` objects costs in a listing.

    To be called in a new process; `path` is where the listing is written.
    """
    from scale.tables import write_listing

    with suppress(UserError):  # there is nothing; but this connects
        _archive(f"{url}/none").list_strips("tiff")
    names_cost(WARM_UP, path)  # what is taken once, for however many
    before, began = memory("VmRSS"), time.process_time()
    strips = _archive(url).list_strips(None)
    write_listing(path, strips.parts(SHARD))
    assert len(strips) == count
    return 1e6 * (time.process_time() - began) / count, (memory("VmHWM") - before) / count


def names_cost(count: int, path: Path) -> float:
    """Bytes of memory that each of so many drawn names takes in a listing, without storage.

    To be called in a new process; `path` is where the listing is written.
    """
    from scale.listed import ListedStrip
    from scale.strip_listing import StripListing
    from scale.tables import write_listing

    def names() -> Iterator[ListedStrip]:
        for number in range(count):
            yield ListedStrip(f"2026-11-{number % 30:02}/strip_{number:07}.tiff", 0, ETAG)

    before = memory("VmRSS")
    write_listing(path, StripListing(names(), "", None).parts(SHARD))
    return (memory("VmHWM") - before) / count


def memory(name: str) -> int:
    """Bytes of memory of this process, VmRSS now or VmHWM at its peak, on Linux."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])
