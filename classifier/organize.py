"""Make a data set of folders of defective and of good pictures, with masks of some or all."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from classifier.check_data import LOOSE_MASK, TWO_LABELS, Findings, Placed, compare, read_facts
from classifier.defect_data import LabelledPicture
from classifier.split import assign_splits, group_of, join_groups, require_trainable
from common.errors import UserError, prefix_errors
from common.files import new_folder
from data.folder import GOOD, is_good, mask_path
from data.listing import list_files, without_masks
from data.masks import load_masks
from data.pictures import LARGEST_DEFECT
from data.truth_layout import MASK_FOLDERS, StripNames, TruthFiles, match_masks, split_of
from data.write_images import write_mask

ONE_KIND = "defect"  # of defective pictures that lie in no folders of kinds


@dataclass(frozen=True)
class Source:
    """A picture to organize: `relative` is its path in its source, `name` that without suffix."""

    picture: LabelledPicture
    relative: PurePath
    name: str


@dataclass(frozen=True)
class Plan:
    """Where each source goes, and what is wrong with the whole."""

    sources: list[Source]
    splits: list[str]
    findings: Findings


def find_sources(
    defect_images: Path, defect_masks: Path | None, normal_images: Path | None
) -> tuple[list[Source], list[str]]:
    """The pictures to organize, and the masks that fit none of them.

    Raises `UserError` for folders without pictures, for a folder of good pictures among those of
    defects, for pictures beside the folders of kinds, and for two of one name and kind.
    """
    sources, unused = _defects(defect_images, defect_masks)
    if normal_images:
        sources += [
            Source(LabelledPicture(path, GOOD, None, True), inside, "_".join(_parts(inside)))
            for path, inside in _pictures(normal_images)
        ]
    named: dict[tuple[str, str], Path] = {}
    for source in sources:
        path = source.picture.path
        if named.setdefault((source.picture.kind, source.name.casefold()), path) != path:
            other = named[source.picture.kind, source.name.casefold()]
            raise UserError(
                f"{path}: found another picture of that name, {other}, expected names that differ "
                "without folder and suffix"
            )
    return sources, unused


def plan(
    sources: list[Source],
    unused: list[str],
    shares: tuple[float, float],
    seed: int,
    group_by: re.Pattern | None,
    input_max: float,
) -> Plan:
    """Decide on the split of each picture: copies and pictures of one group go to one side.

    Raises `UserError` for fewer than two kinds, for a group of a picture that cannot be told, and
    where train/ would miss a kind.
    """
    kinds = [source.picture.kind for source in sources]
    require_trainable(kinds, ["train"] * len(kinds))
    groups = [group_of(source.relative.as_posix(), group_by) for source in sources]
    findings = Findings([Placed("", source.picture) for source in sources])
    findings.problems[LOOSE_MASK] += unused
    read_facts(findings, input_max)
    facts = [findings.facts.get(source.picture.path) for source in sources]
    contents = [known.content if known else None for known in facts]
    joined = join_groups(groups if group_by else [None] * len(sources), contents)
    if group_by:
        _require_groups(len(set(joined)), shares)
    splits = assign_splits(kinds, joined, shares, seed)
    findings.pictures = [Placed(split, source.picture) for split, source in zip(splits, sources)]
    compare(findings)
    if not findings.problems[TWO_LABELS]:
        with prefix_errors("--group_by" if group_by else "the pictures"):
            require_trainable(kinds, splits)
    return Plan(sources, splits, findings)


def _require_groups(count: int, shares: tuple[float, float]) -> None:
    """Raise `UserError` for fewer groups than splits."""
    needed = 1 + sum(share > 0 for share in shares)
    if count < needed:
        raise UserError(
            f"--group_by: found {count} {'group' if count == 1 else 'groups'} of pictures, "
            f"expected {needed} or more: train/, valid/ and test/ need one each"
        )


def write(root: Path, made: Plan, is_linked: bool) -> None:
    """Copy or link everything into the new folder `root`. Raises `UserError` as `new_folder`."""
    with new_folder(root) as folder:
        for source, split in zip(made.sources, made.splits):
            picture = source.picture
            _place(
                picture.path,
                folder / split / picture.kind / f"{source.name}{picture.path.suffix}",
                is_linked,
            )
            if len(picture.masks) == 1:
                target = mask_path(
                    folder, split, picture.kind, source.name, picture.masks[0].suffix
                )
                _place(picture.masks[0], target, is_linked)
            elif picture.masks:
                mask = load_masks(
                    picture.masks, made.findings.facts[picture.path].size, LARGEST_DEFECT
                )
                target = mask_path(folder, split, picture.kind, source.name)
                write_mask(target, mask.astype(np.uint8))


def _place(source: Path, target: Path, is_linked: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_linked:
        shutil.copyfile(source, target)
        return
    source = Path(os.path.realpath(source))
    try:
        os.link(source, target)
    except OSError:  # on another disk, or a file system without hard links
        target.symlink_to(source)


def _pictures(folder: Path) -> list[tuple[Path, PurePath]]:
    """The pictures of a folder, each with its path in it, sorted. Raises `UserError` for none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: found no such folder, expected one of pictures")
    paths = sorted(without_masks(folder, list_files(folder)))
    if not paths:
        raise UserError(f"{folder}: found no pictures, expected TIFF, PNG, JPG or BMP files")
    return [(path, PurePath(path.relative_to(folder))) for path in paths]


def _defects(folder: Path, masks: Path | None) -> tuple[list[Source], list[str]]:
    pictures = _pictures(folder)
    in_folders = [inside for _, inside in pictures if len(inside.parts) > 1]
    if in_folders and len(in_folders) < len(pictures):
        loose = next(path for path, inside in pictures if len(inside.parts) == 1)
        raise UserError(
            f"{loose}: found a picture beside folders of kinds, expected it in one of them"
        )
    truths = _masks_of(folder, [inside for _, inside in pictures], masks)
    sources = []
    for path, inside in pictures:
        kind = inside.parts[0] if in_folders else ONE_KIND
        if is_good(kind) or split_of(kind) or kind.casefold() in MASK_FOLDERS:
            raise UserError(
                f"{folder / kind}: found a folder of that name among defects, expected the name of "
                "a kind of defect"
            )
        found = truths.masks.get(inside.with_suffix("").as_posix(), [])
        picture = LabelledPicture(
            path, kind, found[0] if found else None, bool(found), tuple(found[1:])
        )
        inner = PurePath(*inside.parts[1:]) if in_folders else inside
        sources.append(Source(picture, inside, "_".join(_parts(inner))))
    return sources, [str(path) for path in truths.unused]


def _masks_of(folder: Path, insides: list[PurePath], masks: Path | None) -> TruthFiles:
    """The masks of pictures, which lie in a folder of masks or beside them."""
    names = StripNames(
        [inside.with_suffix("").as_posix() for inside in insides], [False] * len(insides)
    )
    pictures = {folder / inside for inside in insides}
    files = [(path, PurePath(path.relative_to(folder))) for path in list_files(folder)]
    files = [(path, inside) for path, inside in files if path not in pictures]
    if masks:
        if not masks.is_dir():
            raise UserError(f"{masks}: found no such folder, expected one of masks")
        more = sorted(list_files(masks))
        if not more:
            raise UserError(f"{masks}: found no masks, expected images")
        files += [(path, PurePath(path.relative_to(masks))) for path in more]
    return match_masks(names, sorted(files))


def _parts(inside: PurePath) -> tuple[str, ...]:
    return inside.with_suffix("").parts
