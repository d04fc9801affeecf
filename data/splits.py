"""The strips to train on, to validate on and to test, all checked before a run begins."""

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.notes import warn, warn_once
from data.folder import (
    GOOD,
    StripFile,
    describe_kinds,
    list_strips,
    require_good_only,
    split_beside,
    truth_without_strip,
)
from data.image_files import STORED_ORDER
from data.plausibility import content_warnings
from data.points import PointSettings
from data.recipes import point_settings
from data.value_range import ValueRange, scale_warning
from data.verify import VerifiedFiles, verify_strips

# Beside the checkpoints: the results of the last check, so that the next start is fast.
CHECKED = ".checked_strips.json"
SHARE = 10  # one strip in so many is set aside
# Not the run's seed, so that runs with different seeds validate on the same pictures.
HELD_OUT_SEED = 20_000
PAINTED = "painted"  # the kind of a set-aside strip with painted defects


@dataclass(frozen=True)
class Dataset:
    """The strips of a run, all usable and of one size (height, width).

    `valid` and `test` are empty where there are no such strips.
    """

    image_size: tuple[int, int]
    train: list[StripFile]
    valid: list[StripFile]
    test: list[StripFile]
    is_valid_set_aside: bool = False  # `valid` comes from the good strips: there is no valid/
    copies: list[Path] | None = None  # the strips to train on with aligned references, as files
    values: ValueRange | None = None  # of the good strips to train on

    def strips_hash(self) -> str:
        """Return the SHA-256 of the size and the names of the strips to train and validate on.

        A run that is resumed must have the same ones.
        """
        names = [strip.relative.as_posix() for strip in (*self.train, *self.valid)]
        return hashlib.sha256(
            "\n".join([str(self.image_size), *names]).encode(errors="surrogateescape")
        ).hexdigest()

    def describe(self) -> str:
        """Return one line with the number of strips of each split and their size."""
        aside = (
            "set aside from them because there is no valid/, each unpainted and painted"
            if self.is_valid_set_aside
            else "to validate"
        )
        validation = len(self.valid) // 2 if self.is_valid_set_aside else len(self.valid)
        return (
            f"strips: {len(self.train)} good ones to train on, {validation} {aside}, "
            f"{len(self.test)} to test, of {self.image_size} (height, width)"
        )


def find_dataset(
    training_path: Path,
    notes: Path,
    patch: int,
    img_format: str | None,
    input_max: float,
    recipe: str,
    use_masks: bool = True,
    amounts: dict[str, Any] | None = None,
    order: tuple[int, ...] = STORED_ORDER,
) -> Dataset:
    """Return the strips to train, validate and test on, after verifying every one.

    `order` is that of their channels, as `list_strips`. Prints the range of the values, and
    warnings about the strips' content.

    The results of the check are kept in the folder `notes`. Without validation strips, some are set
    aside and painted by `recipe` with its `amounts` (None: the usual ones). Raises a `UserError`
    that names all bad files.
    """
    require_good_only(training_path)
    started = time.perf_counter()
    groups, size, problems, values = {}, None, [], None
    good_files = VerifiedFiles(notes / CHECKED)
    try:
        for split in ("train", "valid", "test"):
            folder = training_path if split == "train" else split_beside(training_path, split)
            groups[split] = []
            if folder is None:
                continue
            with_masks = use_masks and split != "train"
            strips = list_strips(folder, img_format, with_masks, order)
            for line in truth_without_strip(folder) if with_masks else []:
                warn_once(line)
            verification = verify_strips(strips, input_max, patch, size, good_files)
            size = size or verification.image_size
            values = values or verification.values
            groups[split] = verification.usable
            problems += verification.problems
    finally:
        good_files.save()
    if problems:
        listed = "\n  ".join(problems)
        raise UserError(f"files that cannot be used: {len(problems)}\n  {listed}")
    count = sum(map(len, groups.values()))
    seconds = time.perf_counter() - started
    unchanged = len(good_files.unchanged)
    print(
        f"checked {count} strips and their masks in {seconds:.1f} s; "
        f"{unchanged} files unchanged since the last check"
    )
    for split in ("valid", "test"):
        if kinds := describe_kinds(groups[split]):
            print(f"{split}: {kinds}")
    print(values.describe(input_max))
    for warning in content_warnings(
        [*groups["train"], *groups["valid"], *groups["test"]], input_max
    ):
        warn(warning, is_serious=True)
    if scale := scale_warning(values, input_max):
        warn(scale)
    if groups["valid"]:
        return Dataset(size, **groups, values=values)
    groups["train"], groups["valid"] = set_aside(
        groups["train"], recipe, point_settings(amounts or {})
    )
    return Dataset(size, **groups, is_valid_set_aside=bool(groups["valid"]), values=values)


def set_aside(
    strips: list[StripFile], recipe: str, points: PointSettings | None = None
) -> tuple[list[StripFile], list[StripFile]]:
    """Return the strips to train on, and the strips to validate on, each twice: good and painted.

    One tenth is set aside, at least one strip, but never the only one. Which ones, and what is
    painted into them, depends only on the list of strips and on the recipe, which paints them with
    its `points` (None: the usual ones).
    """
    if len(strips) < 2:
        return strips, []
    count = max(1, len(strips) // SHARE)
    chosen = set(np.random.default_rng(HELD_OUT_SEED).permutation(len(strips))[:count].tolist())
    validation = []
    for number in sorted(chosen):
        strip = strips[number]
        validation.append(replace(strip, relative=Path(GOOD) / strip.relative, kind=GOOD))
        validation.append(paint_later(strip, number, recipe, points))
    return [strip for number, strip in enumerate(strips) if number not in chosen], validation


def paint_later(
    strip: StripFile, number: int, recipe: str, points: PointSettings | None
) -> StripFile:
    """The strip with defects that `recipe` paints; which ones depends on its `number` in a list."""
    return replace(
        strip,
        relative=Path(PAINTED) / strip.relative,
        kind=PAINTED,
        painted_with=(HELD_OUT_SEED, number),
        painted_by=recipe,
        painted_points=points,
    )
