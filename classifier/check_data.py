"""Check a data set of labelled pictures before anything is trained on it; nothing is written."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from classifier.defect_data import (
    SPLITS,
    LabelledPicture,
    labelled,
    list_all_formats,
    order_kinds,
    read_labelled,
    unused_masks,
)
from common.errors import UserError, one_line
from common.pipeline import in_parallel
from data.folder import GOOD, is_good, split_folder
from data.listing import list_files, sub_folders
from data.masks import load_masks
from data.pictures import LARGEST_DEFECT, hash_of_pixels

UNREADABLE = "files that cannot be read"
CHANNELS = "pictures with other channels than most"
UNLABELLED = "pictures without a label"
SAME_NAME = "two pictures of one name"
LOOSE_MASK = "masks without a picture"
BAD_MASK = "masks that do not fit their picture"
EMPTY_MASK = "defects whose mask is empty"
MARKED_GOOD = "good pictures with a mask that is not empty"
MISSING_KIND = "kinds missing in a split"
TWO_SPLITS = "the same pixels in two splits"
TWO_LABELS = "the same pixels under two labels"
CHECKS = (UNREADABLE, CHANNELS, UNLABELLED, SAME_NAME, LOOSE_MASK, BAD_MASK, EMPTY_MASK)
CHECKS += (MARKED_GOOD, MISSING_KIND, TWO_SPLITS, TWO_LABELS)


class Placed(NamedTuple):
    """A picture and its split."""

    split: str
    picture: LabelledPicture


class Facts(NamedTuple):
    """What was read of a picture: (height, width), channels, and the hash of its values."""

    size: tuple[int, int]
    channels: int
    content: str


@dataclass
class Findings:
    """What is wrong with a set, by check, and what it holds.

    `empty_kinds` are the kinds of folders without pictures.
    """

    pictures: list[Placed] = field(default_factory=list)
    facts: dict[Path, Facts] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    empty_kinds: set[str] = field(default_factory=set)

    @property
    def is_clean(self) -> bool:
        return not any(self.problems.values())

    @property
    def kinds(self) -> list[str]:
        """All kinds, in the order of a classifier's classes."""
        return order_kinds({placed.picture.kind for placed in self.pictures} | self.empty_kinds)

    def describe(self) -> str:
        """Tables of the pictures by kind and of the checks."""
        counts = Counter((placed.picture.kind, placed.split) for placed in self.pictures)
        masks = Counter(placed.picture.kind for placed in self.pictures if placed.picture.mask)
        lines = [f"| kind | {' | '.join(SPLITS)} | with masks |", f"|{' --- |' * 5}"]
        for kind in self.kinds:
            row = (kind, *(counts[kind, split] for split in SPLITS), masks[kind])
            lines.append(f"| {' | '.join(map(str, row))} |")
        sizes = Counter(facts.size for facts in self.facts.values())
        listed = ", ".join(f"{height}x{width} ({n})" for (height, width), n in sizes.most_common(5))
        more = f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""
        lines += [f"sizes (height x width): {listed or 'none'}{more}", ""]
        lines += ["| check | found | first |", "| --- | --- | --- |"]
        for check in CHECKS:
            found = self.problems.get(check, [])
            lines.append(f"| {check} | {len(found)} | {found[0] if found else ''} |")
        return "\n".join(lines)


def check_folder(root: Path, input_max: float) -> Findings:
    """Check every file of a data set. Raises `UserError` for a folder that is none."""
    root = Path(os.path.abspath(root))
    folders = {split: split_folder(root, split) for split in SPLITS}
    if not any(folders.values()):
        raise UserError(
            f"{root}: found no train/, valid/ or test/, expected a data set of labelled pictures"
        )
    findings = Findings()
    for split, folder in folders.items():
        if folder is None:
            continue
        findings.empty_kinds |= _empty_kinds(folder)
        names: set[str] = set()
        for strip in list_all_formats(folder):
            name = strip.relative.with_suffix("").as_posix()
            if strip.kind is None:
                findings.problems[UNLABELLED].append(str(strip.path))
                continue
            if name in names:
                findings.problems[SAME_NAME].append(str(strip.path))
            names.add(name)
            findings.pictures.append(Placed(split, labelled(strip)))
        findings.problems[LOOSE_MASK] += [line.split(": ")[0] for line in unused_masks(root, split)]
    read_facts(findings, input_max)
    compare(findings)
    return findings


def _empty_kinds(folder: Path) -> set[str]:
    """The kinds of a split's folders without a file."""
    names = [name for name, place in sub_folders(folder).items() if not list_files(place)]
    return {GOOD if is_good(name) else name for name in names}


def compare(findings: Findings) -> None:
    """Add what is wrong with the pictures of a set, beside each other, after `read_facts`."""
    _compare_channels(findings)
    _compare_kinds(findings)
    _compare_contents(findings)


def read_facts(findings: Findings, input_max: float) -> None:
    """Read each picture and its mask, and add what is wrong with a single one."""
    outcomes = in_parallel(
        partial(_read, input_max=input_max),
        [placed.picture for placed in findings.pictures],
        "checking pictures",
    )
    for placed, (facts, problems) in zip(findings.pictures, outcomes):
        if facts:
            findings.facts[placed.picture.path] = facts
        for check, text in problems:
            findings.problems[check].append(text)


def _read(picture: LabelledPicture, input_max: float) -> tuple[Facts | None, list[tuple[str, str]]]:
    """The facts of a picture, None where it cannot be read, and problems by check."""
    try:
        image, _ = read_labelled(replace(picture, mask=None, more_masks=()), input_max)
    except UserError as error:
        return None, [(UNREADABLE, one_line(error, 300))]
    facts = Facts(image.shape[1:], len(image), hash_of_pixels(image))
    if not picture.mask:
        return facts, []
    try:
        mask = load_masks(picture.masks, facts.size, LARGEST_DEFECT)
    except UserError as error:
        return facts, [(BAD_MASK, one_line(error, 300))]
    if picture.kind == GOOD and mask.any():
        return facts, [(MARKED_GOOD, str(picture.mask))]
    if picture.kind != GOOD and not mask.any():
        return facts, [(EMPTY_MASK, str(picture.mask))]
    return facts, []


def _compare_channels(findings: Findings) -> None:
    counts = Counter(facts.channels for facts in findings.facts.values())
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        findings.problems[CHANNELS] += [
            f"{path}: {facts.channels}, most have {usual}"
            for path, facts in findings.facts.items()
            if facts.channels != usual
        ]


def _compare_kinds(findings: Findings) -> None:
    present = {(placed.picture.kind, placed.split) for placed in findings.pictures}
    findings.problems[MISSING_KIND] += [
        f"{split} has no {kind}"
        for split in SPLITS
        for kind in findings.kinds
        if (kind, split) not in present
    ]


def _compare_contents(findings: Findings) -> None:
    by_content: dict[str, list[Placed]] = defaultdict(list)
    for placed in findings.pictures:
        if facts := findings.facts.get(placed.picture.path):
            by_content[facts.content].append(placed)
    for copies in by_content.values():
        for check, key in (
            (TWO_SPLITS, lambda placed: placed.split),
            (TWO_LABELS, lambda placed: placed.picture.kind),
        ):
            if other := _differing(copies, key):
                findings.problems[check].append(
                    f"{copies[0].picture.path} and {other.picture.path}"
                )


def _differing(copies: Sequence[Placed], key: Callable[[Placed], str]) -> Placed | None:
    """The first of the copies that differs from the first one in `key`."""
    return next((copy for copy in copies if key(copy) != key(copies[0])), None)
