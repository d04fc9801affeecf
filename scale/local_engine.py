"""Scoring with a pool of processes on this machine."""

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from common.errors import UserError
from common.parent import end_with_parent
from scale.listed import Chunk
from scale.strip_scorer import Job, ScoredStrips, StripScorer, deadly_strip

AHEAD = 3  # chunks per worker that are handed out and not yet received
LOSSES_TOGETHER = 2  # times that a chunk may be lost beside others, before it is scored alone
TRIES_ALONE = 2  # times that a strip may end the worker that scores nothing else
MOST_STARTS = 4  # workers that may end before they can score
MOST_DEADLY = 20  # strips in succession that may end their workers: more are the machine's fault

_scorer: StripScorer | None = None  # of this process, where it is a worker


def score_locally(
    job: Job, chunks: Iterable[Chunk], workers: int
) -> Iterator[tuple[Chunk, ScoredStrips]]:
    """Yield each chunk with its results, in any order; the pool ends with the iterator.

    Chunks whose worker was killed are scored again. Those that are lost again and again are scored
    alone, strip by strip: one that ends its worker each time is a row of `errors`, and a chunk of
    its own. Raises `UserError` when a worker cannot use the model, and when workers end before they
    have begun or with MOST_DEADLY strips in succession.
    """
    rest, losses = iter(chunks), Counter()
    again: deque[Chunk] = deque()

    def next_chunk() -> Chunk | None:
        return again.popleft() if again else next(rest, None)

    while True:
        lost: list[Chunk] = []
        yield from _score_with_pool(job, next_chunk, workers, lost)
        if not lost:
            return
        # the pool takes chunks in order, so the first ones were being scored
        losses.update(lost[: workers + 1])
        suspects = [chunk for chunk in lost if losses[chunk] == LOSSES_TOGETHER]
        again.extendleft(reversed([chunk for chunk in lost if chunk not in suspects]))
        yield from _score_alone(job, suspects)


def _score_with_pool(
    job: Job, next_chunk: Callable[[], Chunk | None], workers: int, lost: list[Chunk]
) -> Iterator[tuple[Chunk, ScoredStrips]]:
    """As `score_locally`, until a worker is killed: then `lost` gets the chunks to score again."""
    pool = _make_pool(workers)
    waiting: dict[Future, Chunk] = {}
    try:
        while True:
            while len(waiting) < AHEAD * workers and (chunk := next_chunk()):
                lost.append(chunk)  # until it is handed out
                waiting[pool.submit(_score, job, chunk)] = lost.pop()
            if not waiting:
                pool.shutdown()  # a worker that is killed leaves a semaphore, and a warning of it
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                outcome = _require(future.result())
                yield waiting.pop(future), outcome
    except BrokenProcessPool:
        lost[:0] = waiting.values()
    finally:
        _end(pool)


def _score_alone(job: Job, suspects: list[Chunk]) -> Iterator[tuple[Chunk, ScoredStrips]]:
    """Score chunks one at a time, and the strips of one that ends its worker one at a time."""
    worker, deadly = _LoneWorker(job), 0
    try:
        for chunk in suspects:
            if scored := worker.score(chunk):
                deadly = 0
                yield chunk, scored
                continue
            for single in chunk.singles():
                scored = worker.score(single, TRIES_ALONE)
                deadly = 0 if scored else deadly + 1
                if deadly == MOST_DEADLY:
                    raise UserError(
                        f"{job.archive.place(single.strips[0].path)}: found that it and the "
                        f"{MOST_DEADLY - 1} strips before it ended each process that scored them, "
                        "expected that they can be scored: is there enough memory?"
                    )
                yield single, scored or deadly_strip(single.strips[0], TRIES_ALONE)
    finally:
        worker.end()


class _LoneWorker:
    """A pool of one worker, which begins anew where its worker was ended."""

    def __init__(self, job: Job):
        self.job = job
        self._pool: ProcessPoolExecutor | None = None

    def score(self, chunk: Chunk, tries: int = 1) -> ScoredStrips | None:
        """The results of a chunk; None where each of so many tries ended the worker.

        Raises `UserError` when workers end before they can score, or cannot use the model.
        """
        for _ in range(tries):
            self._begin()
            try:
                return _require(self._pool.submit(_score, self.job, chunk).result())
            except BrokenProcessPool:
                self.end()
        return None

    def _begin(self) -> None:
        for _ in range(MOST_STARTS):
            if self._pool:
                return
            self._pool = _make_pool(1)
            try:
                _require(self._pool.submit(_open_scorer, self.job).result())
            except BrokenProcessPool:
                self.end()
        if not self._pool:
            raise UserError(
                f"{self.job.model}: found that {MOST_STARTS} processes that opened it ended, "
                "expected that one can score: is there enough memory?"
            )

    def end(self) -> None:
        """End the worker."""
        if self._pool:
            _end(self._pool)
        self._pool = None


def _make_pool(workers: int) -> ProcessPoolExecutor:
    # spawned, not forked: neither torch's threads nor a GPU's context bear a fork
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: what they are at is not needed any more."""
    for process in multiprocessing.active_children():
        process.kill()
    pool.shutdown(cancel_futures=True)


def _require(outcome: ScoredStrips | UserError | None) -> ScoredStrips | None:
    """What a worker returned. Raises `UserError` where that is one."""
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _begin_worker() -> None:
    end_with_parent()
    # Ctrl-C reaches all processes of a terminal; the command ends the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _open_scorer(job: Job) -> UserError | None:
    """Have the scorer of this process, or the error of one that can score nothing."""
    global _scorer
    try:
        if _scorer is None:
            scorer = StripScorer(job)
            scorer.warm_up()
            _scorer = scorer
    except UserError as error:
        return error
    return None


def _score(job: Job, chunk: Chunk) -> ScoredStrips | UserError:
    """The results of a chunk, or the error of a worker that can score nothing."""
    try:
        return _open_scorer(job) or _scorer.score(chunk.strips)
    except UserError as error:
        return error
