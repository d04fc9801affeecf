"""The losses of the defect classifier: of the kind, of the mask, and how both are weighted."""

import torch
from torch import nn
from torch.nn import functional

from classifier.defect_model import DefectOutput

WEIGHTINGS = ("fixed", "dynamic", "uncertainty")
DICE_OF_ALL = "bce_dice_all"
SEG_LOSSES = ("bce", "dice", "bce_dice", DICE_OF_ALL)
WEIGHT_SCHEDULES = ("step", "linear")
ALPHA, BETA = 0.25, 1.0  # the kinds are learned as well as with 1, and the masks better
# of `dynamic`: weights (alpha, beta) at the start and, by default, from SWITCH_EPOCH on
START, END, SWITCH_EPOCH = (0.5, 1.0), (1.0, 0.3), 20
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
SMOOTH = 1.0  # pixels that Dice adds above and below, so that it is defined for a mask of any size


class DynamicWeightScheduler:
    """Weights (alpha, beta) that move from the mask to the kind while a training goes on.

    `step` changes at `switch_epoch`, `linear` moves until then. Epochs count over both stages of a
    training in two stages, so the second does not begin again.
    """

    def __init__(
        self, schedule: str = "step", epochs_before: int = 0, switch_epoch: int = SWITCH_EPOCH
    ):
        self.schedule, self.epochs_before = schedule, epochs_before
        self.switch_epoch = switch_epoch

    def weights(self, epoch: int) -> tuple[float, float]:
        """The weights (alpha, beta) of an epoch of this stage, which counts from 0."""
        share = min(1.0, (epoch + self.epochs_before) / self.switch_epoch)
        if self.schedule == "step":
            share = float(share >= 1)
        return tuple((1 - share) * start + share * end for start, end in zip(START, END))


class MultiTaskLoss(nn.Module):
    """alpha times the loss of the kind plus beta times the loss of the mask.

    `weighting` is one of WEIGHTINGS: `fixed` has the given `alpha` and `beta`, `dynamic` those of a
    DynamicWeightScheduler, and `uncertainty` trains a log-variance s of each loss L and takes
    exp(-s) L + s (Kendall, Gal and Cipolla, "Multi-task learning using uncertainty", 2018); the
    network has both, so that the optimizer trains them. This loss may become negative.

    The loss of the kind is cross-entropy or, with `focal`, the focal loss
    -focal_alpha (1 - p)^focal_gamma log p of the true kind's probability p (Lin et al., 2017), with
    one focal_alpha for all kinds. `class_weights` (K,) weight the kinds.

    The loss of the mask is `bce` (binary cross-entropy), `dice` (1 - Dice of the defective images)
    or their sum. Dice of an image without a defect would be 0 for every mask but an empty one, and
    would pull all masks to nothing; `bce_dice_all` has it, for comparison. Images whose mask is not
    known contribute to the kind alone.
    """

    def __init__(
        self,
        weighting: str = "fixed",
        alpha: float = ALPHA,
        beta: float = BETA,
        seg_loss: str = "bce_dice",
        scheduler: DynamicWeightScheduler | None = None,
        focal: tuple[float, float] | None = None,
        class_weights: torch.Tensor | None = None,
    ):
        super().__init__()
        self.weighting, self.alpha, self.beta, self.seg_loss = weighting, alpha, beta, seg_loss
        self.scheduler = scheduler or DynamicWeightScheduler()
        self.focal = focal
        self.register_buffer("class_weights", class_weights)

    def weights(self, epoch: int) -> tuple[float, float]:
        """alpha and beta of an epoch; of `uncertainty`, what multiplies its two terms."""
        if self.weighting == "dynamic":
            return self.scheduler.weights(epoch)
        return (1.0, 1.0) if self.weighting == "uncertainty" else (self.alpha, self.beta)

    def forward(
        self,
        output: DefectOutput,
        labels: torch.Tensor,
        masks: torch.Tensor,
        has_mask: torch.Tensor,
        epoch: int = 0,
    ) -> torch.Tensor:
        """The scalar loss of a batch.

        `labels` (B,) are the kinds' numbers, `masks` (B, 1, H, W) float {0, 1}, and `has_mask` (B,)
        bool says whose mask is known; the others' values do not matter. `epoch` counts from 0.
        """
        terms = [self.kind_loss(output.logits, labels)]
        if output.mask_logits is not None:
            terms.append(self.mask_loss(output.mask_logits.float(), masks, has_mask))
        if self.weighting == "uncertainty" and output.log_variances is not None:
            is_known = [torch.ones_like(terms[0]), has_mask.any().to(terms[0].dtype)]
            return sum(
                (term * (-variance).exp() + variance) * known
                for term, variance, known in zip(terms, output.log_variances.float(), is_known)
            )
        return sum(weight * term for weight, term in zip(self.weights(epoch), terms))

    def kind_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of logits (B, K), a weighted mean over the batch."""
        logits, weights = logits.float(), self.class_weights
        if self.focal is None:
            return functional.cross_entropy(logits, labels, weights)
        alpha, gamma = self.focal
        true = functional.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
        loss = -alpha * (1 - true.exp()) ** gamma * true
        if weights is None:
            return loss.mean()
        shares = weights[labels]
        return (loss * shares).sum() / shares.sum()

    def mask_loss(
        self, logits: torch.Tensor, masks: torch.Tensor, has_mask: torch.Tensor
    ) -> torch.Tensor:
        """The loss of mask logits (B, 1, H, W); 0, with a gradient of 0, without a known mask."""
        known = has_mask.to(logits.dtype)
        masks = torch.where(has_mask[:, None, None, None], masks, 0.0)
        loss = torch.zeros((), device=logits.device)
        if "bce" in self.seg_loss:
            pixels = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
            loss = loss + _mean_over(pixels.mean(dim=(1, 2, 3)), known)
        if "dice" in self.seg_loss:
            probability, axes = logits.sigmoid(), (1, 2, 3)
            overlap, total = (probability * masks).sum(axes), (probability + masks).sum(axes)
            dice = (2 * overlap + SMOOTH) / (total + SMOOTH)
            counts = known if self.seg_loss == DICE_OF_ALL else known * masks.amax(dim=axes)
            loss = loss + _mean_over(1 - dice, counts)
        return loss


def balanced_weights(counts: list[int]) -> torch.Tensor:
    """Weights (K,) of kinds by their numbers of images: each kind counts the same in all."""
    numbers = torch.tensor(counts, dtype=torch.float32)
    return numbers.sum() / (len(counts) * numbers)


def _mean_over(values: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The mean of values (B,) weighted by shares (B,); 0 where all of these are 0."""
    return (values * shares).sum() / shares.sum().clamp(min=1.0)
