"""Strips are made here as in test_registration.py, with shifts that are known exactly."""

import numpy as np
import pytest
import torch

import ops.field
import ops.registration
from data.demo_strips import make_strip
from ops.phase_correlation import FARTHEST, covered, find_far_shift, move_by_whole_pixels
from ops.registration import ALIGN_MODES, Alignment
from ops.warp import LARGEST_SHIFT
from tests.conftest import SMALL_SIZE
from tests.test_registration import align, batch, expose, open_graph, shot, texture, wander

SIZE = (256, 176)


def strip_of(
    *shifts: tuple[float, float] | np.ndarray, size: tuple[int, int] = SIZE, noise: float = 2.0
) -> torch.Tensor:
    """A strip of a texture, each channel in another light, its references shifted."""
    generator, scene = np.random.default_rng(3), texture()
    gains = (1.0, 0.88, 1.1)
    channels = [
        expose(shot(scene, size, shift), generator, gain, noise)
        for shift, gain in zip(((0.0, 0.0), *shifts), gains)
    ]
    return batch(*channels)


def found(strips: torch.Tensor) -> list:
    """The shifts by whole pixels of one strip, [[y, x], [y, x]]."""
    return find_far_shift(strips, LARGEST_SHIFT)[0][0].tolist()


@pytest.mark.parametrize("mode", ALIGN_MODES[1:])
@pytest.mark.parametrize(
    "shifts",
    [((15.3, -0.4), (-4.6, 7.2)), ((0.3, 19.6), (0.2, -0.7)), ((-12.5, -14.5), (3.6, 3.6))],
    ids=["15 px", "19.6 px", "diagonal"],
)
def test_a_far_reference_is_aligned_to_a_tenth_of_a_pixel(shifts, mode):
    """And as well as one that lies nearby, up to where it ends."""
    strips = strip_of(*shifts)
    _, measures = align(strips, mode)
    mean = torch.stack([measures["shift_y"][0], measures["shift_x"][0]], dim=1)
    assert (mean - torch.tensor(shifts)).abs().max() < 0.1
    nearby = align(strip_of((0.3, -0.4), (-0.4, 0.2)), mode)[1]["remainder"]
    assert (measures["remainder"] < 1.1 * nearby).all()


def test_a_curve_is_followed_beyond_a_far_shift():
    shift = wander(SIZE[0], 250, 1.5) + np.array([[11.0], [-9.0]])
    strips = strip_of(shift, (0.0, 0.0))
    _, measures = align(strips)
    assert abs(measures["shift_y"][0, 0] - shift[0].mean()) < 0.1
    assert abs(measures["shift_x"][0, 0] - shift[1].mean()) < 0.1
    nearby = align(strip_of(shift - np.array([[11.0], [-9.0]]), (0.0, 0.0)))[1]
    assert measures["wander"][0, 0] == pytest.approx(nearby["wander"][0, 0].item(), abs=0.15)
    assert measures["remainder"][0, 0] < 1.15 * nearby["remainder"][0, 0]


def without_far_shifts(strips: torch.Tensor, near: float) -> tuple[torch.Tensor, torch.Tensor]:
    _, light = find_far_shift(strips, near)
    return torch.zeros(len(strips), 2, 2), light


@pytest.mark.parametrize("mode", ALIGN_MODES[1:])
def test_references_within_reach_of_least_squares_stay_to_the_bit(mode, monkeypatch):
    strips = torch.cat(
        [
            strip_of((0.0, 0.0), (0.3, -0.2)),
            strip_of((3.0, -3.0), (-2.6, 2.9)),
            strip_of(wander(SIZE[0], 250, 3.0), wander(SIZE[0], 500, 2.0)),
        ]
    )
    far, light = find_far_shift(strips, LARGEST_SHIFT)
    assert not far.any() and torch.equal(move_by_whole_pixels(strips, far, light), strips)
    aligned, measures = align(strips, mode)
    # a far reference in the same strip or batch changes nothing
    together, _ = align(torch.cat([strip_of((15.0, 0.0), (0.0, 12.0)), strips]), mode)
    monkeypatch.setattr(ops.registration, "find_far_shift", without_far_shifts)
    for module in (ops.registration, ops.field):
        monkeypatch.setattr(module, "covered", lambda *_: 1.0)
    monkeypatch.setattr(ops.registration, "move_by_whole_pixels", lambda strips, *_: strips)
    expected, expected_measures = align(strips, mode)
    assert torch.equal(aligned, expected) and (together[1:] - expected).abs().max() < 1e-5
    assert all(torch.equal(measures[name], expected_measures[name]) for name in measures)


@pytest.mark.parametrize("period", [5, 7, 9, 12, 17])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_lines_alone_are_not_moved_by_a_period(period, shift):
    def lines(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return 120 + 50 * np.sign(np.sin(2 * np.pi * (x + 0.3 * y) / period))

    def mesh(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return 120 + 50 * np.sign(np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period))

    for scene in (lines, mesh):
        for seed in range(3):
            generator = np.random.default_rng(seed)
            channels = [
                shot(scene, SIZE, moved) + generator.normal(0, 2, SIZE)
                for moved in ((0.0, 0.0), (0.0, shift), (-shift, 0.0))
            ]
            assert found(batch(*channels)) == [[0, 0], [0, 0]]


def test_the_grain_between_lines_tells_one_period_from_the_next():
    grain = texture(7, shortest=8.0)

    def scene(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return grain(y, x) / 4 + 60 + 50 * np.sign(np.sin(2 * np.pi * x / 12))

    generator = np.random.default_rng(0)
    for shift in ((0.0, 12.0), (-10.0, 14.0)):
        channels = [
            shot(scene, SIZE, moved) + generator.normal(0, 1, SIZE)
            for moved in ((0.0, 0.0), shift, (1.0, 1.0))
        ]
        assert np.abs(np.subtract(found(batch(*channels)), [shift, (0.0, 0.0)])).max() <= 1.0


def test_what_is_not_surely_found_stays():
    generator = np.random.default_rng(0)
    noise = [np.clip(120 + generator.normal(0, 5, SIZE), 0, 255) for _ in range(3)]
    scenes = {
        "noise": noise,
        "nothing in common": [shot(texture(seed), SIZE) for seed in (1, 2, 3)],
        "flat": [np.full(SIZE, level) for level in (100.0, 120.0, 90.0)],
        "black Target": [np.zeros(SIZE), noise[0], noise[1]],
        "too small": [shot(texture(), (60, 150), (0.0, shift)) for shift in (0.0, 9.0, 0.0)],
        "too far": [shot(texture(), SIZE, (0.0, shift)) for shift in (0.0, FARTHEST + 12.0, 0.0)],
    }
    for name, channels in scenes.items():
        assert found(batch(*channels)) == [[0, 0], [0, 0]], name


def test_where_a_far_reference_ends_it_is_halfway_to_target():
    aligned, _ = align(strip_of((0.0, 12.0), (-8.0, 0.0)), "full")
    target, ref1, ref2 = aligned[0]
    rows, columns = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])
    ends1, ends2 = columns > SIZE[1] - 1 - 12, rows < 8
    covered1, covered2 = columns < SIZE[1] - 15, rows > 11
    assert torch.equal(ref1[ends1 & covered2], ((target + ref2) / 2)[ends1 & covered2])
    assert torch.equal(ref2[covered1 & ends2], ((target + ref1) / 2)[covered1 & ends2])
    for plane in (ref1, ref2):
        assert torch.equal(plane[ends1 & ends2], target[ends1 & ends2])
        assert not torch.isclose(plane, target)[covered1 & covered2].all()
    # what a far shift pushed out at the other edges is still there
    assert not torch.isclose(ref1, (target + ref2) / 2, atol=1e-4)[20:, 2:10].all()


def test_pixels_that_a_far_reference_does_not_cover_do_not_count():
    far = torch.tensor([[[12.0, 0.0], [0.0, -8.0]]])
    masks = covered(far, (61, 44), 4)[0]
    assert masks[0].sum(dim=0).tolist() == [61 - 4] * 44 and not masks[0][-4:].any()
    assert masks[1].sum(dim=1).tolist() == [44 - 3] * 61 and not masks[1][:, :3].any()
    assert covered(torch.zeros(1, 2, 2), (61, 44), 4).all()


def test_a_wide_image_has_one_far_shift():
    strips = strip_of((-9.3, 13.2), (0.4, 0.3), size=(200, 400))
    _, measures = align(strips)
    assert measures["shift_y"][0].tolist() == pytest.approx([-9.3, 0.4], abs=0.1)
    assert measures["shift_x"][0].tolist() == pytest.approx([13.2, 0.3], abs=0.1)


@pytest.mark.parametrize(
    "mode, opset",
    [("fine", 17)]
    + [pytest.param(*case, marks=pytest.mark.long) for case in (("full", 11), ("fine", 18))],
)
def test_a_graph_moves_far_references_as_pytorch_does(mode, opset, tmp_path):
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.alignment = Alignment(mode)

        def forward(self, strips: torch.Tensor) -> torch.Tensor:
            aligned, measures = self.alignment(strips)
            return torch.cat([aligned.flatten(1), measures.flatten(1)], dim=1)

    model = Both().eval()
    graph = open_graph(model, SIZE, opset, tmp_path / "alignment.onnx")
    demo = torch.from_numpy(make_strip(np.random.default_rng(0), SIZE))[None] / 255
    strips = torch.cat([strip_of((15.3, -0.4), (-4.6, 7.2)), demo, strip_of((0, 19.6), (3.4, 0))])
    with torch.inference_mode():
        for some in (strips[:1], strips):
            assert (graph(some) - model(some)).abs().max() < 1e-4


def test_any_size_is_moved():
    for size in (SMALL_SIZE, (64, 64), (65, 131), (300, 71)):
        shift = (0.0, 6.0)
        strips = strip_of(shift, (0.0, 0.0), size=size, noise=0.5)
        assert np.abs(np.subtract(found(strips), [shift, (0.0, 0.0)])).max() <= 1.0, size
