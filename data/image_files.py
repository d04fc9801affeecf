"""Read image files into checked arrays.

Every image file is opened here. The module finds a file's channels, selects those that the caller
wants, and checks their values.
"""

import logging
import math
import struct
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch

from common.errors import UserError, one_line, prefix_errors
from common.files import require_regular
from common.notes import note_once
from common.storage import fetch
from data.image_headers import require_decodable_bytes, require_decodable_tiff
from data.listing import IMAGE_SUFFIXES
from data.orientation import ORIENTATION_TAG, TURNS, UPRIGHT, exif_orientation, turn
from gaussian import MAX_GREY

DEFAULT_INPUT_MAX = 255.0  # largest pixel value of the camera: 8 bits
INPUT_MAX_LIMITS = (1e-6, 2.0**32)  # no camera delivers more than 32 bits
# usual values of --input_max: unit range, 8, 10, 12, 14 and 16 bits
CAMERA_RANGES = (1, 255, 1023, 4095, 16383, 65535)
# Values that lie outside the range by at most this share of it, and are at most this share of a
# strip, are clipped: a dark frame that was subtracted, or interpolation, leaves such values.
CLIPPED_REACH, CLIPPED_SHARE = 0.05, 0.01
CHANNEL_NAMES = ("Target", "Ref1", "Ref2")
STORED_ORDER = (0, 1, 2)  # Target, Ref1 and Ref2 as numbers of a file's channels
# the bytes that mark the end of a complete file
END_MARKS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}
# of a BMP: the first byte of its pixels, width, height, bits of a pixel, and compression
BMP_HEADER = struct.Struct("<10xI4xii2xHI")
LONGEST_TRAILER = 1024  # bytes from the end to search for it: some programs append a few bytes
CHANNEL_COUNTS = (3, 4)  # Target, Ref1, Ref2, and a mask that the networks do not read
USUAL_OTHERS = ([], [1], *([count] for count in CHANNEL_COUNTS))  # sizes of all axes but y and x

# tifffile logs each error before it raises it; here an error is one line
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class Channels(Enum):
    """The channels to read from an image file; the result is (C, H, W)."""

    STRIP = "strip"  # Target, Ref1 and Ref2: C = 3
    STRIP_WITH_MASK = "strip with mask"  # C = 4 where the file has a fourth channel
    TARGET, REF1, REF2 = "target", "ref1", "ref2"  # one channel of a strip: C = 1
    GREY = "grey"  # the only channel of the file: C = 1
    COLOUR = "colour"  # red, green and blue: C = 3
    ALL = "all"  # as many as the file has, and no opacity: colours are red, green and blue


def load_image(
    path: Path,
    input_max: float = DEFAULT_INPUT_MAX,
    channels: Channels = Channels.STRIP,
    order: Sequence[int] = STORED_ORDER,
    is_of_model: bool = False,
) -> np.ndarray:
    """Load the wanted channels of one image as (C, H, W) float32, grey levels 0-255.

    Every script loads strips with this function. It maps the file's range 0..`input_max` to 0..255.
    The file is TIFF, PNG or JPG, with channels first or last, of float, uint8, uint16 or int16. It
    is turned upright. `order` has the numbers of Target, Ref1 and Ref2 among the file's channels.
    Values just outside the range are clipped. `is_of_model` says that the range is that of a model,
    which no flag of a command changes.

    Raises `UserError`, naming the file, for any other file, and for values that are not finite or
    lie outside the range.
    """
    return load_and_count(path, input_max, channels, order, is_of_model)[0]


def load_and_count(
    path: Path,
    input_max: float = DEFAULT_INPUT_MAX,
    channels: Channels = Channels.STRIP,
    order: Sequence[int] = STORED_ORDER,
    is_of_model: bool = False,
) -> tuple[np.ndarray, int]:
    """As `load_image`, with the number of values that were clipped."""
    with prefix_errors(path):
        planes = open_channels(path, channels, is_mapped=False, order=order)
        clipped = _count_outside(planes, input_max, is_of_model)
        return to_grey_levels(planes, input_max, is_clipped=clipped > 0), clipped


def to_unit_range(grey_levels: np.ndarray) -> np.ndarray:
    """Scale grey levels 0-255 to 0-1, float32, in an array of the same shape.

    Networks take this range in training, in PyTorch inference and in ONNX Runtime.
    """
    return np.multiply(grey_levels, 1.0 / MAX_GREY, dtype=np.float32)


def to_grey_levels(pixels: np.ndarray, input_max: float, is_clipped: bool = False) -> np.ndarray:
    """Scale pixels 0..`input_max` of any type to grey levels 0-255, in a new float32 array.

    Where it `is_clipped`, values outside become 0 or 255.
    """
    if input_max == MAX_GREY:
        # astype would return a numpy.memmap, which is slow to slice
        grey_levels = np.array(pixels, np.float32)
    else:
        grey_levels = np.multiply(np.asarray(pixels), MAX_GREY / input_max, dtype=np.float32)
    return np.clip(grey_levels, 0, MAX_GREY, out=grey_levels) if is_clipped else grey_levels


def open_channels(
    path: Path,
    channels: Channels = Channels.STRIP,
    is_mapped: bool = True,
    order: Sequence[int] = STORED_ORDER,
) -> np.ndarray:
    """The wanted channels as (C, H, W), with the file's own type and values, turned upright.

    `order` has the numbers of Target, Ref1 and Ref2 among the file's channels, which are counted
    from 0 as the file has them: a TIFF as stored, a PNG, JPG or BMP as blue, green and red.

    Where `is_mapped` and the file allows it, the array is memory-mapped, so that nothing is read
    yet; to touch a pixel of a file that was cut short meanwhile would end the process. This
    function does not check values.

    Raises `UserError`, without the path, for a file without these channels or of another type.
    """
    pixels, channel_axis = read_pixels(path, is_mapped)
    if not (
        np.issubdtype(pixels.dtype, np.floating)
        or pixels.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.int16)
    ):
        raise UserError(
            f"found pixels of type {pixels.dtype}, expected float32, uint8 or uint16, or int16"
        )
    if channels is Channels.GREY:
        return _only_channel(pixels)
    if channels is Channels.ALL:
        return _all_channels(path, pixels, channel_axis)
    if pixels.ndim != 3:
        raise UserError(
            f"found an image of shape {pixels.shape}, "
            "expected three dimensions with 3 or 4 channels: "
            "prepare_dataset.py combine makes strips of files of one channel"
        )
    planes = np.moveaxis(pixels, _find_channel_axis(pixels.shape, channel_axis), 0)
    if channels is Channels.STRIP_WITH_MASK:
        return planes
    if channels is Channels.COLOUR and path.suffix.lower() not in IMAGE_SUFFIXES["tiff"]:
        return planes[2::-1]  # OpenCV's order is blue, green, red
    if channels is not Channels.COLOUR:
        planes = _in_order(planes, order)
    single = {Channels.TARGET: 0, Channels.REF1: 1, Channels.REF2: 2}.get(channels)
    return planes[:3] if single is None else planes[single : single + 1]


def _in_order(planes: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Target, Ref1 and Ref2 of all channels (C, H, W); a view where the order is regular.

    Raises `UserError`, without the path, for a channel that is not there.
    """
    if max(order) >= len(planes):
        raise UserError(
            f"found {len(planes)} channels, expected channel {max(order)} of --channels"
        )
    start, step = order[0], order[1] - order[0]
    if order[2] - order[1] == step:
        stop = start + 3 * step
        return planes[start : stop if stop >= 0 else None : step]
    return planes[list(order)]


def _only_channel(pixels: np.ndarray) -> np.ndarray:
    """Reshape an image of one grey channel to (1, H, W): (H, W), (1, H, W) or (H, W, 1).

    A grey image may also be stored in three equal colours (H, W, 3), with opacity or without.
    Raises `UserError`, without the path, for any other image.
    """
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[2]):
        return np.moveaxis(pixels, 0 if pixels.shape[0] == 1 else 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] in CHANNEL_COUNTS:
        if (pixels[:, :, :1] == pixels[:, :, 1:3]).all():
            return np.moveaxis(pixels[:, :, :1], 2, 0)
        raise UserError("found an image in colours, expected one grey channel")
    raise UserError(f"found an image of shape {pixels.shape}, expected one grey channel")


def _all_channels(path: Path, pixels: np.ndarray, named_axis: int | None) -> np.ndarray:
    """All channels (C, H, W) of (H, W), (C, H, W) or (H, W, C), for any number of them.

    Where the file does not name their axis, it is the shorter one of the first and the last.
    Raises `UserError`, without the path, for other images and for opacity.
    """
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim != 3 or (named_axis is None and pixels.shape[0] == pixels.shape[2]):
        raise UserError(f"found an image of shape {pixels.shape}, expected channels first or last")
    axis = named_axis
    if axis is None:
        axis = 0 if pixels.shape[0] < pixels.shape[2] else 2
    planes = np.moveaxis(pixels, axis, 0)
    if path.suffix.lower() in IMAGE_SUFFIXES["tiff"]:
        return planes
    if len(planes) in (2, 4):
        raise UserError(
            f"found {len(planes)} channels, the last of them alpha (opacity), expected no alpha"
        )
    return planes[::-1]  # OpenCV's order is blue, green, red


def read_pixels(path: Path, is_mapped: bool = False) -> tuple[np.ndarray, int | None]:
    """The pixels of a file, of any shape, and the channel axis where the file names it (else None).

    Every image file is opened by this function. The pixels are turned upright, as the file's
    orientation says.

    Raises `UserError`, without the path, for a file that cannot be read.
    """
    try:
        local = fetch(path)
        require_regular(local)
        if path.suffix.lower() in IMAGE_SUFFIXES["tiff"]:
            return _read_tiff(local, is_mapped, path.parent)
        return _read_png_or_jpg(local), 2
    except UserError:
        raise
    except Exception as error:  # tifffile and its codecs raise exceptions of many types
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise UserError(
            f"found no readable image ({reason}), expected a whole TIFF, PNG, JPG or BMP file"
        ) from None


def _read_tiff(path: Path, is_mapped: bool, folder: Path) -> tuple[np.ndarray, int | None]:
    """As `read_pixels`; a map is possible where the pixels are neither compressed nor scattered.

    `folder` is what a note calls the file's folder.
    """
    # an OME file may name other files to read, anywhere
    with tifffile.TiffFile(path, _multifile=False) as tiff:
        series = _main_image(tiff.series)
        if len(tiff.series) > 1:
            note_once(f"{folder}: left out all but the largest image of TIFFs with several")
        require_decodable_tiff(series)
        channel_axis = next(
            (series.axes.index(name) for name in "SC" if series.axes.count(name) == 1), None
        )
        if not is_mapped or series.dataoffset is None or not series.keyframe.is_memmappable:
            pixels = series.asarray()
        else:
            pixel_type = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
            pixels = np.memmap(path, pixel_type, "r", series.dataoffset, series.shape)
        return _turn_tiff(pixels, series), channel_axis


def tiff_says_alpha(path: Path) -> bool:
    """Whether a TIFF that can be read says of a channel that it is alpha, not just another."""
    with tifffile.TiffFile(fetch(path), _multifile=False) as tiff:
        extra = _main_image(tiff.series).keyframe.extrasamples
    return any(kind != tifffile.EXTRASAMPLE.UNSPECIFIED for kind in extra)


def _turn_tiff(pixels: np.ndarray, series: tifffile.TiffPageSeries) -> np.ndarray:
    """The pixels of a series turned upright.

    Raises `UserError`, without the path, where it is not known which axes are rows and columns.
    """
    orientation = series.keyframe.tags.valueof(ORIENTATION_TAG, UPRIGHT)
    if orientation == UPRIGHT or orientation not in TURNS:
        return pixels
    others = [length for name, length in zip(series.axes, pixels.shape) if name not in "YX"]
    if series.axes.count("Y") != 1 or series.axes.count("X") != 1 or others not in USUAL_OTHERS:
        raise UserError(
            f"found orientation {int(orientation)} (tag {ORIENTATION_TAG}) of pages that are no "
            f"images of a strip, in an array of shape {pixels.shape}: expected orientation 1"
        )
    return turn(pixels, orientation, (series.axes.index("Y"), series.axes.index("X")))


def _main_image(images: Sequence[tifffile.TiffPageSeries]) -> tifffile.TiffPageSeries:
    """The largest of the images in a TIFF, the first of several; the others are thumbnails."""
    full = [image for image in images if not image.keyframe.is_reduced] or images
    return max(full, key=lambda image: image.size)


def _read_png_or_jpg(path: Path) -> np.ndarray:
    """(H, W, C) in OpenCV's order: Target is blue, Ref1 green and Ref2 red.

    Raises `UserError` for a file that is cut short or cannot be decoded.
    """
    encoded = path.read_bytes()
    require_decodable_bytes(encoded)
    # checked first, because a decoder may invent the missing part of a file that is cut short
    is_whole = _is_whole(encoded, path.suffix.lower())
    pixels = (
        cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED) if is_whole else None
    )
    if pixels is None:
        raise UserError("found no readable image, expected a whole PNG, JPG or BMP file")
    return turn(pixels, exif_orientation(encoded))  # OpenCV leaves them as stored


def _is_whole(encoded: bytes, suffix: str) -> bool:
    """Whether a file's content is complete: its end is there, or all bytes that a BMP announces."""
    if suffix in END_MARKS:
        return END_MARKS[suffix] in encoded[-LONGEST_TRAILER:]
    if len(encoded) < BMP_HEADER.size:
        return False
    start, width, height, bits, compression = BMP_HEADER.unpack_from(encoded)
    row = (abs(width) * bits + 31) // 32 * 4  # rows are padded to four bytes
    return compression not in (0, 3) or len(encoded) >= start + row * abs(height)


def _find_channel_axis(shape: tuple[int, int, int], named_axis: int | None) -> int:
    """The channel axis, 0 or 2: the one of length 3 or 4.

    Where both have such a length (an image of 3 or 4 rows or columns), `named_axis` decides, which
    the file itself names.

    Raises `UserError` where neither axis fits, or both fit and the file names none of them.
    """
    candidates = [axis for axis in (0, 2) if shape[axis] in CHANNEL_COUNTS]
    if len(candidates) == 2 and named_axis in candidates:
        return named_axis
    if len(candidates) == 2:
        raise UserError(
            f"found shape {shape}, whose first or last axis could be the channels; "
            "expected a file that says which"
        )
    if not candidates:
        raise UserError(f"found shape {shape}, expected 3 or 4 channels, first or last")
    return candidates[0]


def _count_outside(planes: np.ndarray, input_max: float, is_of_model: bool) -> int:
    """The number of values outside 0..`input_max`, which are near enough and few enough to clip.

    `is_of_model` is that of `load_image`.

    Raises `UserError` for values that are not finite, and for others outside.
    """
    lowest, highest = float(planes.min()), float(planes.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise UserError("found pixels that are NaN or infinite, expected finite values only")
    below = int(np.count_nonzero(planes < 0)) if lowest < 0 else 0
    above = int(np.count_nonzero(planes > input_max)) if highest > input_max else 0
    reach, most = CLIPPED_REACH * input_max, CLIPPED_SHARE * planes.size
    if lowest < -reach or below > most:
        raise UserError(
            f"found values down to {lowest:g}, {below / planes.size:.2%} of them below 0; "
            f"expected 0 to {input_max:g}"
        )
    if highest > input_max + reach:
        fitting = next((limit for limit in CAMERA_RANGES if limit / 8 <= highest <= limit), highest)
        raise UserError(
            f"found values up to {highest:g}, expected at most {input_max:g}"
            f"{_range_advice(fitting, is_of_model)}"
        )
    if above > most:
        fitting = math.ceil(highest) if highest > 10 else highest
        raise UserError(
            f"found values up to {highest:g}, {above / planes.size:.2%} of them above "
            f"{input_max:g}, which is the largest expected{_range_advice(fitting, is_of_model)}"
        )
    return below + above


def _range_advice(fitting: float, is_of_model: bool) -> str:
    """The end of a line about values above the range: where --input_max `fitting` belongs."""
    if is_of_model:
        reason, where = ", which the model was trained for", "in a training of its own"
    else:
        reason, where = "", "in training and scoring"
    return f"{reason}: a camera of that range needs --input_max {fitting:g}, {where}"


def to_batch(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """Convert (3, H, W) grey levels 0-255 to a (1, 3, H, W) tensor of 0-1 on `device`."""
    return torch.from_numpy(to_unit_range(image))[None].to(device)


def encode_image(path: Path, pixels: np.ndarray) -> bytes:
    """Encode (H, W) or (H, W, C), in OpenCV's channel order, in the format of `path`'s suffix.

    The caller writes the bytes, since OpenCV's own writer ends the process on a file name that is
    not valid UTF-8. Raises `UserError`, naming the file, for pixels that the format cannot hold.
    """
    try:
        is_done, encoded = cv2.imencode(path.suffix.lower(), pixels)
    except (cv2.error, UnicodeError):
        is_done = False
    if not is_done:
        raise UserError(f"{path}: found an image that its format cannot hold, expected PNG or JPG")
    return encoded.tobytes()
