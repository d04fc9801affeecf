"""The size of an image, read from its header before anything is decoded.

A file of some kilobytes may decode to gigabytes.
"""

import struct

import tifffile

from common.errors import UserError

# Values of one image: three channels of 44 megapixels, 0.5 GB as float32. Scoring needs several
# arrays of that size at once.
LARGEST_IMAGE = 2**27
# JPEG's markers C0 to CF of a frame header, but for those that are none
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def require_decodable(values: int, what: object) -> None:
    """Raise `UserError`, without the path, for an image of no or more values than LARGEST_IMAGE.

    `what` is its size as the error prints it.
    """
    if values < 1:
        raise UserError(f"found an image of {what}, expected at least one pixel")
    if values > LARGEST_IMAGE:
        raise UserError(
            f"found an image of {what}, {values / 1e6:.0f} million values, "
            f"expected at most {LARGEST_IMAGE / 1e6:.0f} million: cut it into shorter strips"
        )


def require_decodable_tiff(series: tifffile.TiffPageSeries) -> None:
    """As `require_decodable`, for the first image of a TIFF and for one of its tiles."""
    require_decodable(series.size, series.shape)
    keyframe = series.keyframe
    if keyframe.is_tiled:
        height, width, depth = keyframe.tilelength, keyframe.tilewidth, keyframe.tiledepth
        values = height * width * depth * keyframe.samplesperpixel
        require_decodable(values, f"tiles of {(height, width)}")


def require_decodable_bytes(encoded: bytes) -> None:
    """As `require_decodable`, for the content of a PNG, JPG or BMP file.

    A content that has none of their headers passes: no decoder takes it.
    """
    size = _read_size(encoded)
    if size:
        # OpenCV decodes to three channels at least, and to four of one with transparency
        require_decodable(size[0] * size[1] * 4, size)


def _read_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels, or None where the content has no header that is known."""
    if encoded[:8] == b"\x89PNG\r\n\x1a\n" and len(encoded) >= 24:
        width, height = struct.unpack(">II", encoded[16:24])
        return height, width
    if encoded[:2] == b"BM" and len(encoded) >= 26:
        width, height = struct.unpack("<ii", encoded[18:26])
        return abs(height), abs(width)
    return _read_jpg_size(encoded) if encoded[:2] == b"\xff\xd8" else None


def _read_jpg_size(encoded: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(encoded):
        if encoded[place] != 0xFF:
            return None
        marker = encoded[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif marker in FRAMES:
            return struct.unpack(">HH", encoded[place + 5 : place + 9])
        elif 0xD0 <= marker <= 0xD8 or marker == 1:  # markers without a length
            place += 2
        else:
            place += 2 + struct.unpack(">H", encoded[place + 2 : place + 4])[0]
    return None
