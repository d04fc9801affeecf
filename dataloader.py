"""Strips on disk to checked arrays, and patches to training samples by a recipe."""

import logging
import math
import mmap
import multiprocessing
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch
from torch.utils.data import Dataset, Sampler

from common.errors import UserError, about, one_line
from data.folder import IMAGE_SUFFIXES
from data.recipes import Synthesis
from gaussian import GREY_LEVELS
from ops.tiling import tile_positions

DEFAULT_INPUT_MAX = 255.0  # largest pixel value that the camera can deliver
CAMERA_RANGES = (1, 255, 1023, 4095, 16383, 65535)  # what --input_max usually is: unit range, 8, 10, 12, 14 and 16 bits
MAPS_KEPT = 256  # memory-mapped strips; each holds a file open, and many systems allow a process 1024 of them
END_MARKS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}  # how a whole file ends,
LONGEST_TRAILER = 1024  # or nearly so: some programs append a few bytes
CHANNEL_COUNTS = (3, 4)  # Target, Ref1, Ref2 and, ignored, a mask

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what it then raises; an error is one line here


def load_image(path: Path, input_max: float = DEFAULT_INPUT_MAX) -> np.ndarray:
    """Target, Ref1 and Ref2 of one strip: (3, H, W) float32, grey levels 0-255. Every script loads strips with this.

    The file's 0..`input_max` becomes 0..255. TIFF, PNG or JPG; 3 or 4 channels, first or last; float, uint8 or uint16. Raises
    `UserError` for anything else, and for values that are not finite or outside the range.
    """
    with about(path):
        channels = open_channels(path)
        _check_values(channels, input_max)
        return to_grey_levels(channels, input_max)


def load_mask(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """A ground truth mask: (H, W) bool, True on a defect. Raises `UserError` when it is not of `image_size` (height, width)."""
    with about(path):
        mask, _ = _read_file(path)
        if mask.ndim == 3 and mask.shape[2] in CHANNEL_COUNTS:
            mask = mask[:, :, :3].any(axis=2)
        if mask.shape != tuple(image_size):
            raise UserError(f"found a mask of {mask.shape}, expected {tuple(image_size)} (height, width) like its strip")
        # JPG smears a mask's edges, so there a defect is what is nearer to its largest value than to 0.
        return np.asarray(mask > mask.max() / 2 if path.suffix.lower() in (".jpg", ".jpeg") else mask != 0)


def to_unit_range(grey_levels: np.ndarray) -> np.ndarray:
    """Grey levels 0-255 to 0-1, float32: what the network reads, in training, PyTorch inference and ONNX Runtime alike."""
    return np.multiply(grey_levels, 1.0 / GREY_LEVELS, dtype=np.float32)


def to_grey_levels(pixels: np.ndarray, input_max: float) -> np.ndarray:
    """Pixels 0..`input_max` of any type to grey levels 0-255, as a new float32 array."""
    if input_max == GREY_LEVELS:
        return np.array(pixels, np.float32)  # astype would give a memory-mapped array's own type, whose every slice takes long
    return np.multiply(np.asarray(pixels), GREY_LEVELS / input_max, dtype=np.float32)


def open_channels(path: Path) -> np.ndarray:
    """Target, Ref1 and Ref2 as they are in the file: (3, H, W), memory-mapped and not yet read where the file allows it.

    Raises `UserError`, without the path, for a file that is not such an image. Values are not checked.
    """
    return open_all_channels(path)[:3]


def open_all_channels(path: Path) -> np.ndarray:
    """The same with a fourth channel where the file has one: (3 or 4, H, W)."""
    pixels, channel_axis = _read_file(path)
    if pixels.ndim != 3:
        raise UserError(f"found an image of shape {pixels.shape}, expected three dimensions with 3 or 4 channels")
    if not (np.issubdtype(pixels.dtype, np.floating) or pixels.dtype.newbyteorder("=") in (np.uint8, np.uint16)):
        raise UserError(f"found pixels of type {pixels.dtype}, expected float32, uint8 or uint16")
    return np.moveaxis(pixels, _find_channel_axis(pixels.shape, channel_axis), 0)


class StripPatches(Dataset):
    """Training samples: every tile of every strip once per epoch, as a recipe makes them of it.

    A sample is asked for by (epoch, index), or by an index alone for epoch 0, and depends on nothing but (seed, epoch, index):
    it is the same from any worker, and another one in every epoch. It is `{"three_channel_input": (3, h, w) float32 0-1,
    "target_mask": (1, h, w) float32 {0, 1}}`. Strips must have been inspected; they are not checked again.
    """

    def __init__(
        self,
        paths: list[Path],
        image_size: tuple[int, int],
        patch: int,
        synthesis: Synthesis,
        seed: int = 0,
        input_max: float = DEFAULT_INPUT_MAX,
        cache_size: int = 0,
    ):
        self.paths = paths
        self.strips = OpenStrips(paths, cache_size)
        self.patch = patch
        self.positions = tile_positions(image_size, patch)
        self.synthesis = synthesis
        self.seed = seed
        self.input_max = input_max

    def __len__(self) -> int:
        return len(self.paths) * len(self.positions)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        image = self._crop(index)
        mask = np.zeros((1, self.patch, self.patch), dtype=np.float32)
        self.synthesis(image, mask[0], np.random.default_rng((self.seed, epoch, index)))
        return {"three_channel_input": torch.from_numpy(to_unit_range(image)), "target_mask": torch.from_numpy(mask)}

    def place(self, index: int) -> tuple[Path, tuple[int, int]]:
        """The strip that a patch is cut from, and where (y, x) in it the patch begins."""
        strip, position = self._locate(index)
        return self.paths[strip], position

    def _locate(self, index: int) -> tuple[int, tuple[int, int]]:
        strip, tile = divmod(index, len(self.positions))
        return strip, self.positions[tile]

    def _crop(self, index: int) -> np.ndarray:
        """The patch as a new array of grey levels (3, h, w): cropped first, so that only its own pixels are ever read."""
        strip, (y, x) = self._locate(index)
        with about(self.paths[strip]):
            channels = self.strips[strip]
        return to_grey_levels(channels[:, y : y + self.patch, x : x + self.patch], self.input_max)


class OpenStrips:
    """The strips of a data set by their number, opened when they are first asked for.

    A memory-mapped strip costs no memory of its own, whatever the number of worker processes; MAPS_KEPT of them stay open. Of
    strips that have to be decoded the first `decoded_kept` of the data set stay in memory, once for all worker processes.
    """

    def __init__(self, paths: list[Path], decoded_kept: int):
        self.paths = paths
        self._mapped: OrderedDict[int, np.ndarray] = OrderedDict()
        self._decoded = SharedStrips(min(decoded_kept, len(paths)), paths[0]) if decoded_kept else None

    def __getitem__(self, number: int) -> np.ndarray:
        if number in self._mapped:
            self._mapped.move_to_end(number)
            return self._mapped[number]
        kept = self._decoded[number] if self._decoded else None
        if kept is not None:
            return kept
        channels = open_channels(self.paths[number])
        if isinstance(channels, np.memmap):
            self._keep_mapped(number, channels)
        elif self._decoded:
            self._decoded.keep(number, channels)
        return channels

    def _keep_mapped(self, number: int, channels: np.ndarray) -> None:
        self._mapped[number] = channels
        if len(self._mapped) > MAPS_KEPT:
            self._mapped.popitem(last=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": OrderedDict(), "_decoded": None}  # a process that is not forked opens its own


class SharedStrips:
    """Memory for `count` decoded strips like the one in `example`, shared with every process that is forked from this one.

    It is taken from the system as it fills. Strips are drawn at random, so keeping the first ones serves as well as keeping the
    last ones used, and no process ever has to make room. Where the first strip needs no decoding, nothing is kept at all.
    """

    def __init__(self, count: int, example: Path):
        with about(example):
            channels = open_channels(example)
        if isinstance(channels, np.memmap):
            count = 0  # the data set needs no decoding
        self._pixels = self._shared(channels.nbytes * count, channels.dtype).reshape(count, *channels.shape)
        self._is_filled = self._shared(count, np.dtype(bool))
        self._lock = multiprocessing.Lock()  # who sees a strip marked as filled must also see its pixels

    @staticmethod
    def _shared(size: int, kind: np.dtype) -> np.ndarray:
        return np.frombuffer(mmap.mmap(-1, max(size, mmap.PAGESIZE)), kind, count=size // kind.itemsize)

    def __getitem__(self, number: int) -> np.ndarray | None:
        if number >= len(self._pixels):
            return None
        with self._lock:
            is_filled = self._is_filled[number]
        return self._pixels[number] if is_filled else None

    def keep(self, number: int, channels: np.ndarray) -> None:
        if number >= len(self._pixels) or (channels.shape, channels.dtype) != (self._pixels.shape[1:], self._pixels.dtype):
            return
        self._pixels[number] = channels
        with self._lock:
            self._is_filled[number] = True


class EpochBatches(Sampler):
    """The batches of an epoch: all indices of a data set in an order drawn from (seed, epoch), each as (epoch, index).

    With `processes` each takes its part of every batch, of `batch_size` indices; `rank` says which. All parts are equally
    long: where the last batch cannot be divided, its first indices come twice. Iteration begins with batch `first`, where a
    resumed epoch goes on. The index carries the epoch because workers that outlive an epoch never hear of an attribute set
    on the data set.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        self.length, self.batch_size, self.seed, self.rank, self.processes = length, batch_size, seed, rank, processes
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return math.ceil(self.length / (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(self.epoch)
        for number in range(self.first, len(self)):
            together = order[self._places(number)]
            share = math.ceil(len(together) / self.processes)
            even = np.resize(together, share * self.processes)
            yield [(self.epoch, index) for index in even[self.rank * share : (self.rank + 1) * share].tolist()]

    def of_all_processes(self, epoch: int, number: int) -> list[int]:
        """The indices of one batch, of all processes together."""
        return self._order(epoch)[self._places(number)].tolist()

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.length)

    def _places(self, number: int) -> slice:
        size = self.batch_size * self.processes
        return slice(number * size, (number + 1) * size)


def _read_file(path: Path) -> tuple[np.ndarray, int | None]:
    """Pixels of any shape, and the axis of the channels where the file itself names it."""
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES["tiff"]:
            return _read_tiff(path)
        return _read_png_or_jpg(path), 2
    except UserError:
        raise
    except Exception as error:  # tifffile and its codecs raise whatever their parsing ran into
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise UserError(f"found no readable image ({reason}), expected a whole TIFF, PNG or JPG file") from None


def _read_tiff(path: Path) -> tuple[np.ndarray, int | None]:
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        channel_axis = next((series.axes.index(name) for name in "SC" if series.axes.count(name) == 1), None)
        if series.dataoffset is None or not series.keyframe.is_memmappable:
            return series.asarray(), channel_axis
        pixel_type = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        return np.memmap(path, pixel_type, "r", series.dataoffset, series.shape), channel_axis


def _read_png_or_jpg(path: Path) -> np.ndarray:
    """(H, W, C) in OpenCV's order: Target is the blue channel, Ref1 the green and Ref2 the red one."""
    encoded = path.read_bytes()
    is_whole = END_MARKS[path.suffix.lower()] in encoded[-LONGEST_TRAILER:]  # a decoder may fill up what is missing
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED) if is_whole else None
    if pixels is None:
        raise UserError("found no readable image, expected a whole PNG or JPG file")
    return pixels


def _find_channel_axis(shape: tuple[int, int, int], named_axis: int | None) -> int:
    """0 or 2: the axis of 3 or 4. Where both are (an image of 3 or 4 rows or columns) the file's own word decides."""
    candidates = [axis for axis in (0, 2) if shape[axis] in CHANNEL_COUNTS]
    if len(candidates) == 2 and named_axis in candidates:
        return named_axis
    if len(candidates) == 2:
        raise UserError(f"found shape {shape}, whose first or last axis could be the channels; expected a file that says which")
    if not candidates:
        raise UserError(f"found shape {shape}, expected 3 or 4 channels, first or last")
    return candidates[0]


def _check_values(channels: np.ndarray, input_max: float) -> None:
    lowest, highest = float(channels.min()), float(channels.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise UserError("found pixels that are NaN or infinite, expected finite values only")
    if lowest < 0:
        raise UserError(f"found values down to {lowest:g}, expected 0 to {input_max:g}")
    if highest > input_max:
        fitting = next((limit for limit in CAMERA_RANGES if limit >= highest), math.ceil(highest))
        raise UserError(
            f"found values up to {highest:g}, expected at most {input_max:g}: "
            f"a camera of that range needs a training with --input_max {fitting}"
        )
