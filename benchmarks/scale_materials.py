"""Archives of drawn strips, ways to break a strip, and exported files, for benchmarks/scale.py."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from data.demo_strips import STRIP_SIZE, make_strip
from data.write_images import write_strip
from export_onnx_fullimage import export
from export_onnx_fullimage import parse_args as parse_export

DRAWN = 8  # different strips; the others are these, moved sideways
WAYS_TO_BREAK = 6


def write_archive(folder: Path, count: int, size: tuple[int, int] = STRIP_SIZE) -> list[Path]:
    """Write strips of two days, and return their paths, sorted."""
    drawn = [make_strip(np.random.default_rng((7, number)), size) for number in range(DRAWN)]
    for number in range(count):
        image = np.roll(drawn[number % DRAWN], number, axis=2)
        write_strip(folder / f"day{number % 2}" / f"strip_{number:05}.tiff", image)
    return sorted(folder.rglob("*.tiff"))


def break_strip(path: Path, way: int, size: tuple[int, int]) -> None:
    """Break a strip (height, width) in one of WAYS_TO_BREAK: half of it, none of it, no picture,
    another size, not numbers, a link to nothing.
    """
    content = path.read_bytes()
    if way == 0:
        path.write_bytes(content[: len(content) // 2])
    elif way == 1:
        path.write_bytes(b"")
    elif way == 2:
        path.write_bytes(b"no picture" * 1000)
    elif way == 3:
        write_strip(path, np.full((3, *size), 128, np.float32)[:, 20:])
    elif way == 4:
        write_strip(path, np.full((3, *size), np.nan, np.float32))
    else:
        path.unlink()
        path.symlink_to("nowhere.tiff")


def export_method(method: str, path: Path, size: tuple[int, int] = STRIP_SIZE) -> Path:
    """The ONNX file of a method without a network."""
    words = ["--method", method, "--output_path", str(path), "--image_size", *map(str, size)]
    with redirect_stdout(io.StringIO()):
        return export(parse_export(words))
