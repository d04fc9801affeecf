"""Training samples per second and core of this loader beside a plain one.

    python -m benchmarks.loader

The plain loader applies the classic recipe in the straightforward way: it reads the whole strip,
crops it, and adds every defect to a copy of each channel that contains it, clipping that channel.
All loaders draw equally many defects, on one core, from files in the page cache, without and with a
cache of decoded strips. They take turns in each round; the table shows medians.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile
import torch

from benchmarks.command_line import make_parser
from benchmarks.tables import print_header, print_row
from data.demo_strips import STRIP_SIZE, make_strip
from data.recipes import RECIPES
from dataloader import StripPatches
from gaussian import allocate_channels, draw_defect
from ops.tiling import tile_positions

PATCH = 128  # pixels
NUM_DEFECTS_RANGE = (4, 10)  # fewest and most defects of a sample


class PlainPatches:
    """The straightforward loader. It shares no reading, cropping or painting with ours.

    Each sample is a dict like that of `StripPatches`: `three_channel_input` (3, PATCH, PATCH) and
    `target_mask` (1, PATCH, PATCH), both float32, 0-1.
    """

    def __init__(self, paths: list[Path], cache_size: int):
        self.patches = [
            (path, y, x) for path in paths for y, x in tile_positions(STRIP_SIZE, PATCH)
        ]
        self.read = lru_cache(cache_size)(self.read_strip) if cache_size else self.read_strip
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.patches)

    @staticmethod
    def read_strip(path: Path) -> np.ndarray:
        """A strip (3, H, W) float32 in grey levels."""
        return tifffile.imread(path).astype(np.float32)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        path, top, left = self.patches[index]
        patch = self.read(path)[:, top : top + PATCH, left : left + PATCH]
        channels = [patch[channel].copy() for channel in range(3)]
        mask = np.zeros((PATCH, PATCH), np.float32)
        if self.generator.random() < 0.5:
            count = self.generator.integers(NUM_DEFECTS_RANGE[0], NUM_DEFECTS_RANGE[1] + 1)
            for channels_of_defect in allocate_channels(self.generator, count):
                defect = draw_defect(self.generator, (PATCH, PATCH))
                y, x = np.mgrid[: defect.size[0], : defect.size[1]]
                square = ((y - defect.size[0] // 2) / defect.sigma[0]) ** 2 + (
                    (x - defect.size[1] // 2) / defect.sigma[1]
                ) ** 2
                gaussian = np.exp(-0.5 * square)
                for channel in channels_of_defect:
                    self.add(channels[channel], defect.center, defect.amplitude * gaussian)
                    channels[channel] = np.clip(channels[channel], 0, 255)
                if channels_of_defect == (0,):
                    self.add(mask, defect.center, gaussian > 0.1)
            mask = np.minimum(mask, 1)
        image = np.stack(channels).astype(np.float32) / 255
        return {
            "three_channel_input": torch.from_numpy(image),
            "target_mask": torch.from_numpy(mask[None].astype(np.float32)),
        }

    @staticmethod
    def add(plane: np.ndarray, center: tuple[int, int], window: np.ndarray) -> None:
        """Add a window to a plane (PATCH, PATCH) in place, centred on (y, x) and cropped there."""
        top, left = center[0] - window.shape[0] // 2, center[1] - window.shape[1] // 2
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + window.shape[0], PATCH), min(left + window.shape[1], PATCH)
        plane[y0:y1, x0:x1] += window[y0 - top : y1 - top, x0 - left : x1 - left]


def make_patches(paths: list[Path], recipe: str, cache_size: int) -> StripPatches:
    """This loader with a recipe and a cache of `cache_size` strips."""
    return StripPatches(
        paths, STRIP_SIZE, PATCH, RECIPES[recipe](NUM_DEFECTS_RANGE), cache_size=cache_size
    )


def samples_per_second(
    samples: StripPatches | PlainPatches, order: list[int], seconds: float
) -> float:
    """Load samples in `order`, again and again, for so many seconds."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        samples[order[count % len(order)]]
        count += 1
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--strips", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.tiff" for number in range(arguments.strips)]
        for number, path in enumerate(paths):
            tifffile.imwrite(
                path,
                make_strip(np.random.default_rng(number)),
                photometric="minisblack",
                planarconfig="separate",
            )
        makers: dict[str, Callable[[int], StripPatches | PlainPatches]] = {
            "this loader": lambda cache: make_patches(paths, "classic", cache),
            "this loader, `--recipe robust`": lambda cache: make_patches(paths, "robust", cache),
            "plain loader": lambda cache: PlainPatches(paths, cache),
        }
        rows = {
            (name, cache): make(cache)
            for cache in (0, arguments.strips)
            for name, make in makers.items()
        }
        order = np.random.default_rng(0).permutation(len(next(iter(rows.values())))).tolist()
        # fill the page cache and the cache of strips before anything is timed
        for samples in rows.values():
            for index in order:
                samples[index]
        results: dict[tuple[str, int], list[float]] = {key: [] for key in rows}
        for _ in range(arguments.rounds):
            for key, samples in rows.items():
                results[key].append(samples_per_second(samples, order, arguments.seconds))
    print_header(f"samples of {PATCH}x{PATCH} per second, one core", "no cache", "cache")
    for name in makers:
        values = [
            f"{statistics.median(results[name, cache]):,.0f}" for cache in (0, arguments.strips)
        ]
        print_row(name, *values)


if __name__ == "__main__":
    main()
