"""Strips are made here with shifts that are known exactly: textures are sums of waves, evaluated
wherever a row was moved to, and demo patterns are moved on a grid that is three times finer, where
OpenCV's interpolation is off by 0.01 px at most.
"""

from collections.abc import Callable

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from data.demo_strips import (
    OVERSAMPLING,
    PATTERN_MARGIN,
    STRIP_SIZE,
    draw_pattern,
    make_strip,
    sample_to_sensor,
)
from deploy.onnx_export import write_graph
from gaussian import paint_point
from ops.classical import RegisteredDifference
from ops.filters import BLOCK, enlarge
from ops.gain import GAINS
from ops.likelihood import likelihood_ratio
from ops.registration import ALIGN_MODES, MEASURES, Alignment, register
from ops.warp import LARGEST_SHIFT, Warper, shift_images
from tests.conftest import SMALL_SIZE

Scene = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # rows (H, 1) and columns (H, W) of the part, in pixels, to grey levels (H, W)
SIZES = [(128, 128), (131, 177), STRIP_SIZE, (640, 640)]


def texture(seed: int = 0, shortest: float = 5.0, waves: int = 80) -> Scene:
    """Waves in all directions, at least `shortest` pixels long, together 28 grey levels strong."""
    generator = np.random.default_rng(seed)
    angles, phases = generator.uniform(0, 2 * np.pi, (2, waves))
    frequencies = generator.uniform(0.02, 1 / shortest, waves)

    def levels(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        together = np.zeros(np.broadcast(y, x).shape)
        for angle, phase, frequency in zip(angles, phases, 2 * np.pi * frequencies):
            together += np.sin(frequency * (np.sin(angle) * y + np.cos(angle) * x) + phase)
        return 120 + 40 / np.sqrt(waves) * together

    return levels


def pattern(seed: int = 0, size: tuple[int, int] = STRIP_SIZE) -> Scene:
    """A demo strip's pattern, as the camera sees it."""
    drawn = draw_pattern(np.random.default_rng(seed), size)

    def levels(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        moved_y, moved_x = (y - np.arange(size[0])[:, None] + 0 * x), x - np.arange(size[1])
        moves = [
            cv2.resize(shift_images, drawn.shape[::-1], interpolation=cv2.INTER_LINEAR)
            for shift_images in map(_with_margin, (moved_y, moved_x))
        ]
        fine_y, fine_x = np.indices(drawn.shape, dtype=np.float32)
        fine = [
            (own + OVERSAMPLING * shift_images).astype(np.float32)
            for own, shift_images in zip((fine_y, fine_x), moves)
        ]
        seen = cv2.remap(drawn, fine[1], fine[0], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        return sample_to_sensor(seen, size).astype(np.float64)

    return levels


def _with_margin(plane: np.ndarray) -> np.ndarray:
    return np.pad(plane, PATTERN_MARGIN, mode="edge").astype(np.float32)


def shot(
    scene: Scene, size: tuple[int, int], shift: np.ndarray | tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """A channel (H, W), grey levels: row u of the scene lies `shift` (2, H) or (2,), (y, x),
    further down and to the right.
    """
    rows, columns = np.arange(size[0], dtype=float), np.arange(size[1])
    shift = np.broadcast_to(np.asarray(shift, float).reshape(2, -1), (2, size[0]))
    origin = rows
    # which row of the scene came to lie in each row: origin + shift(origin) = row
    for _ in range(30):
        origin = rows - np.interp(origin, rows, shift[0])
    across = np.interp(origin, rows, shift[1])
    return scene(origin[:, None], columns - across[:, None])


def wander(height: int, wavelength: float, amount: float = 3.0, seed: int = 0) -> np.ndarray:
    """A shift (2, H), (y, x), that sways along the strip by at most `amount` pixels."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (2, 1))
    return amount * np.sin(2 * np.pi * np.arange(height) / wavelength + phases)


def expose(
    channel: np.ndarray, generator: np.random.Generator, gain: float, noise: float
) -> np.ndarray:
    """A channel (H, W) in another light: gain, an offset, a slow wave and a slope of illumination,
    and noise; grey levels.
    """
    height, width = channel.shape
    wave = np.sin(2 * np.pi * (np.arange(height)[:, None] / max(height, 400) + generator.uniform()))
    slope = np.linspace(-1, 1, width) * generator.uniform(-1, 1)
    return (
        gain * channel
        + generator.uniform(-5, 5)
        + 3 * wave
        + 2 * slope
        + generator.normal(0, noise, channel.shape)
    )


def batch(*channels: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Channels (H, W), grey levels, as strips (1, 3, H, W), values 0-1."""
    return torch.from_numpy(np.stack(channels)).to(dtype)[None] / 255


def found_shift(strips: torch.Tensor) -> np.ndarray:
    """(2, 2, H) of a strip: of each reference along (y, x), by least squares alone."""
    return find_curve(strips)[0, ..., 0].numpy()


def find_curve(strips: torch.Tensor) -> torch.Tensor:
    """(B, 2, 2, H, columns): the curve of shifts, by least squares alone."""
    return register(strips, strips[:, 1:], torch.zeros(1, 2, 2))[1]


def align(strips: torch.Tensor, mode: str = "full") -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The aligned strips, and each measure by its name (B, 2)."""
    with torch.inference_mode():
        aligned, measures = Alignment(mode)(strips)
    return aligned, dict(zip(MEASURES, measures.unbind(2)))


def residual(strips: torch.Tensor) -> torch.Tensor:
    """Root mean square (B, 2) of Target less each reference."""
    return (strips[:, :1] - strips[:, 1:3]).square().mean(dim=(2, 3)).sqrt()


def structure(target: np.ndarray) -> np.ndarray:
    """(2, H): a row's share of the squared gradients of Target (H, W) along y and along x."""
    squares = np.stack([(gradient**2).mean(axis=1) for gradient in np.gradient(target)])
    return squares / squares.sum(axis=1, keepdims=True)


SHIFTS = {
    "constant": ((0.37, -1.21), (-0.5, 0.25)),
    "largest": ((3.0, -3.0), (-2.6, 2.9)),
    "250 rows": (wander(976, 250), wander(976, 250, 1.0, 1)),
    "500 rows": (wander(976, 500), wander(976, 500, 1.0, 1)),
    "1000 rows": (wander(976, 1000), wander(976, 1000, 1.0, 1)),
}


@pytest.mark.parametrize("noise", [1, 3, 5])
@pytest.mark.parametrize("shifts", SHIFTS.values(), ids=SHIFTS)
def test_a_shift_is_found_to_a_twentieth_of_a_pixel(shifts, noise):
    """The mean over rows of how far the shift is off, along y and x, in other light and with noise
    in every channel.
    """
    generator = np.random.default_rng(noise)
    scene = texture(noise)
    references = [
        expose(shot(scene, STRIP_SIZE, shift), generator, gain, noise)
        for shift, gain in zip(shifts, (0.88, 1.12))
    ]
    strips = batch(expose(shot(scene, STRIP_SIZE), generator, 1.0, noise), *references)
    truth = np.stack([np.broadcast_to(np.reshape(shift, (2, -1)), (2, 976)) for shift in shifts])
    assert np.abs(found_shift(strips) - truth).mean(axis=2).max() < 0.05
    _, measures = align(strips)
    mean = np.stack([measures["shift_y"][0], measures["shift_x"][0]], axis=1)
    assert np.abs(mean - truth.mean(axis=2)).max() < 0.03
    middle = truth.mean(axis=2, keepdims=True)
    assert measures["wander"][0].numpy() == pytest.approx(
        np.hypot(*np.moveaxis(truth - middle, 1, 0)).max(axis=1), abs=0.5
    )


def test_columns_of_a_wide_image_are_moved_by_shifts_of_their_own():
    """As a board is that was bent or seen at an angle; a strip of one column can only follow the
    mean of it.
    """
    size, scene = (256, 640), texture()
    y, x = np.indices(size, dtype=float)
    # at each end of the image at most 1.5 and 2 pixels
    moves = np.stack([1.5 - x / 320, x / 160 - 2.0])
    target, reference = scene(y, x), scene(y - moves[0], x - moves[1])
    strips = batch(target, reference, scene(y - 0.5, x + 0.25))
    shift = find_curve(strips)[0].numpy()
    middles = 640 / 4 * (np.arange(4) + 0.5)
    assert shift.shape == (2, 2, 256, 4)
    assert np.abs(shift[0].mean(axis=1) - [1.5 - middles / 320, middles / 160 - 2.0]).max() < 0.15
    assert np.abs(shift[1].mean(axis=1) - [[0.5], [-0.25]]).max() < 0.03
    assert (residual(align(strips)[0]) < 0.25 * residual(strips)).all()


@pytest.mark.parametrize("number", range(8))
def test_a_shift_of_a_demo_pattern_is_found_where_the_pattern_tells_it(number):
    """The mean over rows, each counting by its gradients along the axis: straight lines say nothing
    of a shift along them.
    """
    generator, scene = np.random.default_rng(number), pattern(number)
    shifts = [(0.37, -1.21), wander(976, 500, 2.0)]
    target = shot(scene, STRIP_SIZE)
    references = [expose(shot(scene, STRIP_SIZE, shift), generator, 1.1, 2) for shift in shifts]
    found = found_shift(batch(expose(target, generator, 1.0, 2), *references))
    truth = np.stack([np.broadcast_to(np.reshape(shift, (2, -1)), (2, 976)) for shift in shifts])
    off = (np.abs(found - truth) * structure(target)).sum(axis=2)
    assert off[0].max() < 0.05 and off[1].max() < 0.08


@pytest.mark.parametrize("noise", [0, 1, 5])
def test_gain_is_found_and_light_is_evened_out(noise):
    """Noise of a reference lowers the gain of least squares: not all contrast is pattern."""
    generator, scene = np.random.default_rng(0), texture()
    target = shot(scene, STRIP_SIZE)
    references = [
        expose(shot(scene, STRIP_SIZE, shift), generator, gain, noise)
        for shift, gain in (((0.3, -1.2), 0.88), ((0, 0), 1.12))
    ]
    aligned, measures = align(batch(target, *references))
    for gain, found in zip((0.88, 1.12), measures["gain"][0].tolist()):
        contrast = (gain * target.std()) ** 2
        assert found * gain == pytest.approx(contrast / (contrast + noise**2), abs=0.01)
    left = (aligned[0, :1] - aligned[0, 1:]).numpy() * 255
    assert max(np.abs(cv2.GaussianBlur(difference, (0, 0), 8)).max() for difference in left) < 1.0
    assert left.std() < 0.5 + 1.1 * noise / 0.88


@pytest.mark.parametrize("shift", [(1.2, 0.0), (0.0, -1.2)], ids=["below", "left"])
@pytest.mark.parametrize("mode", ["full", "fine"])
def test_where_one_reference_ends_a_point_of_the_other_one_is_no_defect(shift, mode):
    """And one of Target is still found there, by the pixels beside those that are filled in."""
    generator = np.random.default_rng(0)
    channels = [
        expose(shot(texture(), SMALL_SIZE, moved), generator, 1.0, 2)
        for moved in ((0.0, 0.0), (0.0, 0.0), shift)
    ]
    ratios = []
    for painted, inside in ((0, 1), (1, 0)):  # pixels from the edge
        y, x = (SMALL_SIZE[0] - 1 - inside, 70) if shift[0] else (70, inside)
        point = np.zeros(SMALL_SIZE, np.float32)
        paint_point(point, (y, x), (1.0, 1.0), 40)
        seen = [plane + point * (channel == painted) for channel, plane in enumerate(channels)]
        ratio = likelihood_ratio(align(batch(*seen), mode)[0], 1.0)[0, 0]
        ratios.append(float(ratio[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].max()))
    assert ratios[0] > 15 and ratios[1] < 1


@pytest.mark.parametrize("mode", ["full", "fine"])
def test_references_are_clipped_as_target_is(mode):
    shifts, gains = ((0.0, 0.0), (0.3, 0.2), (-0.2, 0.3)), (1.6, 1.4, 1.45)
    lit = [gain * shot(texture(), SMALL_SIZE, shift) for gain, shift in zip(gains, shifts)]
    assert 0.05 < (lit[0] > 255).mean() < 0.2
    aligned, _ = align(batch(*np.clip(lit, 0, 255)), mode)
    assert aligned.min() >= 0 and aligned.max() <= 1


def test_beyond_the_largest_shift_a_strip_is_not_made_worse():
    scene = texture()
    for shift in ((4.0, 0.0), (-5.0, 6.0), (9.0, -12.0), (40.0, 0.0)):
        strips = batch(
            shot(scene, SMALL_SIZE),
            shot(scene, SMALL_SIZE, shift),
            shot(scene, SMALL_SIZE, (0.2, 0.2)),
        )
        assert np.abs(found_shift(strips)).max() <= LARGEST_SHIFT
        for mode in ALIGN_MODES[1:]:
            assert (residual(align(strips, mode)[0]) <= residual(strips) + 1e-6).all()


@pytest.mark.parametrize("scene", [texture(), pattern(0, SMALL_SIZE)], ids=["texture", "pattern"])
def test_equal_channels_stay_as_they_are(scene):
    strips = batch(*[shot(scene, SMALL_SIZE)] * 3)
    for mode in ALIGN_MODES[1:]:
        aligned, measures = align(strips, mode)
        assert np.abs(found_shift(strips)).max() < 1e-4 and (aligned - strips).abs().max() < 1e-4
        assert (measures["gain"] - 1).abs().max() < 1e-3 and measures["remainder"].max() < 1e-4


def round_point(center: tuple[float, float], sigma: float, amplitude: float) -> np.ndarray:
    point = np.zeros(STRIP_SIZE, np.float32)
    paint_point(point, center, (sigma, sigma), amplitude)
    return point


def disc(center: tuple[float, float], diameter: float, amplitude: float) -> np.ndarray:
    y, x = np.indices(STRIP_SIZE, dtype=np.float32)
    return amplitude * np.clip(diameter / 2 + 0.5 - np.hypot(y - center[0], x - center[1]), 0, 1)


DEFECTS = {
    "faint": [
        round_point((500, 90), sigma, amplitude)
        for sigma in (0.7, 1.3, 3.0)
        for amplitude in (5, -5)
    ],
    "strong": [
        round_point((301.4, 40.6), sigma, amplitude)
        for sigma in (0.7, 1.3, 3.0)
        for amplitude in (-80, 80)
    ],
    "large": [
        disc((500, 90), diameter, amplitude) for diameter in (8, 12) for amplitude in (-80, 20, 80)
    ],
    "at a border": [
        round_point(center, 1.3, 60)
        for center in ((1, 2), (974, 170), (500, 1), (2, 90), (975, 175), (700, 174))
    ],
}


@pytest.mark.parametrize(
    "scene",
    [lambda y, x: 120 + 0 * (y + x), texture(), pattern(0), pattern(4)],
    ids=["flat", "texture", "0", "4"],
)
@pytest.mark.parametrize("defects", DEFECTS.values(), ids=DEFECTS)
@pytest.mark.parametrize("mode", ["full", "fine"])
def test_a_defect_survives_matching(scene, defects, mode):
    """Target less each reference, beside the same strip without the defect: of its contrast (least
    squares) 89.5 % at least is left.

    The shifts are too small for any of the border's pixels to be filled in.
    """
    generator = np.random.default_rng(0)
    target = expose(shot(scene, STRIP_SIZE), generator, 1.0, 2)
    references = [
        expose(shot(scene, STRIP_SIZE, shift), generator, gain, 2)
        for shift, gain in (((0.1, -0.15), 0.95), ((-0.1, 0.1), 1.05))
    ]
    without, _ = align(batch(target, *references), mode)
    for defect in defects:
        aligned, _ = align(batch(target + defect, *references), mode)
        change = (
            (aligned[0, :1] - aligned[0, 1:]) - (without[0, :1] - without[0, 1:])
        ).numpy() * 255
        left = (change * defect).sum(axis=(1, 2)) / (defect**2).sum()
        assert left.min() > 0.895 and left.max() < 1.1


@pytest.mark.parametrize("period", [4, 5, 6.5, 8, 12])
@pytest.mark.parametrize("axis", [0, 1])
def test_lines_that_repeat_are_moved_by_the_smallest_shift_that_fits(period, axis):
    """And never along themselves.

    Four or five pixels are too few for a shift to be surely found; no worse is sure all the same.
    """

    def lines(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return 120 + 50 * np.sin(2 * np.pi * ((y, x)[axis] / period)) + 0 * (y + x)

    generator = np.random.default_rng(0)
    # of a period; above a half, the smallest shift that fits goes the other way
    for share in (0.1, 0.2, 0.8, 0.9):
        shift = np.zeros(2)
        shift[axis] = share * period
        channels = [
            shot(lines, SMALL_SIZE, shift_images) for shift_images in (np.zeros(2), shift, -shift)
        ]
        strips = batch(*(channel + generator.normal(0, 1, SMALL_SIZE) for channel in channels))
        found = found_shift(strips)
        smallest = (share - round(share)) * period
        if period > 6:
            assert np.abs(found[:, axis].mean(axis=1) - [smallest, -smallest]).max() < 0.05
        assert not found[:, 1 - axis].any()
        for mode in ALIGN_MODES[1:]:
            assert (residual(align(strips, mode)[0]) <= residual(strips)).all()


def undetermined() -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(0)
    flat = np.full(SMALL_SIZE, 120.0)
    noise = [np.clip(flat + generator.normal(0, 3, SMALL_SIZE), 0, 255) for _ in range(3)]
    saturated = shot(texture(), SMALL_SIZE)
    halves = [
        np.concatenate([np.full((100, 150), 255.0), np.zeros((100, 150))]),
        np.full(SMALL_SIZE, 255.0),
        np.zeros(SMALL_SIZE),
    ]
    return {
        "flat": batch(flat, flat + 20, flat - 20),
        "noise": batch(*noise),
        "black": batch(*[np.zeros(SMALL_SIZE)] * 3),
        "white": batch(*[np.full(SMALL_SIZE, 255.0)] * 3),
        "half of it clipped": batch(
            *[np.where(np.arange(150) < 75, level, saturated) for level in (255, 255, 0)]
        ),
        "nothing in common": batch(*(shot(texture(seed), SMALL_SIZE) for seed in (1, 2, 3))),
        "halves": batch(*halves),
        "black Target": batch(np.zeros(SMALL_SIZE), saturated, saturated),
        "black reference": batch(saturated, np.zeros(SMALL_SIZE), saturated),
    }


@pytest.mark.parametrize("name", undetermined())
def test_what_is_not_determined_is_finite_and_no_worse(name):
    strips = undetermined()[name]
    for mode in ALIGN_MODES[1:]:
        aligned, measures = align(strips, mode)
        assert aligned.isfinite().all() and all(
            measure.isfinite().all() for measure in measures.values()
        )
        assert torch.equal(aligned[:, :1], strips[:, :1])
        assert (residual(aligned) <= residual(strips) + 1e-6).all()
        if name in ("flat", "noise", "black", "white", "black Target"):
            assert (
                not measures["shift_y"].any()
                and not measures["shift_x"].any()
                and not measures["wander"].any()
            )


@pytest.mark.parametrize("size", SIZES)
def test_any_size_and_batches_do_not_mix(size):
    strips = torch.cat(
        [
            torch.from_numpy(make_strip(np.random.default_rng(seed), size))[None] / 255
            for seed in range(3)
        ]
    )
    for mode in ALIGN_MODES[1:]:
        together, measures = align(strips, mode)
        assert together.shape == strips.shape and (residual(together) < residual(strips)).all()
        for number in range(3):
            alone, own = align(strips[number : number + 1], mode)
            assert (together[number] - alone[0]).abs().max() < 1e-5
            assert all(
                (measures[name][number] - own[name][0]).abs().max() < 1e-4 for name in MEASURES
            )


@pytest.mark.parametrize("size", [(1, 1), (1, 13), (2, 2), (13, 1), (7, 11), (976, 12)])
def test_a_strip_narrower_than_the_largest_shift_stays_finite(size):
    for mode in ALIGN_MODES[1:]:
        aligned, _ = align(
            torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)), mode
        )
        assert aligned.shape == (2, 3, *size) and aligned.isfinite().all()


class Exported(nn.Module):
    """What a graph gives: the aligned strips and, beside them, the registered difference."""

    def __init__(self, mode: str):
        super().__init__()
        self.alignment, self.detector = Alignment(mode), RegisteredDifference()

    def forward(self, strips: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.alignment(strips)[0], self.detector(strips)], dim=1)


def open_graph(
    model: nn.Module, size: tuple[int, int], opset: int, path
) -> Callable[[torch.Tensor], torch.Tensor]:
    write_graph(model.eval(), torch.zeros(2, 3, *size), opset, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda strips: torch.from_numpy(session.run(None, {"input": strips.numpy()})[0])


def spoilt(size: tuple[int, int]) -> list[tuple[torch.Tensor, list[int]]]:
    """Strips with one value that is not finite, and which of [Ref1, Ref2, heatmap] must not be
    finite anywhere.
    """
    good = torch.from_numpy(make_strip(np.random.default_rng(0), size))[None] / 255
    cases = []
    for value in (float("nan"), float("inf")):
        for channel, gone in ((0, [1, 2, 3]), (1, [1, 3]), (2, [2, 3])):
            for y, x in ((0, 0), (size[0] // 2, size[1] // 3), (size[0] - 1, size[1] - 1)):
                strip = good.clone()
                strip[0, channel, y, x] = value
                cases.append((strip, gone))
    return cases


@pytest.mark.parametrize(
    "mode, size, opset",
    [
        ("full", (128, 128), 11),
        ("full", (131, 177), 11),
        ("full", (131, 333), 11),
        ("shift", STRIP_SIZE, 11),
        ("full", STRIP_SIZE, 11),
        ("fine", STRIP_SIZE, 11),
        ("fine", (131, 333), 11),
    ]
    + [
        pytest.param(mode, size, 18, marks=pytest.mark.long)
        for mode, size in (("full", (131, 177)), ("shift", STRIP_SIZE), ("fine", (131, 177)))
    ],
)
def test_a_graph_gives_what_pytorch_gives(mode, size, opset, tmp_path):
    model = Exported(mode)
    graph = open_graph(model, size, opset, tmp_path / "alignment.onnx")
    strips = torch.cat(
        [
            torch.from_numpy(make_strip(np.random.default_rng(seed), size))[None] / 255
            for seed in range(3)
        ]
    )
    strips[:, 0, 60:63, 70:73] += 0.2
    with torch.inference_mode():
        for some in (strips[:1], strips):
            off = (graph(some) - model(some)).abs().amax(dim=(0, 2, 3))
            assert off[:3].max() < 1e-5
            assert off[3] < 1e-4  # in units of the noise, which is a hundredth
        for strip, gone in spoilt(size):
            for answer in (model(strip), graph(strip)):
                assert not answer[0, gone].isfinite().any()


@pytest.mark.parametrize("mode", ["full", "fine"])
def test_a_strip_with_a_value_that_is_not_finite_gives_no_answer(mode):
    model = Exported(mode)
    with torch.inference_mode():
        for strip, gone in spoilt((131, 177)):
            assert not model(strip)[0, gone].isfinite().any()


@pytest.mark.parametrize("name", ["black", "noise", "halves", "half of it clipped"])
@pytest.mark.parametrize("mode", ["full", "fine"])
def test_gradients_are_finite(name, mode):
    strips = undetermined()[name].requires_grad_()
    Alignment(mode)(strips)[0].square().mean().backward()
    assert strips.grad.isfinite().all()


def test_gradients_reach_every_channel():
    strips = (
        torch.from_numpy(make_strip(np.random.default_rng(0), SMALL_SIZE))[None] / 255
    ).requires_grad_()
    for mode in ALIGN_MODES[1:]:
        strips.grad = None
        Alignment(mode)(strips)[0][:, 1:].sum().backward()
        assert strips.grad.isfinite().all() and strips.grad[0].abs().amax(dim=(1, 2)).min() > 0


def test_doubles_stay_doubles_and_halves_are_aligned_as_floats():
    strips = torch.from_numpy(make_strip(np.random.default_rng(0), SMALL_SIZE))[None] / 255
    expected, _ = align(strips)
    doubles, _ = align(strips.double())
    assert doubles.dtype == torch.float64 and (doubles - expected).abs().max() < 1e-4
    for dtype in (torch.float16, torch.bfloat16):
        halves, measures = align(strips.to(dtype))
        rounded = align(strips.to(dtype).float())[0].to(dtype)
        assert (
            halves.dtype == dtype
            and torch.equal(halves, rounded)
            and measures["gain"].dtype == torch.float32
        )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(align(strips)[0], expected)


@pytest.mark.parametrize("mode", ALIGN_MODES[1:])
def test_nothing_is_made_on_another_device(mode):
    """A tensor that was made on the CPU cannot meet one of the device `meta`, as little as one of a
    GPU.
    """
    aligned, measures = Alignment(mode).to("meta")(torch.empty(2, 3, 131, 177, device="meta"))
    assert (
        aligned.device.type == "meta"
        and aligned.shape == (2, 3, 131, 177)
        and measures.shape == (2, 2, len(MEASURES))
    )
    assert (
        RegisteredDifference(1.0).to("meta")(torch.empty(1, 3, 131, 177, device="meta")).device.type
        == "meta"
    )


def test_images_are_moved_as_the_waves_that_they_are_made_of():
    scene, size = texture(0, shortest=4.0), (96, 96)
    for shift in ((0.5, -0.5), (-2.7, 1.3), (3.0, -3.0)):
        moved = shift_images(
            torch.from_numpy(shot(scene, size, shift))[None, None],
            torch.tensor(shift)[None, None, :, None, None].double(),
        )
        assert np.abs(moved[0, 0].numpy() - shot(scene, size))[8:-8, 8:-8].max() < 3.0


@pytest.mark.parametrize("size", [(96, 88), (97, 41), (244, 44), (9, 7)])
@pytest.mark.parametrize("limit", [0.75, 1.5, LARGEST_SHIFT])
def test_blocks_are_moved_as_every_pixel_by_itself(size, limit):
    """A strip's rows as products of matrices, and the sum over all shifts for a wider image."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, *size, generator=generator, dtype=torch.float64)
    for rows in (1, size[0]):
        shift = limit * (
            2 * torch.rand(3, 2, 2, rows, 1, generator=generator, dtype=torch.float64) - 1
        )
        shift[0] = torch.tensor([limit, -limit]).view(2, 1, 1)
        tap_by_tap = Warper(images, limit, 2).warp(shift)
        for often in (True, False):
            in_blocks = Warper(images, limit, 1, often).warp(shift)
            assert in_blocks.shape == images.shape and (in_blocks - tap_by_tap).abs().max() < 1e-12
    assert (shift_images(images, torch.zeros(3, 2, 2, 1, 1)) - images).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(976, 176), (131, 177), (5, 3)])
def test_planes_are_enlarged_as_an_interpolation_does(size):
    planes = torch.rand(2, 3, *(-(-length // BLOCK) for length in size), dtype=torch.float64)
    expected = torch.nn.functional.interpolate(
        planes, scale_factor=float(BLOCK), mode="bilinear", align_corners=False
    )
    assert (enlarge(planes, *size) - expected[..., : size[0], : size[1]]).abs().max() < 1e-12


def test_a_graph_has_few_nodes(tmp_path):
    """Each of them costs a call time of its own, and a file load time."""
    write_graph(
        RegisteredDifference().eval(), torch.zeros(2, 3, *STRIP_SIZE), 17, tmp_path / "model.onnx"
    )
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert sum(node.op_type != "Constant" for node in nodes) < 1000


def test_the_gain_has_limits_and_an_unknown_mode_is_refused():
    target = shot(texture(), SMALL_SIZE)
    _, measures = align(batch(target, 120 + (target - 120) / 50, 255 - target))
    assert measures["gain"][0].tolist() == pytest.approx([GAINS[1], GAINS[0]], rel=0.2)
    with pytest.raises(ValueError, match="'none', expected one of shift, full, fine"):
        Alignment("none")
