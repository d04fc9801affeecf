"""The network that a smaller one learns from, besides the masks: which one it is, and whether it
can be.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError, prefix_errors
from common.files import file_hash
from loss import defect_logit, focal_weight
from model import ARCHITECTURES, SegmentationNetwork
from training.checkpoint import build_network, load_checkpoint
from training.strip_settings import TrainingSettings

# of teacher and run: or the teacher would be shown what it has never learnt
SAME = ("align", "image_type", "input_max")
FLAG = "--teacher"
# then it pulls a half-trained network's logits as hard as the mask does: their gradients are as
# long
TEACHER_WEIGHT = 4.0


def check_teacher(settings: TrainingSettings) -> str:
    """SHA-256 of the checkpoint of a run's teacher.

    Raises `UserError` when that is no checkpoint, one of another setting in SAME, or not the one
    that a resumed run began with.
    """
    path, begun_with = settings.teacher, settings.teacher_sha256
    with prefix_errors(FLAG):
        content = load_checkpoint(path)
        build_network(content, path)
        with prefix_errors(path):
            _require_same_settings(content, settings)
            sha256 = file_hash(path)
            if begun_with not in (None, sha256):
                raise UserError(
                    f"found another checkpoint ({sha256[:12]}), expected the one that the run was begun with ({begun_with[:12]})"
                )
    return sha256


def _require_same_settings(content: dict[str, Any], settings: TrainingSettings) -> None:
    for name in SAME:
        found, expected = content[name], getattr(settings, name)
        if found != expected:
            raise UserError(
                f"found a teacher of --{name} {found}, expected {expected}, as of the run"
            )


def require_not_of_run(path: Path, files: tuple[Path, ...]) -> None:
    """Raise `UserError` when the teacher is one of the files that the run will write."""
    if path.resolve() in [file.resolve() for file in files]:
        raise UserError(
            f"{FLAG}: {path}: found a file that this very run writes, expected another --checkpoint_path"
        )


def load_teacher(path: Path, device: torch.device) -> SegmentationNetwork:
    """The teacher, which never changes: without gradients, and with the batch norm statistics of
    its own training.
    """
    network = build_network(load_checkpoint(path), path).requires_grad_(False)
    return network.to(device, memory_format=torch.channels_last)


def describe_teacher(teacher: SegmentationNetwork, path: Path) -> str:
    arch = next(name for name, network in ARCHITECTURES.items() if network is type(teacher))
    return f"taught by {path} ({arch} with {teacher.base_channels} base channels)"


class TeacherLoss(nn.Module):
    """How far a network's heatmaps are from those of its teacher: two classes, from logits, on
    whatever device they are.

    Kullback-Leibler divergence of the network's two probabilities from the teacher's, mean over all
    pixels, each weighted as it is in the focal loss, alpha_c (1 - p)^gamma with p of the mask's
    class c: otherwise background that is right already would drown the few defects. The weight has
    no gradient, so that every pixel is drawn to just the teacher's probability. Multiplied by
    TEACHER_WEIGHT. After Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    2015 (arXiv:1503.02531), at a temperature of 1: a teacher that has learnt with the focal loss is
    seldom so sure that its answers would have to be softened.
    """

    def __init__(self, alpha: float = 0.75):
        super().__init__()
        self.alpha = alpha

    def forward(
        self, logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, gamma: float
    ) -> torch.Tensor:
        """Logits of both (B, 2, H, W), the teacher's without a gradient, and mask (B, 1, H, W),
        float {0, 1}, to a scalar.
        """
        margin, teacher_margin = defect_logit(logits), defect_logit(teacher_logits)
        log_defect, log_background = functional.logsigmoid(margin), functional.logsigmoid(-margin)
        teacher_log_defect, teacher_log_background = (
            functional.logsigmoid(teacher_margin),
            functional.logsigmoid(-teacher_margin),
        )
        divergence = teacher_log_defect.exp() * (teacher_log_defect - log_defect)
        divergence = divergence + teacher_log_background.exp() * (
            teacher_log_background - log_background
        )
        log_other = torch.where(mask > 0.5, log_background, log_defect).detach()
        return (
            TEACHER_WEIGHT * (focal_weight(log_other, mask, gamma, self.alpha) * divergence).mean()
        )
