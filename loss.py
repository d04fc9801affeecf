"""The focal loss, and the parts of it that the distillation loss shares."""

import torch
from torch import nn
from torch.nn import functional


class FocalLoss(nn.Module):
    """Focal loss of two classes, computed from logits.

    The loss is -alpha_c (1 - p)^gamma log p of the true class c, averaged over all pixels. alpha_c
    is `alpha` for the defect (class 1) and 1 - alpha for the background (class 0). The target of
    the logarithm is smoothed: a share `label_smoothing` of it is the other class, so that the
    logits stay finite. After Lin et al., "Focal Loss for Dense Object Detection", 2017
    (arXiv:1708.02002).
    """

    def __init__(self, alpha: float = 0.75, label_smoothing: float = 1e-5):
        super().__init__()
        self.alpha = alpha
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, mask: torch.Tensor, gamma: float) -> torch.Tensor:
        """Logits (B, 2, H, W) and mask (B, 1, H, W), float {0, 1}, to a scalar."""
        margin = defect_logit(logits)
        margin_of_true_class = torch.where(mask > 0.5, margin, -margin)
        log_true = functional.logsigmoid(margin_of_true_class)
        # log(1 - p), accurate also where p is close to 1
        log_other = functional.logsigmoid(-margin_of_true_class)
        cross_entropy = -(1 - self.label_smoothing) * log_true - self.label_smoothing * log_other
        return (focal_weight(log_other, mask, gamma, self.alpha) * cross_entropy).mean()


def defect_logit(logits: torch.Tensor) -> torch.Tensor:
    """Logits (B, 2, H, W) to (B, 1, H, W): the logit of the defect probability."""
    return logits[:, 1:2] - logits[:, 0:1]


def focal_weight(
    log_other: torch.Tensor, mask: torch.Tensor, gamma: float, alpha: float
) -> torch.Tensor:
    """Return the weight of each pixel from log(1 - p) of its true class, all (B, 1, H, W)."""
    return torch.where(mask > 0.5, alpha, 1 - alpha) * torch.exp(gamma * log_other)
