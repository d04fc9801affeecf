import shutil
from errors import UserError

import cv2
import numpy as np
import pytest
import torch

from checkpoint import load_checkpoint
from tests.conftest import SMALL_SIZE, run
from trainer import Training, find_dataset, parse_args, train

RUN = "BgRemoval_lr0.001_ep3_bs4_200x150_strip"


def arguments_for(dataset, folder, *more):
    flags = ["--training_dataset_path", dataset / "train" / "good", "--checkpoint_path", folder, "--base_channels", 4]
    return [str(flag) for flag in [*flags, "--bs", 4, "--epochs", 3, "--gpu_id", -1, *more]]


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A short training, started as a user does."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return folder, run("trainer.py", *arguments_for(dataset, folder))


def test_a_training_leaves_what_it_promises(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {
        f"{RUN}{end}" for end in (".pth", "_best.pth", "_samples.png", "_curves.png", "_test")
    }
    assert (folder / f"{RUN}_test" / "bright_spots" / "strip_2_panels.png").is_file()
    assert (folder / f"{RUN}_test" / "scores.csv").read_text().count("\n") == 5
    assert cv2.imread(str(folder / f"{RUN}_samples.png")).shape[1] > 4 * 256
    assert "3 good ones to train on, 4 to validate, 4 to test" in done.stdout and "12 patches per epoch" in done.stdout
    assert "pixel average precision" in done.stdout and done.stdout.splitlines()[-1].startswith(
        "next: python export_onnx_fullimage.py"
    )


def test_the_checkpoint_holds_all_that_is_needed_and_nothing_that_runs(finished):
    folder, _ = finished
    content = torch.load(folder / f"{RUN}.pth", weights_only=True)
    assert {key: content[key] for key in ("img_height", "img_width", "image_type", "epoch", "seed")} == {
        "img_height": SMALL_SIZE[0],
        "img_width": SMALL_SIZE[1],
        "image_type": "strip",
        "epoch": 3,
        "seed": 42,
    }
    assert content["base_channels"] == 4 and content["input_max"] == 255 and content["optimizer_state_dict"]["state"]
    assert not [name for name in content["model_state_dict"] if name.startswith(("module.", "_orig_mod."))]


def test_the_history_reaches_both_ends_of_gamma_and_validates_every_epoch(finished):
    folder, _ = finished
    history = load_checkpoint(folder / f"{RUN}.pth")["history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert [entry["gamma"] for entry in history] == pytest.approx([1.0, 2.0, 3.0])
    names = {"valid_image_auroc", "valid_image_average_precision", "valid_pixel_auroc", "valid_pixel_average_precision"}
    assert all(names < entry.keys() for entry in history)
    best = load_checkpoint(folder / f"{RUN}_best.pth")
    values = [entry["valid_pixel_average_precision"] for entry in history]
    assert best["epoch"] == 1 + values.index(max(values))


def test_the_learning_rate_drops_at_80_and_90_percent(dataset, tmp_path):
    best = train(parse_args(arguments_for(dataset, tmp_path, "--epochs", 10, "--lr", 0.01)))
    history = load_checkpoint(best.with_name(best.name.replace("_best", "")))["history"]
    assert [entry["lr"] for entry in history] == pytest.approx([0.01] * 8 + [0.002, 0.0004])


@pytest.mark.parametrize("more", [("--num_workers", "2"), ("--cache_size", "2")])
def test_the_same_seed_gives_the_same_weights(finished, dataset, tmp_path, more):
    folder, _ = finished
    train(parse_args(arguments_for(dataset, tmp_path, *more)))
    first, second = (load_checkpoint(path / f"{RUN}.pth")["model_state_dict"] for path in (folder, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights(finished, dataset, tmp_path):
    folder, _ = finished
    train(parse_args(arguments_for(dataset, tmp_path, "--seed", 1)))
    first, second = (load_checkpoint(path / f"{RUN}.pth")["model_state_dict"] for path in (folder, tmp_path))
    assert not torch.equal(first["head.weight"], second["head.weight"])


def test_without_valid_and_test_the_last_epoch_counts_as_the_best(dataset, tmp_path, capsys):
    shutil.copytree(dataset / "train" / "good", tmp_path / "strips")
    arguments = arguments_for(dataset, tmp_path / "out")
    arguments[1] = str(tmp_path / "strips")
    best = train(parse_args(arguments))
    assert load_checkpoint(best)["epoch"] == 3
    assert "the last epoch is the best" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*_test"))


@pytest.mark.parametrize(
    "given, names", [((), {"image", "pixel"}), (("--use_mask",), {"image", "pixel"}), (("--use_mask", "False"), {"image"})]
)
def test_use_mask(dataset, tmp_path, given, names):
    best = train(parse_args(arguments_for(dataset, tmp_path, "--epochs", 1, *given)))
    entry = load_checkpoint(best)["history"][0]
    assert {name.split("_")[1] for name, value in entry.items() if name.startswith("valid_") and value is not None} == names


def test_all_bad_files_are_named_before_the_first_epoch(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "data")
    (tmp_path / "data" / "train" / "good" / "text.tiff").write_text("no image")
    truncated = tmp_path / "data" / "test" / "good" / "strip_0.tiff"
    truncated.write_bytes(truncated.read_bytes()[:5000])
    cv2.imwrite(str(tmp_path / "data" / "ground_truth_valid" / "bright_spots" / "strip_2_mask.png"), np.zeros((9, 9), np.uint8))
    done = run("trainer.py", *arguments_for(tmp_path / "data", tmp_path / "out"))
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "files that cannot be used: 3" in done.stderr
    assert all(name in done.stderr for name in ("text.tiff", "good/strip_0.tiff", "strip_2_mask.png"))
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
    settings = parse_args(arguments_for(tmp_path / "data", tmp_path / "out", "--num_workers", workers))
    training = Training(settings, find_dataset(settings), torch.device("cpu"))
    lost = tmp_path / "data" / "train" / "good" / "strip_1.tiff"
    lost.unlink()
    with pytest.raises(UserError) as error:
        training.run()
    assert str(error.value).startswith(f"{lost}: found no readable image (No such file") and "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoints(dataset, tmp_path):
    with pytest.raises(UserError, match="the loss became nan in epoch"):
        train(parse_args(arguments_for(dataset, tmp_path, "--lr", 1e30)))
    for path in tmp_path.glob("*.pth"):
        assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(path)["model_state_dict"].values())


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
