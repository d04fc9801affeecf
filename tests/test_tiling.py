import numpy as np
import pytest
import torch

from common.errors import UserError
from ops.tiling import Tiling, calculate_kept_ranges, calculate_positions, tile_positions

LENGTHS = [
    (128, 128),
    (129, 128),
    (150, 128),
    (176, 128),
    (240, 128),
    (256, 128),
    (384, 128),
    (640, 128),
    (976, 128),
    (1000, 256),
]


def test_positions_of_the_contract():
    assert calculate_positions(976, 128) == [0, 106, 212, 318, 424, 530, 636, 742, 848]
    assert calculate_positions(176, 128) == [0, 48]
    assert len(calculate_positions(640, 128)) == 6
    assert tile_positions((200, 150), 128) == [(0, 0), (0, 22), (72, 0), (72, 22)]


def test_an_exact_multiple_of_the_patch_overlaps_too():
    assert calculate_positions(256, 128) == [0, 64, 128]


@pytest.mark.parametrize("length, patch", LENGTHS)
def test_tiles_reach_both_ends_and_overlap_by_an_eighth(length, patch):
    positions = calculate_positions(length, patch)
    assert positions[0] == 0 and positions[-1] == length - patch
    assert all(
        0 < after - before <= patch - patch // 8 for before, after in zip(positions, positions[1:])
    )


@pytest.mark.parametrize("length, patch", LENGTHS)
def test_every_pixel_is_kept_once_by_a_tile_that_holds_it(length, patch):
    ranges = calculate_kept_ranges(length, patch)
    assert [pixel for start, stop in ranges for pixel in range(start, stop)] == list(range(length))
    for position, (start, stop) in zip(calculate_positions(length, patch), ranges):
        assert position <= start < stop <= position + patch


def test_neighbours_keep_half_of_their_overlap():
    # 11 of 22 rows dropped on each side
    assert calculate_kept_ranges(976, 128)[:2] == [(0, 117), (117, 223)]
    assert calculate_kept_ranges(176, 128) == [(0, 88), (88, 176)]  # 40 of 80 columns


@pytest.mark.parametrize("size", [(976, 176), (128, 128), (131, 300), (256, 384)])
def test_stitching_gives_back_what_was_split(size):
    tiling = Tiling(size, 128)
    images = torch.arange(2 * 3 * size[0] * size[1], dtype=torch.float32).reshape(2, 3, *size)
    tiles = tiling.split(images)
    for number, (y, x) in enumerate(tile_positions(size, 128)):
        assert torch.equal(tiles[number], images[0, :, y : y + 128, x : x + 128])
    assert torch.equal(tiling.stitch(tiles + 1), images + 1)


def test_stitching_takes_every_pixel_from_the_tile_that_keeps_it():
    tiling = Tiling((976, 176), 128)
    numbered = torch.arange(18.0).reshape(18, 1, 1, 1).expand(18, 1, 128, 128)
    stitched = tiling.stitch(numbered)[0, 0].numpy()
    expected = np.full((976, 176), -1.0)
    for row, (top, bottom) in enumerate(calculate_kept_ranges(976, 128)):
        for column, (left, right) in enumerate(calculate_kept_ranges(176, 128)):
            expected[top:bottom, left:right] = row * 2 + column
    assert np.array_equal(stitched, expected)


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(UserError, match=r"127 pixels.*at least 128"):
        calculate_positions(127, 128)
    with pytest.raises(UserError):
        Tiling((976, 100), 128)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"\(976, 180\).*\(976, 176\)"):
        Tiling((976, 176), 128).split(torch.zeros(1, 3, 976, 180))
