"""Training samples of labelled pictures: an image, its kind, and its mask where that is known."""

import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from classifier.defect_data import LabelledPicture, read_labelled
from common.errors import UserError
from common.pipeline import in_parallel
from data.image_files import to_unit_range
from gaussian import MAX_GREY

MOST_KEPT = 2**30  # bytes of images in memory
STREAM = 25_001  # first entry of the seeds of the training's samples
# of the augmentation, each drawn evenly up to these values
SHIFT, SCALE = 0.06, 0.08  # shares of the image's sides
GAIN, OFFSET = 0.15, 12.0  # of the light: factor, grey levels
NOISE = 4.0  # grey levels: standard deviation
BLUR, BLURRED_SHARE = 0.8, 0.2  # pixels: sigma; share of the images
Image = tuple[np.ndarray, np.ndarray | None]  # (C, H, W) 0-255 and its mask (H, W) bool, if known


class LabelledImages(Sequence):
    """Images by number at one size, `cache_size` of them kept in memory, and at most MOST_KEPT.

    `channels` is the number that every image has; they are resized to `size` only where
    `is_resized`. A mask is None where it is not known. Raises `UserError` for a file that cannot be
    used.
    """

    def __init__(
        self,
        pictures: list[LabelledPicture],
        input_max: float,
        channels: int,
        size: tuple[int, int],
        is_resized: bool,
        cache_size: int,
    ):
        self.pictures, self.input_max, self.channels = pictures, input_max, channels
        self.size, self.is_resized, self.cache_size = tuple(size), is_resized, cache_size
        self._kept: dict[int, Image] = {}
        self._bytes = 0  # of the images that are kept

    def __getstate__(self) -> dict[str, Any]:
        # the other processes of a training read images themselves
        return vars(self) | {"_kept": {}, "_bytes": 0}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> Image:
        if number in self._kept:
            return self._kept[number]
        picture = self.pictures[number]
        image, mask = read_labelled(picture, self.input_max, self.channels)
        if image.shape[1:] != self.size and not self.is_resized:
            raise UserError(
                f"{picture.path}: found an image of {image.shape[1:]} (height, width), "
                f"expected {self.size} as of the first one, or --image_size"
            )
        fitted = fit_to_size(image, mask, self.size)
        if len(self._kept) < self.cache_size and self._bytes < MOST_KEPT:
            self._kept[number] = fitted
            self._bytes += fitted[0].nbytes
        return fitted

    def verify(self, label: str) -> str:
        """Read all images once; a hash of their pixels, kinds and masks.

        Raises `UserError` with a line for each file that cannot be used.
        """

        def read(number: int) -> bytes | UserError:
            try:
                image, mask = self[number]
            except UserError as error:
                return error
            digest = hashlib.sha256(self.pictures[number].kind.encode())
            digest.update(image.tobytes())
            digest.update(b"" if mask is None else mask.tobytes())
            return digest.digest()

        found = in_parallel(read, list(range(len(self))), label)
        if problems := [str(one) for one in found if isinstance(one, UserError)]:
            raise UserError("\n".join(problems))
        return hashlib.sha256(b"".join(found)).hexdigest()


class DefectSamples:
    """Samples by (epoch, index), each drawn from (seed, epoch, index) alone.

    A sample is `image` (C, H, W) float32 0-1, `mask` (1, H, W) float32 {0, 1}, `has_mask` (whether
    it is known), `label` (the kind's number), `number` (the index) and `draw`, a number for what
    the network draws at random.
    """

    def __init__(self, images: LabelledImages, kinds: list[str], seed: int, is_augmented: bool):
        self.images, self.seed, self.is_augmented = images, seed, is_augmented
        self.labels = [kinds.index(picture.kind) for picture in images.pictures]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key
        generator = np.random.default_rng((STREAM, self.seed, epoch, index))
        image, mask = self.images[index]
        if self.is_augmented:
            image, mask = augment(image, mask, generator)
        filled = np.zeros(image.shape[1:], bool) if mask is None else mask
        return {
            "image": torch.from_numpy(to_unit_range(image)),
            "mask": torch.from_numpy(filled[None].astype(np.float32)),
            "has_mask": torch.tensor(mask is not None),
            "label": torch.tensor(self.labels[index]),
            "number": torch.tensor(index),
            "draw": torch.tensor(int(generator.integers(2**31))),
        }

    def origin(self, index: int) -> dict[str, Any]:
        """The file of a sample."""
        return {"file": str(self.images.pictures[index].path)}


def read_shape(picture: LabelledPicture, input_max: float) -> tuple[int, tuple[int, int]]:
    """The channels of a picture and its size (height, width). Raises `UserError`."""
    image, _ = read_labelled(picture, input_max)
    return image.shape[0], image.shape[1:]


def fit_to_size(image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> Image:
    """An image (C, H, W) and its mask at another size (height, width).

    An image that shrinks is averaged over areas. A new pixel of the mask is defective where any
    part of it was, so that no small defect is lost.
    """
    if image.shape[1:] == size:
        return image, mask
    is_smaller = size[0] < image.shape[1] or size[1] < image.shape[2]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    planes = [cv2.resize(plane, size[::-1], interpolation=method) for plane in image]
    if mask is not None:
        shares = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=method)
        mask = shares > 0 if is_smaller else shares >= 0.5
    return np.stack(planes), mask


def augment(image: np.ndarray, mask: np.ndarray | None, generator: np.random.Generator) -> Image:
    """An image (C, H, W), 0-255, and its mask, both changed alike.

    Flips, turns by quarters (by halves where the sides differ), small shifts and scale move both;
    light, noise and blur change the image alone, and all of its channels by the same light.
    """
    planes = [*image] if mask is None else [*image, mask.astype(np.float32)]
    moved = np.stack(planes)
    if generator.random() < 0.5:
        moved = moved[:, :, ::-1]
    turns = int(generator.integers(4))
    moved = np.rot90(moved, turns if image.shape[1] == image.shape[2] else turns // 2 * 2, (1, 2))
    moved = _shift_and_scale(moved, generator)
    changed = moved[: len(image)]
    if generator.random() < BLURRED_SHARE:
        sigma = generator.uniform(0.3, BLUR)
        changed = np.stack([cv2.GaussianBlur(plane, None, sigma) for plane in changed])
    gain, offset = 1 + GAIN * generator.uniform(-1, 1), OFFSET * generator.uniform(-1, 1)
    sigma = NOISE * generator.random()
    noise = generator.standard_normal(changed.shape, dtype=np.float32) * np.float32(sigma)
    changed = np.clip(changed * np.float32(gain) + np.float32(offset) + noise, 0, MAX_GREY)
    if mask is None:
        return changed, None
    # a defect of one pixel that falls between four must not become none
    return changed, moved[-1] >= min(0.5, float(moved[-1].max()) or 0.5)


def _shift_and_scale(planes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Planes (N, H, W) at a slightly different place and scale, continued by reflection."""
    height, width = planes.shape[1:]
    scale = 1 + SCALE * generator.uniform(-1, 1)
    shift = SHIFT * generator.uniform(-1, 1, 2) * (width, height)
    middle = np.array([width - 1, height - 1]) / 2
    offset = middle - scale * middle + shift
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    return np.stack(
        [
            cv2.warpAffine(
                np.ascontiguousarray(plane),
                matrix,
                (width, height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            for plane in planes
        ]
    )
