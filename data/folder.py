"""The layout of a data set on disk: strips, their kinds, their masks and their true points.

ROOT/train/good/...                           good strips to train on
ROOT/valid/KIND/NAME.EXT, ROOT/test/KIND/...  KIND is `good` or the name of a kind of defect
ROOT/ground_truth_valid/KIND/NAME_mask.EXT    masks of valid/
ROOT/ground_truth/KIND/NAME_mask.EXT          masks of test/
ROOT/ground_truth_train/KIND/NAME_mask.EXT    masks of train/, where defects are learned by kind

Other usual names of these folders and files are taken, too: `truth_layout` has them.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from common.errors import UserError
from data.image_files import STORED_ORDER
from data.listing import ALL_SUFFIXES, list_files, list_images, sub_folders, without_masks
from data.points import PointSettings
from data.true_points import Point, match_points
from data.truth_layout import (
    POINTS_FILE,
    StripNames,
    TruthFiles,
    is_of_other_split,
    mask_folders,
    match_masks,
    points_in_name,
    split_of,
)

GOOD = "good"
# names of a folder of good strips, in any case; every other name is a kind of defect
GOOD_NAMES = (GOOD, "ok", "normal", "pass", "passed")
# names of a folder that cannot hold good strips, in any case
BAD_NAMES = ("ng", "nok", "bad", "fail", "failed", "reject", "rejected", "defect", "defects")
BAD_NAMES += ("defective", "anomaly", "anomalous", "abnormal")
MOST_KINDS = 20  # that one line names


@dataclass(frozen=True)
class StripFile:
    """One strip on disk.

    `relative` is its path below the scored folder, `kind` the kind of defect or that of a folder of
    good strips (None: unknown), and `mask` the path of its ground truth mask (None: no mask), with
    `more_masks` where several files hold it together. `points` are its true points (y, x), where
    they are known as coordinates (None: they are not).

    Where `painted_with` is given, synthetic defects are painted into the strip whenever it is read:
    `painted_with` is their seed, `painted_by` their recipe, and `painted_points` what its points
    are like (None: as usual). None means that the strip is read unchanged.

    `order` has the numbers of Target, Ref1 and Ref2 among the file's channels, as `load_image`.
    """

    path: Path
    relative: Path
    kind: str | None
    mask: Path | None
    painted_with: tuple[int, ...] | None = None
    painted_by: str = "classic"
    painted_points: PointSettings | None = None
    more_masks: tuple[Path, ...] = ()
    points: tuple[Point, ...] | None = None
    order: tuple[int, ...] = STORED_ORDER

    @property
    def is_defective(self) -> bool | None:
        """Whether the strip has a defect; None where its kind is unknown and no point is."""
        if self.kind is None:
            return True if self.points else None
        return not is_good(self.kind)

    @property
    def masks(self) -> tuple[Path, ...]:
        """All files of the mask, none where there is none."""
        return (self.mask, *self.more_masks) if self.mask else ()

    @property
    def has_references(self) -> bool:
        """Whether the image has references that Target is compared with, as strips have."""
        return True

    @property
    def group(self) -> str:
        """What the image shows, where there are several kinds of object; empty for strips."""
        return ""

    @property
    def has_truth(self) -> bool:
        """Whether a mask or coordinates say where the defects are."""
        return self.mask is not None or self.points is not None

    @property
    def has_known_defects(self) -> bool:
        """Whether the strip is not a good one, and it is known where its defects are."""
        return self.is_defective is not False and bool(self.has_truth or self.painted_with)


def unit_of(files: Sequence[StripFile]) -> str:
    """What the files are, in messages: `strip`, or `picture` for those without references."""
    return "strip" if all(file.has_references for file in files) else "picture"


def is_good(kind: str) -> bool:
    """Return whether a folder of that name holds good strips."""
    return kind.casefold() in GOOD_NAMES


def list_strips(
    folder: Path,
    img_format: str | None = None,
    use_masks: bool = True,
    order: tuple[int, ...] = STORED_ORDER,
    table: Path | None = None,
) -> list[StripFile]:
    """All strips in a folder, with their kind, mask and points where the layout gives them.

    `folder` may be the whole of `test/` or `valid/`, one kind in it, any other folder, or one file.
    `order` is that of the strips' channels. `table` is a file of points that lies elsewhere, and
    counts in place of every `points.csv` beside the strips.

    Raises `UserError` as `list_images`, for a file of points that cannot be read, and for a `table`
    that has a point of none of the strips.
    """
    # not Path.resolve, which follows links: the path as given shows the layout
    folder, paths = Path(os.path.abspath(folder)), None
    if folder.is_file():
        folder, paths = folder.parent, [folder]
    split = _find_split(folder)
    paths = paths or list_images(folder, img_format)
    truth, points, _ = _find_truth(split, table) if use_masks else (TruthFiles(), {}, [])
    strips = []
    for path in paths:
        in_split = path.relative_to(split)
        key = in_split.with_suffix("").as_posix()
        masks = truth.masks.get(key, [])
        strips.append(
            StripFile(
                path,
                path.relative_to(folder),
                _find_kind(in_split),
                masks[0] if masks else None,
                more_masks=tuple(masks[1:]),
                points=points.get(key) if not masks else None,
                order=order,
            )
        )
    return strips


def truth_without_strip(folder: Path, table: Path | None = None) -> list[str]:
    """A line about every mask and every row of points that lies where those of `folder` belong.

    Only those are named that fit no strip. Of one kind in a split, only masks of that kind are.
    `table` is as in `list_strips`.
    """
    folder = Path(os.path.abspath(folder))
    if folder.is_file():
        return []
    split = _find_split(folder)
    truth, _, lines = _find_truth(split, table)
    if folder != split:
        unused = [path for path in truth.unused if folder.name in path.parts]
        lines = []
    else:
        unused = truth.unused
    return [f"{path}: found a mask without a strip of its name" for path in unused] + lines


def split_beside(training_path: Path, split: str) -> Path | None:
    """The folder `split` (`valid` or `test`) of the data set whose strips to train on are given.

    `training_path` is the data set's `train/good`, or its `train` where the strips lie in it
    directly. Returns None where there is no such folder, or where `training_path` is neither.
    """
    path = Path(os.path.abspath(training_path))
    if is_good(path.name) and split_of(path.parent.name) == "train":
        return split_folder(path.parent.parent, split)
    if split_of(path.name) == "train" and not any(map(is_good, sub_folders(path))):
        return split_folder(path.parent, split)
    return None


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a data set that holds a split, by any of its names, or None."""
    folders = {name.casefold(): folder for name, folder in sub_folders(root).items()}
    if (root / split).is_dir():
        return root / split
    return next((folder for name, folder in folders.items() if split_of(name) == split), None)


def require_good_only(folder: Path) -> None:
    """Raise `UserError` for a folder to train on whose sub-folders are not good strips alone.

    Those are the splits of a data set, a folder of good strips beside others, and a folder of
    defective ones. The error names the folder that was probably meant.
    """
    folder = Path(os.path.abspath(folder))
    folders = sub_folders(folder)
    splits = [name for name in folders if split_of(name)]
    good = [] if is_good(folder.name) else [name for name in folders if is_good(name)]
    bad = [name for name in folders if name.casefold() in BAD_NAMES]
    if folder.name.casefold() in BAD_NAMES:
        raise UserError(
            f"{folder}: found a folder of that name, expected good strips, "
            "for everything in it is trained on as good"
        )
    if not (splits or good or bad):
        return
    train = split_folder(folder, "train") if splits else folder
    within = sub_folders(train).items() if train else ()
    meant = next((child for name, child in within if is_good(name)), train)
    advice = f": did you mean {meant}?" if meant and meant != folder else ""
    found = ", ".join(f"{name}/" for name in sorted({*splits, *good, *bad}))
    raise UserError(
        f"{folder}: found {found} in it, expected a folder of good strips alone, "
        f"for everything in it is trained on as good{advice}"
    )


def require_one_split(folder: Path) -> None:
    """Raise `UserError` for a folder to score that is a whole data set, with its splits in it."""
    folder = Path(os.path.abspath(folder))
    splits = [name for name in sub_folders(folder) if split_of(name)]
    if splits:
        meant = split_folder(folder, "test") or folder / splits[0]
        raise UserError(
            f"{folder}: found {', '.join(f'{name}/' for name in sorted(splits))} in it, "
            f"expected the strips of one of them: did you mean {meant}?"
        )


def describe_kinds(strips: list[StripFile]) -> str:
    """One line with the number of strips in each folder and what they count as.

    It is empty where no strip lies in a folder of a kind.
    """
    kinds = Counter(strip.kind for strip in strips if strip.kind is not None)
    marked = Counter(strip.kind for strip in strips if strip.has_truth)
    parts = []
    for kind, count in sorted(kinds.items())[:MOST_KINDS]:
        truth = f", {marked[kind]} with a mask or points" if marked[kind] else ""
        parts.append(f"{kind} {count} ({'good' if is_good(kind) else 'defective'}{truth})")
    if len(kinds) > MOST_KINDS:
        parts.append(f"and {len(kinds) - MOST_KINDS} more folders")
    text = ", ".join(parts)
    if kinds and not any(map(is_good, kinds)):
        text += f"; none counts as good: a folder named {', '.join(GOOD_NAMES)} does, in any case"
    return f"{unit_of(strips)}s by folder: {text}" if text else ""


def mask_path(root: Path, split: str, kind: str, name: str, suffix: str = ".png") -> Path:
    """The path of the mask of strip `name` (without suffix), which has a defect of `kind`."""
    folder = "ground_truth" if split == "test" else f"ground_truth_{split}"
    return root / folder / kind / f"{name}_mask{suffix}"


def evenly_spaced(strips: list[StripFile], most: int) -> list[StripFile]:
    """At most `most` strips, spread over all."""
    return strips[:: -(-len(strips) // most)] if strips else []


def good_strips(strips: list[StripFile]) -> list[StripFile]:
    """Return the strips that are known to have no defect."""
    return [strip for strip in strips if strip.is_defective is False]


def sample_good_and_defective(strips: list[StripFile], most: int) -> list[StripFile]:
    """At most `most` strips, spread over all: good ones, and up to half with known defects.

    Strips whose defects, if any, are nowhere known are left out. Sampled together, strips that are
    good and painted in turn could all be of one kind.
    """
    known = evenly_spaced([strip for strip in strips if strip.has_known_defects], most // 2)
    return evenly_spaced(good_strips(strips), most - len(known)) + known


def _find_split(folder: Path) -> Path:
    """The folder of the kinds: the parent of one kind in `test/` or `valid/`, else `folder`."""
    is_kind = split_of(folder.parent.name) in ("valid", "test") and not split_of(folder.name)
    return folder.parent if is_kind else folder


def _find_truth(
    split: Path, table: Path | None
) -> tuple[TruthFiles, dict[str, tuple[Point, ...]], list[str]]:
    """The masks of the strips in `split`, their points by key, and lines on points that fit none.

    Raises `UserError` for a folder or a file of points that cannot be read, and for a `table` that
    has a point of none of the strips.
    """
    files, tables = _images_and_tables(split)
    strips = without_masks(split, files)
    keys = [path.relative_to(split).with_suffix("") for path in strips]
    kinds = [_find_kind(key) for key in keys]
    names = StripNames(
        (key.as_posix() for key in keys), [kind is not None and is_good(kind) for kind in kinds]
    )
    masks = [(path, path.relative_to(split)) for path in sorted(set(files) - set(strips))]
    for root in mask_folders(split):
        files, more = _images_and_tables(root)
        relative = [(path, path.relative_to(root)) for path in files]
        masks += [entry for entry in relative if not is_of_other_split(entry[1], split)]
        tables += more
    points, lines = match_points(names, [(table, PurePath(table.name))] if table else tables, split)
    if table and not points:
        raise UserError(
            f"{table}: found a point of none of the {len(keys)} strips in {split}, "
            "expected their names, or their paths in that folder, in the column file"
        )
    for key in keys:
        if named := points_in_name(key.name):
            points.setdefault(key.as_posix(), named)
    return match_masks(names, masks), points, lines


def _images_and_tables(folder: Path) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """The images in a folder, and its files of points with their paths in it, sorted."""
    files = sorted(list_files(folder, (*ALL_SUFFIXES, Path(POINTS_FILE).suffix)))
    tables = [path for path in files if path.name.casefold() == POINTS_FILE]
    images = [path for path in files if path.suffix.lower() in ALL_SUFFIXES]
    return images, [(path, path.relative_to(folder)) for path in tables]


def _find_kind(path_in_split: Path) -> str | None:
    """The first folder of a strip's path in its split; None for a strip that lies in no folder."""
    return path_in_split.parts[0] if len(path_in_split.parts) > 1 else None
