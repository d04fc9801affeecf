"""Filters of planes (B, C, H, W): smoothing, shrinking, enlarging and differentiation.

They consist of products and convolutions, which every opset and device computes fast, and which are
the same in PyTorch and in the ONNX graph. What guards a division is a limit, `clamp(min=...)`: from
opset 18 on the exporter drops the addition of a constant below 1e-8.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from ops.constants import constant

# Binomial weights; with fewer, aliasing would change an estimated shift by up to 0.1 px.
HALVING = (1, 5, 10, 10, 5, 1)
# Weights of a first derivative, accurate to the sixth order. With half the difference of a pixel's
# neighbours instead, the steps on lines three pixels apart would be twice too long.
DERIVATIVE = (-1 / 60, 9 / 60, -45 / 60, 0, 45 / 60, -9 / 60, 1 / 60)
BLOCK = 4  # pixels along each side of a block that is averaged, where none other is given
ENLARGED_ROWS = 4  # rows of blocks that `enlarge` computes in one product


def blur(images: torch.Tensor, window: Sequence[float]) -> torch.Tensor:
    """Convolve (B, C, H, W) along y and x with a window of odd length, scaled to a sum of 1.

    Border pixels are repeated outwards.
    """
    images = functional.pad(images, (len(window) // 2,) * 4, mode="replicate")
    return convolve_both_axes(images, shares(window))


def halve(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) to half the size, rounded up, without frequencies that would alias."""
    height, width = sizes(images)
    side = len(HALVING) // 2 - 1
    images = functional.pad(
        images, (side, side + width % 2, side, side + height % 2), mode="replicate"
    )
    window = shares(HALVING)
    return convolve(convolve(images, window, 2, stride=2), window, 3, stride=2)


def gradients(images: torch.Tensor) -> torch.Tensor:
    """Gradients (B, C, 2, H, W) of (B, C, H, W), along y and along x."""
    reach = len(DERIVATIVE) // 2
    along = [convolve(pad_along(images, axis, reach), DERIVATIVE, axis) for axis in (2, 3)]
    return torch.stack(along, dim=2)


def slope(plane: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the gradient of a plane (B, 1, H, W) along axis 2 or 3.

    It is a sum of differences: ONNX Runtime takes more than twice as long to convolve one channel.
    """
    reach, length = len(DERIVATIVE) // 2, int(plane.shape[axis])
    padded = pad_along(plane, axis, reach)

    def neighbour(distance: int) -> torch.Tensor:
        return padded.narrow(axis, reach + distance, length)

    return sum(
        DERIVATIVE[reach + distance] * (neighbour(distance) - neighbour(-distance))
        for distance in range(1, reach + 1)
    )


def pad_along(images: torch.Tensor, axis: int, reach: int) -> torch.Tensor:
    """Repeat the border pixels of (B, C, H, W) `reach` times outwards along axis 2 or 3."""
    padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
    return functional.pad(images, padding, mode="replicate")


def gaussian_window(sigma: float, reach: int | None = None) -> list[float]:
    """Return a Gaussian's weights at -`reach` to `reach` pixels, 1 in the middle.

    The default reach is three sigmas.
    """
    reach = int(3 * sigma + 0.5) if reach is None else reach
    return [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(-reach, reach + 1)]


def shares(window: Sequence[float]) -> list[float]:
    """Return the window divided by its sum."""
    return [weight / sum(window) for weight in window]


def convolve(
    images: torch.Tensor, window: Sequence[float], axis: int, stride: int = 1, padding: int = 0
) -> torch.Tensor:
    """Convolve each channel of (B, C, H, W) with a window along axis 2 or 3.

    Each channel is a group of its own. If the planes were a batch, ONNX Runtime would pad each to
    16 channels and take five times as long.
    """
    channels, is_down = int(images.shape[1]), axis == 2
    weights = constant(
        [[[[weight] for weight in window] if is_down else [list(window)]]] * channels, images
    )
    stride, padding = ((stride, 1), (padding, 0)) if is_down else ((1, stride), (0, padding))
    return functional.conv2d(images, weights, stride=stride, padding=padding, groups=channels)


def convolve_both_axes(
    images: torch.Tensor, window: Sequence[float], padding: int = 0
) -> torch.Tensor:
    """Convolve each channel of (B, C, H, W) along y, then along x, after `padding` zeros."""
    return convolve(convolve(images, window, 2, padding=padding), window, 3, padding=padding)


def avg_pool_blocks(planes: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """(B, C, H, W) to means of blocks (B, C, ceil(H / block), ceil(W / block)).

    Border pixels are repeated to fill the last blocks.
    """
    height, width = sizes(planes)
    if height % block or width % block:
        planes = functional.pad(planes, (0, -width % block, 0, -height % block), mode="replicate")
    return functional.avg_pool2d(planes, block)


def gaussian_mean(blocks: torch.Tensor, sigma: float, block: int = BLOCK) -> torch.Tensor:
    """Return means of blocks (B, C, h, w) under a Gaussian of `sigma` pixels (not blocks).

    Only blocks of the strip count. If the border were repeated, a defect in a corner would dominate
    the mean there.
    """
    reach = math.ceil(3 * sigma / block)
    window = gaussian_window(sigma / block, reach)
    # a plane of ones more: its sum is the part of the window that lies in the strip
    planes = functional.pad(blocks, (0, 0, 0, 0, 0, 1), value=1.0)
    planes = convolve_both_axes(planes, window, padding=reach)
    return planes[:, :-1] / planes[:, -1:]


def enlarge(planes: torch.Tensor, height: int, width: int, block: int = BLOCK) -> torch.Tensor:
    """Enlarge planes (B, C, h, w) `block` times by linear interpolation, cut to (height, width).

    Border pixels are repeated outwards. It is a product of matrices because ONNX Runtime's Resize
    takes five times as long, on one core however many there are.
    """
    channels = int(planes.shape[1])
    frames = overlapping_row_blocks(
        overlapping_column_blocks(planes, reach=1), ENLARGED_ROWS, reach=1
    )
    down, across = int(frames.shape[2]), int(frames.shape[4]) // 4
    along_y, along_x = (
        constant(linear_weights(length, block), planes) for length in (ENLARGED_ROWS, 2)
    )
    planes = (along_y @ frames).reshape(
        -1, channels, down * ENLARGED_ROWS * block, across, 4
    ) @ along_x.T
    return cut(
        planes.reshape(-1, channels, down * ENLARGED_ROWS * block, across * 2 * block),
        height,
        width,
    )


def linear_weights(length: int, block: int) -> list[list[float]]:
    """Return the matrix (block * length, length + 2) that interpolates linearly.

    The result is `block` times finer. The matrix's columns are `length` values, and one more on
    each side.
    """
    places = [(place + 0.5) / block + 0.5 for place in range(block * length)]
    return [[max(0.0, 1 - abs(place - value)) for value in range(length + 2)] for place in places]


def overlapping_column_blocks(images: torch.Tensor, reach: int) -> torch.Tensor:
    """Cut (B, C, H, W) into overlapping blocks of columns: (B, C, H, blocks * 4 * reach).

    Each block has 2 * `reach` columns, and `reach` more on both sides. So it is as wide as two
    blocks and is joined from two pieces. Border pixels are repeated outwards.
    """
    channels, (height, width), block = int(images.shape[1]), sizes(images), 2 * reach
    across = math.ceil(width / block)
    images = functional.pad(
        images, (reach, (across + 1) * block - width - reach, 0, 0), mode="replicate"
    )
    halves = [images[..., start : start + across * block] for start in (0, block)]
    frames = torch.cat(
        [half.reshape(-1, channels, height, across, block) for half in halves], dim=4
    )
    return frames.reshape(-1, channels, height, across * 2 * block)


def overlapping_row_blocks(images: torch.Tensor, rows: int, reach: int) -> torch.Tensor:
    """Cut (B, C, H, W) into overlapping blocks of rows: (B, C, blocks, rows + 2 * reach, W).

    Each block has `rows` rows, and `reach` more on both sides. Border pixels are repeated outwards.
    """
    channels, (height, width) = int(images.shape[1]), sizes(images)
    down = math.ceil(height / rows)
    places = [
        start + row - reach
        for start in range(0, down * rows, rows)
        for row in range(rows + 2 * reach)
    ]
    places = constant([min(max(place, 0), height - 1) for place in places], images, torch.int64)
    return images.index_select(2, places).reshape(-1, channels, down, rows + 2 * reach, width)


def mean_square(difference: torch.Tensor) -> torch.Tensor:
    """Return the mean square (B, C, 1, 1) of (B, C, H, W)."""
    return (difference * difference).mean(dim=(2, 3), keepdim=True)


def cut(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the upper left (..., height, width) of images: all of them if they are no larger."""
    return images if sizes(images) == (height, width) else images[..., :height, :width]


def sizes(images: torch.Tensor) -> tuple[int, int]:
    """Return height and width as Python numbers.

    Computations with them are constants of an exported graph.
    """
    return int(images.shape[-2]), int(images.shape[-1])
