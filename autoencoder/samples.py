"""Training samples: crops of good pictures at random scales, damaged as the task asks."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from autoencoder.pseudo_defects import PseudoDefects
from autoencoder.settings import LEAST_CROPS, AutoencoderSettings
from data.image_files import to_unit_range
from data.pictures import PictureFile, read_picture
from dataloader import EpochBatches
from gaussian import MAX_GREY

# First entries of the seeds, so that training, the size of a batch and validation draw apart.
TRAINING_STREAM, SIZE_STREAM, VALID_STREAM = 24_001, 24_002, 24_003
CROP_ASPECT = 1.15  # largest stretch of a crop against the other axis: random resized crops
PAINTED_SHARE = 0.7  # of the crops to segment; a repair has damage in every crop
MOST_DEFECTS = 3  # in a crop
NOISE = 8.0  # grey levels: largest standard deviation of the noise in a crop to repair
HOLE = (0.05, 0.25)  # smallest and largest side of a hole of --coarse_dropout, as share of a crop's


class PictureCrops:
    """Crops of good pictures by (epoch, index), each drawn from (seed, epoch, index) alone.

    An item is `{"input": (C, s, s) float32 0-1, "target": (C or 1, s, s) float32 0-1}`: the target
    is the undamaged crop, or to segment the mask of the damage. The groups of `pictures` take
    turns, so each has as many crops. The side s is one of the settings' sizes, the same in all
    batches of a step, drawn from (seed, epoch, step). `processes` is the number of processes that
    train together.

    Raises `UserError` when a picture cannot be read.
    """

    def __init__(
        self,
        pictures: list[PictureFile],
        settings: AutoencoderSettings,
        defects: PseudoDefects,
        processes: int = 1,
    ):
        self.settings, self.defects = settings, defects
        self.pictures = CachedPictures(pictures, settings)
        groups = sorted({picture.group for picture in pictures})
        self.members = [
            [number for number, picture in enumerate(pictures) if picture.group == group]
            for group in groups
        ]
        self.length = settings.epoch_crops or max(len(pictures), LEAST_CROPS)
        self.batches = EpochBatches(self.length, settings.bs, settings.seed, 0, processes)
        self._epoch = 0  # of the last crop

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key
        self._epoch = epoch
        settings = self.settings
        generator = np.random.default_rng((TRAINING_STREAM, settings.seed, epoch, index))
        picture = self.pictures[self._picture_of(epoch, index)]
        crop = draw_crop(picture, self._size_of(epoch, index), settings, generator)
        return make_sample(crop, settings, self.defects, self.pictures, generator)

    def origin(self, index: int) -> dict[str, Any]:
        """The picture that a crop is cut from in the epoch of the last crop."""
        return {"file": str(self.pictures.files[self._picture_of(self._epoch, index)].path)}

    def _picture_of(self, epoch: int, index: int) -> int:
        turn, group = divmod(index, len(self.members))
        turns = math.ceil(self.length / len(self.members))
        members = self.members[group]
        return members[(epoch * turns + turn) % len(members)]

    def _size_of(self, epoch: int, index: int) -> int:
        sizes, settings = self.settings.sizes, self.settings
        if len(sizes) == 1:
            return sizes[0]
        step = self.batches.batch_of(epoch, index) // settings.accumulate
        return int(np.random.default_rng((SIZE_STREAM, settings.seed, epoch, step)).choice(sizes))


class CachedPictures(Sequence):
    """Pictures by number as (C, H, W) grey levels 0-255, the most recent ones kept in memory.

    Where the settings have a `scale_range`, larger pictures are kept reduced to its end.
    """

    def __init__(self, files: list[PictureFile], settings: AutoencoderSettings):
        self.files, self.settings = files, settings
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> np.ndarray:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        picture, _ = read_picture(self.files[number], self.settings.input_max)
        if self.settings.scale_range:
            picture = reduce_to(picture, self.settings.scale_range[1])
        self._kept[number] = picture
        if len(self._kept) > self.settings.cache_size:
            self._kept.popitem(last=False)
        return picture


def reduce_to(picture: np.ndarray, long_side: float) -> np.ndarray:
    """A picture (C, H, W) whose longer side has at most `long_side` pixels."""
    height, width = picture.shape[1:]
    factor = long_side / max(height, width)
    if factor >= 1:
        return picture
    return resize(picture, (max(1, round(height * factor)), max(1, round(width * factor))))


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (C, H, W) at another size (height, width): area means where it shrinks."""
    if picture.shape[1:] == size:
        return picture
    shrinks = size[0] < picture.shape[1] or size[1] < picture.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.stack([cv2.resize(plane, size[::-1], interpolation=method) for plane in picture])


def draw_crop(
    picture: np.ndarray, size: int, settings: AutoencoderSettings, generator: np.random.Generator
) -> np.ndarray:
    """A square crop (C, size, size) of a picture (C, H, W) at a random scale, place and flip.

    The scale takes the longer side to a length of `scale_range`, or without one multiplies the
    picture's own size by a factor of `zoom_range`. A picture that is too small then is continued
    by reflection.
    """
    if settings.scale_range:
        zoom = generator.uniform(*settings.scale_range) / max(picture.shape[1:])
    else:
        low, high = settings.zoom_range
        zoom = low * (high / low) ** generator.random()
    stretch = CROP_ASPECT ** generator.uniform(-0.5, 0.5)
    box, target = [], []
    for side, factor in zip(picture.shape[1:], (zoom * stretch, zoom / stretch)):
        taken = min(side, max(1, round(size / factor)))
        start = int(generator.integers(side - taken + 1))
        box.append(slice(start, start + taken))
        target.append(size if taken < side else min(size, max(1, round(side * factor))))
    crop = resize(picture[:, box[0], box[1]], (target[0], target[1]))
    flips = generator.random(2) < 0.5
    if flips[0] and settings.flips in ("horizontal", "both"):
        crop = crop[:, :, ::-1]
    if flips[1] and settings.flips in ("vertical", "both"):
        crop = crop[:, ::-1]
    before = [int(generator.integers(size - side + 1)) for side in target]
    around = [(start, size - side - start) for start, side in zip(before, target)]
    return np.pad(crop, ((0, 0), *around), "symmetric")


def make_sample(
    crop: np.ndarray,
    settings: AutoencoderSettings,
    defects: PseudoDefects,
    donors: Sequence[np.ndarray],
    generator: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """An item of `PictureCrops` from a crop (C, s, s) of grey levels 0-255."""
    damaged, mask = crop, np.zeros(crop.shape[1:], bool)
    is_segmented = settings.task == "segment"
    if settings.task == "repair" or (is_segmented and generator.random() < PAINTED_SHARE):
        for _ in range(generator.integers(1, MOST_DEFECTS + 1)):
            damaged, painted = defects.paint(damaged, generator, donors)
            mask |= painted
    if settings.task == "repair":
        noise = generator.standard_normal(crop.shape, dtype=np.float32)
        damaged = np.clip(damaged + generator.uniform(0, NOISE) * noise, 0, MAX_GREY)
    if settings.coarse_dropout:
        damaged = _drop_holes(damaged, settings.coarse_dropout, generator)
    target = mask[None].astype(np.float32) if is_segmented else to_unit_range(crop)
    return {"input": torch.from_numpy(to_unit_range(damaged)), "target": torch.from_numpy(target)}


def _drop_holes(crop: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """Fill up to `most` rectangles with the crop's mean (DeVries and Taylor 2017, several)."""
    dropped, size = crop.copy(), crop.shape[1]
    for _ in range(generator.integers(most + 1)):
        height, width = (max(1, round(size * generator.uniform(*HOLE))) for _ in range(2))
        y, x = (int(generator.integers(size - side + 1)) for side in (height, width))
        dropped[:, y : y + height, x : x + width] = crop.mean(axis=(1, 2), keepdims=True)
    return dropped
