"""The pictures of a run: good ones to train on, and others of them held out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoencoder.settings import AutoencoderSettings
from common.errors import UserError
from common.notes import warn
from data.image_files import Channels
from data.pictures import (
    PictureFile,
    describe_groups,
    list_good_pictures,
    picture_hash,
    split_good,
    verify_pictures,
)
from data.value_range import scale_warning
from data.verify import VerifiedFiles

CHECKED = ".checked_pictures.json"  # beside the checkpoints: so that the next start is fast
# Not the run's seed, so that runs with different seeds hold out the same pictures.
HELD_OUT_SEED = 24_000


@dataclass(frozen=True)
class Pictures:
    """The good pictures of a run, all usable, grey or in colour.

    No picture of `train` is in `valid`, not as a copy either. `hashes` has the hash of each one's
    pixels by its path relative to --training_dataset_path.
    """

    train: list[PictureFile]
    valid: list[PictureFile]
    channels: Channels
    hashes: dict[str, str]

    @property
    def channel_count(self) -> int:
        """1 for grey pictures, 3 for pictures in colour."""
        return 1 if self.channels is Channels.GREY else 3

    def facts(self) -> dict[str, Any]:
        """What a checkpoint stores of the pictures."""
        return {
            "channels": self.channel_count,
            "train_pictures": [picture.relative.as_posix() for picture in self.train],
            "valid_pictures": [picture.relative.as_posix() for picture in self.valid],
            "picture_hashes": self.hashes,
        }

    def describe(self) -> str:
        """One line with the number of pictures."""
        kind = "grey" if self.channels is Channels.GREY else "colour"
        return (
            f"pictures: {len(self.train)} good ones in {kind} to train on, "
            f"{len(self.valid)} held out"
        )


def find_pictures(settings: AutoencoderSettings, notes: Path, group: str | None = None) -> Pictures:
    """The good pictures of a run, or of one `group` of them, after verifying every one.

    The results of the check are kept in the folder `notes`. Raises a `UserError` that names all bad
    files, and one for fewer than two different pictures.
    """
    root = settings.training_dataset_path
    pictures = list_good_pictures(root, settings.img_format)
    if group is not None:
        pictures = [picture for picture in pictures if picture.group == group]
    checked = VerifiedFiles(notes / CHECKED)
    try:
        verification = verify_pictures(pictures, settings.input_max, checked)
    finally:
        checked.save()
    if verification.problems:
        listed = "\n  ".join(verification.problems)
        raise UserError(f"files that cannot be used: {len(verification.problems)}\n  {listed}")
    if text := describe_groups(pictures):
        print(text)
    if text := scale_warning(verification.values, settings.input_max):
        warn(text)
    train, valid = split_good(pictures, settings.valid_share, HELD_OUT_SEED)
    hashes = {picture.relative.as_posix(): picture_hash(picture.path) for picture in pictures}
    return Pictures(train, valid, pictures[0].channels, hashes)


def groups_of(settings: AutoencoderSettings) -> list[str]:
    """The groups of the good pictures, sorted. Raises `UserError` where there are none."""
    root = settings.training_dataset_path
    groups = sorted({picture.group for picture in list_good_pictures(root, settings.img_format)})
    if groups == [""]:
        raise UserError(
            f"--per_class: found no class folders in {root}, expected some, such as "
            "bottle/train/good"
        )
    return groups
