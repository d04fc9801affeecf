"""Shifts of references by more pixels than least squares on gradients can follow.

Phase correlation (Kuglin and Hines 1975, "The phase correlation image alignment method") compares
images that are four times smaller. A frequency counts by how coherent Target and the reference are
there, not by its strength (Carter 1987, "Coherence and time delay estimation"). So lines that
repeat, which are a few frequencies, do not decide: the grain of the part and the changes of its
pattern tell one period from the next. The Fourier transforms are products of matrices, which every
opset and device computes fast.
"""

import math

import torch

from ops.filters import avg_pool_blocks, cut, halve, mean_square, sizes
from ops.gain import GAINS

FACTOR = 4  # the images are this much smaller
BLOCK = 32  # pixels of the smaller images: about the side of a block, which has a spectrum each
FARTHEST = 20  # pixels in y and in x: no larger shift is looked for
STEPS = 2  # shifts per pixel for which the correlation is computed
# Cycles per pixel of the smaller images: below is the illumination, above is what aliases.
LOWEST, HIGHEST = 0.05, 0.35
PEAK_SIGMA = 0.25  # pixels of the smaller images: of the Gaussian that widens a peak
# A peak loses this share for each pixel of its shift: of the equal peaks of a pattern that repeats,
# the nearest one is the highest.
PREFERENCE = 0.005
# Least peak of a shift that is followed; equal images have 1. Far shifts of the strips of the suite
# and of demo patterns are above 0.7.
LEAST_PEAK = 0.5
# The same in units of 1 / sqrt(number of frequencies): noise alone stays below 5.
LEAST_SIGNIFICANCE = 6.0
SMALLEST_SIDE = 64  # pixels: in a narrower image no shift is looked for
MARGIN = 4  # pixels next to what a moved reference does not cover, which do not count either
TINY = 1e-12


def find_far_shift(strips: torch.Tensor, near: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far references lie from Target in whole pixels, and their light.

    Strips are (B, 3, H, W), values 0-1. Shifts are (B, 2, 2), (y, x), positive down and to the
    right. A shift is 0 if it is at most `near` pixels along both axes, or if it is not surely
    found. The light, (2, B, 2, 1, 1), is the gain and the offset that give Target the contrast and
    the mean of each reference.
    """
    small = halve(avg_pool_blocks(strips.detach(), 2))
    light = _light(small)
    if min(sizes(strips)) < SMALLEST_SIDE:
        return torch.zeros_like(light[..., 0, 0]).permute(1, 2, 0), light
    farthest = [min(FARTHEST, length // 4) for length in sizes(strips)]
    peaks, least_peak = _correlation(small, farthest)
    shift = torch.stack(
        [peaks.amax(dim=5 - axis).argmax(dim=2) - STEPS * farthest[axis - 2] for axis in (2, 3)],
        dim=2,
    )
    shift = shift.to(strips.dtype) / STEPS
    # half a step more: a shift of `near` pixels may be found as the next one
    is_far = shift.abs().amax(dim=2, keepdim=True) > near + 0.5 / STEPS
    is_sure = peaks.amax(dim=(2, 3))[:, :, None] > least_peak
    return torch.where(is_far & is_sure, shift.round(), 0.0), light


def move_by_whole_pixels(
    strips: torch.Tensor, shift: torch.Tensor, light: torch.Tensor
) -> torch.Tensor:
    """Move the references of (B, 3, H, W) back by shifts (B, 2, 2) in whole pixels.

    A reference whose shift is 0 stays as it is, to the bit. What a moved reference does not cover
    is Target in the reference's light.
    """
    target, references = strips[:, :1], strips[:, 1:]
    height, width = sizes(strips)
    indices, are_inside = [], []
    for length, along in zip((height, width), shift.split(1, dim=2)):
        places = _range(length, shift) + along
        inside = places.clamp(0, length - 1)
        are_inside.append(inside == places)
        indices.append(inside.to(torch.int64))
    index = indices[0][:, :, :, None] * width + indices[1][:, :, None]
    moved = references.reshape(-1, 2, height * width).gather(
        2, index.reshape(-1, 2, height * width)
    )
    is_inside = are_inside[0][:, :, :, None] & are_inside[1][:, :, None]
    gain, offset = light
    moved = torch.where(is_inside, moved.reshape(-1, 2, height, width), gain * target + offset)
    return torch.cat([target, moved], dim=1)


def covered(shift: torch.Tensor, size: tuple[int, int], factor: int) -> torch.Tensor:
    """Return 1 where references that `move_by_whole_pixels` moved show the part, else 0.

    The shifts (B, 2, 2) are in pixels of the strip. The result is (B, 2, h, w), of images of that
    size, `factor` times smaller. Where the shift is 0 it is 1 everywhere.
    """
    half = (shift + MARGIN * shift.sign()) / (2 * factor)
    # a quarter of a pixel more: places at the edge must not depend on rounding
    limits = 0.25 - half.abs()
    masks = []
    for length, along, limit in zip(size, half.split(1, dim=2), limits.split(1, dim=2)):
        middle = (length - 1) / 2
        distance = (_range(length, shift) - middle + along).abs()
        masks.append((distance - middle < limit).to(shift.dtype))
    return masks[0][:, :, :, None] * masks[1][:, :, None]


def _light(small: torch.Tensor) -> torch.Tensor:
    mean = small.mean(dim=(2, 3), keepdim=True)
    power = mean_square(small - mean)
    gain = (power[:, 1:] / power[:, :1].clamp(min=TINY)).sqrt().clamp(*GAINS)
    return torch.stack([gain, mean[:, 1:] - gain * mean[:, :1]])


def _correlation(small: torch.Tensor, farthest: list[int]) -> tuple[torch.Tensor, float]:
    """Return the phase correlations (B, 2, shifts in y, shifts in x) of (B, 3, h, w).

    The shifts are from -farthest to farthest pixels of the strip, in steps of 1 / STEPS. The second
    result is the least peak of a shift that is surely found.
    """
    height, width = (side for _, side in map(_blocks, sizes(small)))
    down, across = _frequencies(height, small), _frequencies(width, small)
    real, imaginary, power = _cross_spectra(small, down, across)
    down = torch.cat([down, -down])
    magnitude = (real * real + imaginary * imaginary).sqrt()
    # the coherence squared, divided by the magnitude
    scale = _weights(down, across) * magnitude / power.clamp(min=TINY)
    scale = scale / (scale * magnitude).sum(dim=(2, 3), keepdim=True).clamp(min=TINY)
    steps_y, steps_x = (_range(2 * STEPS * far + 1, small) - STEPS * far for far in farthest)
    turn = 2 * math.pi / (FACTOR * STEPS)
    cosine, sine = _waves(across, turn * steps_x)
    # the inverse transform along x, then along y, of which only the real part counts
    inverse = torch.cat([torch.cat([cosine, sine], dim=1), torch.cat([-sine, cosine], dim=1)])
    rows = torch.cat([real * scale, imaginary * scale], dim=3) @ inverse
    cosine, sine = _waves(down, turn * steps_y)
    peaks = torch.cat([cosine, -sine]).T @ torch.cat(rows.split(len(steps_x), dim=3), dim=2)
    nearness_y, nearness_x = (1 - PREFERENCE / STEPS * steps.abs() for steps in (steps_y, steps_x))
    frequencies = math.pi / 2 * HIGHEST**2 * height * width
    least_peak = max(LEAST_PEAK, LEAST_SIGNIFICANCE / math.sqrt(frequencies))
    return peaks * (nearness_y[:, None] * nearness_x), least_peak


def _cross_spectra(
    small: torch.Tensor, down: torch.Tensor, across: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return real and imaginary part of the cross spectra of Target and each reference.

    They are sums over the blocks of (B, 3, h, w), and (B, 2, 2 * f, g). The frequencies are `down`
    (f,), the same with the other sign, and `across` (g,). The third result is the product of both
    power spectra.
    """
    (rows, height), (columns, width) = map(_blocks, sizes(small))
    blocks = cut(small, rows * height, columns * width)
    blocks = blocks.reshape(-1, 3, rows, height, columns, width).transpose(3, 4)
    blocks = blocks.reshape(-1, 3, rows * columns, height, width)
    blocks = blocks - blocks.mean(dim=(3, 4), keepdim=True)
    along_y, along_x = (
        torch.cat(_waves(frequencies, _range(side, small)))
        * (0.5 - 0.5 * torch.cos(2 * math.pi / (side + 1) * (_range(side, small) + 1)))
        for frequencies, side in ((2 * math.pi * down, height), (2 * math.pi * across, width))
    )
    products = along_y @ (blocks @ along_x.T)
    (cos_cos, cos_sin), (sin_cos, sin_sin) = (
        half.split(len(across), dim=4) for half in products.split(len(down), dim=3)
    )
    real = torch.cat([cos_cos - sin_sin, cos_cos + sin_sin], dim=3)
    imaginary = torch.cat([-sin_cos - cos_sin, sin_cos - cos_sin], dim=3)
    target, references = (real * real + imaginary * imaginary).sum(dim=2).split([1, 2], dim=1)
    (target_real, reference_real), (target_imaginary, reference_imaginary) = (
        part.split([1, 2], dim=1) for part in (real, imaginary)
    )
    return (
        (reference_real * target_real + reference_imaginary * target_imaginary).sum(dim=2),
        (reference_imaginary * target_real - reference_real * target_imaginary).sum(dim=2),
        target * references,
    )


def _weights(down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    """Return how much the frequencies (2 * f,) and (g,) count: (2 * f, g)."""
    squares = down[:, None] * down[:, None] + across * across
    weights = torch.exp(-0.5 * (2 * math.pi * PEAK_SIGMA) ** 2 * squares)
    weights = torch.where((squares < LOWEST**2) | (squares > HIGHEST**2), 0.0, weights)
    # a negative frequency along x is the conjugate of a positive one; 0 along y is there twice
    return weights * torch.where(across > 0, 2.0, 1.0) * torch.where(down == 0, 0.5, 1.0)[:, None]


def _blocks(length: int) -> tuple[int, int]:
    """Return the number and the side of the blocks along an axis of a smaller image."""
    number = max(1, round(length / BLOCK))
    return number, length // number


def _frequencies(side: int, like: torch.Tensor) -> torch.Tensor:
    """Return the frequencies from 0 to HIGHEST of a block, in cycles per pixel."""
    return _range(int(HIGHEST * side) + 1, like) / side


def _waves(frequencies: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    angles = frequencies[:, None] * places
    return angles.cos(), angles.sin()


def _range(length: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(length, dtype=like.dtype, device=like.device)
