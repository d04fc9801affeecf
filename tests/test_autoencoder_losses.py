"""The U-Net's skips and the losses of the reference-free detector."""

import sys

import pytest
import torch

from autoencoder.losses import TERMS, MaskLoss, PictureLoss, parse_loss
from autoencoder.network import SKIPS, UNet
from autoencoder.perceptual import frozen_features
from common.errors import UserError
from ops import efficientnet_lite0 as lite0

CPU = torch.device("cpu")


def picture(seed, channels=1, size=32):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_encoder_halves_the_size_at_each_level_and_the_output_has_the_pictures(depth, channels):
    network = UNet(channels, depth, 2, "deep", bottleneck=5, outputs=channels).eval()
    pictures = torch.rand(1, channels, network.multiple, 2 * network.multiple)
    levels = network.encode(pictures)
    sizes = [(2 ** (depth - level), 2 ** (depth - level + 1)) for level in range(depth + 1)]
    assert [tuple(level.shape[2:]) for level in levels] == sizes
    assert levels[-1].shape[1] == 5
    assert network(pictures).shape == pictures.shape


@pytest.mark.parametrize("skips", SKIPS)
def test_only_skips_lead_past_the_deepest_level(skips):
    torch.manual_seed(0)
    network = UNet(1, 3, 4, skips).eval()
    network.encoder[-1].register_forward_hook(lambda block, inputs, output: output * 0)
    with torch.no_grad():
        is_equal = torch.equal(network(picture(1)), network(picture(2)))
    assert is_equal == (skips == "none")
    passes = {"none": [], "shallow": [0], "deep": [1, 2], "all": [0, 1, 2]}[skips]
    assert [level for level, has in enumerate(network.has_skip) if has] == passes


def make_loss(weights, channels=1):
    features = frozen_features("random", None, channels, CPU) if "perceptual" in weights else None
    return PictureLoss(weights, features=features)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("values", [(0.0, 0.0), (0.5, 0.5), (1.0, 0.0), (0.25, 1.0)])
def test_a_loss_has_finite_gradients_on_constant_pictures(term, values):
    output = torch.full((2, 1, 32, 32), values[0], requires_grad=True)
    loss = make_loss({term: 1.0})(output, torch.full((2, 1, 32, 32), values[1]))
    loss.backward()
    assert loss.isfinite() and output.grad.isfinite().all()


@pytest.mark.parametrize("term", TERMS)
def test_a_loss_is_zero_for_the_picture_itself_and_grows_with_the_difference(term):
    loss, good = make_loss({term: 1.0}, 3), picture(1, 3)
    values = [float(loss(good + step * picture(2, 3), good)) for step in (0.0, 0.05, 0.2)]
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert values[0] < values[1] < values[2]


def test_the_sum_of_losses_has_its_weights():
    first, second = picture(1), picture(2)
    parts = [make_loss({term: 1.0})(first, second) for term in ("mse", "ssim")]
    total = make_loss(parse_loss("mse:2, ssim:0.5"))(first, second)
    assert float(total) == pytest.approx(2 * float(parts[0]) + 0.5 * float(parts[1]))


@pytest.mark.parametrize(
    "text", ["", "mse:0", "mse:-1", "l2:1", "mse:1,mse:2", "ssim:x", "mse:nan"]
)
def test_a_loss_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"expected a sum such as mse:1,ssim:0\.84"):
        parse_loss(text)


def test_a_perceptual_loss_leaves_its_network_as_it_is():
    loss = make_loss({"perceptual": 1.0})
    network = loss.features.__self__
    before = {name: value.clone() for name, value in network.state_dict().items()}
    output = picture(1).requires_grad_()
    loss(output, picture(2)).backward()
    assert output.grad.abs().sum() > 0
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_features_of_lite0_are_compared_where_it_is_installed():
    pytest.importorskip(lite0.MODULE)
    loss = PictureLoss({"perceptual": 1.0}, features=frozen_features("lite0", None, 1, CPU))
    good = picture(1, size=64)
    assert float(loss(good, good)) == 0 < float(loss(picture(2, size=64), good))


def test_the_mask_loss_is_lowest_for_the_mask():
    mask = (picture(1) > 0.9).float()
    loss = MaskLoss()
    right, unsure, wrong = (float(loss(8 * sign * (mask - 0.5), mask)) for sign in (2, 0, -2))
    assert right < 1e-4 < unsure < wrong


def test_only_a_loss_of_ssim_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    assert PictureLoss({"mse": 1.0}).ssim is None
    with pytest.raises(UserError, match="--loss ssim: found no package pytorch-msssim"):
        PictureLoss({"ssim": 1.0})
