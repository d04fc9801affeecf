"""The pixels of a strip that stay in its file until they are asked for."""

import mmap
import os
from pathlib import Path

import numpy as np

from common.errors import UserError


class StripInFile:
    """Channels (C, H, W) in an uncompressed file, of which a crop is read when it is needed.

    A memory map would do the same, but a file that is cut short while it is mapped ends the process
    with a bus error. `channels` is a map of the file, which tells where the pixels lie; none of
    them is read. Raises `OSError` if the file cannot be opened.
    """

    def __init__(self, path: Path, channels: np.memmap):
        self.shape, self.dtype, self._strides = channels.shape, channels.dtype, channels.strides
        first_mapped = channels.offset - channels.offset % mmap.ALLOCATIONGRANULARITY
        self._start = (
            first_mapped + _address(channels) - _address(np.frombuffer(channels._mmap, np.uint8))
        )
        self._file = path.open("rb", buffering=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __getitem__(self, crop: tuple[slice, slice, slice]) -> np.ndarray:
        """Return `channels[:, rows, columns]`, read-only.

        Raises `UserError`, without the path, when the file has become shorter.
        """
        _, rows, columns = crop
        top, bottom, _ = rows.indices(self.shape[1])
        left, right, _ = columns.indices(self.shape[2])
        per_channel, per_row, per_column = self._strides
        place = self._start + top * per_row + left * per_column
        size, strides = (bottom - top, right - left), (per_row, per_column)
        count = self.shape[0]
        if abs(per_channel) < per_row:  # the channels of a pixel lie side by side
            return self._read(place, (count, *size), self._strides)
        return np.stack(
            [self._read(place + number * per_channel, size, strides) for number in range(count)]
        )

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:, :, :], dtype)

    def _read(self, place: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        """Read an array of these strides whose first element is at `place`, in bytes."""
        steps = [(length - 1) * stride for length, stride in zip(shape, strides)]
        before = -sum(step for step in steps if step < 0)
        size = before + sum(step for step in steps if step > 0) + self.dtype.itemsize
        content = self._read_bytes(place - before, size)
        return np.ndarray(shape, self.dtype, content, before, strides)

    def _read_bytes(self, place: int, size: int) -> bytes:
        if hasattr(os, "pread"):  # processes that are forked later share the file's position
            content = os.pread(self._file.fileno(), size, place)
        else:
            self._file.seek(place)
            content = self._file.read(size)
        if len(content) < size:
            raise UserError(
                "found a file that has become shorter since it was opened, "
                "expected that strips stay as they are during a training"
            )
        return content


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
