"""Mode "points": the network looks at candidates only, and rounding chooses none of them."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from data.demo_strips import make_strip
from data.image_files import to_unit_range
from model import (
    DifferenceSegmentationNetwork,
    SegmentationNetworkONNX,
    SegmentationNetworkONNXFullImage,
)
from ops.candidates import CELL, DECIDED, Candidates
from ops.likelihood import likelihood_ratio, weighted_probability
from tests.conftest import SMALL_SIZE

POINTS = ((40, 50), (43, 88), (120, 20), (0, 149), (199, 0), (104, 96))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    network = DifferenceSegmentationNetwork(base_channels=2).eval()
    with torch.no_grad():
        network.head.weight.mul_(4)
    return network


@pytest.fixture(scope="module")
def strips():
    """Two strips (2, 3, H, W), 0-1, with registered references and POINTS in Target alone."""
    generator = np.random.default_rng(3)
    images = np.stack([make_strip(generator, SMALL_SIZE)[:1].repeat(3, axis=0) for _ in range(2)])
    for y, x in POINTS:
        images[:, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] += 70
    images += generator.normal(0, 2, images.shape)
    return torch.from_numpy(to_unit_range(images.clip(0, 255).astype(np.float32)))


def detector_of(network, **options):
    return SegmentationNetworkONNXFullImage(
        network, SMALL_SIZE, 128, mode="points", weighting="likelihood", **options
    ).eval()


@torch.inference_mode()
def test_the_heatmap_is_that_of_patches_of_the_strips_input_planes(network, strips):
    """The planes are computed for the whole strip here, and each patch by itself."""
    ratio = likelihood_ratio(strips, 1.0)
    found = detector_of(network, candidates=6).heatmap(strips)
    assert [float(found[0, 0, y, x]) > 0 for y, x in POINTS] == [True] * len(POINTS)
    planes, places = network.features(strips), Candidates(SMALL_SIZE, count=6).choose(ratio)
    assert (places.weight == 1).all()
    for number, heatmap in enumerate(found[:, 0]):
        total, count = torch.zeros(2, *SMALL_SIZE)
        for row, column in zip(places.row[number].tolist(), places.column[number].tolist()):
            y, x = row * CELL, column * CELL
            # the network takes 24 pixels; 150 columns are 19 cells, the last one mirrored
            top, left = min(max(y - 8, 0), 200 - 24), min(max(x - 8, 0), 152 - 24)
            if left + 24 > SMALL_SIZE[1]:
                continue
            place = (slice(top, top + 24), slice(left, left + 24))
            background, defect = network.segment(planes[number : number + 1, :, *place])[0]
            answer = weighted_probability(
                background - defect, ratio[number, 0, *place], "likelihood"
            )
            inside = (
                slice(max(0, y - DECIDED), y + CELL + DECIDED),
                slice(max(0, x - DECIDED), x + CELL + DECIDED),
            )
            total[inside] += answer[
                inside[0].start - top : inside[0].stop - top,
                inside[1].start - left : inside[1].stop - left,
            ][: SMALL_SIZE[0] - inside[0].start]
            count[inside] += 1
        left_part = slice(0, 124)  # without what a patch at the mirrored edge decides
        expected = (total / count.clamp(min=1))[:, left_part]
        torch.testing.assert_close(heatmap[:, left_part], expected, atol=2e-6, rtol=0)
        assert (count[:, left_part] == 0).float().mean() > 0.8


@pytest.mark.parametrize("size", [(200, 150), (131, 257), (128, 128), (24, 33)])
def test_what_is_cut_out_is_put_back_in_its_place(size):
    generator = torch.Generator().manual_seed(0)
    strips, ratio = torch.rand(2, 2, *size, generator=generator), torch.zeros(3, 1, *size)
    corners = [(0, 0), (0, size[1] - 1), (size[0] - 1, 0), (size[0] - 1, size[1] - 1)]
    for y, x in [*corners, (size[0] // 2, size[1] // 2)]:
        ratio[:, :, y, x] = 5.0
    candidates = Candidates(size, 8, reach=4)
    places = candidates.choose(ratio[:2])
    patches = candidates.inside(candidates.cut(strips[:, :1], places))
    assert patches.shape[2:] == (24, 24)
    found, decided = (
        candidates.put_back(values, places) for values in (patches, torch.ones_like(patches))
    )
    assert torch.equal(decided.amax(dim=(2, 3)), torch.ones(2, 1))
    torch.testing.assert_close(found, decided * strips[:, :1], atol=1e-6, rtol=0)
    for y, x in corners:
        assert (decided[:, :, y, x] == 1).all()


def test_a_difference_of_rounding_replaces_no_candidate():
    """Ties at the last candidate, and neighbours that are equal across the border of cells."""
    generator = torch.Generator().manual_seed(0)
    candidates = Candidates(SMALL_SIZE, count=12)
    # 100 small whole numbers, so that many are equal
    ratio = torch.zeros(20, 1, *SMALL_SIZE)
    for strip in ratio:
        y, x = (torch.randint(length, (100,), generator=generator) for length in SMALL_SIZE)
        strip[0, y, x] = torch.randint(1, 9, (100,), generator=generator).float()
    ratio[:, :, 63:65, 64] = 9.0
    values = torch.rand(20, 1, *SMALL_SIZE, generator=generator)

    def heatmap_of(ratio):
        places = candidates.choose(ratio)
        return candidates.put_back(candidates.cut(values, places), places), places

    before, places = heatmap_of(ratio)
    changed = ratio * (1 + 1e-6 * torch.randn(ratio.shape, generator=generator))
    after, others = heatmap_of(changed)
    assert (places.weight.sum(dim=1) < 12).all()  # some of equal strength are left out
    chosen = [(each.row * 100 + each.column).sort(dim=1).values for each in (places, others)]
    assert (chosen[0] != chosen[1]).any()
    assert (before - after).abs().max() < 1e-4
    assert (before[:, :, 62:66, 64] > 0).all()


@torch.inference_mode()
def test_what_is_no_candidate_is_0_and_what_is_no_number_is_none(network, strips):
    heatmap = detector_of(network).heatmap(torch.full_like(strips, 0.5))
    assert torch.equal(heatmap, torch.zeros_like(heatmap))
    broken = strips.clone()
    broken[1, 0, 100, 75] = torch.nan
    found = detector_of(network, align="full")(broken)[:, 0]
    assert found[1].isnan().all()
    torch.testing.assert_close(
        found[0], detector_of(network, align="full")(strips)[0, 0], atol=1e-6, rtol=0
    )


def test_a_strip_smaller_than_a_patch_is_refused():
    with pytest.raises(UserError, match=r"found images of \(23, 200\) \(height, width\), expected"):
        Candidates((23, 200))


def test_other_networks_get_patches_that_they_can_halve(make_network, strips):
    found = detector_of(make_network(), candidates=6).heatmap(strips)
    with torch.inference_mode():
        patch = strips[:1, :, 32:64, 40:72]
        margin = SegmentationNetworkONNX(make_network()).margin(patch)
        ratio = likelihood_ratio(strips, 1.0)[:1, :, 32:64, 40:72]
        expected = weighted_probability(margin, ratio, "likelihood")
    # the cell of (40, 50) lies a cell below and beside its patch
    torch.testing.assert_close(found[0, 0, 40:48, 48:52], expected[0, 0, 8:16, 8:12])
