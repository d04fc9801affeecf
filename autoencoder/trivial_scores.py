"""Scores without a network: what is too easy to choose a model by, and what a model must beat.

Pictures are (C, H, W) float32 grey levels 0-255. All scores are higher for a defective picture.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional

from common.errors import UserError

FINE_SIGMA, COARSE_SIGMA = 1.0, 6.0  # pixels, between which local contrast is measured
SMOOTHING = 2.0  # pixels, sigma of the maps whose maximum is a picture's score
PATCH = 8  # pixels, side of the patches of `PatchPCA`
KEPT_VARIANCE = 0.95  # share of the patches' variance that its components explain
PATCHES_PER_PICTURE = 400  # that it is made with


def local_contrast(image: np.ndarray) -> float:
    """The largest contrast of a place against its surroundings, in grey levels.

    It is the largest difference of two Gaussian means, over pixels and channels.
    """
    return float(
        max(
            abs(_blur(plane, FINE_SIGMA) - _blur(plane, COARSE_SIGMA)).max()
            for plane in np.asarray(image, np.float32)
        )
    )


class MeanPicture:
    """The mean of good pictures, and the difference of a picture from it.

    Raises `UserError` where there is no picture, or where numbers of channels differ. Pictures of
    another size than the first one are resized to it.
    """

    def __init__(self, pictures: Iterable[np.ndarray]) -> None:
        total, count = None, 0
        for picture in pictures:
            total = (
                np.array(picture, np.float64) if total is None else total + _like(picture, total)
            )
            count += 1
        if total is None:
            raise UserError("found no good picture, expected at least one")
        self.mean = (total / count).astype(np.float32)

    def difference(self, image: np.ndarray) -> np.ndarray:
        """Grey levels (H, W) by which each place differs, the largest over the channels."""
        difference = _like(image, self.mean) - self.mean
        smooth = np.max([abs(_blur(plane, SMOOTHING)) for plane in difference], axis=0)
        return _resized(smooth, image.shape[1:])

    def score(self, image: np.ndarray) -> float:
        """The largest difference in a picture, in grey levels."""
        return float(self.difference(image).max())


class PatchPCA:
    """What the principal components of good pictures' patches cannot express.

    The components explain KEPT_VARIANCE of PATCHES_PER_PICTURE patches at random places of each of
    the pictures. Raises `UserError` where there is no picture, or where it is smaller than a patch.
    """

    def __init__(self, pictures: Sequence[np.ndarray], seed: int = 0) -> None:
        if not pictures:
            raise UserError("found no good picture, expected at least one")
        generator = np.random.default_rng((seed, 71))
        patches = np.concatenate([_draw_patches(picture, generator) for picture in pictures])
        self.mean = patches.mean(axis=0)
        patches = (patches - self.mean).reshape(len(patches), -1).astype(np.float64)
        variances, directions = np.linalg.eigh(patches.T @ patches)
        explained = np.cumsum(variances[::-1]) / max(variances.sum(), 1e-12)
        count = int(np.searchsorted(explained, KEPT_VARIANCE)) + 1
        components = directions[:, ::-1][:, :count].T.reshape(-1, *self.mean.shape)
        self.components = torch.from_numpy(components.astype(np.float32).copy())

    def residual(self, image: np.ndarray) -> np.ndarray:
        """Root mean square (H, W) in grey levels of what is left of the patch around each pixel."""
        level = float(self.mean.mean())  # squares of small numbers keep their digits
        mean = torch.from_numpy((self.mean - level).astype(np.float32))
        planes = torch.from_numpy(np.ascontiguousarray(image, np.float32) - np.float32(level))[None]
        # of |p - m|^2 and c (p - m), all sums over a patch p are convolutions
        ones = torch.ones_like(mean)[None]
        centred = (
            functional.conv2d(planes**2, ones)
            - 2 * functional.conv2d(planes, mean[None])
            + (mean**2).sum()
        )
        along = functional.conv2d(planes, self.components)
        along = along - (self.components * mean).sum(dim=(1, 2, 3))[None, :, None, None]
        left = (centred - (along**2).sum(dim=1, keepdim=True)).clamp(min=0) / mean.numel()
        before, after = PATCH // 2, PATCH - 1 - PATCH // 2  # only whole patches are compared
        left = functional.pad(left.sqrt(), (before, after, before, after), mode="replicate")
        return _blur(left[0, 0].numpy(), SMOOTHING)

    def score(self, image: np.ndarray) -> float:
        """The largest residual in a picture, in grey levels."""
        return float(self.residual(image).max())


def _draw_patches(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Patches (PATCHES_PER_PICTURE, C, PATCH, PATCH) at random places."""
    if min(picture.shape[1:]) < PATCH:
        raise UserError(
            f"found a picture of {tuple(picture.shape[1:])} (height, width), "
            f"expected at least ({PATCH}, {PATCH})"
        )
    windows = np.lib.stride_tricks.sliding_window_view(picture, (PATCH, PATCH), axis=(1, 2))
    y, x = (generator.integers(0, side, PATCHES_PER_PICTURE) for side in windows.shape[1:3])
    return np.moveaxis(windows[:, y, x], 1, 0)


def _like(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A picture resized to the size of another one. Raises `UserError` for other channels."""
    if len(picture) != len(other):
        raise UserError(
            f"found a picture of {len(picture)} channels, expected {len(other)} like the others"
        )
    planes = np.asarray(picture, np.float32)
    return np.stack([_resized(plane, other.shape[1:]) for plane in planes])


def _resized(plane: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if plane.shape == tuple(size):
        return plane
    return cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def _blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
