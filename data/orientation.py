"""The orientation that an image file names, and pixels turned as every viewer shows them.

TIFF has it in tag 274, JPG and PNG in the same tag of their EXIF data, which is a small TIFF.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from data.image_headers import JPG_SIGNATURE, PNG_SIGNATURE, jpg_segments

ORIENTATION_TAG = 274
UPRIGHT = 1
# by orientation: whether rows and columns are exchanged, and then which of (y, x) are reversed
TURNS = {
    1: (False, ()),
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}
EXIF_MARK = b"Exif\x00\x00"  # before the EXIF data in a JPG
APP1 = 0xE1  # JPG's marker of the segment that holds them
SCAN_MARKS = (0xDA, 0xD9)  # pixels follow, or nothing


def turn(pixels: np.ndarray, orientation: int, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """Turn stored pixels upright; `axes` are those of y and x. Returns a view.

    `orientation` is one of TURNS. Orientations 5 to 8 exchange height and width.
    """
    is_exchanged, reversed_axes = TURNS[orientation]
    if is_exchanged:
        pixels = pixels.swapaxes(*axes)
    return np.flip(pixels, [axes[number] for number in reversed_axes]) if reversed_axes else pixels


def exif_orientation(encoded: bytes) -> int:
    """The orientation that a PNG or JPG file names; UPRIGHT where it names none.

    As in viewers, EXIF data that cannot be read name none.
    """
    with suppress(struct.error, ValueError, IndexError):
        for exif in _exif_blocks(encoded):
            return _tiff_orientation(exif)
    return UPRIGHT


def _exif_blocks(encoded: bytes) -> Iterator[bytes]:
    """The EXIF data of a PNG or JPG file, without the mark in front of them."""
    if encoded.startswith(PNG_SIGNATURE):
        start = len(PNG_SIGNATURE)
        while start < len(encoded):
            length, name = struct.unpack_from(">I4s", encoded, start)
            if name == b"eXIf":
                yield encoded[start + 8 : start + 8 + length].removeprefix(EXIF_MARK)
            start += 12 + length  # length, name, content, checksum
    elif encoded.startswith(JPG_SIGNATURE):
        for marker, start, end in jpg_segments(encoded):
            if marker in SCAN_MARKS:
                return
            content = encoded[start:end]
            if marker == APP1 and content.startswith(EXIF_MARK):
                yield content.removeprefix(EXIF_MARK)


def _tiff_orientation(exif: bytes) -> int:
    """The orientation in the first directory of a small TIFF; UPRIGHT where it names none."""
    order = {b"II": "<", b"MM": ">"}[exif[:2]] if exif[:2] in (b"II", b"MM") else "<"
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, directory)
    for number in range(count):
        entry = directory + 2 + 12 * number
        tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
        if tag == ORIENTATION_TAG:
            (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", exif, entry + 8)
            return value if value in TURNS else UPRIGHT
    return UPRIGHT
