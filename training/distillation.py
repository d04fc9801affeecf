"""Distillation: a larger network, the teacher, whose heatmaps a run learns besides the masks."""

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

# settings that teacher and run must share, so that the teacher sees images like those it learnt
SHARED_SETTINGS = ("align", "image_type", "input_max")
FLAG = "--teacher"
# balances both losses: equal gradient magnitude on the logits of a half-trained network
TEACHER_WEIGHT = 4.0


def check_teacher(settings: TrainingSettings) -> str:
    """Check the teacher of a run and return the SHA-256 of its checkpoint, in hex.

    Raises `UserError` when the file is not a checkpoint, differs from the run in one of
    SHARED_SETTINGS, or is not the teacher that a resumed run started with.
    """
    path, original_sha256 = settings.teacher, settings.teacher_sha256
    with prefix_errors(FLAG):
        content = load_checkpoint(path)
        build_network(content, path)
        with prefix_errors(path):
            _require_same_settings(content, settings)
            sha256 = file_hash(path)
            if original_sha256 not in (None, sha256):
                raise UserError(
                    f"found another checkpoint ({sha256[:12]}), "
                    f"expected the one that the run was begun with ({original_sha256[:12]})"
                )
    return sha256


def _require_same_settings(content: dict[str, Any], settings: TrainingSettings) -> None:
    for name in SHARED_SETTINGS:
        found, expected = content[name], getattr(settings, name)
        if found != expected:
            raise UserError(
                f"found a teacher of --{name} {found}, expected {expected}, as of the run"
            )


def require_not_of_run(path: Path, files: tuple[Path, ...]) -> None:
    """Raise `UserError` when the teacher is one of the files that the run will write."""
    if path.resolve() in [file.resolve() for file in files]:
        raise UserError(
            f"{FLAG}: {path}: found a file that this very run writes, "
            "expected another --checkpoint_path"
        )


def load_teacher(path: Path, device: torch.device) -> SegmentationNetwork:
    """The teacher on a device, frozen: in evaluation mode and without gradients.

    Raises `UserError` when the file is not a checkpoint of this suite.
    """
    network = build_network(load_checkpoint(path), path).requires_grad_(False)
    return network.to(device, memory_format=torch.channels_last)


def describe_teacher(teacher: SegmentationNetwork, path: Path) -> str:
    """A phrase with the teacher's checkpoint, architecture and width."""
    arch = next(name for name, network in ARCHITECTURES.items() if network is type(teacher))
    return f"taught by {path} ({arch} with {teacher.base_channels} base channels)"


class TeacherLoss(nn.Module):
    """The distance of a network's heatmaps from its teacher's, for two classes, from logits.

    The loss is the Kullback-Leibler divergence of the network's probabilities from the teacher's.
    Each pixel has its weight in the focal loss, alpha_c (1 - p)^gamma, with p the probability of
    the mask's class c: otherwise correct background, which dominates, would drown the few defects.
    The weight has no gradient, so that each pixel's minimum is exactly the teacher's probability.
    The mean over all pixels is multiplied by TEACHER_WEIGHT.

    The method is Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015
    (arXiv:1503.02531). The temperature is 1, since a teacher trained with the focal loss is seldom
    so confident that its predictions need softening.
    """

    def __init__(self, alpha: float = 0.75):
        super().__init__()
        self.alpha = alpha

    def forward(
        self, logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, gamma: float
    ) -> torch.Tensor:
        """The scalar loss of logits (B, 2, H, W) against a teacher's, on any one device.

        `teacher_logits` have the same shape and no gradient; `mask` is (B, 1, H, W) float {0, 1}.
        `gamma` is the focal loss's.
        """
        margin, teacher_margin = defect_logit(logits), defect_logit(teacher_logits)
        log_defect, log_background = functional.logsigmoid(margin), functional.logsigmoid(-margin)
        teacher_log_defect = functional.logsigmoid(teacher_margin)
        teacher_log_background = functional.logsigmoid(-teacher_margin)
        divergence = teacher_log_defect.exp() * (teacher_log_defect - log_defect)
        divergence = divergence + teacher_log_background.exp() * (
            teacher_log_background - log_background
        )
        log_other = torch.where(mask > 0.5, log_background, log_defect).detach()
        return (
            TEACHER_WEIGHT * (focal_weight(log_other, mask, gamma, self.alpha) * divergence).mean()
        )
