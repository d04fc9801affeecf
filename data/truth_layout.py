"""Which mask files belong to which strips, by the names that labelling tools and data sets use.

Everything here is about names: no image is opened. A strip is known by its path in the split
without suffix, its key, such as `bright_spots/strip_7`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

# Names of a folder of masks, in any case: beside a split, and inside a folder of strips, where
# fewer names are taken, because a kind of defect may be called "label".
MASK_FOLDERS_INSIDE = ("ground_truth", "groundtruth", "ground-truth", "ground truth", "gt", "masks")
MASK_FOLDERS = (*MASK_FOLDERS_INSIDE, "mask", "labels", "label", "annotations")
# the folders of each split, by the names that they have in data sets, in any case
SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation"),
    "test": ("test", "testing"),
}
# what labelling tools and data sets append to the name of a strip, in any case
MASK_ENDING = re.compile(
    r"(?<=.)[ _.-]+(masks?|gt|ground[ _-]?truth|labels?|seg|segmentation|annotation)$",
    re.IGNORECASE,
)
OWN_ENDING = "_mask"
POINTS_FILE = "points.csv"
# NAME#X,Y or NAME#X,Y#X,Y and so on: the points of a strip in its name
POINTS_IN_NAME = re.compile(r"(?:#\d+(?:\.\d+)?,\d+(?:\.\d+)?)+$")


def split_of(name: str) -> str | None:
    """Return `train`, `valid` or `test` for a folder of that name, None for any other one."""
    folded = name.casefold()
    return next((split for split, names in SPLIT_NAMES.items() if folded in names), None)


def mask_folders(split: Path) -> list[Path]:
    """Return the folders beside a split that hold its masks, the usual name first.

    These are `ground_truth` and the like for a test split and for any other folder,
    `ground_truth_valid` or `ground_truth/valid` for a validation split, and `ground_truth_train` or
    `ground_truth/train` for one to train on.
    """
    name = split_of(split.name) or "test"
    own = [f"{joint}{part}" for part in SPLIT_NAMES[name] for joint in "_-"]
    named = [f"{masks}{ending}" for masks in MASK_FOLDERS for ending in own]
    named += [f"{ending[1:]}{ending[0]}{masks}" for masks in MASK_FOLDERS for ending in own]
    folders = _folders_in(split.parent)
    plain = [folders[masks] for masks in MASK_FOLDERS if masks in folders]
    found = [folders[masks] for masks in named if masks in folders]
    if name == "test":
        return [folder for folder in (*plain, *found) if folder != split]
    # a plain folder of masks is that of the test split, except for its part of this split
    parts = (part for folder in plain for part in _folders_in(folder).values())
    return found + [part for part in parts if split_of(part.name) == name]


def is_of_other_split(relative: PurePath, split: Path) -> bool:
    """Return whether a path in a folder of masks leads to those of another split than `split`."""
    of = split_of(relative.parts[0]) if len(relative.parts) > 1 else None
    return of not in (None, split_of(split.name) or "test")


def _folders_in(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder by their names in lower case; none if it cannot be read."""
    try:
        return {
            child.name.casefold(): child for child in sorted(folder.iterdir()) if child.is_dir()
        }
    except OSError:
        return {}


def is_mask_file(relative: PurePath, others: set[str]) -> bool:
    """Return whether an image in a folder of strips is a mask of another one.

    `relative` is its path in that folder. It lies in a folder of masks, or is named like another
    image of its folder with `_mask` or another of the usual endings; `others` are the paths of all
    images, without suffix and in lower case.
    """
    return is_in_mask_folder(relative) or masked_key(relative) in others


def is_in_mask_folder(relative: PurePath) -> bool:
    """Return whether a path in a folder of strips lies in a folder of masks."""
    return any(part.casefold() in MASK_FOLDERS_INSIDE for part in relative.parts[:-1])


def masked_key(relative: PurePath) -> str | None:
    """Return the `image_key` of what a file is a mask of by its name, if that is there at all.

    None for a name without one of the usual endings.
    """
    stripped = MASK_ENDING.sub("", relative.stem)
    return None if stripped == relative.stem else relative.with_name(stripped).as_posix().casefold()


def image_key(relative: PurePath) -> str:
    """Return what an image in a folder of strips is known by: without suffix, in lower case."""
    return relative.with_suffix("").as_posix().casefold()


@dataclass
class TruthFiles:
    """The masks of each strip by its key, usual name first, and the mask files that fit none."""

    masks: dict[str, list[Path]] = field(default_factory=dict)
    unused: list[Path] = field(default_factory=list)


class StripNames:
    """The strips of a split by the names that files about them may use."""

    def __init__(self, keys: Iterable[str], is_good: Iterable[bool]):
        """`keys` are paths in the split without suffix; `is_good` says which kinds are good."""
        self.keys = set(keys_list := list(keys))
        self._folded = _unique((key.casefold(), key) for key in keys_list)
        names = [(PurePath(key).name.casefold(), key) for key in keys_list]
        marked = [name for name, good in zip(names, is_good) if not good]
        # a name that a good and a defective strip share means the defective one
        self._by_name = _unique(names) | _unique(marked)

    def find(self, key: PurePath) -> str | None:
        """Return the strip that a path without suffix names, in any case, or None.

        A path without a folder means the only strip of that name in any folder, and a strip that
        lies in no folder is meant by its name in any folder.
        """
        text = key.as_posix()
        if text in self.keys:
            return text
        if folded := self._folded.get(text.casefold()):
            return folded
        named = self._by_name.get(key.name.casefold())
        if named and (len(key.parts) == 1 or "/" not in named):
            return named
        return None


def match_masks(strips: StripNames, masks: Iterable[tuple[Path, PurePath]]) -> TruthFiles:
    """Return which strip each mask belongs to.

    `masks` are the files, each with its path in its folder of masks. Of several masks that a strip
    may have, the one with the most usual name counts; all images in a folder that is named like the
    strip count together.
    """
    ranked: dict[str, list[tuple[int, Path]]] = {}
    result = TruthFiles()
    for file, relative in masks:
        for rank, key in _candidates(_without_layout(relative)):
            if strip := strips.find(key):
                ranked.setdefault(strip, []).append((rank, file))
                break
        else:
            result.unused.append(file)
    for strip, found in ranked.items():
        best = min(rank for rank, _ in found)
        chosen = [file for rank, file in found if rank == best]
        if best != IN_OWN_FOLDER:
            chosen = chosen[:1]
        result.masks[strip] = chosen
        result.unused += [file for _, file in found if file not in chosen]
    return result


IN_OWN_FOLDER = 5  # rank of an image in a folder that is named like its strip


def _candidates(relative: PurePath) -> list[tuple[int, PurePath]]:
    """Return the keys of the strips that a mask may belong to, the most usual form first.

    `relative` is its path in its folder of masks, with suffix.
    """
    stem, folder = relative.stem, relative.parent
    inner = stem.rsplit(".", 1)[0]  # NAME.tiff.png
    found = (
        [(1, relative.with_name(stem.removesuffix(OWN_ENDING)))]
        if (stem.endswith(OWN_ENDING) and stem != OWN_ENDING)
        else []
    )
    found += [(2, relative.with_name(stem)), (3, relative.with_name(MASK_ENDING.sub("", stem)))]
    if inner:
        found.append((4, relative.with_name(inner)))
    if folder.name:
        found.append((IN_OWN_FOLDER, folder))
        found.append((IN_OWN_FOLDER, folder.with_name(MASK_ENDING.sub("", folder.name))))
    return found


def _without_layout(relative: PurePath) -> PurePath:
    """Return a mask's path without the folders of a split and of masks that it contains."""
    folders = [part for part in relative.parts[:-1] if part.casefold() not in MASK_FOLDERS_INSIDE]
    if folders and split_of(folders[0]):
        folders = folders[1:]
    return PurePath(*folders, relative.name)


def _unique(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return name to key, without the names that two keys share."""
    found: dict[str, str | None] = {}
    for name, key in named:
        found[name] = None if name in found and found[name] != key else key
    return {name: key for name, key in found.items() if key}


def points_in_name(stem: str) -> tuple[tuple[float, float], ...] | None:
    """Return the points (y, x) that a strip's name ends with, as NAME#X,Y, or None without any."""
    ending = POINTS_IN_NAME.search(stem)
    if not ending:
        return None
    pairs = (pair.split(",") for pair in ending[0][1:].split("#"))
    return tuple((float(y), float(x)) for x, y in pairs)
