"""What differs over a whole strip is added on the fine grid of a demo pattern, in known amounts."""

import cv2
import numpy as np
import pytest
import torch

from data.demo_strips import OVERSAMPLING, draw_pattern, sample_to_sensor
from gaussian import paint_point
from ops.filters import blur, gaussian_window
from ops.focus import column_offsets, match_focus
from ops.registration import Alignment

SIZE = (400, 176)


def shots(
    blurs: tuple[float, ...], noise: float = 3.0, contrasts: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> np.ndarray:
    """Target, Ref1 and Ref2 (3, H, W) in grey levels, under Gaussians of so many pixels."""
    generator = np.random.default_rng(4)
    drawn = draw_pattern(np.random.default_rng(6), SIZE)
    planes = [
        cv2.GaussianBlur(drawn, (0, 0), sigma * OVERSAMPLING) if sigma else drawn for sigma in blurs
    ]
    planes = np.stack([sample_to_sensor(plane, SIZE) for plane in planes]).astype(np.float64)
    middle = planes[0].mean()
    planes = middle + np.reshape(contrasts, (3, 1, 1)) * (planes - middle)
    return planes + generator.normal(0, noise, planes.shape)


def matched(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matched references (2, H, W) in grey levels, and their gains (2,)."""
    strips = torch.from_numpy(strip)[None] / 255
    references, gain = match_focus(strips[:, :1], strips[:, 1:])
    return 255 * references[0].numpy(), gain[0, :, 0, 0].numpy()


def differences(strip: np.ndarray, references: np.ndarray) -> np.ndarray:
    """The root mean square (2,) of what a filter for points sees of the differences."""
    left = blur(torch.from_numpy(strip[:1] - references)[None], gaussian_window(1.0))[0]
    return left.square().mean(dim=(1, 2)).sqrt().numpy()


@pytest.mark.parametrize("blurs", [(0.0, 0.7, 0.0), (0.7, 0.0, 0.7), (0.3, 0.75, 0.0)])
def test_a_reference_in_other_focus_becomes_as_sharp_as_target(blurs):
    strip = shots(blurs)
    clear = shots(blurs, noise=0.0)
    references, _ = matched(strip)
    before = differences(clear, clear[1:])
    # noise alone; sharpening raises it
    floor = differences(strip - clear, (strip - clear)[1:])
    after = differences(strip, references)
    for number in (0, 1):
        is_other = blurs[number + 1] != blurs[0]
        assert (before[number] > 0.5) == is_other
        assert after[number] < np.hypot(1.01 * floor[number], 0.35 * before[number])


@pytest.mark.parametrize("noise", [0.5, 3.0, 6.0])
def test_references_in_the_same_focus_stay(noise):
    strip = shots((0.4, 0.4, 0.4), noise)
    references, gain = matched(strip)
    assert np.abs(gain - 1).max() < 0.01
    assert np.sqrt(np.square(references - strip[1:]).mean()) < 0.03 * noise + 0.1


def test_contrast_is_found_in_spite_of_noise_and_of_blur():
    contrasts = (1.0, 0.92, 1.1)
    strip = shots((0.0, 0.0, 0.5), 5.0, contrasts)
    assert matched(strip)[1] == pytest.approx(1 / np.array(contrasts[1:]), abs=0.02)


def test_defects_do_not_drive_the_fit():
    strip = shots((0.5, 0.5, 0.7))
    generator = np.random.default_rng(1)
    with_defects = strip.copy()
    for _ in range(20):
        center = tuple(generator.uniform(3, length - 4) for length in SIZE)
        paint_point(with_defects[0], center, (1.2, 1.2), generator.choice([-80, 80]))
    plain, defective = (matched(image)[0] for image in (strip, with_defects))
    assert np.sqrt(np.square(plain - defective).mean()) < 0.35


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_flat_references_stay(noise):
    flat = np.full((3, 96, 64), 120.0)
    flat += np.random.default_rng(0).normal(0, 1, flat.shape) * noise
    references, gain = matched(flat)
    assert np.isfinite(references).all() and (gain == 1).all()
    assert np.abs(references - flat[1:]).max() < 1e-9


def test_offsets_of_columns_are_found_and_noise_is_none():
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 4, (1, 2, *SIZE))
    offsets = generator.normal(0, 1.5, (1, 2, 1, SIZE[1]))
    found = column_offsets(torch.from_numpy(noise + offsets)).numpy()
    assert np.sqrt(np.square(found - offsets).mean()) == pytest.approx(4 / 20, rel=0.2)
    assert np.sqrt(np.square(column_offsets(torch.from_numpy(noise)).numpy()).mean()) < 0.1
    noise[..., 100:112, 50] += 100  # a scratch
    scratched = column_offsets(torch.from_numpy(noise + offsets)).numpy()
    assert np.abs(scratched - found).max() < 0.6


def test_alignment_matches_the_focus_and_the_columns_too():
    strip = shots((0.0, 0.7, 0.0))
    strip[1] = np.roll(strip[1], 1, axis=1)
    offsets = np.random.default_rng(3).normal(0, 2, SIZE[1])
    strip[2] += offsets
    strips = torch.from_numpy(strip)[None].float() / 255
    fine, full = (255 * Alignment(mode)(strips)[0][0].double().numpy() for mode in ("fine", "full"))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    after, before = (differences(each[inner], each[inner][1:]) for each in (fine, full))
    assert before[0] > 2.5 and before[1] > 1.5  # noise alone leaves 1.2
    assert after[0] < 1.7 and after[1] < 1.25
