"""Which patches a picture consists of: a histogram of visual words, to compare whole pictures by.

A word is a whitened vector of features of some good picture. Each cell of a picture counts for the
nearest word. After Csurka et al., "Visual categorization with bags of keypoints", 2004; square
roots of the shares make Euclidean distances those of Hellinger. A defect changes few cells, so it
hardly moves a picture, and pictures of one class agree in their words, wherever these lie.

Runs in PyTorch and in an ONNX graph.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from autoencoder.memory import choose, fit_whitening

WORDS, WORD_DIMENSIONS = 256, 32
# Words that few cells are nearest to are found again in no other picture.
CELLS_PER_WORD = 16
TENSORS = ("mean", "matrix", "words")


class PictureWords(nn.Module):
    """Maps features (B, D, h, w) to the square roots of the shares of words (B, W).

    `mean` (D,) and `matrix` (D, d) whiten features, and `words` (W, d) are whitened.
    """

    def __init__(self, mean: torch.Tensor, matrix: torch.Tensor, words: torch.Tensor):
        super().__init__()
        for name, tensor in zip(TENSORS, (mean, matrix, words)):
            self.register_buffer(name, tensor.float().contiguous(), persistent=False)
        self.register_buffer("numbers", torch.arange(len(words)), persistent=False)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that make the words again."""
        return {name: getattr(self, name) for name in TENSORS}

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) to (B, W): non-negative, the squares sum to 1."""
        cells = (features.flatten(start_dim=2).transpose(1, 2) - self.mean) @ self.matrix
        squared = self.words.square().sum(dim=1) - 2 * (cells @ self.words.T)
        nearest = squared.argmin(dim=2, keepdim=True)
        return (nearest == self.numbers).float().mean(dim=1).sqrt()


def fit_words(
    patches: torch.Tensor, blocks: Sequence[int], generator: np.random.Generator
) -> PictureWords:
    """Words for pictures of whose features `patches` (P, D) are some; `blocks` as for whitening.

    At most WORDS words are drawn, at random: frequent structures get more of them than by coverage.
    """
    whitening = fit_whitening(patches, blocks, most=WORD_DIMENSIONS)
    count = min(WORDS, -(-len(patches) // CELLS_PER_WORD))
    chosen = choose(patches, count, "random", generator)
    return PictureWords(whitening.mean, whitening.matrix, whitening(patches[chosen])).eval()
