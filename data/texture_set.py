"""Write the texture data set: many classes of good pictures, and defective ones with masks.

The layout is that of MVTec AD: CLASS/train/good, CLASS/test/good, CLASS/test/KIND with KIND a kind
of defect, and CLASS/ground_truth/KIND. Pictures are PNG files of one channel.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.pipeline import in_parallel
from data.folder import GOOD, mask_path
from data.image_files import encode_image
from data.texture_defects import KINDS, damage
from data.textures import CLASSES, FOREIGN, shoot
from data.truth_layout import MASK_FOLDERS, split_of
from data.write_images import write_mask

SPLITS = ("train", "test")  # in a fixed order: a split's place is part of the seed


class Counts(NamedTuple):
    """How many pictures each class gets: good to train, good and defective ones to test."""

    train: int
    good: int
    defective: int


class Job(NamedTuple):
    """One picture: the folder of its class in the data set, and what it shows."""

    folder: str
    name: str
    split: str
    kind: str
    number: int


def write_texture_set(
    root: Path, classes: dict[str, str], size: int, seed: int, counts: Counts
) -> None:
    """Write pictures (size, size) of each class into the folder that `classes` gives its name.

    The kinds of defects take turns. A class's pictures do not depend on the other classes. Raises
    `UserError` where the package with the photos is missing.
    """
    kinds = list(KINDS)
    jobs = []
    for folder, name in classes.items():
        jobs += [Job(folder, name, "train", GOOD, number) for number in range(counts.train)]
        jobs += [Job(folder, name, "test", GOOD, number) for number in range(counts.good)]
        jobs += [
            Job(folder, name, "test", kinds[number % len(kinds)], number // len(kinds))
            for number in range(counts.defective)
        ]
    in_parallel(lambda job: _write(root, job, size, seed), jobs, "drawing pictures")


def _write(root: Path, job: Job, size: int, seed: int) -> None:
    kinds = [GOOD, *KINDS]
    place = list(CLASSES).index(job.name), SPLITS.index(job.split), kinds.index(job.kind)
    generator = np.random.default_rng((seed, *place, job.number))
    levels, part = CLASSES[job.name](generator, size, job.split == "test")
    if job.kind != GOOD:
        others = [name for name in FOREIGN if name != job.name]
        foreign = CLASSES[others[generator.integers(len(others))]](generator, size, True).levels
        levels, mask = damage(levels, part, job.kind, generator, foreign)
        file = mask_path(root / job.folder, job.split, job.kind, f"{job.number:03}")
        write_mask(file, mask.astype(np.uint8))
    path = root / job.folder / job.split / job.kind / f"{job.number:03}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, shoot(levels, generator)))


def folders_of_classes(words: Sequence[str]) -> dict[str, str]:
    """The class of each folder, from words CLASS or FOLDER=CLASS, the folder in any language.

    Raises `UserError` for an unknown class, and for a folder that is named twice or cannot hold a
    class.
    """
    classes: dict[str, str] = {}
    for word in words:
        folder, _, name = word.rpartition("=")
        folder = folder or name
        if name not in CLASSES:
            raise UserError(f"--classes: found {word}, expected some of {', '.join(CLASSES)}")
        is_reserved = split_of(folder) or folder.casefold() in MASK_FOLDERS
        if is_reserved or folder.startswith(".") or set(folder) & set('/\\:*?"<>|\0'):
            raise UserError(
                f"--classes: found {word}, expected FOLDER={name} with the plain name of a folder "
                "that is not that of a split or of masks"
            )
        if folder in classes:
            raise UserError(f"--classes: found {folder} twice, expected different folders")
        classes[folder] = name
    return classes
