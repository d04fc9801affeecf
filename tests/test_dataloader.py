import os
import pickle
import resource

import cv2
import numpy as np
import pytest
import tifffile
import torch
from torch.utils.data import DataLoader

from common.errors import UserError
from data import strip_cache
from data.image_files import load_image, to_unit_range
from data.masks import load_mask
from data.recipes import ClassicRecipe
from dataloader import EpochBatches, StripPatches
from ops.tiling import tile_positions
from tests.conftest import SMALL_SIZE


def numbered(channels, height, width, pixel_type=np.float32):
    """Every pixel tells its channel, row and column, within 0-255."""
    channel, y, x = np.indices((channels, height, width))
    return ((50 * channel + 3 * (y % 8) + (x % 3)) % 256).astype(pixel_type)


@pytest.mark.parametrize("pixel_type", [np.float32, np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_tiff_layout_gives_the_same_strip(
    strip_file, pixel_type, channels, channels_last, compression
):
    pixels = numbered(channels, 40, 20, pixel_type)
    stored = np.moveaxis(pixels, 0, 2) if channels_last else pixels
    image = load_image(strip_file(np.ascontiguousarray(stored), compression=compression))
    assert image.dtype == np.float32 and image.shape == (3, 40, 20)
    assert np.array_equal(image, pixels[:3])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("pixel_type", [np.float32, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_both_byte_orders(strip_file, byteorder, pixel_type, compression):
    pixels = numbered(3, 40, 20, pixel_type)
    assert np.array_equal(
        load_image(strip_file(pixels, byteorder=byteorder, compression=compression)), pixels
    )


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("channels", [3, 4])
def test_an_image_of_three_or_four_rows_is_not_taken_for_channels(strip_file, rows, channels):
    pixels = numbered(channels, rows, 30)
    last = strip_file(
        np.ascontiguousarray(np.moveaxis(pixels, 0, 2)),
        "last.tiff",
        photometric="rgb",
        planarconfig="contig",
    )
    first = strip_file(pixels, "first.tiff", photometric="rgb", planarconfig="separate")
    assert np.array_equal(load_image(last), pixels[:3])
    assert np.array_equal(load_image(first), pixels[:3])


def test_a_shape_that_could_be_read_both_ways_and_says_nothing_is_refused(strip_file):
    pages = strip_file(numbered(3, 30, 4))
    with pytest.raises(UserError, match="could be the channels"):
        load_image(pages)


@pytest.mark.parametrize("suffix", [".png", ".PNG"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("pixel_type", [np.uint8, np.uint16])
def test_png_is_read_in_opencv_s_order(tmp_path, suffix, channels, pixel_type):
    pixels = numbered(channels, 40, 20, pixel_type)
    path = tmp_path / f"strip{suffix}"
    # blue is Target, green Ref1, red Ref2
    path.write_bytes(cv2.imencode(".png", np.moveaxis(pixels, 0, 2))[1].tobytes())
    assert np.array_equal(load_image(path), pixels[:3])


def test_a_camera_s_range_becomes_grey_levels(strip_file):
    pixels = np.full((3, 20, 20), 4095, np.uint16)
    pixels[0] = 1365
    image = load_image(strip_file(pixels), input_max=4095)
    assert image[0, 0, 0] == pytest.approx(85) and image[1, 0, 0] == pytest.approx(255)
    assert to_unit_range(image).max() == pytest.approx(1)


@pytest.mark.parametrize(
    "pixels, complaint",
    [
        (np.zeros((2, 40, 20), np.float32), r"\(2, 40, 20\), expected 3 or 4 channels"),
        (np.zeros((40, 20), np.float32), r"\(40, 20\), expected three dimensions"),
        (np.zeros((3, 40, 20), np.int32), "int32, expected float32, uint8 or uint16"),
        (np.full((3, 40, 20), np.nan, np.float32), "NaN or infinite"),
        (np.full((3, 40, 20), np.inf, np.float32), "NaN or infinite"),
        (np.full((3, 40, 20), -1, np.float32), "down to -1"),
        (
            np.full((3, 40, 20), 3000, np.uint16),
            "up to 3000, expected at most 255.*--input_max 4095",
        ),
        (np.full((3, 40, 20), 60000, np.uint16), "--input_max 65535"),
    ],
)
def test_what_is_no_strip_is_refused_by_name(strip_file, pixels, complaint):
    path = strip_file(pixels)
    with pytest.raises(UserError, match=complaint) as error:
        load_image(path)
    assert str(error.value).startswith(f"{path}: found ") and "\n" not in str(error.value)


def test_a_mask_channel_may_hold_anything(strip_file):
    pixels = numbered(4, 40, 20)
    pixels[3] = np.nan
    assert np.array_equal(load_image(strip_file(pixels)), pixels[:3])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_tiff_is_refused(strip_file, compression):
    path = strip_file(
        np.random.default_rng(0).random((3, 100, 100), np.float32), compression=compression
    )
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UserError, match="no readable image"):
        load_image(path)


@pytest.mark.parametrize("name", ["strip.tiff", "strip.png", "strip.jpg"])
@pytest.mark.parametrize("content", [b"", b"just some text\n"])
def test_a_file_that_is_no_image_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match="no readable image"):
        load_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_png_or_jpg_is_refused(tmp_path, suffix):
    encoded = cv2.imencode(suffix, np.moveaxis(numbered(3, 200, 200, np.uint8), 0, 2))[1].tobytes()
    path = tmp_path / f"strip{suffix}"
    for length in (len(encoded) // 2, len(encoded) * 9 // 10, len(encoded) - 4):
        path.write_bytes(encoded[:length])
        with pytest.raises(UserError, match="no readable image"):
            load_image(path)


def test_masks(tmp_path):
    mask = np.zeros((40, 20), np.uint8)
    mask[3, 4] = 255
    cv2.imwrite(str(tmp_path / "grey.png"), mask)
    cv2.imwrite(str(tmp_path / "colour.png"), np.dstack([mask] * 3))
    tifffile.imwrite(tmp_path / "float.tiff", mask.astype(np.float32) / 255)
    for name in ("grey.png", "colour.png", "float.tiff"):
        assert np.argwhere(load_mask(tmp_path / name, (40, 20))).tolist() == [[3, 4]]
    smeared = cv2.imencode(
        ".jpg", cv2.resize(mask, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    )[1].tobytes()
    (tmp_path / "smeared.jpg").write_bytes(smeared)
    assert load_mask(tmp_path / "smeared.jpg", (120, 60)).sum() == 9
    with pytest.raises(
        UserError, match=r"grey.png: found a mask of \(40, 20\), expected \(20, 40\)"
    ):
        load_mask(tmp_path / "grey.png", (20, 40))


@pytest.fixture
def patches(dataset):
    def make(seed=42, **options):
        paths = sorted((dataset / "train" / "good").iterdir())
        return StripPatches(paths, SMALL_SIZE, 128, ClassicRecipe((3, 8)), seed=seed, **options)

    return make


def test_an_epoch_is_every_tile_of_every_strip(patches):
    samples = patches()
    assert len(samples) == 3 * 4
    unpainted = 0
    for index in range(len(samples)):
        sample = samples[index]
        strip, tile = divmod(index, 4)
        y, x = tile_positions(SMALL_SIZE, 128)[tile]
        assert (
            sample["three_channel_input"].shape == (3, 128, 128)
            and sample["three_channel_input"].dtype == torch.float32
        )
        assert sample["target_mask"].shape == (1, 128, 128) and set(
            sample["target_mask"].unique().tolist()
        ) <= {0.0, 1.0}
        assert sample["three_channel_input"].min() >= 0 and sample["three_channel_input"].max() <= 1
        if not sample["target_mask"].any():
            crop = load_image(samples.paths[strip])[:, y : y + 128, x : x + 128]
            assert np.array_equal(sample["three_channel_input"].numpy(), to_unit_range(crop))
            unpainted += 1
    assert 0 < unpainted < 12


def test_half_of_the_patches_are_painted(patches):
    samples = patches()
    painted = sum(
        bool(samples[epoch, index]["target_mask"].any())
        for epoch in range(40)
        for index in range(12)
    )
    assert 200 < painted < 280  # of 480; four standard deviations


def test_a_sample_depends_on_seed_epoch_and_index_alone(patches):
    first, again, cached = patches(), patches(), patches(cache_size=2)
    for key in ((0, 3), (5, 3), (5, 11), (0, 3)):
        for other in (again, cached):
            assert all(torch.equal(first[key][name], other[key][name]) for name in first[key])
    assert any(
        not torch.equal(first[0, i]["target_mask"], first[1, i]["target_mask"]) for i in range(12)
    )
    assert any(
        not torch.equal(first[0, i]["target_mask"], patches(seed=43)[0, i]["target_mask"])
        for i in range(12)
    )


def epochs(patches, workers):
    """Two epochs as a training sees them, from workers that outlive the first."""
    batches = EpochBatches(len(patches), 5, seed=42)
    loader = DataLoader(
        patches, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0
    )
    for epoch in range(2):
        batches.epoch = epoch
        for batch in loader:
            yield torch.cat([batch["three_channel_input"], batch["target_mask"]], dim=1)


def test_any_number_of_workers_gives_the_same_batches(patches):
    alone = list(epochs(patches(), 0))
    assert len(alone) == 6 and not torch.equal(torch.cat(alone[:3]), torch.cat(alone[3:]))
    for workers in (1, 3):
        together = list(epochs(patches(cache_size=1), workers))
        assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_data_set_in_use_can_be_sent_to_a_worker_process(patches):
    samples = patches(cache_size=3)
    before = samples[0]
    sent = pickle.dumps(samples)
    assert len(sent) < 5000  # no pixels travel
    assert torch.equal(pickle.loads(sent)[0]["three_channel_input"], before["three_channel_input"])


def test_mapped_strips_stay_open_and_the_first_decoded_ones_stay_in_memory(strip_file, monkeypatch):
    pixels = np.full((3, 128, 128), 90, np.float32)
    mapped = [strip_file(pixels, f"mapped_{number}.tiff") for number in range(3)]
    packed = [
        strip_file(pixels, f"packed_{number}.tiff", compression="zlib") for number in range(3)
    ]
    opened = []
    monkeypatch.setattr(
        strip_cache,
        "open_channels",
        lambda path, read=strip_cache.open_channels, **named: (
            opened.append(path) or read(path, **named)
        ),
    )
    for paths, read_again in ((mapped, []), (packed, packed[2:]), ([*packed, *mapped], packed[2:])):
        strips = strip_cache.OpenStrips(paths, decoded_kept=2)
        first = [np.array(strips[number]) for number in range(len(paths))]
        opened.clear()
        assert all(np.array_equal(strips[number], first[number]) for number in range(len(paths)))
        assert opened == read_again


def test_decoded_strips_are_shared_with_worker_processes(strip_file, monkeypatch):
    paths = [
        strip_file(np.full((3, 128, 128), number, np.uint8), f"{number}.tiff", compression="zlib")
        for number in range(4)
    ]
    samples = StripPatches(paths, (128, 128), 128, ClassicRecipe((3, 8)), cache_size=4)
    loader = DataLoader(
        samples,
        batch_sampler=EpochBatches(4, 1, seed=0),
        num_workers=3,
        multiprocessing_context="fork",
    )
    assert len(list(loader)) == 4  # decoded in the workers,
    # and so there is nothing left to be opened here
    monkeypatch.setattr(strip_cache, "open_channels", None)
    assert [int(samples.strips[number].max()) for number in range(4)] == [0, 1, 2, 3]


def test_painting_leaves_a_cached_strip_as_it_was(strip_file):
    path = strip_file(np.full((3, 128, 128), 90, np.float32), compression="zlib")
    samples = StripPatches([path], (128, 128), 128, ClassicRecipe((3, 8)), cache_size=1)
    fresh = [samples[epoch, 0]["three_channel_input"] for epoch in range(8)]
    assert len({sample.numpy().tobytes() for sample in fresh}) > 2  # some are painted
    again = [samples[epoch, 0]["three_channel_input"] for epoch in range(8)]
    assert all(torch.equal(one, other) for one, other in zip(fresh, again))


def test_more_strips_than_files_that_may_be_open(strip_file):
    pixels = np.full((3, 128, 128), 90, np.uint8)
    paths = [strip_file(pixels, f"{number}.tiff") for number in range(strip_cache.FILES_KEPT + 60)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + strip_cache.FILES_KEPT + 20, limits[1]))
    try:
        samples = StripPatches(paths, (128, 128), 128, ClassicRecipe((3, 8)))
        assert all(samples[index]["three_channel_input"].max() > 0 for index in range(len(paths)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def keys_of(processes, epoch=0, length=50, first=0):
    """For each process its batches of 4."""
    every = [EpochBatches(length, 4, 1, rank, processes) for rank in range(processes)]
    for batches in every:
        batches.epoch, batches.first = epoch, first
    return [list(batches) for batches in every]


def test_every_epoch_has_each_index_once_in_another_order():
    orders = []
    for epoch in range(3):
        keys = [key for batch in keys_of(1, epoch)[0] for key in batch]
        assert {key[0] for key in keys} == {epoch} and sorted(key[1] for key in keys) == list(
            range(50)
        )
        orders.append([key[1] for key in keys])
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("processes, length", [(2, 50), (3, 50), (8, 50), (8, 3)])
def test_processes_share_each_batch_evenly(processes, length):
    shares = keys_of(processes, length=length)
    together = EpochBatches(length, 4 * processes, 1)
    for number, whole in enumerate(together):
        parts = [share[number] for share in shares]
        assert len({len(part) for part in parts}) == 1
        assert {key for part in parts for key in part} == set(whole)
        assert sum(map(len, parts)) < len(whole) + processes
        assert EpochBatches(length, 4, 1, 0, processes).of_all_processes(0, number) == [
            index for _, index in whole
        ]
    assert all(len(share) == len(together) for share in shares)


def test_a_resumed_epoch_goes_on_where_it_was():
    whole = keys_of(1)[0]
    assert keys_of(1, first=5)[0] == whole[5:] and keys_of(1, first=len(whole))[0] == []
