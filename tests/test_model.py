import math

import numpy as np
import pytest
import torch

from data.demo_strips import make_strip
from data.image_files import to_unit_range
from evaluation.predictors import TorchPredictor
from model import (
    ARCHITECTURES,
    DIFFERENCE_SCALE,
    EVIDENCE_SIGMAS,
    DecoderStage,
    DifferenceSegmentationNetwork,
    SegmentationNetwork,
    SegmentationNetworkONNX,
    SegmentationNetworkONNXFullImage,
    convolution,
)
from ops.differences import point_likelihood
from ops.tiling import calculate_kept_ranges, tile_positions
from tests.conftest import SMALL_SIZE


def test_the_product_has_the_contract_s_widths():
    network = SegmentationNetwork()
    widths = [
        [layer.out_channels for layer in part.modules() if isinstance(layer, torch.nn.Conv2d)]
        for part in network.children()
    ]
    encoder, pool, decoder, head = widths
    assert encoder == [64, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512] and not pool
    assert decoder == [512] * 3 + [256] * 3 + [128] * 3 + [64] * 6 and head == [2]
    # megabytes of float32
    assert 113 < sum(parameter.numel() for parameter in network.parameters()) * 4 / 1e6 < 115


def test_the_mobile_network_has_an_eighth_of_the_weights_and_is_separable_below_the_first_level():
    unet, mobile = (ARCHITECTURES[name](base_channels=16) for name in ("unet", "mobile"))
    sizes = [
        sum(parameter.numel() for parameter in network.parameters()) for network in (unet, mobile)
    ]
    assert 7 < sizes[0] / sizes[1] < 9
    depthwise = [
        layer
        for layer in mobile.modules()
        if isinstance(layer, torch.nn.Conv2d) and layer.groups > 1
    ]
    assert len(depthwise) == 22 and all(
        layer.groups == layer.in_channels == layer.out_channels for layer in depthwise
    )


def test_the_difference_network_is_told_what_only_target_has():
    images = torch.rand(2, 3, 32, 32)
    images[0, 0, 10, 20], images[1, 0, 10, 20] = 1.5, -0.5
    network, seen = DifferenceSegmentationNetwork(base_channels=4).eval(), []
    for part in (network.encoder[0], network.head):
        part.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(images)
    features, read_by_head = seen
    first, second = (images[:, 0] - images[:, channel] for channel in (1, 2))
    expected = torch.where(
        first * second > 0, torch.sign(first) * torch.minimum(first.abs(), second.abs()), 0
    )
    assert features.shape == (2, 7, 32, 32) and torch.equal(features[:, 0], images[:, 0])
    assert (
        torch.allclose(features[:, 1], DIFFERENCE_SCALE * expected)
        and (expected > 0).any()
        and (expected < 0).any()
    )
    noise = torch.cat([first, second]).square().mean().sqrt()
    assert (features[:, 2] - expected / noise).abs().max() < 0.1 * features[:, 2].abs().max()
    around = images[:, 1:, 9:12, 19:22].flatten(1)
    outside = images[:, 0, 10, 20] - images[:, 0, 10, 20].clamp(
        around.amin(dim=1), around.amax(dim=1)
    )
    assert torch.allclose(features[:, 3, 10, 20], DIFFERENCE_SCALE * outside, atol=1e-6)
    agreed = expected * expected.abs() / (torch.maximum(first.abs(), second.abs()) + 1 / 255)
    assert torch.allclose(features[:, 4], DIFFERENCE_SCALE * agreed, atol=1e-6)
    assert (
        read_by_head.shape == (2, 6, 32, 32)
        and torch.equal(read_by_head[:, 4:], features[:, 5:])
        and features[:, 5:].max() > 1
    )
    weights = sum(
        parameter.numel()
        for parameter in DifferenceSegmentationNetwork(base_channels=16).parameters()
    )
    assert 0.5e6 < weights < 0.6e6  # a third of the unet's


@pytest.mark.parametrize("sigma", EVIDENCE_SIGMAS)
def test_evidence_is_in_units_of_the_noise_that_its_filter_leaves(sigma):
    noise = (
        5
        / 255
        * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0)).expand(
            1, 2, -1, -1
        )
    )
    level = torch.full((1, 1, 256, 256), 5 / 255)
    assert torch.expm1(point_likelihood(noise, level, sigma)).mean().sqrt() == pytest.approx(
        1, abs=0.02
    )
    y, x = torch.meshgrid(torch.arange(33), torch.arange(33), indexing="ij")
    point = (
        15 / 255 * torch.exp(-((y - 16) ** 2 + (x - 16) ** 2) / (2 * sigma**2)).expand(1, 2, -1, -1)
    )
    # half of its height is left by a filter of its size
    expected = math.log1p((15 / 2 * 2 * math.sqrt(math.pi) * sigma / 5) ** 2)
    for sign in (1, -1):
        seen = point_likelihood(sign * point, level[..., :33, :33], sigma)[0, 0]
        assert seen[16, 16] == seen.max() and float(seen.max()) == pytest.approx(expected, rel=0.02)
    one_sided = torch.cat([point[:, :1], -point[:, 1:]], dim=1)
    assert not point_likelihood(one_sided, level[..., :33, :33], sigma).any()


@pytest.mark.parametrize("architecture", ARCHITECTURES.values())
@pytest.mark.parametrize("base_channels", [1, 4, 16])
def test_shapes_follow_the_input(architecture, base_channels):
    network = architecture(base_channels=base_channels).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 64, 96)).shape == (2, 2, 64, 96)


def test_the_patch_wrapper_gives_probability_and_two_zero_channels(make_network):
    network = make_network()
    patches = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        answer, logits = SegmentationNetworkONNX(network)(patches), network(patches)
    torch.testing.assert_close(answer[:, 0], torch.softmax(logits, 1)[:, 1], atol=1e-7, rtol=1e-6)
    assert answer.shape == (2, 3, 128, 128) and not answer[:, 1:].any()
    assert answer.min() >= 0 and answer.max() <= 1 and answer[:, 0].std() > 0.02


@pytest.mark.parametrize("size", [(976, 176), SMALL_SIZE, (128, 128)])
def test_the_full_image_is_what_a_plain_double_loop_over_patches_gives(make_network, size):
    network = make_network()
    patch_network = SegmentationNetworkONNX(network)
    image = make_strip(np.random.default_rng(0), size)
    strips = torch.from_numpy(to_unit_range(image))[None]
    expected = torch.zeros(size)
    rows, columns = (calculate_kept_ranges(length, 128) for length in size)
    with torch.inference_mode():
        for number, (y, x) in enumerate(tile_positions(size, 128)):
            (top, bottom) = rows[number // len(columns)]
            (left, right) = columns[number % len(columns)]
            tile = patch_network(strips[:, :, y : y + 128, x : x + 128])[0, 0]
            expected[top:bottom, left:right] = tile[top - y : bottom - y, left - x : right - x]
        answer = SegmentationNetworkONNXFullImage(network, size, 128).eval()(strips)[0, 0]
    assert torch.allclose(answer, expected, atol=1e-6)
    assert (
        np.abs(TorchPredictor(network, 128, torch.device("cpu"))(image) - expected.numpy()).max()
        < 1e-6
    )


def test_upsampling_does_not_depend_on_the_patch_size():
    """With aligned corners the sampling points would move with the size. 0 0 4 4 must become 0 0 0
    1 3 4 4 4.
    """
    seen = []
    stage = DecoderStage(1, 1, 1, convolution).eval()
    stage.up.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ramp = torch.tensor([0.0, 0.0, 4.0, 4.0]).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    stage(ramp, torch.zeros(1, 1, 8, 8))
    assert seen[0][0, 0, 3].tolist() == [0, 0, 0, 1, 3, 4, 4, 4]


def test_batches_do_not_mix(make_network):
    model = SegmentationNetworkONNXFullImage(make_network(), SMALL_SIZE, 128).eval()
    strips = torch.rand(3, 3, *SMALL_SIZE)
    with torch.inference_mode():
        together = model(strips)
        assert all(
            torch.allclose(together[number], model(strips[number : number + 1])[0], atol=1e-6)
            for number in range(3)
        )


def test_a_predictor_leaves_a_network_in_training_as_it_was(make_network):
    network = make_network().train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    TorchPredictor(network, 128, torch.device("cpu"))(
        make_strip(np.random.default_rng(0), SMALL_SIZE)
    )
    assert network.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


class PerfectNetwork(torch.nn.Module):
    """Says defect where Target exceeds both references by 40 grey levels: its answer is known for
    every pixel.
    """

    def forward(self, images):
        margin = (images[:, 0] - torch.maximum(images[:, 1], images[:, 2]) - 40 / 255) * 1000
        return torch.stack([-margin, margin], dim=1)


def test_a_defect_on_every_seam_and_every_corner_is_found_once_and_in_place():
    size = (976, 176)
    seams_y = [start for start, _ in calculate_kept_ranges(size[0], 128)[1:]]
    seams_x = [start for start, _ in calculate_kept_ranges(size[1], 128)[1:]]
    points = {(y, x) for y in (0, *seams_y, size[0] - 1) for x in (0, *seams_x, size[1] - 1)}
    points |= {(y - 1, x) for y in seams_y for x in (20, *seams_x)} | {
        (y, x - 1) for x in seams_x for y in (30, *seams_y)
    }
    image = np.full((3, *size), 100, np.float32)
    for y, x in points:
        image[0, y, x] = 180
    heatmap = TorchPredictor(PerfectNetwork(), 128, torch.device("cpu"))(image)
    assert {tuple(point) for point in np.argwhere(heatmap > 0.5).tolist()} == points


def test_a_predictor_takes_strips_together_and_of_several_sizes():
    predictor = TorchPredictor(PerfectNetwork(), 128, torch.device("cpu"))
    images = [np.full((3, height, 160), 100, np.float32) for height in (200, 200, 232)]
    for number, image in enumerate(images):
        image[0, 50, 10 + number] = 180
    for group in (images[:2], images):
        for number, (image, heatmap) in enumerate(zip(group, predictor.predict(group))):
            assert heatmap.shape == image.shape[1:]
            assert np.argwhere(heatmap > 0.5).tolist() == [[50, 10 + number]]
