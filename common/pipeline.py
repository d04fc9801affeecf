"""The stages of processing a strip: run in parallel threads, and timed one by one.

Results keep the order of the strips, and only a few strips are in memory at a time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from common.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")
STAGES = ("loading", "preprocessing", "inference", "post-processing", "writing")
READERS, WRITERS = 2, 2  # threads, besides the one that computes
_adding = threading.Lock()


@dataclass
class StageTimes:
    """Seconds that strips spent in each of STAGES, summed over threads, and the time `elapsed`."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    elapsed: float = 0.0

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with _adding:
                self.seconds[stage] += time.perf_counter() - started

    @contextmanager
    def of_all(self) -> Iterator[None]:
        """Add the seconds that the block takes to `elapsed`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed += time.perf_counter() - started

    def merge(self, others: "list[StageTimes]") -> None:
        """Become the times of `others`, which ran in parallel."""
        self.seconds = {stage: sum(other.seconds[stage] for other in others) for stage in STAGES}
        self.elapsed = max(other.elapsed for other in others)

    def describe(self, strips: int, unit: str = "strip") -> str:
        """Return a line with strips per second and milliseconds by stage, for `strips` > 0.

        `unit` is the name of what was scored.
        """
        parts = ", ".join(
            f"{1000 * seconds / strips:.1f} {stage}" for stage, seconds in self.seconds.items()
        )
        return (
            f"{strips / self.elapsed:.3g} {unit}s per second; "
            f"ms per {unit}, in overlapping stages: {parts}"
        )


class Backlog:
    """Work for a pool's threads; at most `most` pieces wait or run at a time.

    An exception of a piece of work is raised by a later `add` or by `finish`.
    """

    def __init__(self, pool: ThreadPoolExecutor, most: int):
        self.pool, self.most = pool, most
        self._waiting: deque[Future] = deque()

    def add(self, work: Callable[..., None], *values: Any) -> None:
        """Submit work(*values); while there are `most` pieces, wait for the oldest first."""
        while len(self._waiting) >= self.most:
            self._waiting.popleft().result()
        self._waiting.append(self.pool.submit(work, *values))

    def finish(self) -> None:
        """Wait until all work is done."""
        while self._waiting:
            self._waiting.popleft().result()


@contextmanager
def threads(count: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads (None: as many as suit the machine).

    At the end of the block, work that has not begun is dropped. Work that has begun is finished, so
    that its files become complete.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """Yield `work(item)` for each item, in the items' order.

    A pool's threads work up to `most` items ahead.
    """
    waiting: deque[Future] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`; the last list may be shorter."""
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])


def in_parallel(work: Callable[[Item], Result], items: list[Item], label: str) -> list[Result]:
    """Return `work(item)` for all items, in order, with a progress bar.

    The first error cancels the work that has not begun, and is raised.
    """
    with threads(None) as pool:
        results = pool.map(work, items)
        return list(progress_bar(results, total=len(items), desc=label, leave=True))
