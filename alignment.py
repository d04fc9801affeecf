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
MOVED_ROWS = (8, 4)  # what is moved at once: the first of which an image's height is a multiple, else the first
ENLARGED_ROWS = 4  # what is enlarged at once

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
        target = strips[:, :1]
        moved, shift, left = register(strips)
        gain, offset = gain_and_offset(target, moved)
        if self.mode == "full":
            matched = gain * moved + offset
            moved = torch.where(mean_square(target - matched) > left, moved, matched)
        aligned = torch.cat([target, *fill_beyond_edges(target, moved, shift)], dim=1)
        return aligned, self._measures(aligned, shift, gain)

    @staticmethod
    def _measures(aligned: torch.Tensor, shift: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        mean = shift.mean(dim=(3, 4))
        wander = (shift - mean[..., None, None]).square().sum(dim=2).amax(dim=(2, 3)).sqrt()
        remainder = mean_square(aligned[:, :1] - aligned[:, 1:]).sqrt()[:, :, 0, 0]
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


def register(strips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The references of (B, 3, H, W) moved onto Target, by how much, and the mean square of what is left of the difference.

    One that would then differ more from Target stays, and its shift is 0. The mean squares are (B, 2, 1, 1).
    """
    target, references = strips[:, :1], strips[:, 1:]
    shift = estimate_shift(strips)
    moved = move(references, shift)
    before, after = mean_square(target - references), mean_square(target - moved)
    is_worse = after > before
    moved, left = torch.where(is_worse, references, moved), torch.where(is_worse, before, after)
    return moved, torch.where(is_worse[..., None], 0.0, shift), left


def estimate_shift(strips: torch.Tensor) -> torch.Tensor:
    """How far each row of the references has moved against Target: (B, 2, 2, H, columns), (y, x) in pixels, down and to the right.

    An image of a strip's width is one column; of a wider one these are the shifts in the middle of each. Strips are (B, 3, H, W),
    values 0-1. Along an axis along which it is not determined it is 0.
    """
    height, width = sizes(strips)
    half = halve(strips)
    columns = max(1, round(width / COLUMN))
    coarse, fine = Pair(blur(halve(half), ALIASED), 4, columns), Pair(half, 2, columns)
    shift = strips.new_zeros(1, 1, 1, 1, 1)
    shift = coarse.improve(shift, coarse.references.images, GLOBAL_ROUNDS, None)
    shift = shift.expand(-1, -1, -1, coarse.height, columns)
    shift = coarse.improve(shift, coarse.references.moved(shift), COARSE_ROUNDS, COARSE_SIGMA / 4)
    shift, moved = fine.better(resize_rows(2 * shift, fine.height))
    shift = fine.improve(shift, moved, FINE_ROUNDS, FINE_SIGMA / 2)
    return resize_rows(2 * fine.determined(shift), height)


class Pair:
    """Target and references, `factor` times smaller, without what is slow in them, and what a round of least squares needs."""

    def __init__(self, images: torch.Tensor, factor: int, columns: int):
        images = images - blur(images, [1] * BACKGROUND)
        self.height, self.width = sizes(images)
        self.columns, self.limit = columns, LARGEST_SHIFT / factor
        border = math.ceil(self.limit) + 1  # what may come from beyond the strip's edge says nothing
        self.inner = images.new_tensor([0.0] * border + [1.0] * (self.width - 2 * border) + [0.0] * border)
        self.target, self.references = images[:, :1], Movable(images[:, 1:], self.limit, columns)
        self.inner_target = self.target * self.inner
        self.gradients = gradients(self.target) * self.inner  # (B, 1, 2, h, w)
        products = self.gradients * self.gradients.transpose(1, 2)  # yy, yx, xy, xx
        self.structure = column_sums(products.reshape(-1, 4, self.height, self.width), columns)

    def improve(self, shift: torch.Tensor, moved: torch.Tensor, rounds: int, sigma: float | None) -> torch.Tensor:
        """A better shift (B, 2, 2, h, columns) in smaller pixels, of which rows within `sigma` count together.

        None: all rows, and one shift (B, 2, 2, 1, 1). `moved` is what the references are with the shift that is given.
        """

        def together(sums: torch.Tensor) -> torch.Tensor:
            return sums.sum(dim=2, keepdim=True).mean(dim=3, keepdim=True) if sigma is None else smooth(sums, sigma)

        solution = self._solution(together(self.structure))
        for number in range(rounds):
            if number:
                moved = self.references.moved(shift)
            squares = moved * self.inner * moved
            sums = [column_sums(products, self.columns) for products in (self.inner_target * moved, squares)]
            common, own = together(torch.cat(sums, dim=1)).split(2, dim=1)
            gain = (common / (own + TINY)).clamp(*GAINS_OF_A_ROUND)
            difference = self.target - widen(gain, self.width) * moved
            slopes = self.gradients * difference[:, :, None]
            slopes = together(column_sums(slopes.reshape(-1, 4, self.height, self.width), self.columns))
            slopes = slopes.reshape(-1, 2, 1, 2, *sizes(slopes))
            step = (solution * slopes).sum(dim=3).clamp(-LONGEST_STEP, LONGEST_STEP)
            shift = (shift + step).clamp(-self.limit, self.limit)
        return shift

    @staticmethod
    def _solution(structure: torch.Tensor) -> torch.Tensor:
        """Sums (B, 4, h, columns) of products of gradients to matrices (B, 1, 2, 2, h, columns), by which slopes become steps."""
        yy, yx, _, xx = structure.split(1, dim=1)
        stiffness = STIFFNESS * (yy + xx) + TINY
        yy, xx = yy + stiffness, xx + stiffness
        solution = torch.cat([xx, -yx, -yx, yy], dim=1) / (yy * xx - yx * yx)
        return solution.reshape(-1, 1, 2, 2, *sizes(solution))

    def determined(self, shift: torch.Tensor) -> torch.Tensor:
        """The shift, 0 along an axis along which there is only noise."""
        coherence = correlation(self.gradients, gradients(self.references.moved(shift)) * self.inner)
        return torch.where(coherence[..., None, None] < LEAST_COHERENCE, 0.0, shift)

    def better(self, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The shift (B, 2, 2, h, columns), 0 for a reference of which it leaves more of the difference; and these moved."""
        stay, moved = self.references.images, self.references.moved(shift)
        before, after = correlation(self.inner_target, torch.cat([stay, moved], dim=1) * self.inner).split(2, dim=1)
        is_worse = (after < before)[..., None, None]
        return torch.where(is_worse[..., None], 0.0, shift), torch.where(is_worse, stay, moved)


class Movable:
    """Images (B, C, H, W), to be taken from where shifts of at most `limit` pixels have moved them. The border's pixels go on.

    Lanczos interpolation (Duchon 1979, "Lanczos filtering in one and two dimensions"), along y and then along x. No pixel is
    looked up by where it was moved from, so any opset and device can do it fast. In an image of one column all pixels of a row are
    moved alike: there the weights of a block of pixels are a matrix, by which a frame, the block and what may be moved into it, is
    multiplied. Frames are cut once where the images are moved `often`; else along x only after y, which is then of half as many
    pixels. In a wider image it is a sum over all shifts by whole pixels, in many more steps.
    """

    def __init__(self, images: torch.Tensor, limit: float, columns: int, often: bool = True):
        self.images, self.columns, self.often = images, columns, often
        self.channels, (self.height, self.width) = int(images.shape[1]), sizes(images)
        self.reach = math.ceil(limit) + LOBES - 1
        if columns == 1:
            self._cut_frames()

    def moved(self, shift: torch.Tensor) -> torch.Tensor:
        """By a shift (B, C, 2, H or 1, columns or 1), (y, x) in pixels."""
        return self._in_blocks(shift) if self.columns == 1 else self._tap_by_tap(shift)

    def _cut_frames(self) -> None:
        reach = self.reach
        self.rows = next((rows for rows in MOVED_ROWS if self.height % rows == 0), MOVED_ROWS[0])
        self.frames = cut_down(cut_across(self.images, reach) if self.often else self.images, self.rows, reach)
        # where the pixels of a frame lie: along y beside each of the block's, along x, where fewer count, beside its first
        taps = self.rows + 2 * reach
        places = [[[tap - reach - row * axis for tap in range(taps)] for row in range(self.rows)] for axis in (1.0, 0.0)]
        self.places = self.images.new_tensor(places)[:, None]
        # a pixel's weights along x, for each of the block's pixels one place further on
        spread = [[float(place - pixel == tap) for place in range(4 * reach) for pixel in range(2 * reach)] for tap in range(taps)]
        self.spread = self.images.new_tensor(spread)

    def _in_blocks(self, shift: torch.Tensor) -> torch.Tensor:
        channels, rows, reach, (down, taps) = self.channels, self.rows, self.reach, map(int, self.frames.shape[2:4])
        if shift.shape[3] == 1:
            shift = shift.expand(-1, -1, -1, self.height, -1)
        if self.height % rows:
            known = [min(row, self.height - 1) for row in range(down * rows)]
            shift = shift.index_select(3, torch.tensor(known, device=shift.device))
        weights = lanczos_weights(self.places - shift.reshape(-1, channels, 2, down, rows, 1), dim=5)
        along_y, along_x = weights.split(1, dim=2)
        images = along_y.reshape(-1, channels, down, rows, taps) @ self.frames
        images = images.reshape(-1, channels, down * rows, int(self.frames.shape[4]))
        images = images if self.often else cut_across(images, reach)
        across = int(images.shape[3]) // (4 * reach)
        along_x = along_x.reshape(-1, channels, down * rows, taps) @ self.spread
        along_x = along_x.reshape(-1, channels, down * rows, 4 * reach, 2 * reach)
        images = images.reshape(-1, channels, down * rows, across, 4 * reach) @ along_x
        return cut(images.reshape(-1, channels, down * rows, across * 2 * reach), self.height, self.width)

    def _tap_by_tap(self, shift: torch.Tensor) -> torch.Tensor:
        reach, images = self.reach, self.images
        shift = widen(shift, self.width)
        places = torch.arange(-reach, reach + 1, dtype=shift.dtype, device=shift.device)
        weights = lanczos_weights(places[:, None, None] - shift[:, :, :, None], dim=3)
        along_y, along_x = (weights[:, :, axis].unbind(dim=2) for axis in (0, 1))
        padded = functional.pad(images, (0, 0, reach, reach), mode="replicate")
        images = sum(weight * padded[:, :, tap : tap + self.height] for tap, weight in enumerate(along_y))
        padded = functional.pad(images, (reach, reach, 0, 0), mode="replicate")
        return sum(weight * padded[..., tap : tap + self.width] for tap, weight in enumerate(along_x))


def move(images: torch.Tensor, shift: torch.Tensor, limit: float = LARGEST_SHIFT) -> torch.Tensor:
    """Images (B, C, H, W) taken from where `shift` (B, C, 2, H or 1, columns), at most `limit` pixels in y or x, moved them."""
    return Movable(images, limit, int(shift.shape[4]), often=False).moved(shift)


def cut_across(images: torch.Tensor, reach: int) -> torch.Tensor:
    """Blocks of 2 * `reach` columns of images (B, C, H, W), each with `reach` on both sides: (B, C, H, blocks * 4 * reach).

    A frame is as wide as two blocks, so that two pieces make it. The border's pixels go on.
    """
    channels, (height, width), block = int(images.shape[1]), sizes(images), 2 * reach
    across = math.ceil(width / block)
    images = functional.pad(images, (reach, (across + 1) * block - width - reach, 0, 0), mode="replicate")
    halves = [images[..., start : start + across * block] for start in (0, block)]
    frames = torch.cat([half.reshape(-1, channels, height, across, block) for half in halves], dim=4)
    return frames.reshape(-1, channels, height, across * 2 * block)


def cut_down(images: torch.Tensor, rows: int, reach: int) -> torch.Tensor:
    """Blocks of `rows` rows of images (B, C, H, W), each with `reach` on both sides: (B, C, blocks, rows + 2 * reach, W)."""
    channels, (height, width) = int(images.shape[1]), sizes(images)
    down = math.ceil(height / rows)
    places = [start + row - reach for start in range(0, down * rows, rows) for row in range(rows + 2 * reach)]
    places = torch.tensor([min(max(place, 0), height - 1) for place in places], device=images.device)
    return images.index_select(2, places).reshape(-1, channels, down, rows + 2 * reach, width)


def lanczos_weights(distances: torch.Tensor, dim: int) -> torch.Tensor:
    """Weights of pixels that lie `distances` pixels away: along `dim`, their sum is 1.

    Lanczos with three lobes, sin(3a) / 3a * sin(a) / a for a = pi / 3 * distance, with one sine for two: sin(3a) is
    sin(a) * (3 - 4 * sin(a)^2). Factors that all weights have are left out.
    """
    angle = (math.pi / LOBES * distances).abs().clamp(1e-4, math.pi)  # sin(a) / a is 1 at the least, and 0 at the most
    sine = torch.sin(angle)
    square = sine * sine
    weights = square * (0.75 - square) / (angle * angle)
    return weights / weights.sum(dim=dim, keepdim=True)


def fill_beyond_edges(target: torch.Tensor, moved: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """References (B, 2, H, W) with the other one where a shift (B, 2, 2, H, columns) leaves the strip, Target where both do.

    One after the other, each (B, 1, H, W).
    """
    height, width = sizes(moved)
    down, across = widen(shift, width).unbind(dim=2)
    rows, columns = (torch.arange(length, device=moved.device) - (length - 1) / 2 for length in (height, width))  # from the middle
    limits = [(length - 1) / 2 + OUTSIDE for length in (height, width)]
    across = torch.where((rows[:, None] + down).abs() > limits[0], 2.0 * width, across)  # a row beyond: all of its pixels
    is_beyond = (columns + across).abs() > limits[1]
    (ref1, ref2), (is_beyond1, is_beyond2) = moved.split(1, dim=1), is_beyond.split(1, dim=1)
    filled1 = torch.where(is_beyond1, torch.where(is_beyond2, target, ref2), ref1)
    filled2 = torch.where(is_beyond2, torch.where(is_beyond1, target, ref1), ref2)
    return filled1, filled2


def gain_and_offset(target: torch.Tensor, references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two planes (B, 2, H, W) each: gain * reference + offset is nearest to Target in a window around every pixel.

    Least squares over a window that is much larger than a defect, from means of blocks, so that a defect is not evened out; where
    there is no contrast, the gain is that of the whole strip. After He, Sun and Tang 2010, "Guided image filtering".
    """
    middle = target.mean(dim=(2, 3), keepdim=True)  # without it, variances are small differences of large squares, mostly rounding
    target, references = target - middle, references - middle
    means = [block_means(planes) for planes in (target, references, target * references, references * references)]
    means = under_window(torch.cat(means, dim=1), MATCH_SIGMA)
    mean_target, mean_reference, mean_product, mean_of_squares = means.split([1, 2, 2, 2], dim=1)
    covariance = mean_product - mean_target * mean_reference
    variance = mean_of_squares - mean_reference * mean_reference
    overall = covariance.mean(dim=(2, 3), keepdim=True) / (variance.mean(dim=(2, 3), keepdim=True) + TINY)
    steady = STEADY * STEADY
    gain = ((covariance + steady * overall.clamp(*GAINS)) / (variance + steady)).clamp(*GAINS)
    offset = mean_target + middle - gain * (mean_reference + middle)
    return enlarge(torch.cat([gain, offset], dim=1), *sizes(target)).split(2, dim=1)


def block_means(planes: torch.Tensor) -> torch.Tensor:
    """Means (B, C, ceil(H / BLOCK), ceil(W / BLOCK)) of the blocks of (B, C, H, W), whose border's pixels go on."""
    height, width = sizes(planes)
    if height % BLOCK or width % BLOCK:
        planes = functional.pad(planes, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    return functional.avg_pool2d(planes, BLOCK)


def under_window(blocks: torch.Tensor, sigma: float) -> torch.Tensor:
    """Means of blocks (B, C, h, w) under a Gaussian of `sigma` pixels.

    Beyond the strip there is nothing: with its border going on, a defect in a corner would be most of the mean there.
    """
    reach = math.ceil(3 * sigma / BLOCK)
    window = gaussian_window(sigma / BLOCK, reach)
    planes = functional.pad(blocks, (0, 0, 0, 0, 0, 1), value=1.0)  # one more: how much of the window lies within
    planes = convolve(convolve(planes, window, 2, padding=reach), window, 3, padding=reach)
    return planes[:, :-1] / planes[:, -1:]


def enlarge(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Planes (B, C, h, w) BLOCK times larger, cut to (height, width): linear interpolation. The border's pixels go on.

    As products of matrices: ONNX Runtime's Resize takes five times as long, on one core however many there are.
    """
    channels, frames = int(planes.shape[1]), cut_down(cut_across(planes, reach=1), ENLARGED_ROWS, reach=1)
    down, across = int(frames.shape[2]), int(frames.shape[4]) // 4
    along_y, along_x = (planes.new_tensor(linear_weights(length)) for length in (ENLARGED_ROWS, 2))
    planes = (along_y @ frames).reshape(-1, channels, down * ENLARGED_ROWS * BLOCK, across, 4) @ along_x.T
    return cut(planes.reshape(-1, channels, down * ENLARGED_ROWS * BLOCK, across * 2 * BLOCK), height, width)


def linear_weights(length: int) -> list[list[float]]:
    """(BLOCK * length, length + 2): what `length` values and one more on each side weigh in each of BLOCK times as many."""
    places = [(place + 0.5) / BLOCK + 0.5 for place in range(BLOCK * length)]
    return [[max(0.0, 1 - abs(place - value)) for value in range(length + 2)] for place in places]


def halve(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) to half the size, rounded up, without what the smaller image cannot show."""
    height, width = sizes(images)
    side = len(HALVING) // 2 - 1
    images = functional.pad(images, (side, side + width % 2, side, side + height % 2), mode="replicate")
    window = shares(HALVING)
    return convolve(convolve(images, window, 2, stride=2), window, 3, stride=2)


def blur(images: torch.Tensor, window: Sequence[float]) -> torch.Tensor:
    """(B, C, H, W) convolved with a window of odd length along y and x, its sum taken for 1. The border's pixels go on."""
    images = functional.pad(images, (len(window) // 2,) * 4, mode="replicate")
    return convolve(convolve(images, shares(window), 2), shares(window), 3)


def shares(window: Sequence[float]) -> list[float]:
    """A window whose sum is 1."""
    return [weight / sum(window) for weight in window]


def convolve(images: torch.Tensor, window: Sequence[float], axis: int, stride: int = 1, padding: int = 0) -> torch.Tensor:
    """Each channel of (B, C, H, W) with a window along one axis, 2 or 3.

    In one group for each: of planes that are a batch ONNX Runtime makes 16 for each, in five times the time.
    """
    channels, is_down = int(images.shape[1]), axis == 2
    weights = images.new_tensor([[[[weight] for weight in window] if is_down else [list(window)]]] * channels)
    stride, padding = ((stride, 1), (padding, 0)) if is_down else ((1, stride), (0, padding))
    return functional.conv2d(images, weights, stride=stride, padding=padding, groups=channels)


def cut(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The upper left (..., height, width) of images: themselves where they are no larger."""
    return images if sizes(images) == (height, width) else images[..., :height, :width]


def sizes(images: torch.Tensor) -> tuple[int, int]:
    """Height and width, as numbers: what is calculated from them is no part of an exported graph."""
    return int(images.shape[-2]), int(images.shape[-1])


def column_sums(images: torch.Tensor, columns: int) -> torch.Tensor:
    """(B, C, H, W) to (B, C, H, columns): each row's sums over columns of one width."""
    if columns == 1:
        return images.sum(dim=3, keepdim=True)
    images = functional.pad(images, (0, -int(images.shape[3]) % columns))
    return images.reshape(-1, *map(int, images.shape[1:3]), columns, int(images.shape[3]) // columns).sum(dim=4)


def smooth(sums: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, C, H, columns) weighted by a Gaussian of `sigma` rows, and with NEIGHBOURS; beyond the image there is nothing."""
    reach = math.ceil(3 * sigma)
    sums = convolve(sums, gaussian_window(sigma, reach), 2, padding=reach)
    return sums if sums.shape[3] == 1 else convolve(sums, NEIGHBOURS, 3, padding=1)


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
    rows, columns = sizes(shift)
    larger = functional.interpolate(
        shift.reshape(-1, 4, rows, columns), scale_factor=(2.0, 1.0), mode="bilinear", align_corners=False
    )
    return cut(larger, height, columns).reshape(-1, 2, 2, height, columns)


def gradients(images: torch.Tensor) -> torch.Tensor:
    """Along y and along x, (B, C, 2, H, W), of (B, C, H, W)."""
    reach = len(DERIVATIVE) // 2
    along_y = convolve(functional.pad(images, (0, 0, reach, reach), mode="replicate"), DERIVATIVE, 2)
    along_x = convolve(functional.pad(images, (reach, reach, 0, 0), mode="replicate"), DERIVATIVE, 3)
    return torch.stack([along_y, along_x], dim=2)


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of planes (..., H, W), from -1 to 1, without taking means off; 0 where one of them is 0 everywhere."""
    together, own, other = ((a * b).mean(dim=(-2, -1)) for a, b in ((first, second), (first, first), (second, second)))
    return together / (own * other + TINY * TINY).sqrt()


def mean_square(difference: torch.Tensor) -> torch.Tensor:
    return (difference * difference).mean(dim=(2, 3), keepdim=True)
