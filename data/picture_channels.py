"""The channels of a picture: one of grey, or three of colour, and never opacity."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError, prefix_errors
from common.storage import fetch
from data.image_files import Channels, load_and_count, open_channels, read_pixels, tiff_says_alpha
from data.image_headers import channels_in_header
from data.listing import IMAGE_SUFFIXES

CHANNELS = {1: Channels.GREY, 3: Channels.COLOUR}
COUNTS = {channels: count for count, channels in CHANNELS.items()}
NAMES = {Channels.GREY: "grey", Channels.COLOUR: "colour"}


def count_channels(path: Path) -> int:
    """The number of channels of an image file, opacity included.

    The pixels of PNG and JPG files are not decoded where the header tells. Raises `UserError`,
    naming the file, for one that cannot be read.
    """
    with prefix_errors(path):
        if path.suffix.lower() not in IMAGE_SUFFIXES["tiff"] and (count := _in_header(path)):
            return count
        pixels, axis = read_pixels(path, is_mapped=True)
        if pixels.ndim == 2:
            return 1
        if pixels.ndim != 3:
            raise UserError(f"found an image of shape {pixels.shape}, expected a picture")
        return pixels.shape[axis] if axis is not None else min(pixels.shape[0], pixels.shape[2])


def common_channels(
    groups: Mapping[str, Sequence[Path]], folder: Path, asked: Channels | None = None
) -> dict[str, Channels]:
    """The channels of the files of each group in a folder: grey for one channel, colour for three.

    Files that are no pictures do not count among others: who reads them reports them. A group of
    nothing else is left out. A group that mixes grey and colour has the channels `asked`. Where
    these are None, raises `UserError` for such a group, and where no file is a picture.
    """
    common: dict[str, Channels] = {}
    problem = None
    for group, paths in groups.items():
        found: dict[Channels, Path] = {}
        for path in paths:
            try:
                found.setdefault(stored_channels(path), path)
            except UserError as error:
                problem = problem or error
        if len(found) > 1 and asked:
            found = {asked: found[asked]}
        if len(found) > 1:
            examples = " and ".join(
                f"{NAMES[kind]} pictures ({path.relative_to(folder)})"
                for kind, path in found.items()
            )
            raise UserError(f"{folder}: found {examples}, expected one kind of them")
        if found:
            (common[group],) = found
    if problem and not common and not asked:
        raise problem
    return common


def stored_channels(path: Path) -> Channels:
    """The channels of a file. Raises `UserError`, naming it, for one that is no picture."""
    count = count_channels(path)
    if count in CHANNELS:
        return CHANNELS[count]
    with prefix_errors(path):
        alpha = ", the last of them alpha (opacity)" if _has_alpha(path, count) else ""
        raise UserError(
            f"found {count} channels{alpha}, expected 1 (grey) or 3 (colour) and no alpha channel"
        )


def open_picture(path: Path) -> np.ndarray:
    """The channels of a picture (C, H, W), with the file's own type and values.

    Raises `UserError`, naming the file, for one that is no picture.
    """
    channels = stored_channels(path)
    with prefix_errors(path):
        return open_channels(path, channels, is_mapped=False)


def load_picture(
    path: Path, input_max: float, channels: Channels, stored: Channels | None = None
) -> tuple[np.ndarray, int]:
    """As `load_and_count`, of a file that must have the channels `stored` and no others.

    None means `channels`. A grey file that is read in colour has three equal channels; one in
    colour is not read as grey.
    """
    stored, found = stored or channels, stored_channels(path)
    if stored is Channels.COLOUR:
        stored = channels
    if found is not stored:
        raise UserError(
            f"{path}: found a picture in {NAMES[found]} ({COUNTS[found]} channels), "
            f"expected {NAMES[stored]} ({COUNTS[stored]})"
        )
    image, clipped = load_and_count(path, input_max, stored)
    if stored is not channels:
        image = np.repeat(image, COUNTS[channels], axis=0)
    return image, clipped


def _has_alpha(path: Path, count: int) -> bool:
    """Whether the last of so many channels is alpha. A TIFF says it; a PNG has no others."""
    if count not in (2, 4):
        return False
    return path.suffix.lower() not in IMAGE_SUFFIXES["tiff"] or tiff_says_alpha(path)


def _in_header(path: Path) -> int | None:
    """The number of channels by the header of a PNG or JPG; None where it does not tell."""
    try:
        return channels_in_header(fetch(path).read_bytes())
    except OSError:
        return None  # who opens the file reports it
