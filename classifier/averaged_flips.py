"""A classifier that looks at an image and its mirror images, and says what it finds in all of them.

A network trained on flipped images answers each a little differently. The mean of its answers errs
less, at four times the computation.
"""

import torch
from torch import nn

from classifier.backbone import Backbone
from classifier.defect_model import AttentionGuidedDefectClassifier, DefectOutput

FLIPS = ((), (2,), (3,), (2, 3))  # axes of images (B, C, H, W) that each view turns around


class AveragedFlips(nn.Module):
    """As the trained `network`, with the mean of its logits and embeddings over FLIPS.

    The mask's logits are the mean of those of each view, turned back. The attention is that mask on
    the grid. Images may have any size.
    """

    def __init__(self, network: AttentionGuidedDefectClassifier):
        super().__init__()
        self.network = network
        self.architecture, self.embedding_dim = network.architecture, network.embedding_dim

    @property
    def backbone(self) -> Backbone:
        """The network's."""
        return self.network.backbone

    def forward(self, images: torch.Tensor) -> DefectOutput:
        """Images (B, C, H, W), 0-1, to their kinds and masks."""
        output = self.network(torch.cat([_flipped(images, axes) for axes in FLIPS]))
        mask_logits, attention = output.mask_logits, output.attention
        if mask_logits is not None:
            turned_back = map(_flipped, _by_view(mask_logits), FLIPS)
            mask_logits = torch.stack(list(turned_back)).mean(dim=0)
            attention = self.network.on_grid(mask_logits, attention.shape[1:])[:, 0]
        embedding = None if output.embedding is None else _by_view(output.embedding).mean(dim=0)
        return DefectOutput(
            _by_view(output.logits).mean(dim=0),
            mask_logits,
            attention,
            output.log_variances,
            embedding,
        )


def _flipped(planes: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return planes.flip(axes) if axes else planes


def _by_view(values: torch.Tensor) -> torch.Tensor:
    """Values (views times B, ...) as (views, B, ...)."""
    return values.unflatten(0, (len(FLIPS), -1))
