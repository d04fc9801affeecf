"""The headers of image files: their parts, and the size of an image before anything is decoded.

A file of some kilobytes may decode to gigabytes.
"""

import struct
from collections.abc import Iterator

import tifffile

from common.errors import UserError

# Values of one image: three channels of 44 megapixels, 0.5 GB as float32. Scoring needs several
# arrays of that size at once.
LARGEST_IMAGE = 2**27
PNG_SIGNATURE, BMP_SIGNATURE, JPG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"BM", b"\xff\xd8"
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the colour type of a PNG
JPG_CHANNELS = {1: 1, 3: 3}  # by the number of a JPG's components
# JPEG's markers C0 to CF of a frame header, but for those that are none
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LONE_MARKERS = (0x01, *range(0xD0, 0xD9))  # JPEG's markers without a segment


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


def channels_in_header(encoded: bytes) -> int | None:
    """The number of channels of a PNG or JPG file, opacity included.

    None where only its pixels tell, as with a palette, and for other content.
    """
    if encoded.startswith(PNG_SIGNATURE) and len(encoded) >= 33:
        # a chunk of that name before the pixels makes one colour transparent
        if b"tRNS" in encoded[33 : max(0, encoded.find(b"IDAT"))]:
            return None
        return PNG_CHANNELS.get(encoded[25])
    if encoded.startswith(JPG_SIGNATURE):
        for marker, start, _ in jpg_segments(encoded):
            if marker in FRAMES and start + 6 <= len(encoded):
                return JPG_CHANNELS.get(encoded[start + 5])
    return None


def _read_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels, or None where the content has no header that is known."""
    if encoded.startswith(PNG_SIGNATURE) and len(encoded) >= 24:
        width, height = struct.unpack(">II", encoded[16:24])
        return height, width
    if encoded.startswith(BMP_SIGNATURE) and len(encoded) >= 26:
        width, height = struct.unpack("<ii", encoded[18:26])
        return abs(height), abs(width)
    if encoded.startswith(JPG_SIGNATURE):
        for marker, start, _ in jpg_segments(encoded):
            if marker in FRAMES and start + 5 <= len(encoded):
                return struct.unpack(">HH", encoded[start + 1 : start + 5])
    return None


def jpg_segments(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPG file, and where its content begins and ends.

    It ends where no marker follows, as after the header of the pixels.
    """
    place = len(JPG_SIGNATURE)
    while place + 4 <= len(encoded) and encoded[place] == 0xFF:
        marker = encoded[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif marker in LONE_MARKERS:
            place += 2
        else:
            end = place + 2 + struct.unpack_from(">H", encoded, place + 2)[0]
            yield marker, place + 4, end
            place = end
