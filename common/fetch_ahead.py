"""Objects that are fetched in threads before they are read."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError, shown
from common.remote_tree import is_in_tree
from common.storage import StoredObject, fetch

AHEAD_VARIABLE = "REMOTE_PREFETCH"  # read by child processes, too
File = Path | StoredObject  # a path in a tree, or an object as listed
DEFAULT_AHEAD, MOST_AHEAD = 16, 256  # objects


def set_ahead(count: int | None) -> None:
    """Have this process and its children fetch so many objects ahead; None changes nothing."""
    if count is not None:
        os.environ[AHEAD_VARIABLE] = str(count)


def ahead_count() -> int:
    """How many objects are fetched ahead; 0 for none.

    Raises `UserError` for a value of REMOTE_PREFETCH that is no such number.
    """
    text = os.environ.get(AHEAD_VARIABLE, str(DEFAULT_AHEAD))
    if text.isdecimal() and len(text) < 9 and int(text) <= MOST_AHEAD:
        return int(text)
    raise UserError(f"{AHEAD_VARIABLE}: found {shown(text)}, expected 0 to {MOST_AHEAD}")


class FetchAhead:
    """Groups of files that are read roughly in their order, in any number of threads."""

    def __init__(
        self, groups: Sequence[Sequence[File]], pool: ThreadPoolExecutor | None, ahead: int
    ):
        self.groups, self._pool, self._ahead = groups, pool, ahead
        self._lock = threading.Lock()
        self._fetches: list[list[Future]] = []  # of the first groups

    def reach(self, number: int) -> None:
        """Return once the files of a group are here; those of the next ones are on their way.

        Raises `UserError` where a file cannot be fetched.
        """
        if not self._pool:
            return
        with self._lock:
            for group in self.groups[len(self._fetches) : number + self._ahead + 1]:
                self._fetches.append([self._pool.submit(fetch, path) for path in group])
        for future in self._fetches[number]:
            future.result()


@contextmanager
def fetching_ahead(groups: Sequence[Sequence[File]]) -> Iterator[FetchAhead]:
    """Fetch groups of files ahead during the block; of local paths nothing is done."""
    count = ahead_count() if any(map(_is_fetched, groups[0] if groups else ())) else 0
    if not count:
        yield FetchAhead(groups, None, 0)
        return
    pool = ThreadPoolExecutor(count)
    try:
        yield FetchAhead(groups, pool, count)
    finally:
        pool.shutdown(cancel_futures=True)


def _is_fetched(file: File) -> bool:
    return isinstance(file, StoredObject) or is_in_tree(file)


def fetch_together(paths: Iterable[Path]) -> None:
    """Fetch objects at once. One that cannot be fetched is left to its reader, who says so."""
    remote = [path for path in paths if is_in_tree(path)]
    if len(remote) < 2 or not (count := ahead_count()):
        return
    with ThreadPoolExecutor(min(count, len(remote))) as pool:
        for future in [pool.submit(fetch, path) for path in remote]:
            future.exception()
