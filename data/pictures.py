"""Pictures without references: one kind of object or several, grey or in colour, of any sizes.

ROOT/train/good/...                    one kind of object, in the layout of MVTec AD
ROOT/test/KIND/..., ROOT/ground_truth/KIND/NAME_mask.EXT
ROOT/GROUP/train/good/... and so on    several kinds of object; each is a group
FOLDER/...                             any other folder

Names, masks and kinds of defects are those of `folder`. A group is what a picture shows.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.notes import note_once
from data.folder import (
    GOOD,
    StripFile,
    is_good,
    list_strips,
    require_good_only,
    split_folder,
    truth_without_strip,
)
from data.image_files import Channels
from data.listing import list_images, sub_folders
from data.masks import load_masks
from data.picture_channels import NAMES, common_channels, load_picture, open_picture
from data.truth_layout import split_of
from data.verify import FileReading, Verification, VerifiedFiles, verify_strips

# Largest share of a picture that its defects may cover: a part in the wrong place is most of it.
LARGEST_DEFECT = 0.95


@dataclass(frozen=True)
class PictureFile(StripFile):
    """One picture on disk: a `StripFile` of what it shows, with the channels that are read.

    `relative` begins with the group where there is one. `group` is empty in a folder of one kind of
    object. `channels` is Channels.GREY or Channels.COLOUR. `stored` are the channels of the file,
    None where they are `channels`: of groups in grey and in colour, all are read in colour.
    """

    group: str = ""
    channels: Channels = Channels.GREY
    stored: Channels | None = None

    @property
    def has_references(self) -> bool:
        """False: a picture is compared with its own surroundings."""
        return False


def list_pictures(
    folder: Path,
    img_format: str | None = None,
    use_masks: bool = True,
    channels: Channels | None = None,
) -> list[PictureFile]:
    """The pictures to score: those of a folder, or all that a data set has to test.

    `folder` is ROOT of one kind of object or of several, one split or one kind of defect in it, any
    other folder, or one file. `channels` None means those that all files have. Where some groups
    are grey and others in colour, it means colour.

    Raises `UserError` as `list_strips`, for a data set without a test split, and where `channels`
    is None as `common_channels`.
    """
    folder = Path(os.path.abspath(folder))
    if group_folders(folder):
        pictures = list_test_pictures(folder, img_format, use_masks, channels)
        if not pictures:
            raise UserError(f"{folder}: found a data set without test/, expected pictures to score")
        return pictures
    strips = list_strips(folder, img_format, use_masks)
    return _with_channels([_picture(strip) for strip in strips], folder, channels)


def list_test_pictures(
    root: Path,
    img_format: str | None = None,
    use_masks: bool = True,
    channels: Channels | None = None,
) -> list[PictureFile]:
    """All pictures of `test/`, of each group; none where there is no such folder.

    Raises `UserError` as `list_pictures`.
    """
    root = Path(os.path.abspath(root))
    pictures = []
    for group, test in _splits(root, "test").items():
        for strip in list_strips(test, img_format, use_masks):
            pictures.append(_picture(strip, strip.path.relative_to(root), group))
    return _with_channels(pictures, root, channels)


def list_good_pictures(
    root: Path, img_format: str | None = None, channels: Channels | None = None
) -> list[PictureFile]:
    """All pictures to train on, which are of kind `good`.

    They are `train/good` of each group of a data set, or everything in any other folder, where each
    folder in it is a group.

    Raises `UserError` for a data set without good pictures, for another folder that does not hold
    good pictures alone, and as `list_pictures`.
    """
    root = Path(os.path.abspath(root))
    pictures = []
    for group, folder in _good_folders(root).items():
        for path in list_images(folder, img_format):
            inside = path.relative_to(root)
            named = group if group is not None else inside.parts[0] if inside.parts[1:] else ""
            pictures.append(PictureFile(path, inside, GOOD, None, group=named))
    return _with_channels(pictures, root, channels)


def group_folders(root: Path) -> dict[str, Path]:
    """The folders of a data set that hold the splits of a group, by group.

    Of one kind of object it is ROOT itself, of the group "". Empty for a folder that is no data
    set.
    """
    folders = sub_folders(root)
    if any(map(split_of, folders)):
        return {"": root}
    groups = {
        name: folder for name, folder in folders.items() if any(map(split_of, sub_folders(folder)))
    }
    others = [name for name in folders if name not in groups]
    if groups and others:
        note_once(f"{root}: left out folders without train/ and test/: {', '.join(others)}")
    return groups


def truth_without_picture(folder: Path) -> list[str]:
    """`truth_without_strip`, of the test split of each group of a data set or of any folder."""
    folder = Path(os.path.abspath(folder))
    tests = _splits(folder, "test").values() if group_folders(folder) else [folder]
    return [line for test in tests for line in truth_without_strip(test)]


def describe_groups(pictures: Sequence[PictureFile]) -> str:
    """One line with the number of pictures of each group; empty without groups."""
    counts = Counter(picture.group for picture in pictures)
    if set(counts) <= {""}:
        return ""
    listed = ", ".join(f"{group} {count}" for group, count in sorted(counts.items()))
    return f"pictures by group: {listed}"


def read_picture(picture: PictureFile, input_max: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a picture (C, H, W), grey levels 0-255, and its mask (H, W) bool.

    The mask is None where it is not known which pixels are a defect's. Raises `UserError` for a
    file that cannot be used, such as one with other channels than `picture.channels`.
    """
    image, _ = load_picture(picture.path, input_max, picture.channels, picture.stored)
    if picture.mask:
        return image, load_masks(picture.masks, image.shape[1:], LARGEST_DEFECT)
    is_known = picture.is_defective is False and picture.points is None
    return image, np.zeros(image.shape[1:], dtype=bool) if is_known else None


def verify_pictures(
    pictures: Sequence[PictureFile],
    input_max: float,
    good_files: VerifiedFiles | None = None,
) -> Verification:
    """`verify_strips` for pictures, which may be of any sizes."""
    asked = f"{NAMES[pictures[0].channels]} picture" if pictures else ""
    if any(picture.stored for picture in pictures):
        asked += ", or grey by group"
    reading = FileReading(
        lambda picture, input_max: load_picture(
            picture.path, input_max, picture.channels, picture.stored
        ),
        asked,
        LARGEST_DEFECT,
        has_one_size=False,
    )
    return verify_strips(list(pictures), input_max, good_files=good_files, reading=reading)


def picture_hash(path: Path) -> str:
    """The SHA-256 of a picture's values, in hexadecimal: equal for copies in any format.

    Raises `UserError`, naming the file, for one that is no picture.
    """
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


def split_good(
    pictures: Sequence[PictureFile], valid_share: float, seed: int
) -> tuple[list[PictureFile], list[PictureFile]]:
    """Divide good pictures into those to train on and those to validate on, in their order.

    Pictures of equal content stay together. Of each group, about `valid_share` of the different
    pictures validate, at least one, and at least one trains. The same seed gives the same parts.

    Raises `UserError` for a group with fewer than two different pictures, and for a file that
    cannot be read.
    """
    hashes = {picture.path: picture_hash(picture.path) for picture in pictures}
    groups: dict[str, list[str]] = defaultdict(list)
    home: dict[str, str] = {}  # copies in several groups count where the first one is
    for picture in pictures:
        content = hashes[picture.path]
        if home.setdefault(content, picture.group) == picture.group:
            groups[picture.group].append(content)
    validating: set[str] = set()
    for group, contents in sorted(groups.items()):
        different = sorted(set(contents))
        _require_two(different, [picture for picture in pictures if picture.group == group])
        key = int.from_bytes(hashlib.sha256(group.encode(errors="surrogateescape")).digest()[:4])
        generator = np.random.default_rng((seed, key))
        count = min(max(1, round(valid_share * len(different))), len(different) - 1)
        validating.update(generator.permutation(different)[:count].tolist())
    for group in {picture.group for picture in pictures} - groups.keys():
        _require_two([], [picture for picture in pictures if picture.group == group])
    train = [picture for picture in pictures if hashes[picture.path] not in validating]
    valid = [picture for picture in pictures if hashes[picture.path] in validating]
    return train, valid


def _require_two(different: Sequence[str], pictures: Sequence[PictureFile]) -> None:
    if len(different) < 2:
        raise UserError(
            f"{pictures[0].path.parent}: found {len(different)} different pictures among "
            f"{len(pictures)}, not counting copies, expected at least two: one to train on and "
            "one to validate on"
        )


@lru_cache(maxsize=100_000)
def _hash(path: Path, size: int, changed: int) -> str:
    return hash_of_pixels(open_picture(path))


def hash_of_pixels(planes: np.ndarray) -> str:
    """The SHA-256 of values (C, H, W) of any type, in hexadecimal."""
    digest = hashlib.sha256(repr(planes.shape).encode())
    digest.update(np.ascontiguousarray(planes, np.float32).tobytes())
    return digest.hexdigest()


def _good_folders(root: Path) -> dict[str | None, Path]:
    """The folders of good pictures by group; None where the folders in it are the groups."""
    groups = group_folders(root)
    if not groups:
        require_good_only(root)
        return {None: root}
    trains = _splits(root, "train")
    for group, folder in groups.items():
        if group not in trains:
            raise UserError(f"{folder}: found no train/, expected good pictures in train/good")
    found = {}
    for group, train in trains.items():
        good = [folder for name, folder in sub_folders(train).items() if is_good(name)]
        if not good:
            require_good_only(train)
        found[group] = good[0] if good else train
    return found


def _splits(root: Path, split: str) -> dict[str, Path]:
    """The folder of a split of each group that has it."""
    found = {group: split_folder(folder, split) for group, folder in group_folders(root).items()}
    return {group: folder for group, folder in found.items() if folder}


def _picture(strip: StripFile, relative: Path | None = None, group: str = "") -> PictureFile:
    facts = vars(strip) | ({} if relative is None else {"relative": relative})
    return PictureFile(**facts, group=group)


def _with_channels(
    pictures: Iterable[PictureFile], folder: Path, channels: Channels | None
) -> list[PictureFile]:
    """The pictures in their order, with the channels to read."""
    ordered = sorted(pictures, key=lambda picture: picture.relative)
    groups: dict[str, list[Path]] = defaultdict(list)
    for picture in ordered:
        groups[picture.group].append(picture.path)
    if channels and (len(groups) < 2 or channels is Channels.GREY):
        return [replace(picture, channels=channels) for picture in ordered]
    stored = common_channels(groups, folder, channels)
    kinds = set(stored.values()) or {Channels.GREY}
    if len(kinds) == 1:
        channels = channels or kinds.pop()
        return [replace(picture, channels=channels) for picture in ordered]
    grey = ", ".join(group for group, kind in stored.items() if kind is Channels.GREY)
    note_once(f"{folder}: reading the grey pictures of {grey} in colour, as three equal channels")
    return [
        replace(
            picture,
            channels=Channels.COLOUR,
            stored=Channels.GREY if stored.get(picture.group) is Channels.GREY else None,
        )
        for picture in ordered
    ]
