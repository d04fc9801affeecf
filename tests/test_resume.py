"""Runs that are killed, stopped, resumed, extended and started twice: real processes, and the final
weights bit for bit.
"""

import json
import os
import signal
import time
from functools import partial

import numpy as np
import pytest

from tests import conftest, processes
from tests.conftest import ROOT, arguments_for, weights, without_test
from training.checkpoint import load_checkpoint

# so small a network is faster that way, above all beside another test
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
run = partial(conftest.run, **ONE_THREAD)

EPOCHS = 5
RUN = f"BgRemoval_lr0.001_ep{EPOCHS}_bs2_200x150_strip"
# six steps in an epoch; a checkpoint every 6 ms
FLAGS = ("--bs", 2, "--epochs", EPOCHS, "--save_every", 1e-4)


@pytest.fixture(scope="module")
def dataset(dataset, tmp_path_factory):
    """The same without test/, which a training scores in the end: weights and histories matter
    here.
    """
    return without_test(dataset, tmp_path_factory.mktemp("data") / "strips")


@pytest.fixture(scope="module")
def uninterrupted(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run("trainer.py", *arguments_for(dataset, folder, *FLAGS))
    assert done.returncode == 0, done.stderr
    return folder


def start(*arguments):
    return processes.start(
        ROOT / "trainer.py", *arguments, environment=ONE_THREAD, new_session=True
    )


def wait_for(condition, process, seconds=60):
    """Until `condition()`, or the end of the process."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def progress(path):
    """Epochs and steps that a checkpoint has behind it."""
    if not path.exists():
        return 0, 0
    content = load_checkpoint(path)
    return content["epoch"], content["step"]


def interrupt_again_and_again(dataset, folder, number, seed, times, flags=FLAGS):
    """Start a run, send it a signal some random time after it got on, resume it, and so on; at last
    let it finish.

    Returns where it was interrupted. A run that ends before its signal is resumed all the same:
    nothing is left to do then.
    """
    generator = np.random.default_rng(seed)
    last, places = folder / f"{RUN}.pth", []
    for _ in range(times):
        before = progress(last)
        process = start(
            *(("--resume", last) if last.exists() else arguments_for(dataset, folder, *flags))
        )
        wait_for(lambda before=before: progress(last) != before, process)
        time.sleep(generator.uniform(0, 0.15))
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
        assert process.returncode in (0, -number if number == signal.SIGKILL else 128 + number), (
            printed
        )
        assert "Traceback" not in printed
        places.append(progress(last))
    done = run("trainer.py", "--resume", last)
    assert done.returncode == 0, done.stderr
    return places


def same_run(folder, other):
    for name in (f"{RUN}.pth", f"{RUN}_best.pth"):
        assert weights(folder / name) == weights(other / name), name
    assert (folder / f"{RUN}_metrics.jsonl").read_text() == (
        other / f"{RUN}_metrics.jsonl"
    ).read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_interrupted_ends_with_the_same_weights(
    uninterrupted, dataset, tmp_path, number
):
    places = interrupt_again_and_again(dataset, tmp_path, number, seed=number, times=3)
    assert any(0 < step < 6 for _, step in places), "none was in the middle of an epoch"
    same_run(uninterrupted, tmp_path)


def test_a_taught_run_that_was_interrupted_ends_with_the_same_weights(
    uninterrupted, dataset, tmp_path
):
    flags = (*FLAGS, "--teacher", uninterrupted / f"{RUN}_best.pth")
    done = run("trainer.py", *arguments_for(dataset, tmp_path / "whole", *flags))
    assert done.returncode == 0, done.stderr
    interrupt_again_and_again(
        dataset, tmp_path / "stopped", signal.SIGTERM, seed=7, times=2, flags=flags
    )
    same_run(tmp_path / "whole", tmp_path / "stopped")
    assert weights(tmp_path / "whole" / f"{RUN}.pth") != weights(uninterrupted / f"{RUN}.pth")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_twenty_interruptions_end_with_the_same_weights(
    uninterrupted, dataset, tmp_path, number, seed
):
    interrupt_again_and_again(dataset, tmp_path, number, seed=100 + seed, times=5)
    same_run(uninterrupted, tmp_path)


def test_a_killed_run_with_workers_leaves_no_lock_and_ends_with_the_same_weights(
    uninterrupted, dataset, tmp_path
):
    flags = (*FLAGS, "--num_workers", 2)
    interrupt_again_and_again(dataset, tmp_path, signal.SIGKILL, seed=7, times=1, flags=flags)
    same_run(uninterrupted, tmp_path)


def test_ctrl_c_for_the_whole_process_group_saves_the_step(uninterrupted, dataset, tmp_path):
    process = start(*arguments_for(dataset, tmp_path, *FLAGS[:-1], 1000, "--num_workers", 2))
    wait_for((tmp_path / f"{RUN}_best.pth").exists, process)
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert (
        process.returncode == 130
        and "Traceback" not in printed
        and f"--resume {tmp_path / RUN}.pth" in printed
    )
    done = run("trainer.py", "--resume", "--checkpoint_path", tmp_path, genuine=True)
    assert done.returncode == 0 and "going on from" in done.stdout
    same_run(uninterrupted, tmp_path)
    starts = json.loads((tmp_path / f"{RUN}_environment.json").read_text())
    assert [bool(one["resumed_from"]) for one in starts] == [False, True]


def test_a_second_run_in_the_folder_is_refused_while_the_first_is_at_work(dataset, tmp_path):
    first = start(*arguments_for(dataset, tmp_path, "--epochs", 100000))
    wait_for(lambda: list(tmp_path.glob("*_best.pth")), first)
    second = run("trainer.py", *arguments_for(dataset, tmp_path))
    assert (
        second.returncode == 1
        and f"(process {first.pid})" in second.stderr
        and second.stderr.count("\n") == 1
    )
    first.kill()
    first.communicate()
    assert run("trainer.py", *arguments_for(dataset, tmp_path)).returncode == 0


def test_a_fresh_start_over_a_run_is_refused_unless_overwrite(uninterrupted, dataset, tmp_path):
    before = weights(uninterrupted / f"{RUN}.pth")
    refused = run("trainer.py", *arguments_for(dataset, uninterrupted, *FLAGS))
    assert (
        refused.returncode == 1 and "--resume" in refused.stderr and "--overwrite" in refused.stderr
    )
    assert weights(uninterrupted / f"{RUN}.pth") == before
    (tmp_path / f"{RUN}.pth").write_bytes((uninterrupted / f"{RUN}.pth").read_bytes())
    (tmp_path / f"{RUN}_test").mkdir()
    done = run("trainer.py", *arguments_for(dataset, tmp_path, *FLAGS, "--overwrite"))
    assert done.returncode == 0, done.stderr
    same_run(uninterrupted, tmp_path)


def test_more_epochs_extend_a_run_and_it_is_said(uninterrupted, tmp_path):
    done = run(
        "trainer.py",
        "--resume",
        uninterrupted,
        "--epochs",
        EPOCHS + 2,
        "--checkpoint_path",
        tmp_path,
    )
    assert (
        done.returncode == 0
        and f"now of {EPOCHS + 2} epochs, which gamma and learning rate follow" in done.stdout
    ), done.stderr
    longer = tmp_path / RUN.replace(f"ep{EPOCHS}", f"ep{EPOCHS + 2}")
    history = load_checkpoint(longer.with_name(f"{longer.name}.pth"))["history"]
    assert [entry["epoch"] for entry in history] == list(range(1, EPOCHS + 3)) and history[-1][
        "gamma"
    ] == 3.0
    values = [entry["valid_pixel_average_precision"] for entry in history]
    assert load_checkpoint(longer.with_name(f"{longer.name}_best.pth"))[
        "epoch"
    ] == 1 + values.index(max(values))


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--training_dataset_path", "elsewhere"), "elsewhere: found no such path"),
        (("--lr", 0.1), "found no BgRemoval_lr0.1_"),
        (("--seed", 1), "found a run of --seed 42, expected 1"),
        (("--epochs", EPOCHS - 1), f"found a run in its epoch {EPOCHS}, expected"),
    ],
)
def test_a_resumed_run_keeps_its_settings(uninterrupted, flags, message):
    done = run("trainer.py", "--resume", "--checkpoint_path", uninterrupted, *flags)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1


def test_other_strips_are_not_trained_on_in_the_same_run(uninterrupted, dataset, tmp_path):
    (tmp_path / "train" / "good").mkdir(parents=True)
    for number in (0, 1):
        path = dataset / "train" / "good" / f"strip_{number}.tiff"
        (tmp_path / "train" / "good" / path.name).write_bytes(path.read_bytes())
    done = run(
        "trainer.py",
        "--resume",
        uninterrupted,
        "--training_dataset_path",
        tmp_path / "train" / "good",
    )
    assert done.returncode == 1 and "found a run on other strips" in done.stderr


def test_a_best_checkpoint_is_gone_back_to_only_with_overwrite(uninterrupted, tmp_path):
    for name in (f"{RUN}.pth", f"{RUN}_best.pth", f"{RUN}_environment.json"):
        (tmp_path / name).write_bytes((uninterrupted / name).read_bytes())
    (tmp_path / f"{RUN}_environment.json").write_text("[damaged")
    best = tmp_path / f"{RUN}_best.pth"
    refused = run("trainer.py", "--resume", best)
    assert (
        refused.returncode == 1
        and "found a best checkpoint, expected a last one, or --overwrite" in refused.stderr
    )
    done = run(
        "trainer.py",
        "--resume",
        f"{RUN}_best.pth",
        "--checkpoint_path",
        tmp_path,
        "--overwrite",
        cwd=tmp_path,
    )
    # the path of the checkpoint was relative, that of the folder was not
    assert done.returncode == 0, done.stderr
    same_run(uninterrupted, tmp_path)


def test_a_run_that_was_extended_and_killed_before_its_first_save_can_be_extended_again(
    uninterrupted, tmp_path
):
    longer = tmp_path / RUN.replace(f"ep{EPOCHS}", f"ep{EPOCHS + 1}")
    (tmp_path / f"{RUN}.pth").write_bytes((uninterrupted / f"{RUN}.pth").read_bytes())
    longer.with_name(f"{longer.name}_best.pth").write_bytes(
        (uninterrupted / f"{RUN}_best.pth").read_bytes()
    )
    done = run("trainer.py", "--resume", tmp_path, "--epochs", EPOCHS + 1)
    assert done.returncode == 0 and longer.with_name(f"{longer.name}.pth").exists(), done.stderr


def test_the_command_of_a_scheduler_begins_and_then_goes_on(uninterrupted, dataset, tmp_path):
    command = arguments_for(dataset, tmp_path / "new", *FLAGS, "--resume", "auto")
    process = start(*command)
    wait_for(lambda: progress(tmp_path / "new" / f"{RUN}.pth") > (0, 0), process)
    process.kill()
    assert "going on" not in process.communicate()[0]
    done = run("trainer.py", *command)
    assert done.returncode == 0 and done.stdout.count("going on from") == 1, done.stderr
    same_run(uninterrupted, tmp_path / "new")


def test_a_file_that_is_no_checkpoint_or_has_no_training_in_it_cannot_be_resumed(
    make_checkpoint, tmp_path
):
    done = run("trainer.py", "--resume", make_checkpoint("model.pth"))
    assert done.returncode == 1 and "model.pth: found no optimizer_state_dict" in done.stderr
    done = run("trainer.py", "--resume", tmp_path / "nothing.pth")
    assert done.returncode == 1 and "nothing.pth: found no such file" in done.stderr
    assert "expected" in run("trainer.py", "--resume", "--checkpoint_path", tmp_path).stderr


def test_a_full_disk_is_a_clear_error_and_keeps_the_checkpoint(uninterrupted, tmp_path):
    """The system's limit on file sizes stands in for the disk: it fails in the same place."""
    (tmp_path / f"{RUN}.pth").write_bytes((uninterrupted / f"{RUN}.pth").read_bytes())
    before = weights(tmp_path / f"{RUN}.pth")
    limit = (tmp_path / f"{RUN}.pth").stat().st_size // 2
    done = run("trainer.py", "--resume", tmp_path, "--epochs", EPOCHS + 1, largest_file=limit)
    assert (
        done.returncode == 1
        and "cannot be written" in done.stderr
        and "Traceback" not in done.stderr
    ), done.stderr
    assert weights(tmp_path / f"{RUN}.pth") == before and not list(tmp_path.glob("*.partial"))
