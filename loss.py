"""The focal loss, and what a teacher's heatmaps add to it."""

import torch
from torch import nn
from torch.nn import functional

TEACHER_WEIGHT = 4.0  # then it pulls a half-trained network's logits as hard as the mask does: their gradients are as long


class FocalLoss(nn.Module):
    """Focal loss of two classes, from logits, on whatever device they are.

    -alpha_c (1 - p)^gamma log p of the true class c, mean over all pixels: alpha on the defect class (1), 1 - alpha on the
    background (0). The logarithm's target is smoothed: a share `label_smoothing` of it asks for the other class, so that the
    logits stay finite. After Lin et al., "Focal Loss for Dense Object Detection", 2017 (arXiv:1708.02002).
    """

    def __init__(self, alpha: float = 0.75, label_smoothing: float = 1e-5):
        super().__init__()
        self.alpha = alpha
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, mask: torch.Tensor, gamma: float) -> torch.Tensor:
        """Logits (B, 2, H, W) and mask (B, 1, H, W), float {0, 1}, to a scalar."""
        margin = margin_of(logits)
        margin_of_true_class = torch.where(mask > 0.5, margin, -margin)
        log_true = functional.logsigmoid(margin_of_true_class)
        log_other = functional.logsigmoid(-margin_of_true_class)  # log(1 - p), exact where p is close to 1
        cross_entropy = -(1 - self.label_smoothing) * log_true - self.label_smoothing * log_other
        return (focal_weight(log_other, mask, gamma, self.alpha) * cross_entropy).mean()


class TeacherLoss(nn.Module):
    """How far a network's heatmaps are from those of its teacher: two classes, from logits, on whatever device they are.

    Kullback-Leibler divergence of the network's two probabilities from the teacher's, mean over all pixels, each weighted as it is
    in the focal loss, alpha_c (1 - p)^gamma with p of the mask's class c: otherwise background that is right already would drown
    the few defects. The weight has no gradient, so that every pixel is drawn to just the teacher's probability. Multiplied by
    TEACHER_WEIGHT. After Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv:1503.02531), at a
    temperature of 1: a teacher that has learnt with the focal loss is seldom so sure that its answers would have to be softened.
    """

    def __init__(self, alpha: float = 0.75):
        super().__init__()
        self.alpha = alpha

    def forward(self, logits: torch.Tensor, teacher_logits: torch.Tensor, mask: torch.Tensor, gamma: float) -> torch.Tensor:
        """Logits of both (B, 2, H, W), the teacher's without a gradient, and mask (B, 1, H, W), float {0, 1}, to a scalar."""
        margin, teacher_margin = margin_of(logits), margin_of(teacher_logits)
        log_defect, log_background = functional.logsigmoid(margin), functional.logsigmoid(-margin)
        teacher_log_defect, teacher_log_background = functional.logsigmoid(teacher_margin), functional.logsigmoid(-teacher_margin)
        divergence = teacher_log_defect.exp() * (teacher_log_defect - log_defect)
        divergence = divergence + teacher_log_background.exp() * (teacher_log_background - log_background)
        log_other = torch.where(mask > 0.5, log_background, log_defect).detach()
        return TEACHER_WEIGHT * (focal_weight(log_other, mask, gamma, self.alpha) * divergence).mean()


def margin_of(logits: torch.Tensor) -> torch.Tensor:
    """(B, 2, H, W) to (B, 1, H, W): the logit of the defect's probability."""
    return logits[:, 1:2] - logits[:, 0:1]


def focal_weight(log_other: torch.Tensor, mask: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    """What a pixel counts, from log(1 - p) of its mask's class: all (B, 1, H, W)."""
    return torch.where(mask > 0.5, alpha, 1 - alpha) * torch.exp(gamma * log_other)
