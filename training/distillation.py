"""The network that a smaller one learns from, besides the masks: which one it is, and whether it can be."""

import argparse
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError, about
from model import ARCHITECTURES, SegmentationNetwork
from training.checkpoint import build_network, file_hash, load_checkpoint

SAME = ("align", "image_type", "input_max")  # of teacher and run: or the teacher would be shown what it has never learnt
FLAG = "--teacher"


def check_teacher(arguments: argparse.Namespace) -> str:
    """SHA-256 of the teacher's checkpoint.

    Raises `UserError` when that is no checkpoint, one of another setting in SAME, or not the one that a resumed run began with.
    """
    path, begun_with = arguments.teacher, arguments.teacher_sha256
    with about(FLAG):
        content = load_checkpoint(path)
        build_network(content, path)
        with about(path):
            _require_same_settings(content, arguments)
            sha256 = file_hash(path)
            if begun_with not in (None, sha256):
                raise UserError(
                    f"found another checkpoint ({sha256[:12]}), expected the one that the run was begun with ({begun_with[:12]})"
                )
    return sha256


def _require_same_settings(content: dict[str, Any], arguments: argparse.Namespace) -> None:
    for name in SAME:
        found, expected = content[name], getattr(arguments, name)
        if found != expected:
            raise UserError(f"found a teacher of --{name} {found}, expected {expected}, as of the run")


def require_not_of_run(path: Path, files: tuple[Path, ...]) -> None:
    """Raise `UserError` when the teacher is one of the files that the run will write."""
    if path.resolve() in [file.resolve() for file in files]:
        raise UserError(f"{FLAG}: {path}: found a file that this very run writes, expected another --checkpoint_path")


def load_teacher(path: Path, device: torch.device) -> SegmentationNetwork:
    """The teacher, which never changes: without gradients, and with the batch norm statistics of its own training."""
    network = build_network(load_checkpoint(path), path).requires_grad_(False)
    return network.to(device, memory_format=torch.channels_last)


def describe_teacher(teacher: SegmentationNetwork, path: Path) -> str:
    arch = next(name for name, network in ARCHITECTURES.items() if network is type(teacher))
    return f"taught by {path} ({arch} with {teacher.base_channels} base channels)"
