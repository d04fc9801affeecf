import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.distributed import SINGLE_PROCESS
from common.errors import UserError
from common.settings import from_values
from dataloader import EpochBatches
from model import ARCHITECTURES
from tests.conftest import ROOT, RUN, SMALL_SIZE, arguments_for, run, weights
from trainer import find_strips, parse_args, train
from training import run_folder
from training.checkpoint import load_checkpoint
from training.loop import Training
from training.run_folder import (
    ALIGNED_SUFFIX,
    NOT_FINITE_SUFFIX,
    SUFFIXES,
    TRACKED_SUFFIX,
    RunFolder,
)
from training.strip_settings import TrainingSettings
from training.strip_task import StripTask, training_patches


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A short training, started as a user does."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return folder, run("trainer.py", *arguments_for(dataset, folder))


def test_a_training_leaves_what_it_promises(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    absent = (NOT_FINITE_SUFFIX, ALIGNED_SUFFIX, TRACKED_SUFFIX)
    assert {path.name for path in folder.iterdir()} == {
        f"{RUN}{end}" for end in SUFFIXES if end not in absent
    } | {
        ".training.lock",
        ".checked_strips.json",
    }
    assert (folder / f"{RUN}_test" / "bright_spots" / "strip_2_panels.png").is_file()
    assert (folder / f"{RUN}_test" / "scores.csv").read_text().count("\n") == 5
    assert cv2.imread(str(folder / f"{RUN}_samples.png")).shape[1] > 4 * 256
    assert (
        "3 good ones to train on, 4 to validate, 4 to test" in done.stdout
        and "12 patches per epoch" in done.stdout
    )
    assert "pixel average precision" in done.stdout and done.stdout.splitlines()[-1].startswith(
        "next: python export_onnx_fullimage.py"
    )


def test_the_checkpoint_holds_all_that_is_needed_and_nothing_that_runs(finished):
    folder, _ = finished
    content = torch.load(folder / f"{RUN}.pth", weights_only=True)
    assert {
        key: content[key] for key in ("img_height", "img_width", "image_type", "epoch", "seed")
    } == {
        "img_height": SMALL_SIZE[0],
        "img_width": SMALL_SIZE[1],
        "image_type": "strip",
        "epoch": 3,
        "seed": 42,
    }
    assert (
        content["base_channels"] == 4
        and content["input_max"] == 255
        and content["optimizer_state_dict"]["state"]
    )
    assert not [
        name for name in content["model_state_dict"] if name.startswith(("module.", "_orig_mod."))
    ]


def test_the_history_reaches_both_ends_of_gamma_and_validates_every_epoch(finished):
    folder, _ = finished
    history = load_checkpoint(folder / f"{RUN}.pth")["history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert [entry["gamma"] for entry in history] == pytest.approx([1.0, 2.0, 3.0])
    names = {
        "valid_image_auroc",
        "valid_image_average_precision",
        "valid_pixel_auroc",
        "valid_pixel_average_precision",
    }
    assert all(names < entry.keys() for entry in history)
    best = load_checkpoint(folder / f"{RUN}_best.pth")
    values = [entry["valid_pixel_average_precision"] for entry in history]
    assert best["epoch"] == 1 + values.index(max(values))


def test_curves_of_quick_epochs_are_drawn_at_the_last(dataset, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        run_folder, "save_curves", lambda path, history, headlines: drawn.append(len(history))
    )
    train(parse_args(arguments_for(dataset, tmp_path)))
    assert drawn == [3]


def test_the_classic_recipe_gives_what_it_always_gave(finished):
    folder, _ = finished
    losses = [entry["loss"] for entry in load_checkpoint(folder / f"{RUN}.pth")["history"]]
    # threads add up in another order
    assert losses == pytest.approx([0.152835, 0.083453, 0.042755], rel=0.01)


@pytest.mark.parametrize(
    "more", [("--num_workers", "1"), ("--num_workers", "3"), ("--cache_size", "2")]
)
def test_the_same_seed_gives_the_same_weights(finished, dataset, tmp_path, more):
    folder, _ = finished
    train(parse_args(arguments_for(dataset, tmp_path, *more)))
    assert weights(folder / f"{RUN}.pth") == weights(tmp_path / f"{RUN}.pth")


def test_another_seed_gives_other_weights(finished, dataset, tmp_path):
    folder, _ = finished
    train(parse_args(arguments_for(dataset, tmp_path, "--seed", 1)))
    assert weights(folder / f"{RUN}.pth") != weights(tmp_path / f"{RUN}.pth")


@pytest.mark.parametrize("count, set_aside", [(1, 0), (3, 1)])
def test_without_valid_a_part_of_the_good_strips_is_set_aside(
    dataset, tmp_path, capsys, count, set_aside
):
    for number in range(count):
        copy = tmp_path / "strips" / f"strip_{number}.tiff"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(dataset / "train" / "good" / copy.name, copy)
    strips = ("--training_dataset_path", tmp_path / "strips")
    best = train(parse_args(arguments_for(dataset, tmp_path / "out", *strips)))
    printed = capsys.readouterr().out
    history = load_checkpoint(best.with_name(f"{RUN}.pth"))["history"]
    assert f"strips: {count - set_aside} good ones to train on, {set_aside} " in printed
    assert (
        ("because there is no valid/" in printed)
        == bool(set_aside)
        != ("the last epoch is the best" in printed)
    )
    assert all(("valid_pixel_average_precision" in entry) == bool(set_aside) for entry in history)
    assert not list((tmp_path / "out").glob("*_test"))


@pytest.mark.parametrize(
    "given, names",
    [
        ((), {"image", "pixel", "point"}),
        (("--use_mask",), {"image", "pixel", "point"}),
        (("--use_mask", "False"), {"image"}),
    ],
)
def test_use_mask(dataset, tmp_path, given, names):
    best = train(parse_args(arguments_for(dataset, tmp_path, "--epochs", 1, *given)))
    entry = load_checkpoint(best)["history"][0]
    assert {
        name.split("_")[1]
        for name, value in entry.items()
        if name.startswith("valid_") and value is not None
    } == names


def test_all_bad_files_are_named_before_the_first_epoch(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "data")
    (tmp_path / "data" / "train" / "good" / "text.tiff").write_text("no image")
    truncated = tmp_path / "data" / "test" / "good" / "strip_0.tiff"
    truncated.write_bytes(truncated.read_bytes()[:5000])
    cv2.imwrite(
        str(tmp_path / "data" / "ground_truth_valid" / "bright_spots" / "strip_2_mask.png"),
        np.zeros((9, 9), np.uint8),
    )
    done = run("trainer.py", *arguments_for(tmp_path / "data", tmp_path / "out"))
    assert done.returncode == 1 and not list((tmp_path / "out").glob("BgRemoval*"))
    assert "files that cannot be used: 3" in done.stderr
    assert all(
        name in done.stderr for name in ("text.tiff", "good/strip_0.tiff", "strip_2_mask.png")
    )
    assert "Traceback" not in done.stderr and "epoch" not in done.stdout


def test_when_no_training_strip_is_good_only_those_are_named(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "data")
    for path in (tmp_path / "data" / "train" / "good").iterdir():
        path.write_text("no image")
    with pytest.raises(UserError, match="files that cannot be used: 3") as error:
        train(parse_args(arguments_for(tmp_path / "data", tmp_path / "out")))
    assert "valid" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_strip_that_goes_away_during_the_training_is_named(dataset, tmp_path, workers):
    shutil.copytree(dataset, tmp_path / "data")
    training = training_for(tmp_path / "data", tmp_path / "out", "--num_workers", workers)
    lost = tmp_path / "data" / "train" / "good" / "strip_1.tiff"
    lost.unlink()
    with pytest.raises(UserError) as error:
        training.run()
    assert str(error.value).startswith(
        f"{lost}: found no readable image (No such file"
    ) and "\n" not in str(error.value)


# in an epoch, and at the end of one
@pytest.mark.parametrize("batch, lr, step", [(4, 1e30, 2), (12, 1e30, 1), (12, 1e39, 1)])
def test_a_network_that_breaks_is_caught_with_its_batch_and_nothing_is_saved_after_it(
    dataset, tmp_path, batch, lr, step
):
    arguments = parse_args(arguments_for(dataset, tmp_path, "--bs", batch, "--save_every", 1e-9))
    arguments.lr = lr  # more than the flag takes
    with pytest.raises(
        UserError, match=f"not finite since step {step} of epoch 1, whose batch is in"
    ):
        train(arguments)
    kept = torch.load(next(tmp_path.glob("*_not_finite.pth")), weights_only=True)
    settings = from_values(TrainingSettings, vars(arguments))
    patches = training_patches(settings, find_strips(settings))
    indices = EpochBatches(len(patches), batch, 42).of_all_processes(0, step - 1)
    assert torch.equal(
        kept["three_channel_input"],
        torch.stack([patches[0, index]["three_channel_input"] for index in indices]),
    )
    assert kept["patches"] == [patches.origin(index) for index in indices]
    for path in tmp_path.glob("*strip*.pth"):
        if path.name.endswith(("strip.pth", "_best.pth")):
            assert all(
                torch.isfinite(tensor).all()
                for tensor in load_checkpoint(path)["model_state_dict"].values()
            )


def test_running_out_of_memory_names_the_batch_size(dataset, tmp_path):
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({3 * 2**30},) * 2); "
    limit += "import trainer, sys; "
    flags = arguments_for(dataset, tmp_path, "--bs", 12, "--base_channels", 256)
    command = [sys.executable, "-c", limit + "sys.exit(trainer.run_command(trainer.main))", *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert (
        done.returncode == 1 and "out of memory with --bs 12: expected a smaller one" in done.stderr
    ), done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.glob("*.pth"))


def training_for(dataset, folder, *flags):
    settings = from_values(
        TrainingSettings, vars(parse_args(arguments_for(dataset, folder, *flags)))
    )
    task = StripTask(settings, find_strips(settings), SINGLE_PROCESS.device)
    return Training(task, settings, SINGLE_PROCESS, RunFolder(folder, RUN))


def test_gradients_of_several_batches_are_those_of_their_mean_loss(dataset, tmp_path):
    gamma = ("--gamma_schedule", "constant", "--gamma_start", 2)
    # 5, 5 and 2 patches
    training = training_for(dataset, tmp_path, "--bs", 5, "--accumulate", 3, *gamma)
    (batches,) = training.loader.steps(0, 0)
    expected = 0
    # in training mode, batch norm sees each batch by itself, as it does in a step
    for batch in batches:
        loss = training.task.focal_loss(
            training.network(batch["three_channel_input"]), batch["target_mask"], 2.0
        )
        expected += (
            torch.autograd.grad(loss, training.network.head.weight)[0]
            * len(batch["target_mask"])
            / 12
        )
    training.take_step(batches)
    assert [len(batch["target_mask"]) for batch in batches] == [5, 5, 2]
    assert torch.allclose(training.network.head.weight.grad, expected, rtol=1e-4, atol=1e-8)


def test_patience_ends_a_run_early(dataset, tmp_path):
    best = train(
        parse_args(arguments_for(dataset, tmp_path, "--epochs", 30, "--lr", 1e-9, "--patience", 2))
    )
    history = load_checkpoint(best.with_name(best.name.replace("_best", "")))["history"]
    values = [entry["valid_pixel_average_precision"] for entry in history]
    assert len(values) < 30 and len(values) == 1 + values.index(max(values)) + 2


@pytest.mark.parametrize(
    "schedule, best", [("steps", [1, 2, 2, 2, 2, 2, 2, 2]), ("one_cycle", [1, 2, 2, 2, 2, 2, 7, 7])]
)
def test_the_best_epoch_of_one_cycle_is_one_of_its_last_quarter(dataset, tmp_path, schedule, best):
    training = training_for(
        dataset, tmp_path, "--lr_schedule", schedule, "--epochs", 8, "--patience", 3
    )
    seen, finished = [], []
    for figure in (0.9, 0.99, 0.5, 0.9, 0.6, 0.5, 0.8, 0.7):
        training.finish_epoch({"valid_pixel_average_precision": figure})
        seen.append(training.best_epoch)
        finished.append(training.is_finished)
    assert seen == best and load_checkpoint(training.folder.best)["epoch"] == best[-1]
    assert finished.index(True) + 1 == (5 if schedule == "steps" else 8)


@pytest.mark.parametrize("epochs", [6, 12])
def test_a_best_epoch_stays_the_best_when_a_run_is_made_longer_or_shorter(
    dataset, tmp_path, epochs
):
    training = training_for(dataset, tmp_path, "--lr_schedule", "one_cycle", "--epochs", 8)
    for number, figure in enumerate((0.9, 0.99, 0.5, 0.9, 0.95), start=1):
        training.finish_epoch({"valid_pixel_average_precision": figure})
        if number == 4:
            training.settings = replace(training.settings, epochs=epochs)
    expected = 5 if epochs == 6 else 2  # of six epochs the fifth is settled
    assert training.best_epoch == expected == load_checkpoint(training.folder.best)["epoch"]


def test_what_a_run_writes_down(finished):
    folder, _ = finished
    assert json.loads((folder / f"{RUN}_arguments.json").read_text())["num_defects_range"] == [3, 8]
    (start,) = json.loads((folder / f"{RUN}_environment.json").read_text())
    assert (
        start["packages"]["torch"].startswith("2.13")
        and start["device"] == "cpu"
        and "trainer.py" in start["command"]
    )
    lines = (folder / f"{RUN}_metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == load_checkpoint(folder / f"{RUN}.pth")["history"]
    events = EventAccumulator(str(folder / f"{RUN}_events"), {"images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [3, 6, 9]
    assert (
        "valid_pixel_average_precision" in events.Tags()["scalars"]
        and len(events.Images("samples")) == 3
    )
    encoded = np.frombuffer(events.Images("samples")[-1].encoded_image_string, np.uint8)
    shown, first = cv2.imdecode(encoded, cv2.IMREAD_COLOR), folder / f"{RUN}_samples.png"
    assert shown.shape[0] == cv2.imread(str(first)).shape[0]  # a column more: the heatmap


@pytest.mark.parametrize(
    "arch, name", [(arch, network.__name__) for arch, network in ARCHITECTURES.items()]
)
def test_every_network_is_trained_scored_and_exported(dataset, tmp_path, arch, name):
    best = train(parse_args(arguments_for(dataset, tmp_path, "--arch", arch, "--epochs", 1)))
    assert load_checkpoint(best)["network"] == name
    assert (
        run(
            "inference_pytorch.py", "--model_path", best, "--output_dir", tmp_path / "scores"
        ).returncode
        == 0
    )
    exported = run("export_onnx_fullimage.py", "--checkpoint_path", best, "--output_path", tmp_path)
    assert exported.returncode == 0, exported.stderr


def test_amp_computes_in_bfloat16_and_keeps_float32(dataset, tmp_path):
    training = training_for(dataset, tmp_path, "--amp")
    seen = []
    training.network.head.register_forward_hook(
        lambda layer, given, answer: seen.append(answer.dtype)
    )
    training.take_step(next(training.loader.steps(0, 0)))
    assert seen == [torch.bfloat16]
    assert not [
        tensor
        for tensor in training.network.state_dict().values()
        if tensor.dtype == torch.bfloat16
    ]


@pytest.mark.long
def test_a_compiled_network_learns_the_same(finished, dataset, tmp_path):
    folder, _ = finished
    best = train(parse_args(arguments_for(dataset, tmp_path, "--compile")))
    content = load_checkpoint(best.with_name(f"{RUN}.pth"))
    assert not [key for key in content["model_state_dict"] if key.startswith("_orig_mod.")]
    pairs = zip(content["history"], load_checkpoint(folder / f"{RUN}.pth")["history"], strict=True)
    assert all(one["loss"] == pytest.approx(other["loss"], rel=0.02) for one, other in pairs)


def test_a_network_that_cannot_be_compiled_is_one_line(dataset, tmp_path):
    done = run("trainer.py", *arguments_for(dataset, tmp_path, "--compile"), CXX="/nonexistent")
    assert (
        done.returncode == 1
        and "error: --compile: the network cannot be compiled here" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_patience_without_a_figure_is_refused(dataset, tmp_path):
    shutil.copytree(dataset / "train", tmp_path / "train")
    shutil.copytree(dataset / "valid" / "good", tmp_path / "valid" / "good")
    with pytest.raises(UserError, match="--patience: found no good and defective strips"):
        train(parse_args(arguments_for(tmp_path, tmp_path / "out", "--patience", 1)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_printed_is_one_line(dataset, tmp_path):
    with open("/dev/full", "w") as full:
        done = run("trainer.py", *arguments_for(dataset, tmp_path), stdout=full)
    assert (
        done.returncode == 1
        and "No space left on device" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_a_checkpoint_folder_that_cannot_be_written_is_one_line(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be written"):
        train(parse_args(arguments_for(dataset, tmp_path / "file")))


@pytest.mark.parametrize(
    "flags",
    [
        ("--bs", "0"),
        ("--epochs", "0"),
        ("--lr", "-1"),
        ("--seed", "-3"),
        ("--num_defects_range", "2", "8"),
        ("--num_defects_range", "9", "8"),
        ("--use_mask", "maybe"),
        ("--image_type", "round"),
        ("--alpha", "1"),
        ("--gamma_schedule", "step"),
        ("--save_every", "0"),
        ("--patience", "0"),
        ("--epoch", "3"),
    ],
)
def test_flags_that_make_no_sense_are_refused(dataset, tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_args(arguments_for(dataset, tmp_path, *flags))
    assert stopped.value.code == 2 and flags[0] in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_a_gpu_that_is_not_there_is_refused(dataset, tmp_path):
    done = run("trainer.py", *arguments_for(dataset, tmp_path, "--gpu_id", 0))
    assert done.returncode == 1 and "found 0 CUDA devices" in done.stderr
