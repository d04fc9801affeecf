import hashlib
import platform

import numpy as np
import pytest

from dataloader import StripPatches
from recipes import ClassicRecipe

RECORDED_WITH = ("2.4.6", "x86_64")  # numpy, machine


@pytest.fixture
def classic_samples(strip_file):
    """Eight epochs of one patch of many grey levels."""
    path = strip_file(((np.arange(3 * 128 * 128).reshape(3, 128, 128) * 7) % 256).astype(np.uint8))
    patches = StripPatches([path], (128, 128), 128, ClassicRecipe((3, 8)), seed=42)
    samples = [patches[epoch, 0] for epoch in range(8)]
    return [(sample["three_channel_input"].numpy(), sample["target_mask"].numpy()) for sample in samples]


def test_classic_samples_are_what_they_have_always_been(classic_samples):
    levels = b"".join(
        (np.rint(image * 255).astype(np.uint8).tobytes() + mask.astype(np.uint8).tobytes()) for image, mask in classic_samples
    )
    assert hashlib.sha256(levels).hexdigest() == "9d38fdf5a614c7500085fbacabfe0147dce5049df69352f84f037e8ae1b7b935"


@pytest.mark.skipif((np.__version__, platform.machine()) != RECORDED_WITH, reason="bits depend on the library")
def test_classic_samples_have_the_bits_that_were_recorded(classic_samples):
    bits = b"".join(image.tobytes() + mask.tobytes() for image, mask in classic_samples)
    assert hashlib.sha256(bits).hexdigest() == "897d7146053e55dfe228e0579b3d172ca3e464728503aba8bfa14b3f1235dcf4"
