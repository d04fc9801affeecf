"""The images that are to be classified, with their labels where folders name them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifier.defect_data import LabelledPicture, labelled, list_all_formats, read_labelled
from classifier.defect_samples import fit_to_size
from common.errors import UserError
from data.folder import list_strips, require_one_split
from data.image_files import to_unit_range

NO_KIND = ""  # of an image without a label


@dataclass(frozen=True)
class FolderImage:
    """An image of the folder: `relative` is its path in it, `kind` its label or NO_KIND."""

    relative: Path
    picture: LabelledPicture

    @property
    def kind(self) -> str:
        return self.picture.kind


@dataclass(frozen=True)
class ReadImage:
    """An image as it was read, and as the network takes it.

    `original` is (C, H, W), 0-255, `mask` (H, W) bool or None where it is not known, and `fitted`
    (C, h, w), 0-1, of the network's size.
    """

    original: np.ndarray
    mask: np.ndarray | None
    fitted: np.ndarray


def list_folder_images(place: Path, use_labels: bool, kinds: Sequence[str]) -> list[FolderImage]:
    """The images of a folder, or the one of a file, sorted by path.

    Where `use_labels`, a sub-folder's name is the label of its images, and masks are those of the
    data set's layout. Raises `UserError` for a missing or empty folder, for a whole data set, and
    for a label that is none of `kinds`.
    """
    if place.is_file():
        strips = list_strips(place, use_masks=use_labels)
    else:
        if not place.is_dir():
            raise UserError(f"{place}: found no such path, expected an image or a folder of images")
        require_one_split(place)
        strips = list_all_formats(place)
    if not use_labels:
        plain = [LabelledPicture(strip.path, NO_KIND, None, False) for strip in strips]
        return [FolderImage(strip.relative, one) for strip, one in zip(strips, plain)]
    images = []
    for strip in strips:
        if strip.kind is None:
            picture = LabelledPicture(strip.path, NO_KIND, strip.mask, bool(strip.mask))
        else:
            picture = labelled(strip)
        images.append(FolderImage(strip.relative, picture))
    if unseen := sorted({image.kind for image in images} - {NO_KIND, *kinds}):
        raise UserError(
            f"{place}: found images of {unseen[0]}, which the training never saw, expected "
            f"{', '.join(kinds)}, or --use_labels False where folders name something else"
        )
    return images


def read_image(
    image: FolderImage, input_max: float, channels: int, size: tuple[int, int]
) -> ReadImage:
    """Read an image and its mask for a model. Raises `UserError` as `read_labelled`."""
    original, mask = read_labelled(image.picture, input_max, channels, is_of_model=True)
    fitted, _ = fit_to_size(original, None, size)
    return ReadImage(original, mask, to_unit_range(fitted))
