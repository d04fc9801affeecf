import io
import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from common.errors import UserError
from deploy.onnx_export import quiet_exporters
from ops.tiling import (
    SlidingWindow,
    Tiling,
    calculate_kept_ranges,
    calculate_positions,
    tile_positions,
)

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


# image size, window, stride: overlaps, none, a last window that ends beyond, a window of one row
SIZES = [
    ((20, 31), (8, 12), (4, 6)),
    ((20, 31), (8, 12), (8, 12)),
    ((17, 9), (5, 9), (3, 2)),
    ((6, 7), (1, 7), (1, 1)),
    ((40, 40), (16, 16), None),
]
LARGER = [((5, 30), (16, 12), (16, 7)), ((1, 4), (3, 9), (1, 9))]  # than the picture
MERGES = ["mean", "max", "keep"]
SETTINGS = [
    *itertools.product(SIZES, ["reflect", "constant", "none"], MERGES),
    *itertools.product(LARGER, ["reflect", "constant"], MERGES),
]


def picture(size, count=2, seed=0):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes, padding, merge", SETTINGS)
def test_windows_rebuild_a_picture_exactly(sizes, padding, merge):
    windows, images = SlidingWindow(*sizes, padding, merge), picture(sizes[0])
    parts = windows.split(images)
    assert parts.shape == (2 * windows.grid[0] * windows.grid[1], 3, *sizes[1])
    assert torch.equal(windows.stitch(parts), images)


@pytest.mark.parametrize("sizes, padding, merge", SETTINGS)
def test_a_pixel_is_merged_from_the_windows_that_hold_it(sizes, padding, merge):
    """Against a canvas that windows are laid on one by one."""
    windows = SlidingWindow(*sizes, padding, merge)
    (height, width), (window_y, window_x) = sizes[:2]
    places = list(itertools.product(*windows.starts))
    results = picture(sizes[1], len(places), seed=1)
    held = np.full((len(places), 3, height + window_y, width + window_x), np.nan, np.float64)
    for canvas, (y, x), result in zip(held, places, results.numpy()):
        canvas[:, y : y + window_y, x : x + window_x] = result
    held = held[:, :, :height, :width]  # padding reaches neither the canvas nor a mean
    merged = windows.stitch(results)[0].numpy()
    if merge == "keep":
        assert (np.nanmin(np.abs(held - merged), axis=0) == 0).all()
        return
    expected = np.nanmean(held, axis=0) if merge == "mean" else np.nanmax(held, axis=0)
    assert np.allclose(merged, expected, atol=1e-5)


def test_windows_lie_at_the_stride_and_the_last_one_is_padded_or_moved_back():
    assert SlidingWindow((20, 20), (8, 8), (5, 8), "none").starts == ([0, 5, 10, 12], [0, 8, 12])
    assert SlidingWindow((20, 20), (8, 8), (5, 8)).starts == ([0, 5, 10, 15], [0, 8, 16])


def test_padding_mirrors_the_picture_or_is_zero():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    reflected = SlidingWindow((1, 3), (2, 8), (1, 1), "reflect").split(row)
    constant = SlidingWindow((1, 3), (2, 8), (1, 1), "constant").split(row)
    assert reflected[0, 0].tolist() == [[1, 2, 3, 2, 1, 2, 3, 2]] * 2
    assert constant[0, 0].tolist() == [[1, 2, 3, 0, 0, 0, 0, 0], [0] * 8]


@pytest.mark.parametrize("size", [(976, 176), (131, 300)])
def test_the_tiles_of_strips_are_one_setting(size):
    tiles = Tiling(size, 128)
    windows = SlidingWindow(size, (128, 128), None, "none", "keep")
    places = list(itertools.product(*windows.starts))
    assert places == tile_positions(size, 128)
    numbered = picture((128, 128), len(places))
    assert torch.equal(tiles.stitch(numbered), windows.stitch(numbered))
    assert torch.equal(tiles.split(picture(size)), windows.split(picture(size)))


class Rebuild(nn.Module):
    """Split, change every window in its own way, stitch."""

    def __init__(self, windows):
        super().__init__()
        self.windows = windows
        count = windows.grid[0] * windows.grid[1]
        self.register_buffer("offsets", torch.arange(count, dtype=torch.float32))

    def forward(self, images):
        parts = self.windows.split(images)
        offsets = self.offsets.repeat(images.shape[0]).reshape(-1, 1, 1, 1)
        return images + 0, self.windows.stitch(parts), self.windows.stitch(parts + offsets)


@pytest.mark.parametrize(
    "sizes, padding, merge",
    [
        (SIZES[0], "reflect", "mean"),
        (SIZES[0], "none", "max"),
        (SIZES[2], "constant", "mean"),
        (LARGER[0], "reflect", "keep"),
    ],
)
def test_a_graph_of_windows_rebuilds_a_picture_exactly(sizes, padding, merge):
    model, images = Rebuild(SlidingWindow(*sizes, padding, merge)).eval(), picture(sizes[0], 3)
    with quiet_exporters():
        program = torch.onnx.export(
            model,
            (images[:2],),
            opset_version=18,
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    same, rebuilt, merged = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert np.array_equal(rebuilt, same)
    assert np.allclose(merged, model(images)[2].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "window, stride, padding, message",
    [
        ((8, 8), (0, 4), "reflect", "found windows of 8 pixels and a stride of 0"),
        ((8, 8), (9, 4), "reflect", "stride of 9.*expected.*from 1 to the window"),
        ((8, 40), (4, 4), "none", "windows of 40 pixels along an axis of 31, expected"),
    ],
)
def test_windows_that_leave_pixels_out_are_refused(window, stride, padding, message):
    with pytest.raises(UserError, match=message):
        SlidingWindow((20, 31), window, stride, padding)
