"""The strips of a data set, opened on first use.

Their pixels stay in the files, or are decoded once for all worker processes.
"""

import functools
import mmap
import multiprocessing
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import prefix_errors
from common.storage import fetch
from data.image_files import STORED_ORDER, open_channels
from data.strip_in_file import StripInFile

# Strips whose files stay open. Many systems allow a process 1024 open files.
FILES_KEPT = 256


@functools.cache
def has_shared_memory() -> bool:
    """Whether processes can share locks and memory here: on Linux /dev/shm has to be writable."""
    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True


class OpenStrips:
    """The strips of a data set by their number, opened on first use.

    A strip in an uncompressed file is read from there, whatever the number of worker processes;
    FILES_KEPT of them stay open. If strips have to be decoded, the first `decoded_kept` of the data
    set stay in memory, once for all worker processes. `order` is that of `open_channels`.
    """

    def __init__(self, paths: list[Path], decoded_kept: int, order: Sequence[int] = STORED_ORDER):
        self.paths = paths
        self.order = order
        self._in_files: OrderedDict[int, StripInFile] = OrderedDict()
        self._decoded = (
            SharedStrips(min(decoded_kept, len(paths)), paths[0], order) if decoded_kept else None
        )

    def __getitem__(self, number: int) -> np.ndarray | StripInFile:
        """Return the strip's channels (3, H, W) as stored, to be cropped.

        Raises `UserError` or `OSError` if the file cannot be read.
        """
        if number in self._in_files:
            self._in_files.move_to_end(number)
            return self._in_files[number]
        decoded = self._decoded[number] if self._decoded else None
        if decoded is not None:
            return decoded
        channels = open_channels(self.paths[number], order=self.order)
        if isinstance(channels, np.memmap):
            return self._keep_in_file(number, channels)
        if self._decoded:
            self._decoded.keep(number, channels)
        return channels

    def _keep_in_file(self, number: int, channels: np.memmap) -> StripInFile:
        self._in_files[number] = strip = StripInFile(fetch(self.paths[number]), channels)
        if len(self._in_files) > FILES_KEPT:
            self._in_files.popitem(last=False)[1].close()
        return strip

    def __getstate__(self) -> dict[str, Any]:
        # a process that is not forked opens the strips itself
        return self.__dict__ | {"_in_files": OrderedDict(), "_decoded": None}


class SharedStrips:
    """Memory for `count` decoded strips like `example`, shared with all processes forked later.

    The system provides the memory as it fills. Strips are drawn at random, so keeping the first
    ones serves as well as keeping the most recent ones, and no process has to replace any. If the
    first strip needs no decoding, nothing is kept. Raises `UserError` if `example` cannot be read.
    """

    def __init__(self, count: int, example: Path, order: Sequence[int] = STORED_ORDER):
        with prefix_errors(example):
            channels = open_channels(example, order=order)
        if isinstance(channels, np.memmap):
            count = 0  # a data set of uncompressed files needs no decoding
        self._pixels = self._shared(channels.nbytes * count, channels.dtype).reshape(
            count, *channels.shape
        )
        self._is_filled = self._shared(count, np.dtype(bool))
        # orders the writes: a process that sees a strip marked as filled also sees its pixels
        self._lock = multiprocessing.Lock() if has_shared_memory() else threading.Lock()

    @staticmethod
    def _shared(size: int, kind: np.dtype) -> np.ndarray:
        return np.frombuffer(
            mmap.mmap(-1, max(size, mmap.PAGESIZE)), kind, count=size // kind.itemsize
        )

    def __getitem__(self, number: int) -> np.ndarray | None:
        """Return the strip's channels (3, H, W), or None if it is not kept."""
        if number >= len(self._pixels):
            return None
        with self._lock:
            is_filled = self._is_filled[number]
        return self._pixels[number] if is_filled else None

    def keep(self, number: int, channels: np.ndarray) -> None:
        """Store a strip's channels, unless it is beyond `count` or unlike `example`."""
        if number >= len(self._pixels) or (channels.shape, channels.dtype) != (
            self._pixels.shape[1:],
            self._pixels.dtype,
        ):
            return
        self._pixels[number] = channels
        with self._lock:
            self._is_filled[number] = True
