"""The files of DeepPCB: boards, their defect-free templates, and boxes around their defects."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.files import require_regular

KINDS = ("open", "short", "mousebite", "spur", "copper", "pin-hole")  # types 1 to 6
VALID_EVERY = 5  # one of so many boards in the training groups is for validation
TEST_SHARE = 3  # one of so many groups is for the test, at least one
TEMPLATE_ENDING = "_temp.jpg"


class Box(NamedTuple):
    """A defect's box in pixels, the last two exclusive, and its type (None: not given)."""

    top: int
    left: int
    bottom: int
    right: int
    type: int | None


def list_templates(source: Path) -> list[Path]:
    """The templates of all boards, sorted; the folder of each is its group of one design.

    Raises `UserError` for a folder that is not DeepPCB's, and for one with a single group.
    """
    templates = sorted(source.rglob(f"group*/*/*{TEMPLATE_ENDING}"))
    if not templates:
        raise UserError(
            f"{source}: found no group*/*/*{TEMPLATE_ENDING}, "
            "expected the PCBData folder of DeepPCB"
        )
    if len({template.parent for template in templates}) < 2:
        raise UserError(
            f"{source}: found one group of boards, "
            "expected two or more: one trains, another one tests"
        )
    return templates


def choose_test_groups(templates: Sequence[Path], seed: int) -> set[Path]:
    """The folders of the groups that are for the test."""
    groups = sorted({template.parent for template in templates})
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    return {groups[number] for number in shuffled[: max(1, len(groups) // TEST_SHARE)]}


def split_of_board(number: int, template: Path, test_groups: set[Path]) -> str:
    """The split of the board with that number in the order of `list_templates`."""
    if template.parent in test_groups:
        return "test"
    return "train" if number % VALID_EVERY else "valid"


def board_name(template: Path) -> str:
    """The name of a template's board."""
    return template.name.removesuffix(TEMPLATE_ENDING)


def board_file(template: Path) -> Path:
    """The picture of a template's board."""
    return template.with_name(f"{board_name(template)}_test.jpg")


def boxes_file(template: Path) -> Path:
    """The annotation of a template's board."""
    return template.parent.with_name(f"{template.parent.name}_not") / f"{board_name(template)}.txt"


def read_boxes(path: Path) -> list[Box]:
    """The boxes of an annotation, which has one `x1 y1 x2 y2 type` per line.

    Raises `UserError` when it cannot be read.
    """
    boxes = []
    try:
        require_regular(path)
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                left, top, right, bottom, *kind = map(int, line.split()[:5])
                boxes.append(Box(top, left, bottom, right, *(kind or [None])))
    except (OSError, ValueError, UserError) as error:
        raise UserError(
            f"{path}: found no readable boxes ({error}), expected lines of x1 y1 x2 y2 type"
        ) from None
    return boxes
