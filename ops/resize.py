"""Resizing of images (B, C, H, W) to a fixed size, equal in PyTorch and in an ONNX graph."""

import torch
from torch import nn


class LinearResize(nn.Module):
    """Resize images of one size to another by linear interpolation, (height, width) in pixels.

    An image that shrinks is averaged under a triangle as wide as two new pixels, so that nothing
    aliases; that is the interpolation of PIL, and of PyTorch's `interpolate(antialias=True)`. It is
    two products with fixed matrices: an exporter cannot change them, and ONNX Runtime's own Resize
    computes on one core.
    """

    def __init__(self, size: tuple[int, int], new_size: tuple[int, int]):
        super().__init__()
        self.is_identity = tuple(size) == tuple(new_size)
        if self.is_identity:
            return  # an exported file would keep the matrices
        for name, length, new in zip(("rows", "columns"), size, new_size):
            self.register_buffer(name, resize_matrix(length, new), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) of the first size to (B, C, H', W') of the second."""
        return images if self.is_identity else self.rows @ images @ self.columns.T


def resize_matrix(length: int, new_length: int) -> torch.Tensor:
    """The weights (new_length, length) of an axis; each row sums to 1. Lengths are in pixels."""
    scale = length / new_length
    reach = max(1.0, scale)
    centres = (torch.arange(new_length, dtype=torch.float64) + 0.5) * scale - 0.5
    distances = (torch.arange(length, dtype=torch.float64) - centres[:, None]).abs()
    weights = (1 - distances / reach).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).to(torch.float32)
