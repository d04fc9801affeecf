"""Scoring with Ray Data: actors that hold a session each, here or on the machines of a cluster.

Only what has Ray imports this module.
"""

import logging
import os
import pickle
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext

from common.errors import UserError, one_line
from scale.listed import Chunk, ListedStrip
from scale.strip_scorer import Job, ScoredStrips, StripScorer, deadly_strip

ROOT = Path(__file__).resolve().parent.parent
OBJECT_STORE = 200 * 2**20  # bytes; rows are paths and results, no pixels
CHUNKS_AT_ONCE = 4000  # of one dataset: some 100,000 strips
TRIES = 2  # actors that may be lost with a chunk, before its strips are scored one by one
MOST_DEADLY = 20  # strips that may end their actors, if no other is scored beside them
# what the machines of a cluster do not need
NOT_SENT = ("dataset", "checkpoints", "onnx_models", "output", "docs", "tests", ".git", ".venv*")
SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@dataclass(frozen=True)
class Actors:
    """How many actors score, and what each takes; of a GPU that may be a part.

    `address` is that of a cluster (None: Ray is started on this machine, and ended).
    """

    most: int
    cpus: int
    gpus: float = 0
    address: str | None = None


class _ScoringActor:
    """One session; Ray makes as many of these as it has room for."""

    def __init__(self, job: Job):
        self.scorer: StripScorer | None = None
        self.failure: UserError | None = None
        try:
            self.scorer = StripScorer(job)
            self.scorer.warm_up()
        except UserError as error:  # raised here, Ray would begin another actor, again and again
            self.failure = error

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        outcomes = [self._score(pickle.loads(it)) for it in batch["strips"]]
        return {"number": batch["number"], "outcome": [pickle.dumps(it) for it in outcomes]}

    def _score(self, strips: tuple[ListedStrip, ...]) -> ScoredStrips | UserError:
        if self.failure or not strips:
            return self.failure or ScoredStrips()
        try:
            return self.scorer.score(strips)
        except Exception as error:  # raised here, it would look like the loss of an actor
            return error if isinstance(error, UserError) else UserError(_describe(error))


def score_with_ray(
    job: Job, chunks: Iterable[Chunk], actors: Actors
) -> Iterator[tuple[Chunk, ScoredStrips]]:
    """Yield each chunk with its results, in any order; Ray ends with the iterator.

    Ray scores the chunks of an actor again that was lost. Of a chunk that is lost again the strips
    are scored one by one: one that ends TRIES actors is a row of `errors`, and a chunk of its own.
    Raises `UserError` when an actor cannot use the model, and when Ray cannot be reached or fails.
    """
    rest = iter(chunks)
    with connected(actors):
        while part := list(islice(rest, CHUNKS_AT_ONCE)):
            lost: list[Chunk] = []
            yield from _score_part(job, part, actors, lost)
            singles = [single for chunk in lost for single in chunk.singles()]
            if not singles:
                continue
            deadly: list[Chunk] = []
            yield from _score_part(job, singles, actors, deadly, tasks_ahead=1)
            _require_ray(job, singles, deadly, actors)
            for single in deadly:
                yield single, deadly_strip(single.strips[0], TRIES)


def _require_ray(job: Job, singles: list[Chunk], deadly: list[Chunk], actors: Actors) -> None:
    """Raise `UserError` unless it was the strips that ended their actors."""
    if not deadly:
        return
    lost: list[Chunk] = []
    # an actor that has nothing to score
    for _ in _score_part(job, [replace(deadly[0], strips=())], actors, lost):
        pass
    if lost or len(deadly) == len(singles) >= MOST_DEADLY:
        raise UserError(
            f"{job.archive.place(deadly[0].strips[0].path)}: found that the actors that score it "
            f"and {len(deadly) - 1} other strips ended, expected that they can be scored: "
            "is there enough memory?"
        )


def _score_part(
    job: Job, part: list[Chunk], actors: Actors, lost: list[Chunk], tasks_ahead: int | None = None
) -> Iterator[tuple[Chunk, ScoredStrips]]:
    """Yield the results of chunks; `lost` gets those that ended TRIES actors.

    An actor that ends takes those along that were handed to it, `tasks_ahead` at once.
    """
    rows = [
        {"number": number, "strips": pickle.dumps(chunk.strips)}
        for number, chunk in enumerate(part)
    ]
    pool = ActorPoolStrategy(
        min_size=1, max_size=actors.most, max_tasks_in_flight_per_actor=tasks_ahead
    )
    # a block for each row: an actor's results come when its block is finished
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _ScoringActor,
        batch_size=1,
        fn_constructor_args=(job,),
        compute=pool,
        num_cpus=None if actors.gpus else actors.cpus,
        num_gpus=actors.gpus or None,
        max_task_retries=TRIES - 1,
    )
    missing = dict(enumerate(part))
    try:
        for row in dataset.iter_rows():
            outcome = pickle.loads(row["outcome"])
            if isinstance(outcome, UserError):
                raise outcome
            yield missing.pop(row["number"]), outcome
    except ray.exceptions.RayError as error:
        raise UserError(_describe(error)) from None
    lost += missing.values()


def _describe(error: Exception) -> str:
    return f"--engine ray: found that Ray failed ({one_line(error)})"


@contextmanager
def _found_by_workers() -> Iterator[None]:
    """Let the processes that are started find this repository's modules.

    Not by a `runtime_env`: Ray then starts workers by a shell, without quoting the interpreter, and
    waits for ever where its path has a space.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def connected(actors: Actors) -> Iterator[None]:
    """Have Ray, for the block: a cluster's, or one of our own that ends with the block.

    Ray's processes here end with this process even where that is killed: they ask the system.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if actors.address:
        options |= {
            "address": actors.address,
            "runtime_env": {"working_dir": str(ROOT), "excludes": list(NOT_SENT)},
        }
    else:
        options |= {
            # without it Ray would join a cluster that this machine, or RAY_ADDRESS, knows
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
            "num_cpus": max(actors.most * actors.cpus, os.cpu_count() or 1),
        }
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        try:
            with _found_by_workers():
                ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"--ray {actors.address}" if actors.address else "--engine ray"
            raise UserError(f"{where}: found no Ray that answers ({one_line(error)})") from None
        finally:
            for number, handler in handlers.items():  # Ray has set its own
                signal.signal(number, handler)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # a block whose actors were lost is missing from the results, and is not the job's end
        context.max_errored_blocks = -1
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # of each such block, a traceback
        yield
    finally:
        ray.shutdown()
