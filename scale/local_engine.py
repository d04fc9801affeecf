"""Scoring with a pool of processes on this machine."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from common.errors import UserError
from common.parent import end_with_parent
from scale.listed import Chunk
from scale.strip_scorer import Job, ScoredStrips, StripScorer

AHEAD = 3  # chunks per worker that are handed out and not yet received
MOST_LOSSES = 4  # times that workers may end

_scorer: StripScorer | None = None  # of this process, where it is a worker


def score_locally(
    job: Job, chunks: Iterable[Chunk], workers: int
) -> Iterator[tuple[Chunk, ScoredStrips]]:
    """Yield each chunk with its results, in any order; the pool ends with the iterator.

    Chunks whose worker was killed are scored again. Raises `UserError` when a worker cannot use the
    model, and when workers end MOST_LOSSES times without a chunk that is finished in between.
    """
    rest, losses = iter(chunks), 0
    again: deque[Chunk] = deque()

    def next_chunk() -> Chunk | None:
        return again.popleft() if again else next(rest, None)

    while True:
        lost: list[Chunk] = []
        for result in _score_with_pool(job, next_chunk, workers, lost):
            losses = 0
            yield result
        if not lost:
            return
        losses += 1
        if losses == MOST_LOSSES:
            first = job.archive.place(lost[0].strips[0].path)
            raise UserError(
                f"{first}: found that the processes that score it and "
                f"the strips after it ended {MOST_LOSSES} times, expected that they can be scored: "
                "is there enough memory for --workers?"
            )
        again.extend(lost)


def _score_with_pool(
    job: Job, next_chunk: Callable[[], Chunk | None], workers: int, lost: list[Chunk]
) -> Iterator[tuple[Chunk, ScoredStrips]]:
    """As `score_locally`, until a worker is killed: then `lost` gets the chunks to score again."""
    # spawned, not forked: neither torch's threads nor a GPU's context bear a fork
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker)
    waiting: dict[Future, Chunk] = {}
    try:
        while True:
            while len(waiting) < AHEAD * workers and (chunk := next_chunk()):
                lost.append(chunk)  # until it is handed out
                waiting[pool.submit(_score, job, chunk)] = lost.pop()
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                if isinstance(outcome, UserError):
                    raise outcome
                yield waiting.pop(future), outcome
    except BrokenProcessPool:
        lost += waiting.values()
    finally:
        _end(pool)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: what they are at is not needed any more."""
    for process in multiprocessing.active_children():
        process.kill()
    pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    end_with_parent()
    # Ctrl-C reaches all processes of a terminal; the command ends the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _score(job: Job, chunk: Chunk) -> ScoredStrips | UserError:
    """The results of a chunk, or the error of a worker that can score nothing."""
    global _scorer
    try:
        if _scorer is None:
            scorer = StripScorer(job)
            scorer.warm_up()
            _scorer = scorer
        return _scorer.score(chunk.strips)
    except UserError as error:
        return error
