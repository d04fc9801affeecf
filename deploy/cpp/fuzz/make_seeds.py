"""Write the initial inputs of the fuzz targets: python deploy/cpp/fuzz/make_seeds.py FOLDER.

Every run writes the same files.
"""

import argparse
import struct
import sys
from pathlib import Path

import numpy as np
import tifffile

HEIGHT, WIDTH = 16, 8  # pixels, as in fuzz_tiff.cpp
SMALL = ((5, 4), (3, 3))  # (height, width) whose sides can be mistaken for channels
PIXEL_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
COMPRESSIONS = ("lzw", "deflate", "packbits")
LARGEST = 2**32 - 1  # value of a tag
LIES = {  # values that tags of a broken or hostile file may have
    "NewSubfileType": (1, 2, 4),
    "ImageWidth": (0, 3, 9, 65536, LARGEST),
    "ImageLength": (0, 1, 17, 65536, LARGEST),
    "BitsPerSample": (0, 1, 7, 12, 24, 32, 64, 65535),
    "Compression": (
        *range(2, 9),
        32773,
        32809,
        32908,
        32909,
        32946,
        34661,
        34676,
        34677,
        34887,
        34925,
        50000,
        50001,
        0xFFFF,
    ),
    "PhotometricInterpretation": (0, 3, 4, 5, 6, 8, 32803, 32844, 32845, 65535),
    "SamplesPerPixel": (0, 1, 3, 4, 5, 65535),
    "RowsPerStrip": (0, 1, 7, 65536, LARGEST),
    "StripOffsets": (0, 8, LARGEST),
    "StripByteCounts": (0, 1, 2**30, LARGEST),
    "PlanarConfiguration": (0, 1, 2, 3),
    "SampleFormat": (0, 2, 3, 4, 5, 6, 65535),
    "TileWidth": (0, 1, 24, 4096, 65536, LARGEST),
    "TileLength": (0, 1, 24, 4096, 65536, LARGEST),
    "TileOffsets": (0, 8, LARGEST),
    "TileByteCounts": (0, 1, 2**30, LARGEST),
}
# tags that are changed together
PAIRS = (("TileWidth", "TileLength"), ("ImageWidth", "ImageLength"))
METADATA = {
    "schema_version": "2",
    "product": "Background Removal Net 1.0",
    "align": "subpixel",
    "input": "unit",
    "channels": "Target Ref1 Ref2",
    "input_type": "float32",
    "input_range": "0 1",
    "input_max": "255.0",
    "image_type": "strip",
    "image_size": "976 176",
    "mode": "tiles",
    "tile_size": "128 128",
    "tile_rows": "0 106 212 318 424 530 636 742 848",
    "outputs": "output alignment",
    "alignment": "shift_y shift_x wander gain remainder",
    "threshold": "0.7314",
    "calibration": '{"false_alarms": [0.1, 1.0], "thresholds": [0.73, 0.5]}',
}
CHANGES = {  # name of a file to its changes of METADATA
    "full": {},
    "raw": {"input": "raw", "input_max": "4095", "input_range": "0 4095"},
    "uint8": {"input": "uint8", "channels": "Target Ref1 Ref2 ignored", "input_max": "255"},
    "no_threshold": {"threshold": "none", "outputs": "output"},
    "old": {"schema_version": "1"},
    "newer": {"schema_version": "3"},
    "exponents": {"input_max": "6.5535e4", "threshold": "-1e-300", "image_size": "1048576 1"},
    "text": {"product": '\u00e9\u6f22\U0001f50d\u2028\x7f\x01"\\'},
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="gets tiff/, metadata/ and peaks/")
    return parser.parse_args()


def write_tiffs(folder: Path) -> None:
    """Write TIFF files of every pixel type and layout, and broken ones."""
    random = np.random.default_rng(0)

    def write(name: str, pixels: np.ndarray, **options: object) -> None:
        tifffile.imwrite(
            folder / f"{name}.tiff", pixels, **{"metadata": None, "software": False, **options}
        )

    def strip(
        channels: int, pixel_type: str = "float32", size: tuple[int, int] = (HEIGHT, WIDTH)
    ) -> np.ndarray:
        return random.integers(0, 256, (channels, *size)).astype(pixel_type)

    for pixel_type in PIXEL_TYPES:
        for channels in (3, 4):
            planes = strip(channels, pixel_type)
            pixels = np.ascontiguousarray(np.moveaxis(planes, 0, 2))
            name = f"{pixel_type}_{channels}"
            write(f"pages_{name}", planes, photometric="minisblack")
            write(f"rows_{name}", pixels, photometric="minisblack")
            write(f"planar_{name}", planes, photometric="minisblack", planarconfig="separate")
            write(f"contiguous_{name}", pixels, photometric="minisblack", planarconfig="contig")
            write(f"rgb_{name}", pixels, photometric="rgb")
            write(f"big_endian_{name}", pixels, photometric="rgb", byteorder=">")
            write(f"bigtiff_{name}", planes, photometric="minisblack", bigtiff=True, byteorder=">")
            write(f"tiled_{name}", pixels, photometric="rgb", tile=(16, 16))
            write(
                f"planar_tiled_{name}",
                planes,
                photometric="minisblack",
                planarconfig="separate",
                tile=(16, 16),
            )
            write(f"strips_{name}", pixels, photometric="rgb", rowsperstrip=3)
            for compression in COMPRESSIONS:
                write(f"{compression}_{name}", pixels, photometric="rgb", compression=compression)
                if compression != "packbits" and pixel_type in ("uint8", "uint16", "float32"):
                    predicted = {"compression": compression, "predictor": True}
                    write(f"{compression}_predicted_{name}", pixels, photometric="rgb", **predicted)
                    write(
                        f"{compression}_tiled_{name}",
                        planes,
                        photometric="minisblack",
                        tile=(16, 16),
                        **predicted,
                    )
    for height, width in SMALL:
        for channels in (3, 4):
            planes = strip(channels, "uint8", (height, width))
            write(f"small_pages_{height}x{width}_{channels}", planes, photometric="minisblack")
            pixels = np.ascontiguousarray(np.moveaxis(planes, 0, 2))
            write(f"small_rows_{height}x{width}_{channels}", pixels, photometric="minisblack")
            write(
                f"small_planar_{height}x{width}_{channels}",
                planes,
                photometric="minisblack",
                planarconfig="separate",
            )
    refused = strip(3)
    write("described", refused, metadata={"axes": "CYX"}, photometric="minisblack")
    write("signed", refused.astype("int16"), photometric="minisblack")
    write("complex", refused.astype("complex64"), photometric="minisblack")
    write("one_bit", refused[0] > 100, photometric="minisblack")
    write(
        "palette",
        refused[0].astype("uint8"),
        photometric="palette",
        colormap=np.zeros((3, 256), np.uint16),
    )
    write(
        "not_finite",
        np.where(refused > 100, np.float32(np.nan), np.float32(np.inf)),
        photometric="minisblack",
    )
    whole = (folder / "strips_uint16_3.tiff").read_bytes()
    (folder / "cut.tiff").write_bytes(whole[: len(whole) // 2])
    write_lies(folder)


def write_lies(folder: Path) -> None:
    """Write files with one or two wrong tags, or with pages that form a ring.

    The wrong part of a tag is its value or its count.
    """
    for base in (
        "strips_uint8_3",
        "deflate_predicted_float32_4",
        "tiled_uint16_3",
        "pages_uint8_3",
        "big_endian_uint16_3",
    ):
        path = folder / f"{base}.tiff"
        with tifffile.TiffFile(path) as tiff:
            order = tiff.byteorder
            tags = {tag.name: tag for tag in tiff.pages[0].tags}
            first_page = tiff.pages[0].offset
            # behind the tags of the last page lies the offset of the next one
            link = tiff.pages[-1].offset + 2 + 12 * len(tiff.pages[-1].tags)
        lies = [((name,), value, "value") for name in tags for value in LIES.get(name, ())]
        lies += [((name,), count, "count") for name in tags for count in (0, 2, LARGEST)]
        lies += [
            (pair, value, "value")
            for pair in PAIRS
            for value in (256, 2048, 65536)
            if set(pair) <= set(tags)
        ]
        for names, value, kind in lies:
            changed = path.read_bytes()
            for tag in (tags[name] for name in names):
                form = "H" if kind == "value" and tag.dtype == 3 else "I"
                piece = struct.pack(order + form, value & (0xFFFF if form == "H" else LARGEST))
                changed = _replace(changed, tag.offset + (8 if kind == "value" else 4), piece)
            (folder / f"lie_{base}_{'_'.join(names)}_{kind}_{value}.tiff").write_bytes(changed)
        ring = _replace(path.read_bytes(), link, struct.pack(order + "I", first_page))
        (folder / f"ring_{base}.tiff").write_bytes(ring)


def _replace(whole: bytes, place: int, piece: bytes) -> bytes:
    """A copy of some bytes with others from an offset on."""
    return whole[:place] + piece + whole[place + len(piece) :]


def write_metadata(folder: Path) -> None:
    """Write METADATA with each of CHANGES, and a file that is not UTF-8."""
    for name, changes in CHANGES.items():
        lines = "".join(f"{entry}={value}\n" for entry, value in {**METADATA, **changes}.items())
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8", newline="\n")
    (folder / "broken_utf8.txt").write_bytes(b"a=\xff\nb=\xc3\nc=\xe2\x82\nd=\xf0\x9f\x94\n")


def write_peaks(folder: Path) -> None:
    """Write heatmaps in the form that fuzz_peaks.cpp reads."""
    random = np.random.default_rng(0)
    size = bytes([HEIGHT - 1, WIDTH - 1, 2])
    for name, highest in (("probabilities", 6), ("anything", 16)):
        (folder / f"{name}.bin").write_bytes(
            size + random.integers(0, highest, HEIGHT * WIDTH, np.uint8).tobytes()
        )
    (folder / "plateau.bin").write_bytes(bytes([47, 47, 2]) + bytes([4]) * 48 * 48)
    floats = random.random(HEIGHT * WIDTH, np.float32).astype("<f4").tobytes()
    (folder / "floats.bin").write_bytes(bytes([0x80 | HEIGHT - 1, WIDTH - 1, 1]) + floats)


def main() -> int:
    root = parse_args().folder
    for name, write in (
        ("tiff", write_tiffs),
        ("metadata", write_metadata),
        ("peaks", write_peaks),
    ):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        print(f"{folder}: {sum(1 for _ in folder.iterdir())} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
