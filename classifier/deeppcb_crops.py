"""DeepPCB's defects as crops of two channels, board and template, by their six kinds."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from classifier.crops import cut
from common.errors import UserError, prefix_errors
from common.pipeline import in_parallel
from data.deeppcb import (
    KINDS,
    Box,
    board_file,
    board_name,
    boxes_file,
    choose_test_groups,
    list_templates,
    read_boxes,
    split_of_board,
)
from data.folder import mask_path
from data.image_files import Channels, load_image
from data.write_images import write_mask, write_strip

DIFFERENT = 128  # grey levels by which a defect's pixels differ: both pictures are black and white


def write_deeppcb(
    root: Path, source: Path, size: int, seed: int, test_groups: Sequence[str] | None
) -> None:
    """Write a crop (2, size, size) uint8 of each defect, with its mask.

    Whole groups of boards are for the test: those named `test_groups`, None means by `seed`. Of the
    other groups' boards some are to validate on. A mask has the pixels in the defect's box in which
    board and template differ.

    Raises `UserError` for a source that is not DeepPCB's, an unknown group, and a file that cannot
    be used.
    """
    templates = list_templates(source)
    tested = choose_test_groups(templates, seed)
    if test_groups is not None:
        tested = _named(templates, test_groups)
    in_parallel(
        lambda job: _write_board(root, job[1], split_of_board(*job, tested), size),
        list(enumerate(templates)),
        "cutting boards",
    )


def _named(templates: Sequence[Path], names: Sequence[str]) -> set[Path]:
    groups = {template.parent.name: template.parent for template in templates}
    for name in names:
        if name not in groups:
            raise UserError(f"--test_groups: found {name}, expected some of {', '.join(groups)}")
    if len(set(names)) == len(groups):
        raise UserError("--test_groups: found all groups, expected one left to train on")
    return {groups[name] for name in names}


def _write_board(root: Path, template_path: Path, split: str, size: int) -> None:
    template = load_image(template_path, channels=Channels.GREY)
    board_path = board_file(template_path)
    board = load_image(board_path, channels=Channels.GREY)
    if board.shape != template.shape:
        raise UserError(
            f"{board_path}: found {board.shape[1:]} (height, width), "
            f"expected {template.shape[1:]} like its template"
        )
    planes = np.rint(np.concatenate([board, template])).astype(np.uint8)
    differs = abs(board - template)[0] > DIFFERENT
    path = boxes_file(template_path)
    for number, box in enumerate(read_boxes(path)):
        with prefix_errors(path):
            kind = _kind(box, differs.shape)
        middle = (box.top + box.bottom) // 2, (box.left + box.right) // 2
        name = f"{board_name(template_path)}_{number:02}"
        write_strip(root / split / kind / f"{name}.tiff", cut(planes, *middle, size))
        inside = np.zeros_like(differs)
        inside[box.top : box.bottom, box.left : box.right] = True
        marks = _without_slivers(differs & inside)
        mask = cut(marks if marks.any() else inside, *middle, size)
        write_mask(mask_path(root, split, kind, name), mask.astype(np.uint8))


def _without_slivers(marks: np.ndarray) -> np.ndarray:
    """Marks (H, W) bool without lines of one or two pixels: edges that lie a little apart."""
    return cv2.morphologyEx(marks.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def _kind(box: Box, size: tuple[int, int]) -> str:
    """The kind of a box. Raises `UserError`, without the path, for an unknown type or place."""
    if box.type is None or not 1 <= box.type <= len(KINDS):
        raise UserError(f"found the type {box.type}, expected 1 to {len(KINDS)}")
    if not (0 <= box.top < box.bottom <= size[0] and 0 <= box.left < box.right <= size[1]):
        raise UserError(f"found the box {tuple(box[:4])}, expected one inside {tuple(size)}")
    return KINDS[box.type - 1]
