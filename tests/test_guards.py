"""What a training says of errors that only a GPU raises, with torch's own texts."""

import pytest
import torch

from common import distributed
from common.errors import UserError
from training.guards import explained_failures

# of torch 2.11 on a GPU of 80 GB that another process uses, too
FULL_GPU = (
    "CUDA out of memory. Tried to allocate 16.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 9.41 GiB is free. Process 4711 has 60.20 GiB memory in use. Including non-PyTorch "
    "memory, this process has 9.50 GiB memory in use. Of the allocated memory 8.90 GiB is "
    "allocated by PyTorch, and 90.00 MiB is reserved by PyTorch but unallocated. If reserved but "
    "unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
    "fragmentation."
)


@pytest.mark.parametrize(
    "error, reason",
    [
        (
            torch.OutOfMemoryError(FULL_GPU),
            "CUDA out of memory. Tried to allocate 16.00 GiB. GPU 0 has a total capacity of "
            "79.11 GiB of which 9.41 GiB is free.",
        ),
        (
            RuntimeError("FIND was unable to find an engine to execute this computation"),
            "FIND was unable to find an engine to execute this computation",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        ),
    ],
)
def test_a_full_gpu_names_the_batch_and_what_is_missing(error, reason):
    with pytest.raises(UserError) as raised, explained_failures(64):
        raise error
    assert str(raised.value) == (
        "out of memory with --bs 64: expected a smaller one (--accumulate keeps the batch of a "
        f"step as large), fewer --base_channels, or --amp on a GPU ({reason})"
    )


def test_another_error_of_a_gpu_is_not_explained_away():
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"), explained_failures(64):
        raise error


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_more_processes_than_gpus_are_refused_once(monkeypatch, rank):
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SystemExit if rank else UserError) as raised:
        distributed.device_of_process(None)
    expected = "found 2 GPUs for 3 processes (NPROC), expected a GPU for each"
    assert raised.value.code == 0 if rank else str(raised.value) == expected


def test_each_process_takes_the_gpu_of_its_rank(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert distributed.device_of_process(None) == torch.device("cuda", 1)
