"""Constants of filters and registration, on a device whose tensors have no values: `meta`.

There, too, a tensor of numbers must be brought to the device, and reading a value fails.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from data.demo_strips import STRIP_SIZE
from loss import FocalLoss
from model import ARCHITECTURES, SegmentationNetworkONNXFullImage
from ops.classical import METHODS, classical_detector
from ops.constants import constant
from ops.registration import ALIGN_MODES

META = torch.device("meta")
FROM_HOST = {torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor}


class Uploads(TorchFunctionMode):
    """Counts the tensors that are made of the host's numbers."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, arguments=(), options=None):
        self.count += function in FROM_HOST
        return function(*arguments, **options or {})


def test_a_constant_is_made_once_for_each_type_and_device():
    like = torch.zeros(1, device=META)
    assert constant([[1.0, 2.0]], like) is constant([[1.0, 2.0]], like)
    assert constant([1.0], like) is not constant([1.0], like.double())
    assert constant([1, 2], like, torch.int64).dtype == torch.int64
    assert constant([1.0], torch.zeros(1)).tolist() == [1.0]


def test_a_constant_of_a_validation_serves_a_training():
    with torch.inference_mode():
        assert not constant([7.0, 8.0], torch.zeros(1, device=META)).is_inference()


@pytest.mark.parametrize("align", ALIGN_MODES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_second_call_of_a_network_brings_nothing_to_the_device(architecture, align):
    network = ARCHITECTURES[architecture](base_channels=2)
    detector = SegmentationNetworkONNXFullImage(network, STRIP_SIZE, 128, align).eval().to(META)
    assert_second_call_uploads_nothing(detector)


def test_a_second_call_with_candidates_brings_nothing_to_the_device():
    network = ARCHITECTURES["difference"](base_channels=2)
    detector = SegmentationNetworkONNXFullImage(
        network, STRIP_SIZE, 128, "fine", "points", "likelihood"
    )
    assert_second_call_uploads_nothing(detector.eval().to(META))


@pytest.mark.parametrize("method", METHODS)
def test_a_second_call_of_a_method_brings_nothing_to_the_device(method):
    assert_second_call_uploads_nothing(classical_detector(method, 1.0).eval().to(META))


def assert_second_call_uploads_nothing(detector):
    strips = torch.zeros(2, 3, *STRIP_SIZE, device=META)
    with torch.inference_mode():
        detector(strips)
        with Uploads() as uploads:
            assert detector(strips).shape[2:] == STRIP_SIZE
    assert uploads.count == 0


def test_a_second_training_step_brings_only_its_batch_to_the_device():
    network, loss = ARCHITECTURES["difference"](base_channels=2).to(META), FocalLoss(0.75)
    images, mask = torch.zeros(2, 3, 64, 64, device=META), torch.zeros(2, 1, 64, 64, device=META)
    loss(network(images), mask, 2.0).backward()
    with Uploads() as uploads:
        loss(network(images), mask, 2.0).backward()
    assert uploads.count == 0
