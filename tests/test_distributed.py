"""Two processes over gloo, started as torchrun starts them, beside one."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, arguments_for, run, weights, without_test
from tests.processes import start as start_python
from training.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo over the loopback")
EPOCHS = 4
# batch norm in one process takes its statistics as in two with --bs 2
SAME_GROUPS = ("--bs", 2, "--accumulate", 2)
TOGETHER = f"BgRemoval_lr0.0001_ep{EPOCHS}_bs2_200x150_strip"


def start(processes, dataset, folder, *more):
    flags = arguments_for(dataset, folder, "--bs", 2, "--epochs", EPOCHS, "--lr", 1e-4, *more)
    command = (ROOT / "training" / "launch.py", processes, ROOT / "trainer.py", *flags)
    return start_python(*command, environment={"OMP_NUM_THREADS": "1"}, new_session=True)


def end_of(process, expected=0):
    printed, errors = process.communicate(timeout=180)
    assert process.returncode == expected, errors
    return printed, errors


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def losses(history):
    return np.array([entry["loss"] for entry in history])


@pytest.fixture(scope="module")
def dataset(dataset, tmp_path_factory):
    """The same without test/, which a training scores in the end: weights and histories matter
    here.
    """
    return without_test(dataset, tmp_path_factory.mktemp("data") / "strips")


@pytest.fixture(scope="module")
def together(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, *end_of(start(2, dataset, folder))


@pytest.mark.parametrize(
    "flags, tolerance",
    [
        # not closer: batch norm takes its statistics from four patches here, from two in each
        # process
        (("--bs", 4), 0.02),
        # from two here, too: what remains is the order in which gradients are added
        (SAME_GROUPS, 1e-3),
    ],
)
def test_two_processes_with_half_the_batch_each_follow_the_loss_of_one(
    together, dataset, tmp_path, flags, tolerance
):
    folder, printed, _ = together
    assert "4 patches per step (1 batches of 2 in each of 2 processes)" in printed
    done = run(
        "trainer.py", *arguments_for(dataset, tmp_path, "--epochs", EPOCHS, "--lr", 1e-4, *flags)
    )
    assert done.returncode == 0, done.stderr
    alone = load_checkpoint(tmp_path / f"{TOGETHER.replace('bs2', f'bs{flags[1]}')}.pth")["history"]
    both = load_checkpoint(folder / f"{TOGETHER}.pth")["history"]
    assert np.abs(losses(both) / losses(alone) - 1).max() < tolerance, (losses(both), losses(alone))
    assert both[0].keys() == alone[0].keys()


def test_two_processes_learn_from_a_teacher_as_one_does(together, dataset, tmp_path):
    teacher = ("--teacher", together[0] / f"{TOGETHER}_best.pth")
    printed, _ = end_of(start(2, dataset, tmp_path, *teacher))
    done = run(
        "trainer.py",
        *arguments_for(
            dataset, tmp_path / "alone", "--epochs", EPOCHS, "--lr", 1e-4, *SAME_GROUPS, *teacher
        ),
    )
    assert (
        done.returncode == 0 and printed.count("taught by") == done.stdout.count("taught by") == 1
    ), done.stderr
    histories = [
        load_checkpoint(folder / f"{TOGETHER}.pth")["history"]
        for folder in (tmp_path, tmp_path / "alone")
    ]
    both, alone = map(losses, histories)
    assert np.abs(both / alone - 1).max() < 1e-3, (both, alone)
    untaught = losses(load_checkpoint(together[0] / f"{TOGETHER}.pth")["history"])
    assert np.abs(both / untaught - 1).min() > 0.01


def test_the_first_process_alone_prints_and_writes(together):
    folder, printed, errors = together
    assert not [
        name
        for name in load_checkpoint(folder / f"{TOGETHER}.pth")["model_state_dict"]
        if name.startswith("module.")
    ]
    assert printed.count("epoch   1:") == 1 and printed.count("best checkpoint:") == 1
    assert len(json.loads((folder / f"{TOGETHER}_environment.json").read_text())) == 1
    assert len(list((folder / f"{TOGETHER}_events").iterdir())) == 1 and "Traceback" not in errors


def test_both_are_stopped_together_and_resumed_to_the_same_weights(together, dataset, tmp_path):
    process = start(2, dataset, tmp_path, "--save_every", 1000)
    wait_for((tmp_path / f"{TOGETHER}_best.pth").exists, process)
    process.send_signal(signal.SIGTERM)
    _, errors = end_of(process, expected=143)
    assert "to go on" in errors and "Traceback" not in errors
    alone = run("trainer.py", "--resume", tmp_path)
    assert (
        alone.returncode == 1
        and "found a run of 2 processes (NPROC), expected as many as now: 1" in alone.stderr
    )
    end_of(start(2, dataset, tmp_path, "--resume"))
    assert weights(tmp_path / f"{TOGETHER}.pth") == weights(together[0] / f"{TOGETHER}.pth")


def test_more_processes_than_validation_strips_or_patches_of_the_last_batch(dataset, tmp_path):
    # without valid/: one strip is set aside, scored twice
    shutil.copytree(dataset / "train" / "good", tmp_path / "strips")
    flags = ("--training_dataset_path", tmp_path / "strips", "--epochs", 1, "--bs", 1)
    printed, _ = end_of(start(3, dataset, tmp_path / "out", *flags))
    assert (
        "2 good ones to train on, 1 set aside" in printed and "pixel average precision" in printed
    )


def test_what_the_first_process_refuses_is_said_once(dataset, tmp_path):
    _, errors = end_of(
        start(2, dataset, tmp_path, "--training_dataset_path", tmp_path / "nothing"), expected=1
    )
    assert errors.count("found no such path") == 1 and "Traceback" not in errors


@pytest.mark.parametrize(
    "flags, message",
    [(("--sync_batch_norm",), "expected GPUs"), (("--gpu_id", "1"), "found several processes")],
)
def test_what_needs_gpus_is_refused_on_the_cpu(dataset, tmp_path, flags, message):
    _, errors = end_of(start(2, dataset, tmp_path, *flags), expected=1)
    assert message in errors and "Traceback" not in errors


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_is_killed_the_others_end_without_a_traceback(dataset, tmp_path, rank):
    process = start(2, dataset, tmp_path, "--epochs", 10000)
    wait_for((tmp_path / f"{TOGETHER.replace(f'ep{EPOCHS}', 'ep10000')}.pth").exists, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[rank]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (1, 137) and "Traceback" not in errors
    # either it noticed itself, or torchrun stopped it first
    assert rank == 0 or "--resume" in errors


def test_three_processes_stopped_in_an_epoch_end_with_the_same_weights(dataset, tmp_path):
    flags = ("--bs", 1, "--epochs", 3, "--lr", 1e-3)  # four steps in an epoch
    name = "BgRemoval_lr0.001_ep3_bs1_200x150_strip"
    end_of(start(3, dataset, tmp_path / "whole", *flags))
    process = start(3, dataset, tmp_path / "stopped", *flags)
    wait_for((tmp_path / "stopped" / f"{name}_best.pth").exists, process)
    process.send_signal(signal.SIGINT)
    end_of(process, expected=130)
    end_of(start(3, dataset, tmp_path / "stopped", *flags, "--resume"))
    assert weights(tmp_path / "whole" / f"{name}.pth") == weights(
        tmp_path / "stopped" / f"{name}.pth"
    )
