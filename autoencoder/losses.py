"""The losses between a network's output and the undamaged picture, and that of a painted mask."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError
from loss import FocalLoss

TERMS = ("mse", "l1", "ssim", "perceptual")
DEFAULT_LOSS = "mse:1,ssim:0.84"
GAMMA = 2.0  # of the focal loss: the value of its authors
# pictures (B, C, h, w), 0-1, to features of several levels
Features = Callable[[torch.Tensor], list[torch.Tensor]]


def parse_loss(text: str) -> dict[str, float]:
    """The weights of a sum of TERMS such as `mse:1,ssim:0.84`; without a weight it is 1.

    Raises `UserError`, without the flag, for another text.
    """
    weights = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        try:
            value = float(weight or 1)
        except ValueError:
            value = -1.0
        if name not in TERMS or name in weights or not 0 < value < 1e6:
            raise UserError(
                f"found {text!r}, expected a sum such as {DEFAULT_LOSS}, each of "
                f"{', '.join(TERMS)} at most once and with a weight above 0"
            )
        weights[name] = value
    return weights


class PictureLoss(nn.Module):
    """A weighted sum of the differences between an output and a picture, both (B, C, h, w), 0-1.

    `mse` and `l1` are means over all pixels, `ssim` is 1 - SSIM with a Gaussian window of `window`
    pixels (Wang et al. 2004, from pytorch-msssim). `perceptual` is the mean absolute difference of
    `features`, each level divided by the mean absolute value of the picture's, so that no level
    counts by its scale.

    Raises `UserError` for `perceptual` without features, and for `ssim` without its package.
    """

    def __init__(
        self, weights: dict[str, float], window: int = 11, features: Features | None = None
    ):
        super().__init__()
        if "perceptual" in weights and features is None:
            raise UserError("--loss perceptual: found no --perceptual, expected a network")
        self.weights, self.window, self.features = weights, window, features
        self.ssim = _load_ssim() if "ssim" in weights else None

    def forward(self, output: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """The loss as a scalar."""
        parts = [
            weight * self._term(name, output, picture) for name, weight in self.weights.items()
        ]
        return torch.stack(parts).sum()

    def _term(self, name: str, output: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        if name == "mse":
            return functional.mse_loss(output, picture)
        if name == "l1":
            return functional.l1_loss(output, picture)
        if name == "ssim":
            return 1 - self.ssim(output, picture, data_range=1.0, win_size=self.window)
        with torch.no_grad():
            expected = self.features(picture)
        levels = [
            functional.l1_loss(found, wanted) / wanted.abs().mean().clamp_min(1e-3)
            for found, wanted in zip(self.features(output), expected)
        ]
        return torch.stack(levels).mean()


def _load_ssim() -> Callable[..., torch.Tensor]:
    try:
        from pytorch_msssim import ssim
    except ImportError:
        raise UserError(
            "--loss ssim: found no package pytorch-msssim, expected it installed "
            "(pip install -r requirements-autoencoder.txt) or a loss of other terms"
        ) from None
    return ssim


class MaskLoss(nn.Module):
    """The focal loss of the suite for one logit a pixel: logits and mask (B, 1, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.focal_loss = FocalLoss()

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The loss as a scalar."""
        return self.focal_loss(torch.cat([torch.zeros_like(logits), logits], dim=1), mask, GAMMA)
