"""Good pictures that neither trained a model nor lie in a library, to set thresholds on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from common.errors import UserError
from common.notes import warn
from common.progress import progress_bar
from data.folder import GOOD, split_beside
from data.image_files import Channels, to_unit_range
from data.picture_channels import stored_channels
from data.pictures import (
    PictureFile,
    group_folders,
    list_good_pictures,
    list_pictures,
    picture_hash,
    read_picture,
    verify_pictures,
)


class Learned(Protocol):
    """A model or a library: what it learned from, and what was held out meanwhile.

    `train` and `valid` are paths below `training_dataset_path`; `hashes` has the hash of each
    one's values by that path.
    """

    training_dataset_path: Path
    train: tuple[str, ...]
    valid: tuple[str, ...]
    hashes: dict[str, str]


@dataclass(frozen=True)
class HeldOut:
    """Held-out good pictures, usable ones of the right channels, and where they are from."""

    pictures: list[PictureFile]
    origin: str
    input_max: float

    def read(self) -> Iterator[np.ndarray]:
        """Yield the pictures (C, H, W), unit range."""
        for picture in progress_bar(
            self.pictures, desc="scoring held-out good pictures", unit="picture"
        ):
            yield to_unit_range(read_picture(picture, self.input_max)[0])

    def sizes(self) -> list[tuple[int, int]]:
        """The sizes (height, width) of the pictures, each once."""
        images = (read_picture(picture, self.input_max)[0] for picture in self.pictures)
        return sorted({image.shape[1:] for image in images})


def find_held_out(
    learned: Sequence[Learned],
    good_path: Path | None,
    img_format: str | None,
    channels: Channels,
    input_max: float,
) -> HeldOut:
    """The good pictures of a folder, or else those that every one of `learned` held out.

    Of both, pictures that one of `learned` has learned from are left out, copies of them, too.

    Raises `UserError` when none is left, when one is missing or cannot be used.
    """
    if good_path:
        pictures = good_pictures_in(good_path, img_format, channels)
        place, origin = str(good_path), f"set on {good_path}"
    else:
        pictures = _kept(learned, channels)
        place, origin = "held-out pictures", "set on the pictures held out in training"
    known = {entry.hashes.get(name) for entry in learned for name in entry.train}
    fresh = [picture for picture in pictures if picture_hash(picture.path) not in known]
    if not fresh:
        raise UserError(
            f"{place}: found {len(pictures)} good pictures, all of which were learned from, "
            "expected others: --good_path FOLDER"
        )
    if len(fresh) < len(pictures) and good_path:
        warn(
            f"{place}: left out {len(pictures) - len(fresh)} of {len(pictures)} pictures, which "
            "were learned from"
        )
    verification = verify_pictures(fresh, input_max)
    if verification.problems:
        raise UserError(f"{place}: {verification.problems[0]}")
    return HeldOut(verification.usable, origin, input_max)


def default_test_folder(root: Path) -> Path:
    """The data set in `root`, from which a model learned, or the test/ beside its pictures.

    Raises `UserError` where there is none.
    """
    folder = root if group_folders(root) else split_beside(root, "test")
    if folder is None:
        raise UserError(f"--test_path: found none, and no test/ beside {root}, expected a folder")
    return folder


def good_pictures_in(folder: Path, img_format: str | None, channels: Channels) -> list[PictureFile]:
    """The good pictures in a folder: those to train on of a data set, or of any other folder.

    They are read with these channels. Raises `UserError` where there are none.
    """
    if group_folders(folder):
        listed = list_good_pictures(folder, img_format, channels)
    else:
        listed = list_pictures(folder, img_format, use_masks=False, channels=channels)
    good = [picture for picture in listed if picture.is_defective is False]
    good = good or [picture for picture in listed if picture.kind is None]
    if not good:
        raise UserError(
            f"{folder}: found no good pictures, "
            "expected a folder `good` or a folder of good pictures"
        )
    return good


def _kept(learned: Sequence[Learned], channels: Channels) -> list[PictureFile]:
    """The pictures that were held out, each once. Raises `UserError` for one that is missing."""
    pictures, seen = [], set()
    for entry in learned:
        for name in entry.valid:
            path = entry.training_dataset_path / name
            if entry.hashes.get(name) in seen:
                continue
            seen.add(entry.hashes.get(name))
            if not path.is_file() or picture_hash(path) != entry.hashes.get(name):
                raise UserError(
                    f"{path}: found {'another' if path.is_file() else 'no such'} picture, expected "
                    "the one held out in training: --good_path FOLDER takes others"
                )
            # named by the whole path: below several roots, relative names may be equal
            pictures.append(
                PictureFile(path, path, GOOD, None, channels=channels, stored=stored_channels(path))
            )
    if not pictures:
        raise UserError("found no held-out pictures, expected --good_path FOLDER of good ones")
    return pictures
