"""Pixels of a strip that do not count: sensor defects, masked regions, the strip's mask channel."""

import csv
import re
from pathlib import Path

import numpy as np

from common.errors import UserError, prefix_errors
from common.files import require_regular
from common.notes import warn_once
from common.storage import fetch
from data.image_files import Channels, open_channels
from data.masks import LARGEST_SHARE, load_mask

DEAD_PIXEL_REACH = 2  # pixels around a dead pixel in which a detector reacts to it
DEAD_PIXEL_COLUMNS = ("y", "x")
WHOLE_NUMBER = re.compile("[0-9]{1,9}")


class IgnoredRegions:
    """The pixels of a strip that give no detection and do not count in a metric.

    `dead_pixels` is a CSV file with columns y and x; without a y, all of column x is dead, as with
    a line camera. `ignore_mask` is an image of the strips' size, and `mask_channel` the number of a
    channel of the strips themselves; pixels that are not 0 there do not count. Raises `UserError`
    for an invalid file.
    """

    def __init__(
        self,
        dead_pixels: Path | None = None,
        ignore_mask: Path | None = None,
        mask_channel: int | None = None,
    ):
        self.dead_path, self.mask_path, self.mask_channel = dead_pixels, ignore_mask, mask_channel
        self.dead_pixels = read_dead_pixels(dead_pixels) if dead_pixels else []
        self._common: np.ndarray | None = None  # what all strips share, in the size of the last one

    def of(self, path: Path, image_size: tuple[int, int]) -> np.ndarray | None:
        """Return (H, W) bool for the strip in `path`, of `image_size` (height, width).

        It is None where everything counts. Raises `UserError` if the mask or a dead pixel does not
        fit the strip, or if the strip has no such channel.
        """
        if not self.dead_pixels and not self.mask_path and self.mask_channel is None:
            return None
        if self._common is None or self._common.shape != tuple(image_size):
            self._common = self._of_all(tuple(image_size))
        if self.mask_channel is None:
            return self._common
        with prefix_errors(path):
            channels = open_channels(path, Channels.STRIP_WITH_MASK, is_mapped=False)
            if len(channels) <= self.mask_channel:
                raise UserError(
                    f"found {len(channels)} channels, "
                    f"expected channel {self.mask_channel} of --mask_channel"
                )
            return self._common | self._of_channel(channels[self.mask_channel])

    def _of_channel(self, channel: np.ndarray) -> np.ndarray:
        """Return what a strip's own channel ignores, (H, W) bool.

        Raises `UserError`, without the path, if that is all of it. Warns once if it is more than
        half, as where the channel marks what is to be inspected.
        """
        ignored = channel != 0
        share = ignored.mean()
        found = f"channel {self.mask_channel} is not 0 in {share:.0%} of the strip"
        if share == 1:
            raise UserError(
                f"found that {found}, expected 0 wherever pixels count: "
                "if the channel marks what to inspect, invert it"
            )
        if share > LARGEST_SHARE:
            warn_once(
                f"--mask_channel {self.mask_channel}: more than half of a strip is ignored, "
                "as pixels that are not 0 do not count: "
                "if 255 marks what to inspect in it, invert the channel"
            )
        return ignored

    def _read_ignore_mask(self, image_size: tuple[int, int]) -> np.ndarray:
        ignored = load_mask(self.mask_path, image_size, largest_share=1.0)
        if ignored.all():
            raise UserError(
                f"{self.mask_path}: found no pixel that is 0, expected 0 wherever pixels count"
            )
        if ignored.mean() > LARGEST_SHARE:
            warn_once(
                f"{self.mask_path}: more than half of a strip is ignored, "
                "as pixels that are not 0 do not count: if 255 marks what to inspect, invert it"
            )
        return ignored

    def _of_all(self, image_size: tuple[int, int]) -> np.ndarray:
        ignored = (
            self._read_ignore_mask(image_size)
            if self.mask_path
            else np.zeros(image_size, dtype=bool)
        )
        for y, x in self.dead_pixels:
            if x >= image_size[1] or (y is not None and y >= image_size[0]):
                raise UserError(
                    f"{self.dead_path}: found a pixel at y {y}, x {x}, "
                    f"expected one inside {image_size}"
                )
            rows = (
                slice(None)
                if y is None
                else slice(max(0, y - DEAD_PIXEL_REACH), y + DEAD_PIXEL_REACH + 1)
            )
            ignored[rows, max(0, x - DEAD_PIXEL_REACH) : x + DEAD_PIXEL_REACH + 1] = True
        return ignored


def read_dead_pixels(path: Path) -> list[tuple[int | None, int]]:
    """Return (y, x) of each row of a CSV file; y is None for a whole column.

    Raises `UserError` with the line's number if the content is invalid.
    """
    try:
        with prefix_errors(path):
            local = fetch(path)
            require_regular(local)
        with local.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(DEAD_PIXEL_COLUMNS) <= set(reader.fieldnames or ()):
                raise UserError(f"{path}: found the columns {reader.fieldnames}, expected y and x")
            return [_dead_pixel(row, f"{path}: line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: found no readable CSV file ({reason}), expected columns y and x"
        ) from None


def _dead_pixel(row: dict[str, str | None], place: str) -> tuple[int | None, int]:
    y, x = ((row[name] or "").strip() for name in DEAD_PIXEL_COLUMNS)
    if not (WHOLE_NUMBER.fullmatch(x) and (WHOLE_NUMBER.fullmatch(y) or not y)):
        raise UserError(
            f"{place}: found y {y!r} and x {x!r}, "
            "expected whole numbers from 0 on (no y: the whole column)"
        )
    return (int(y) if y else None), int(x)
