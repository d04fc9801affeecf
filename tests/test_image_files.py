"""Which channels a file gives: of strips, grey and colour images, as TIFF, PNG and JPG."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from data.image_files import Channels, load_image, open_channels


@pytest.fixture
def strip() -> np.ndarray:
    """(4, H, W), every channel of its own values."""
    return np.random.default_rng(0).integers(0, 255, (4, 30, 40), dtype=np.uint8)


def write_png(path: Path, planes: np.ndarray) -> Path:
    cv2.imwrite(str(path), np.ascontiguousarray(np.moveaxis(planes, 0, -1)))
    return path


@pytest.mark.parametrize(
    "number, channel", [(0, Channels.TARGET), (1, Channels.REF1), (2, Channels.REF2)]
)
def test_one_channel_of_a_strip(strip, strip_file, tmp_path, number, channel):
    for path in (
        strip_file(strip),
        strip_file(np.moveaxis(strip, 0, -1), "last.tiff"),
        write_png(tmp_path / "s.png", strip[:3]),
    ):
        assert np.array_equal(open_channels(path, channel), strip[number : number + 1])
        assert np.array_equal(load_image(path, channels=channel), strip[number : number + 1])


def test_a_strip_has_three_channels_and_its_mask_where_it_is_wanted(strip, strip_file):
    path = strip_file(strip)
    assert np.array_equal(open_channels(path), strip[:3])
    assert np.array_equal(open_channels(path, Channels.STRIP_WITH_MASK), strip)
    assert len(open_channels(strip_file(strip[:3], "three.tiff"), Channels.STRIP_WITH_MASK)) == 3


def test_a_grey_image_is_one_channel_wherever_its_axis_is(strip, strip_file, tmp_path):
    plane = strip[0]
    paths = [
        strip_file(plane, "flat.tiff"),
        strip_file(plane[None], "first.tiff"),
        strip_file(plane[:, :, None], "last.tiff"),
    ]
    for path in (*paths, write_png(tmp_path / "grey.png", plane[None])):
        assert np.array_equal(
            load_image(path, channels=Channels.GREY), plane[None].astype(np.float32)
        )
    with pytest.raises(
        UserError, match=r"colour\.tiff: found an image of shape .*, expected one grey channel"
    ):
        load_image(strip_file(strip[:3], "colour.tiff"), channels=Channels.GREY)
    with pytest.raises(UserError, match="expected three dimensions with 3 or 4 channels"):
        load_image(paths[0], channels=Channels.COLOUR)


def test_colour_is_red_green_and_blue_in_every_format(strip, strip_file, tmp_path):
    red_green_blue = strip[:3]
    png = write_png(tmp_path / "colour.png", red_green_blue[::-1])
    with_alpha = write_png(
        tmp_path / "alpha.png", np.concatenate([red_green_blue[::-1], strip[3:]])
    )
    tiff = strip_file(np.moveaxis(red_green_blue, 0, -1), "colour.tiff", photometric="rgb")
    for path in (png, with_alpha, tiff):
        assert np.array_equal(open_channels(path, Channels.COLOUR), red_green_blue)
