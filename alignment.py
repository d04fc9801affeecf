"""References registered to Target and matched in local gain and offset. A torch module and nothing else: the same code runs when
strips are loaded for training, in PyTorch inference and in the ONNX graph.

The shift of a reference is a smooth curve over the rows of a strip: a line camera's speed drifts along it, and all pixels of a row
are taken at once. A wider image has such a curve for each of its columns of a strip's width: rows of an area camera need not move
as one. It is found by least squares on the gradients of smaller images: Lucas and Kanade 1981, "An iterative image registration
technique", with the gradients of Target alone (Baker and Matthews 2004, "Lucas-Kanade 20 years on"), whose noise is not that of the
difference, so that noise moves no estimate.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

MODES = ("none", "shift", "full")  # --align: as they are; registered; registered and matched
MEASURES = ("shift_y", "shift_x", "wander", "gain", "remainder")  # of each reference: pixels, pixels, pixels, 1, share of the range

LARGEST_SHIFT = 3.0  # pixels in y and in x: as far as a reference is moved
LOBES = 3  # of the Lanczos kernel that shifts images: with less, a pattern of four pixels is misplaced by up to 0.1 px
GAINS = (0.25, 4.0)  # smallest and largest of a reference

HALVING = (1, 5, 10, 10, 5, 1)  # binomial weights: with fewer, what aliases moves an estimate by up to 0.1 px
ALIASED = (1, 2, 1)  # taken off the coarsest image: what it shows of lines 5 to 8 pixels apart moves the other way
# With half the difference of a pixel's neighbours for a slope, steps on lines three pixels apart would be twice too long.
DERIVATIVE = (-1 / 60, 9 / 60, -45 / 60, 0, 45 / 60, -9 / 60, 1 / 60)

COLUMN = 160  # pixels: an image has one column for each so many, rounded, and at least one
NEIGHBOURS = (0.5, 1.0, 0.5)  # how much the columns to the left and right count with one
GLOBAL_ROUNDS = 2  # of least squares at a quarter of the size, one shift for the strip; then shifts for each row:
COARSE_ROUNDS, COARSE_SIGMA = 2, 30.0  # at a quarter of the size; pixels: the Gaussian by which the rows around it count with it
FINE_ROUNDS, FINE_SIGMA = 3, 20.0  # at half the size
STIFFNESS = 1e-3  # of a pattern's gradients: what is asked of an axis with less, as along straight lines, is divided by this much
BACKGROUND = 9  # pixels of the smaller images: what is slower is illumination
LONGEST_STEP = 1.0  # pixels of the smaller image: of a round
GAINS_OF_A_ROUND = (0.7, 1.4)  # what is still far off seems to have less contrast: with that gain, its step would be too short
LEAST_COHERENCE = 0.05  # correlation of two gradients: below it they are noise (its own is below 0.02), or almost
OUTSIDE = 0.25  # pixels beyond the strip's edge up to which a reference is still known

BLOCK = 4  # pixels along each side: gain and offset are found from means of blocks,
MATCH_SIGMA = 20.0  # pixels: weighted by this Gaussian; with 9, a defect of 12 pixels loses a third of its contrast
STEADY = 8 / 255  # contrast (a share of the range) below which the gain is rather that of the whole strip
TINY = 1e-7  # of squared shares of the range: less than rounding to 8 bits leaves


class Alignment(nn.Module):
    """Strips (B, 3, H, W), values 0-1, to strips whose references are moved onto Target and, in mode "full", matched to it.

    Target stays as it is. Returns the strips and (B, 2, len(MEASURES)), for each reference: the mean of its shift in y and x, how
    far the shift departs from that mean along the strip, its gain (Target's contrast divided by the reference's) and the root mean
    square of what is left of the difference. A reference is used where it is shifted to; beyond its edge the other reference
    stands in, and where both end, Target. A value that is not finite leaves none of the reference's finite.
    """

    def __init__(self, mode: str = "full"):
        super().__init__()
        if mode not in MODES[1:]:
            raise ValueError(f"found mode {mode!r}, expected one of {', '.join(MODES[1:])}")
        self.mode = mode

    def forward(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        device = strips.device.type
        is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if is_autocast or strips.dtype in (torch.float16, torch.bfloat16):
            with torch.autocast(device, enabled=False):  # half the digits cannot tell a hundredth of a pixel
                aligned, measures = self.align(strips.float())
            return aligned.to(strips.dtype), measures
        return self.align(strips)

    def align(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        target, references = strips[:, :1], strips[:, 1:3]
        moved, shift = register(target, references)
        gain, offset = gain_and_offset(target, moved)
        if self.mode == "full":
            matched = gain * moved + offset
            moved = torch.where(mean_square(target - matched) > mean_square(target - moved), moved, matched)
        moved = fill_beyond_edges(target, moved, shift)
        return torch.cat([target, moved], dim=1), self._measures(target, moved, shift, gain)

    @staticmethod
    def _measures(target: torch.Tensor, moved: torch.Tensor, shift: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        mean = shift.mean(dim=(3, 4))
        wander = (shift - mean[..., None, None]).square().sum(dim=2).amax(dim=(2, 3)).sqrt()
        remainder = mean_square(target - moved).sqrt()[:, :, 0, 0]
        return torch.stack([mean[:, :, 0], mean[:, :, 1], wander, gain.mean(dim=(2, 3)), remainder], dim=2)


class AligningDetector(nn.Module, ABC):
    """Strips to heatmaps, with their references aligned first in one of MODES. A subclass says what is made of them then."""

    def __init__(self, align: str):
        super().__init__()
        self.align = align
        self.alignment = None if align == "none" else Alignment(align)

    @abstractmethod
    def compare(self, strips: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), aligned, to heatmaps (B, 1, H, W)."""

    def look(self, strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, 3, H, W), values 0-1, to heatmaps (B, 1, H, W), and what `Alignment` measured, (B, 2, MEASURES); None without one."""
        measures = None
        if self.alignment:
            strips, measures = self.alignment(strips)
        return self.compare(strips), measures


def register(target: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The references moved onto Target, and by how much: 0 for one that would then differ more from it."""
    shift = estimate_shift(target, references)
    moved = move(references, shift)
    is_worse = mean_square(target - moved) > mean_square(target - references)
    return torch.where(is_worse, references, moved), torch.where(is_worse[..., None], 0.0, shift)


def estimate_shift(target: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """How far each row of the references has moved against Target: (B, 2, 2, H, columns), (y, x) in pixels, down and to the right.

    An image of a strip's width is one column; of a wider one these are the shifts in the middle of each. `target` is (B, 1, H, W),
    `references` (B, 2, H, W), values 0-1. Along an axis along which it is not determined it is 0.
    """
    images = torch.cat([target, references], dim=1)
    half = halve(images)
    columns = max(1, round(int(images.shape[3]) / COLUMN))
    coarse, fine = Pair(blur(halve(half), ALIASED), 4, columns), Pair(half, 2, columns)
    shift = torch.zeros_like(references[:, :, :1, :1])[:, :, None].expand(-1, -1, 2, -1, -1)
    for _ in range(GLOBAL_ROUNDS):
        shift = coarse.improve(shift, None)
    shift = shift.expand(-1, -1, -1, coarse.height, columns)
    for _ in range(COARSE_ROUNDS):
        shift = coarse.improve(shift, COARSE_SIGMA / 4)
    shift = fine.better(resize_rows(2 * shift, fine.height))
    for _ in range(FINE_ROUNDS):
        shift = fine.improve(shift, FINE_SIGMA / 2)
    return resize_rows(2 * fine.determined(shift), images.shape[2])


class Pair:
    """Target and references, `factor` times smaller, without what is slow in them, and what a round of least squares needs."""

    def __init__(self, images: torch.Tensor, factor: int, columns: int):
        images = images - blur(images, [1] * BACKGROUND)
        self.target, self.references = images[:, :1], images[:, 1:]
        self.height, self.columns = images.shape[2], columns
        self.limit = LARGEST_SHIFT / factor
        border = math.ceil(self.limit) + 1  # what may come from beyond the strip's edge says nothing
        self.inner = functional.pad(torch.ones_like(images[:1, :1, :, 2 * border :]), (border, border))
        self.inner_target = self.target * self.inner
        along_y, along_x = self.gradients = [gradient * self.inner for gradient in gradients(self.target)]
        pairs = (along_y, along_y), (along_y, along_x), (along_x, along_x)
        self.structure = [column_sums(one * other, columns) for one, other in pairs]

    def improve(self, shift: torch.Tensor, sigma: float | None) -> torch.Tensor:
        """One round: a better shift (B, 2, 2, h, columns) in smaller pixels, of which rows within `sigma` count together.

        None: all rows, and one shift (B, 2, 2, 1, 1).
        """

        def weigh(sums: torch.Tensor) -> torch.Tensor:
            return sums.sum(dim=3, keepdim=True).mean(dim=2, keepdim=True) if sigma is None else smooth(sums, sigma)

        def together(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return weigh(column_sums(one * other, self.columns))

        moved = move(self.references, shift, self.limit)
        gain = together(self.inner_target, moved) / (together(moved * self.inner, moved) + TINY)
        difference = self.target - widen(gain.clamp(*GAINS_OF_A_ROUND), self.target.shape[3]) * moved
        yy, yx, xx = map(weigh, self.structure)
        along_y, along_x = (together(gradient, difference) for gradient in self.gradients)
        stiffness = STIFFNESS * (yy + xx) + TINY
        yy, xx = yy + stiffness, xx + stiffness
        step = torch.stack([xx * along_y - yx * along_x, yy * along_x - yx * along_y], dim=2) / (yy * xx - yx * yx)[:, :, None]
        return (shift + step.clamp(-LONGEST_STEP, LONGEST_STEP)).clamp(-self.limit, self.limit)

    def determined(self, shift: torch.Tensor) -> torch.Tensor:
        """The shift, 0 along an axis along which there is only noise."""
        moved = move(self.references, shift, self.limit)
        pairs = zip(self.gradients, gradients(moved))
        coherence = torch.stack([correlation(own, other * self.inner) for own, other in pairs], dim=2)
        return torch.where(coherence[..., None, None] < LEAST_COHERENCE, 0.0, shift)

    def better(self, shift: torch.Tensor) -> torch.Tensor:
        """The shift (B, 2, 2, h, columns), 0 for a reference of which it leaves more of the difference."""
        moved = move(self.references, shift, self.limit)
        after, before = (correlation(self.inner_target, other * self.inner) for other in (moved, self.references))
        return torch.where((after < before)[..., None, None, None], 0.0, shift)


def move(images: torch.Tensor, shift: torch.Tensor, limit: float = LARGEST_SHIFT) -> torch.Tensor:
    """Images (B, C, H, W) taken from where `shift` (B, C, 2, H or 1, columns), (y, x) in pixels, at most `limit`, has moved them.

    Lanczos interpolation (Duchon 1979, "Lanczos filtering in one and two dimensions"), along y and then along x, as a sum over
    all shifts by whole pixels: no pixel is looked up by an index, so any opset and device can do it fast. The border's pixels go
    on beyond it.
    """
    height, width = images.shape[2:]
    reach = math.ceil(limit) + LOBES - 1
    shift = widen(shift, width)
    weights, rows = lanczos_weights(shift.flatten(3), reach), int(shift.shape[3])
    piles = weights.reshape(*shift.shape[:3], -1, shift.shape[4]).unbind(dim=2)  # of both axes: rows of a tap upon rows of the next
    along_y, along_x = (pile.split(rows, dim=2) for pile in piles)
    padded = functional.pad(images, (0, 0, reach, reach), mode="replicate")
    images = sum(weight * padded[:, :, tap : tap + height] for tap, weight in enumerate(along_y))
    padded = functional.pad(images, (reach, reach, 0, 0), mode="replicate")
    return sum(weight * padded[..., tap : tap + width] for tap, weight in enumerate(along_x))


def lanczos_weights(shift: torch.Tensor, reach: int) -> torch.Tensor:
    """Weights (..., 2 * reach + 1, n) of the pixels -reach..reach for each of `shift` (..., n): their sum is 1."""
    pixels = torch.arange(-reach, reach + 1, dtype=shift.dtype, device=shift.device)
    angle = math.pi * (pixels[:, None] - shift[..., None, :])
    angle = torch.where(angle.abs() < 1e-4, 1e-4, angle)  # sin(angle) / angle is 1 there, too
    weights = torch.sin(angle) * torch.sin(angle / LOBES) / (angle * angle)
    weights = torch.where(angle.abs() < LOBES * math.pi, weights, 0.0)
    return weights / weights.sum(dim=-2, keepdim=True)


def fill_beyond_edges(target: torch.Tensor, moved: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """References (B, 2, H, W) with the other one where a shift (B, 2, 2, H, columns) leaves the strip, Target where both do."""
    height, width = moved.shape[2:]
    shift = widen(shift, width)
    y = torch.arange(height, device=moved.device)[:, None] + shift[:, :, 0]
    x = torch.arange(width, device=moved.device) + shift[:, :, 1]
    is_beyond = (y < -OUTSIDE) | (y > height - 1 + OUTSIDE) | (x < -OUTSIDE) | (x > width - 1 + OUTSIDE)
    other = torch.where(is_beyond.flip(1), target, moved.flip(1))
    return torch.where(is_beyond, other, moved)


def gain_and_offset(target: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two planes (B, 2, H, W) each: gain * reference + offset is nearest to Target in a window around every pixel.

    Least squares over a window that is much larger than a defect, from means of blocks, so that a defect is not evened out; where
    there is no contrast, the gain is that of the whole strip. After He, Sun and Tang 2010, "Guided image filtering".
    """
    means = window_mean(torch.cat([target, references, target * references, references * references], dim=1))
    mean_target, mean_reference, mean_product, mean_of_squares = means.split([1, 2, 2, 2], dim=1)
    covariance = mean_product - mean_target * mean_reference
    variance = mean_of_squares - mean_reference * mean_reference
    overall = covariance.mean(dim=(2, 3), keepdim=True) / (variance.mean(dim=(2, 3), keepdim=True) + TINY)
    steady = STEADY * STEADY
    gain = ((covariance + steady * overall.clamp(*GAINS)) / (variance + steady)).clamp(*GAINS)
    offset = mean_target - gain * mean_reference
    height, width = target.shape[2:]
    return enlarge(gain, height, width), enlarge(offset, height, width)


def window_mean(planes: torch.Tensor, sigma: float = MATCH_SIGMA) -> torch.Tensor:
    """Means (B, C, ceil(H / BLOCK), ceil(W / BLOCK)) of (B, C, H, W) under a Gaussian of `sigma` pixels.

    Beyond the strip there is nothing: with its border going on, a defect in a corner would be most of the mean there.
    """
    height, width = planes.shape[2:]
    planes = functional.pad(planes, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    blocks = functional.avg_pool2d(planes, BLOCK)
    window = gaussian_window(sigma / BLOCK, math.ceil(3 * sigma / BLOCK))
    return blur(blocks, window, "constant") / blur(torch.ones_like(blocks[:1, :1]), window, "constant")


def enlarge(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Planes BLOCK times larger, cut to (height, width)."""
    return functional.interpolate(planes, scale_factor=float(BLOCK), mode="bilinear", align_corners=False)[..., :height, :width]


def halve(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) to half the size, rounded up, without what the smaller image cannot show."""
    height, width = images.shape[2:]
    side = len(HALVING) // 2 - 1
    images = functional.pad(images, (side, side + width % 2, side, side + height % 2), mode="replicate")
    return convolve(images, HALVING, stride=2)


def blur(images: torch.Tensor, window: Sequence[float], beyond: str = "replicate") -> torch.Tensor:
    """(B, C, H, W) convolved with a window of odd length along y and x. Beyond the border its pixels go on, or "constant": 0."""
    return convolve(functional.pad(images, (len(window) // 2,) * 4, mode=beyond), window)


def convolve(images: torch.Tensor, window: Sequence[float], stride: int = 1) -> torch.Tensor:
    weights = images.new_tensor(window) / sum(window)
    planes = images.flatten(0, 1)[:, None]
    planes = functional.conv2d(planes, weights.view(1, 1, -1, 1), stride=(stride, 1))
    planes = functional.conv2d(planes, weights.view(1, 1, 1, -1), stride=(1, stride))
    return planes.reshape(-1, images.shape[1], *planes.shape[2:])


def column_sums(images: torch.Tensor, columns: int) -> torch.Tensor:
    """(B, C, H, W) to (B, C, H, columns): each row's sums over columns of one width."""
    if columns == 1:
        return images.sum(dim=3, keepdim=True)
    images = functional.pad(images, (0, -images.shape[3] % columns))
    return images.reshape(*images.shape[:3], columns, -1).sum(dim=4)


def smooth(sums: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, C, H, columns) weighted by a Gaussian of `sigma` rows, and with NEIGHBOURS; beyond the image there is nothing."""
    window, rows = gaussian_window(sigma, math.ceil(3 * sigma)), sums.transpose(2, 3).flatten(0, 1)[:, None]
    rows = functional.conv2d(rows, sums.new_tensor(window).view(1, 1, 1, -1), padding=(0, len(window) // 2))
    if sums.shape[3] > 1:
        rows = functional.conv2d(rows, sums.new_tensor(NEIGHBOURS).view(1, 1, -1, 1), padding=(1, 0))
    return rows.reshape(-1, sums.shape[1], *rows.shape[2:]).transpose(2, 3)


def widen(planes: torch.Tensor, width: int) -> torch.Tensor:
    """(..., columns) to (..., width), linearly between the middles of columns; one column stays one, which stands for any width."""
    columns = int(planes.shape[-1])
    if columns == 1:
        return planes
    middles = torch.arange(columns, dtype=planes.dtype, device=planes.device)
    places = (torch.arange(width, dtype=planes.dtype, device=planes.device) + 0.5) * (columns / width) - 0.5
    return planes @ (1 - (places.clamp(0, columns - 1) - middles[:, None]).abs()).clamp(min=0)


def gaussian_window(sigma: float, reach: int) -> list[float]:
    """What `sigma` pixels weigh from -`reach` to `reach`, 1 in the middle."""
    return [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(-reach, reach + 1)]


def resize_rows(shift: torch.Tensor, height: int) -> torch.Tensor:
    """(B, 2, 2, h, columns) to `height` rows: twice as many, or one less."""
    larger = functional.interpolate(shift.flatten(1, 2), scale_factor=(2.0, 1.0), mode="bilinear", align_corners=False)
    return larger.reshape(-1, 2, 2, *larger.shape[2:])[..., :height, :]


def gradients(images: torch.Tensor) -> list[torch.Tensor]:
    """Along y and along x, of (B, C, H, W)."""
    reach = len(DERIVATIVE) // 2
    weights, planes = images.new_tensor(DERIVATIVE), images.flatten(0, 1)[:, None]
    along_y = functional.conv2d(functional.pad(planes, (0, 0, reach, reach), mode="replicate"), weights.view(1, 1, -1, 1))
    along_x = functional.conv2d(functional.pad(planes, (reach, reach, 0, 0), mode="replicate"), weights.view(1, 1, 1, -1))
    return [gradient.reshape(images.shape) for gradient in (along_y, along_x)]


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of each channel (B, C), from -1 to 1, without taking means off; 0 where one of them is 0 everywhere."""
    together, own, other = ((a * b).mean(dim=(2, 3)) for a, b in ((first, second), (first, first), (second, second)))
    return together / (own * other + TINY * TINY).sqrt()


def mean_square(difference: torch.Tensor) -> torch.Tensor:
    return difference.square().mean(dim=(2, 3), keepdim=True)
