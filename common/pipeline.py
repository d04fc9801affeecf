"""The stages that a strip goes through: overlapped in threads, in order, never many at a time, and
timed apart.
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

Item = TypeVar("Item")
Result = TypeVar("Result")
STAGES = ("loading", "preprocessing", "inference", "post-processing", "writing")
READERS, WRITERS = 2, 2  # threads beside the one that computes
_adding = threading.Lock()


@dataclass
class StageTimes:
    """Seconds that strips spent in each of STAGES, in whatever thread, and `elapsed` on the clock
    for all of them.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    elapsed: float = 0.0

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Adds the time that the block takes to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with _adding:
                self.seconds[stage] += time.perf_counter() - started

    @contextmanager
    def of_all(self) -> Iterator[None]:
        """Adds the time that the block takes to `elapsed`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed += time.perf_counter() - started

    def merge(self, others: "list[StageTimes]") -> None:
        """Become the times of `others`, which ran beside each other."""
        self.seconds = {stage: sum(other.seconds[stage] for other in others) for stage in STAGES}
        self.elapsed = max(other.elapsed for other in others)

    def describe(self, strips: int) -> str:
        """One line of so many strips, at least one."""
        parts = ", ".join(
            f"{1000 * seconds / strips:.1f} {stage}" for stage, seconds in self.seconds.items()
        )
        return f"{strips / self.elapsed:.3g} strips per second; of each, in ms, beside each other: {parts}"


class Backlog:
    """Work that is done in a pool's threads while the caller goes on; `most` may wait or be under
    way at a time.

    What it raises comes out of a later `add` or of `finish`.
    """

    def __init__(self, pool: ThreadPoolExecutor, most: int):
        self.pool, self.most = pool, most
        self._waiting: deque[Future] = deque()

    def add(self, work: Callable[..., None], *values: Any) -> None:
        """Have work(*values) done; waits for the oldest when there is too much."""
        while len(self._waiting) >= self.most:
            self._waiting.popleft().result()
        self._waiting.append(self.pool.submit(work, *values))

    def finish(self) -> None:
        """Wait until all is done."""
        while self._waiting:
            self._waiting.popleft().result()


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads.

    When the block ends, what has not begun is dropped; what has begun ends first: its files become
    whole.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """What `work` gives for each item, in the items' order; `most` of them are done ahead, in a
    pool's threads.
    """
    waiting: deque[Future] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, `size` at a time; the last group may be smaller."""
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])
