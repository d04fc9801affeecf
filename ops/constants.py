"""Tensors of fixed numbers: weights of filters, matrices, indices."""

from collections.abc import Sequence
from functools import lru_cache

import torch

MOST_KEPT = 1024  # constants; a strip size needs about fifty


def constant(
    numbers: Sequence, like: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return numbers, nested like the tensor's dimensions, on the device of `like`.

    The type is `dtype`, or that of `like`. Beyond the CPU, a constant is made once and kept: to
    make one, the process waits for the device, and a CUDA graph cannot record it. Callers must not
    change the result.
    """
    dtype = dtype or like.dtype
    if like.device.type == "cpu" or torch.compiler.is_compiling():
        return like.new_tensor(numbers, dtype=dtype)
    return _kept(_as_tuples(numbers), dtype, like.device)


@lru_cache(maxsize=MOST_KEPT)
def _kept(numbers: tuple, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    # A validation may make the constant, and a training step may need it: autograd refuses tensors
    # that were made in inference mode.
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


def _as_tuples(numbers: Sequence) -> tuple:
    """Nested sequences as nested tuples, which can be the key of a cache."""
    return tuple(
        _as_tuples(number) if isinstance(number, Sequence) else number for number in numbers
    )
