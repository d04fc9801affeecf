"""The strips of a search, as data sets of links that each of its trainings reads.

Whatever says where the known points are, masks, a table, or names, becomes the layout of a data set
with a validation split, so a training's own validation gives the objective after every epoch.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import new_folder, refused_by_system
from data.folder import GOOD, StripFile, is_good, list_strips, require_good_only
from data.image_files import STORED_ORDER
from data.true_points import write_coordinates
from data.unlabelled import list_false_alarm_strips
from scale.spec import Spec

SAMPLE, WHOLE = "sample", "all"
DEFECTIVE = "defective"
NAMES = "strips.json"  # the strips behind the links of a data set's validation split
SAMPLE_SEED = 40_000  # of all searches: the sample does not change with a spec's seed
FEWEST_TO_TRAIN = 2


def make_data_sets(spec: Spec, folder: Path) -> None:
    """Make the data sets SAMPLE and WHOLE in a new folder.

    Raises `UserError` when a folder of strips cannot be listed, and when no point is known.
    """
    img_format = spec.space.fixed_flags.get("img_format")
    require_good_only(spec.training_dataset_path)
    train = list_strips(spec.training_dataset_path, img_format, use_masks=False)
    known = list_strips(spec.test_path, img_format, table=spec.points)
    marked = [strip for strip in known if strip.mask or strip.points]
    if not marked:
        raise UserError(
            f"{spec.test_path}: found no strip with a known point, expected masks, points, "
            "or names such as part_7#40,60.tiff"
        )
    others = [strip for strip in known if not (strip.mask or strip.points)]
    others += list_false_alarm_strips(spec.fp_path, img_format, STORED_ORDER, known)
    generator = np.random.default_rng(SAMPLE_SEED)
    sampled = {
        id(strip)
        for group, least in ((train, FEWEST_TO_TRAIN), (marked, 1), (others, 0))
        for strip in _sample(group, spec.sample, least, generator)
    }
    valid = [*marked, *others]
    with new_folder(folder) as root:
        for name in (SAMPLE, WHOLE):
            is_whole = name == WHOLE
            _link(
                root / name,
                {
                    split: {
                        number: strip
                        for number, strip in enumerate(strips)
                        if is_whole or id(strip) in sampled
                    }
                    for split, strips in (("train", train), ("valid", valid))
                },
            )


def _sample(
    strips: Sequence[StripFile], share: float, least: int, generator: np.random.Generator
) -> list[StripFile]:
    count = max(least, math.ceil(share * len(strips)))
    return [strips[number] for number in generator.permutation(len(strips))[:count]]


def _link(root: Path, splits: dict[str, dict[int, StripFile]]) -> None:
    """Make a data set of links to strips and their masks, with a table of their points.

    The links' names are the strips' numbers, the same in every data set.
    """
    names, rows = {}, []
    with refused_by_system(root):
        for split, strips in splits.items():
            for number, strip in strips.items():
                kind = _kind(strip) if split == "valid" else GOOD
                link = root / split / kind / f"strip_{number:06d}{strip.path.suffix}"
                _make_link(link, strip.path)
                if split == "train":
                    continue
                names[link.relative_to(root / split).as_posix()] = strip.relative.as_posix()
                masks = root / "ground_truth_valid" / kind / link.stem
                for at, mask in enumerate(strip.masks):
                    _make_link(masks / f"{at}{mask.suffix}", mask)
                rows += [(f"{kind}/{link.name}", y, x) for y, x in strip.points or ()]
        write_coordinates(root / "valid" / "points.csv", rows)
        (root / NAMES).write_text(json.dumps(names, indent=1))


def _kind(strip: StripFile) -> str:
    """The folder of a strip in `valid/`; none where it is not known what is on it."""
    if strip.points == () or (strip.kind is not None and is_good(strip.kind)):
        return GOOD  # every detection is a false alarm
    return DEFECTIVE if strip.has_truth else ""


def _make_link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target.resolve(), link)


def training_folder(root: Path) -> Path:
    """The folder of a data set that trainer.py is given."""
    return root / "train" / GOOD


def scored_folder(root: Path) -> Path:
    """The folder of a data set with the strips of known points."""
    return root / "valid"


def names_of(root: Path) -> dict[str, str]:
    """The names of the strips behind the links of `scored_folder`, by the links' paths in it."""
    return json.loads((root / NAMES).read_text())
