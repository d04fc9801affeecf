import cv2
import numpy as np
import pytest

from common.errors import UserError
from data.ignored_regions import DEAD_PIXEL_REACH, IgnoredRegions

SIZE = (40, 50)


@pytest.fixture
def dead_pixels(tmp_path):
    def write(text):
        path = tmp_path / "dead.csv"
        path.write_text(text)
        return path

    return write


def test_without_files_everything_counts(tmp_path):
    assert IgnoredRegions().of(tmp_path / "strip.tiff", SIZE) is None


def test_a_dead_pixel_and_a_dead_column(dead_pixels, tmp_path):
    ignored = IgnoredRegions(dead_pixels("y,x\n10,20\n,49\n0, 0\n")).of(
        tmp_path / "strip.tiff", SIZE
    )
    expected = np.zeros(SIZE, bool)
    reach = DEAD_PIXEL_REACH
    expected[10 - reach : 11 + reach, 20 - reach : 21 + reach] = expected[
        :, 49 - reach :
    ] = expected[: reach + 1, : reach + 1] = True
    assert np.array_equal(ignored, expected)


def test_mask_dead_pixels_and_fourth_channel_add_up(dead_pixels, strip_file, tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[30:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    strip = np.zeros((4, *SIZE), np.float32)
    strip[3, :, :5] = 1
    ignored = IgnoredRegions(dead_pixels("x,y\n40,10\n"), tmp_path / "mask.png", 3).of(
        strip_file(strip), SIZE
    )
    assert ignored[30:].all() and ignored[:, :5].all() and ignored[10, 40] and not ignored[20, 20]
    assert ignored.sum() == 10 * 50 + 30 * 5 + 25


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "found the columns None, expected y and x"),
        ("row,column\n1,2\n", "expected y and x"),
        ("y,x\n1,two\n", "line 2: found y '1' and x 'two'"),
        ("y,x\n1\n", "line 2: found y '1' and x ''"),
        ("y,x\n-1,2\n", "line 2: found y '-1'"),
        ("y,x\n1.5,2\n", "line 2: found y '1.5'"),
        ("y,x\n40,2\n", "found a pixel at y 40, x 2, expected one inside (40, 50)"),
        ("y,x\n,50\n", "found a pixel at y None, x 50"),
    ],
)
def test_other_lists_of_dead_pixels(dead_pixels, tmp_path, text, complaint):
    with pytest.raises(UserError) as error:
        IgnoredRegions(dead_pixels(text)).of(tmp_path / "strip.tiff", SIZE)
    assert str(error.value).startswith(f"{tmp_path / 'dead.csv'}: ") and complaint in str(
        error.value
    )


def test_files_that_do_not_fit(tmp_path, strip_file):
    cv2.imwrite(str(tmp_path / "small.png"), np.ones((10, 10), np.uint8))
    strip = strip_file(np.ones((3, *SIZE), np.float32))
    cases = [
        (
            {"dead_pixels": tmp_path / "none.csv"},
            "none.csv: cannot be used (No such file or directory)",
        ),
        ({"dead_pixels": tmp_path / "small.png"}, "small.png: found no readable CSV file"),
        (
            {"ignore_mask": tmp_path / "small.png"},
            "small.png: found a mask of (10, 10), expected (40, 50)",
        ),
        ({"ignore_mask": tmp_path / "none.png"}, "none.png: found no readable image"),
        ({"mask_channel": 3}, "strip.tiff: found 3 channels, expected channel 3 of --mask_channel"),
    ]
    for files, complaint in cases:
        with pytest.raises(UserError) as error:
            IgnoredRegions(**files).of(strip, SIZE)
        assert complaint in str(error.value)
