"""Image files to checked arrays: which channels a file has, what its pixels are, and whether they
can be used.
"""

import logging
import math
from enum import Enum
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch

from common.errors import UserError, one_line, prefix_errors
from data.folder import IMAGE_SUFFIXES
from gaussian import MAX_GREY

DEFAULT_INPUT_MAX = 255.0  # largest pixel value that the camera can deliver
# what --input_max usually is: unit range, 8, 10, 12, 14 and 16 bits
CAMERA_RANGES = (1, 255, 1023, 4095, 16383, 65535)
END_MARKS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}  # how a whole file ends,
LONGEST_TRAILER = 1024  # or nearly so: some programs append a few bytes
CHANNEL_COUNTS = (3, 4)  # Target, Ref1, Ref2 and, ignored, a mask

# it logs what it then raises; an error is one line here
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class Channels(Enum):
    """Which channels of an image file are wanted, as (C, H, W)."""

    STRIP = "strip"  # Target, Ref1 and Ref2
    STRIP_WITH_MASK = "strip with mask"  # and a fourth one, where the file has one
    TARGET, REF1, REF2 = "target", "ref1", "ref2"  # one channel of a strip, (1, H, W)
    GREY = "grey"  # the only one, (1, H, W)
    COLOUR = "colour"  # red, green and blue


def load_image(
    path: Path, input_max: float = DEFAULT_INPUT_MAX, channels: Channels = Channels.STRIP
) -> np.ndarray:
    """The wanted channels of one image, (C, H, W) float32, grey levels 0-255.

    Every script loads strips with this: Target, Ref1 and Ref2. The file's 0..`input_max` becomes
    0..255. TIFF, PNG or JPG; channels first or last; float, uint8 or uint16. Raises `UserError` for
    anything else, and for values that are not finite or outside the range.
    """
    with prefix_errors(path):
        planes = open_channels(path, channels)
        _check_values(planes, input_max)
        return to_grey_levels(planes, input_max)


def load_mask(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """A ground truth mask: (H, W) bool, True on a defect.

    Raises `UserError` when it is not of `image_size` (height, width).
    """
    with prefix_errors(path):
        mask, _ = read_pixels(path)
        if mask.ndim == 3 and mask.shape[2] in CHANNEL_COUNTS:
            mask = mask[:, :, :3].any(axis=2)
        if mask.shape != tuple(image_size):
            raise UserError(
                f"found a mask of {mask.shape}, expected {tuple(image_size)} (height, width) like its strip"
            )
        # JPG smears a mask's edges, so there a defect is what is nearer to its largest value than
        # to 0.
        return np.asarray(
            mask > mask.max() / 2 if path.suffix.lower() in (".jpg", ".jpeg") else mask != 0
        )


def to_unit_range(grey_levels: np.ndarray) -> np.ndarray:
    """Grey levels 0-255 to 0-1, float32: what the network reads, in training, PyTorch inference and
    ONNX Runtime alike.
    """
    return np.multiply(grey_levels, 1.0 / MAX_GREY, dtype=np.float32)


def to_grey_levels(pixels: np.ndarray, input_max: float) -> np.ndarray:
    """Pixels 0..`input_max` of any type to grey levels 0-255, as a new float32 array."""
    if input_max == MAX_GREY:
        # astype would give a memory-mapped array's own type, whose every slice takes long
        return np.array(pixels, np.float32)
    return np.multiply(np.asarray(pixels), MAX_GREY / input_max, dtype=np.float32)


def open_channels(path: Path, channels: Channels = Channels.STRIP) -> np.ndarray:
    """The channels that are wanted as they are in the file, (C, H, W): memory-mapped and not yet
    read where the file allows it.

    Raises `UserError`, without the path, for a file that is not such an image. Values are not
    checked.
    """
    pixels, channel_axis = read_pixels(path)
    if not (
        np.issubdtype(pixels.dtype, np.floating)
        or pixels.dtype.newbyteorder("=") in (np.uint8, np.uint16)
    ):
        raise UserError(f"found pixels of type {pixels.dtype}, expected float32, uint8 or uint16")
    if channels is Channels.GREY:
        return _only_channel(pixels)
    if pixels.ndim != 3:
        raise UserError(
            f"found an image of shape {pixels.shape}, "
            "expected three dimensions with 3 or 4 channels"
        )
    planes = np.moveaxis(pixels, _find_channel_axis(pixels.shape, channel_axis), 0)
    if channels is Channels.STRIP_WITH_MASK:
        return planes
    if channels is Channels.COLOUR and path.suffix.lower() not in IMAGE_SUFFIXES["tiff"]:
        return planes[2::-1]  # OpenCV's order is blue, green, red
    single = {Channels.TARGET: 0, Channels.REF1: 1, Channels.REF2: 2}.get(channels)
    return planes[:3] if single is None else planes[single : single + 1]


def _only_channel(pixels: np.ndarray) -> np.ndarray:
    """(1, H, W) of an image (H, W), or of one whose first or last axis is 1."""
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[2]):
        return np.moveaxis(pixels, 0 if pixels.shape[0] == 1 else 2, 0)
    raise UserError(f"found an image of shape {pixels.shape}, expected one grey channel")


def read_pixels(path: Path) -> tuple[np.ndarray, int | None]:
    """Pixels of any shape, and the axis of the channels where the file itself names it.

    Nothing else opens an image file. Raises `UserError`, without the path, for one that cannot be
    read.
    """
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES["tiff"]:
            return _read_tiff(path)
        return _read_png_or_jpg(path), 2
    except UserError:
        raise
    except Exception as error:  # tifffile and its codecs raise whatever their parsing ran into
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise UserError(
            f"found no readable image ({reason}), expected a whole TIFF, PNG or JPG file"
        ) from None


def _read_tiff(path: Path) -> tuple[np.ndarray, int | None]:
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        channel_axis = next(
            (series.axes.index(name) for name in "SC" if series.axes.count(name) == 1), None
        )
        if series.dataoffset is None or not series.keyframe.is_memmappable:
            return series.asarray(), channel_axis
        pixel_type = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        return np.memmap(path, pixel_type, "r", series.dataoffset, series.shape), channel_axis


def _read_png_or_jpg(path: Path) -> np.ndarray:
    """(H, W, C) in OpenCV's order: Target is the blue channel, Ref1 the green and Ref2 the red one."""
    encoded = path.read_bytes()
    # a decoder may fill up what is missing
    is_whole = END_MARKS[path.suffix.lower()] in encoded[-LONGEST_TRAILER:]
    pixels = (
        cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED) if is_whole else None
    )
    if pixels is None:
        raise UserError("found no readable image, expected a whole PNG or JPG file")
    return pixels


def _find_channel_axis(shape: tuple[int, int, int], named_axis: int | None) -> int:
    """0 or 2: the axis of 3 or 4.

    Where both are (an image of 3 or 4 rows or columns) the file's own word decides.
    """
    candidates = [axis for axis in (0, 2) if shape[axis] in CHANNEL_COUNTS]
    if len(candidates) == 2 and named_axis in candidates:
        return named_axis
    if len(candidates) == 2:
        raise UserError(
            f"found shape {shape}, whose first or last axis could be the channels; expected a file that says which"
        )
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


def to_batch(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """(3, H, W) grey levels to (1, 3, H, W), values 0-1, on a device."""
    return torch.from_numpy(to_unit_range(image))[None].to(device)
