"""Training of the defect classifier: samples, stages, checkpoints, resume and bad input."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch

from classifier import defect_task
from classifier.backbone import RANDOM
from classifier.backbones import make_backbone
from classifier.defect_checkpoint import (
    BEST_ACCURACY,
    BEST_IOU,
    LAST,
    checkpoint_in,
    load_defect_model,
)
from classifier.defect_data import list_labelled
from classifier.defect_samples import DefectSamples, LabelledImages, augment, fit_to_size
from classifier.defect_settings import DefectSettings
from classifier.run_images import find_images
from classifier.tool import TOOL
from classifier.train_defect_model import parse_args, train
from common.errors import UserError, run_command
from common.settings import from_values
from data.folder import GOOD, mask_path
from data.image_files import DEFAULT_INPUT_MAX
from data.write_images import write_mask, write_strip
from tests import processes
from tests.conftest import ROOT
from tests.defect_images import KINDS, SIZE, TINY, write_data, write_image
from training.checkpoint import read_checkpoint

QUICK = ("--gpu_id", "-1", "--batch_size", "8", "--decoder_channels", "8", "4")
QUICK += ("--head_channels", "8")
STAGES = (*QUICK, "--two_stages", "--stage1_epochs", "2", "--stage1_batch_size", "8")
STAGES += ("--epochs", "2", "--lr", "0.002", "--use_uncertainty_weighting")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Grey images of three kinds; half of the defective ones have a mask."""
    return write_data(tmp_path_factory.mktemp("data"), masked=0.5)


def flags(data, folder, *more):
    return [str(word) for word in ("--data_root", data, "--save_dir", folder, *more)]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A whole training in two stages."""
    folder = tmp_path_factory.mktemp("finished")
    assert train(parse_args(flags(data, folder, *STAGES))) == [folder / "stage1", folder / "stage2"]
    return folder


def weights(path):
    content = read_checkpoint(path, TOOL)["model_state_dict"]
    return {name: tensor.numpy().tobytes() for name, tensor in content.items()}


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def samples_of(data, seed=0, is_augmented=True):
    pictures = list_labelled(data, "train")
    images = LabelledImages(pictures, DEFAULT_INPUT_MAX, 1, SIZE, False, 100)
    return DefectSamples(images, [GOOD, *KINDS], seed, is_augmented)


def test_a_sample_depends_on_seed_epoch_and_index_alone(data):
    first, second = samples_of(data), samples_of(data)
    for _ in range(3):
        first[0, 5]  # what was drawn before does not matter
    one, same, other = first[1, 7], second[1, 7], second[2, 7]
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["image"], other["image"]) and one["draw"] != other["draw"]
    assert not torch.equal(one["image"], samples_of(data, seed=1)[1, 7]["image"])
    assert one["image"].shape == one["mask"].shape == (1, *SIZE)
    assert one["image"].min() >= 0 and one["image"].max() <= 1
    known = [bool(first[0, index]["has_mask"]) for index in range(len(first))]
    expected = [picture.has_truth_mask for picture in first.images.pictures]
    assert known == expected and 0 < sum(known) < len(known)


def test_augmentation_moves_the_mask_with_the_image():
    for size in ((24, 32), (32, 32)):
        image, mask = np.full((2, *size), 20, np.float32), np.zeros(size, bool)
        mask[4:9, 18:25] = True
        image[:, mask] = 200
        seen = set()
        for seed in range(40):
            changed, moved = augment(image, mask, np.random.default_rng(seed))
            assert changed.shape == image.shape and moved.any()
            bright = changed.mean(axis=0) > 110
            assert (bright & moved).sum() / (bright | moved).sum() > 0.75
            places = np.argwhere(moved)
            y, x = places.mean(axis=0)
            seen.add((y < size[0] / 2, x < size[1] / 2, np.ptp(places, axis=0).argmax()))
        assert len(seen) == (4 if size[0] != size[1] else 8)  # flips, and turns where these fit
        assert augment(image, None, np.random.default_rng(0))[1] is None
    dot = np.zeros(size, bool)
    dot[16, 16] = True
    assert all(augment(image, dot, np.random.default_rng(seed))[1].any() for seed in range(40))


def test_a_mask_that_shrinks_keeps_its_smallest_defect():
    image, mask = np.zeros((1, 40, 60), np.float32), np.zeros((40, 60), bool)
    mask[7, 31] = True
    fitted, small = fit_to_size(image, mask, (10, 15))
    assert fitted.shape == (1, 10, 15) and np.argwhere(small).tolist() == [[1, 7]]
    assert fit_to_size(image, mask, (80, 120))[1].sum() in range(1, 10)


def test_a_run_leaves_its_files_and_models_that_load(data, finished):
    for stage in ("stage1", "stage2"):
        folder = finished / stage
        found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert found == {
            LAST, BEST_ACCURACY, BEST_IOU, "arguments.json", "environment.json", "metrics.jsonl",
            "events", "samples.png", "curves.png",
        }  # fmt: skip
        entries = history(folder)
        for name, metric in ((BEST_ACCURACY, "balanced_accuracy"), (BEST_IOU, "iou")):
            eligible = [entry for entry in entries if entry["settled"]]
            best = max(eligible, key=lambda entry: entry[f"valid_{metric}"])
            model = load_defect_model(folder / name)
            assert model.epoch == best["epoch"]
        assert model.kinds == (GOOD, *KINDS)
        assert (model.channels, model.image_size, model.input_max) == (1, SIZE, 255.0)
        output = model.network(torch.zeros(1, 1, *SIZE))
        assert output.logits.shape == (1, 3) and output.mask_logits.shape == (1, 1, *SIZE)
        names = ("valid_accuracy", "valid_image_auroc", "valid_dice", "valid_kind_loss")
        assert all(np.isfinite(entry[name]) for entry in entries for name in names)
    settings = json.loads((finished / "stage2" / "arguments.json").read_text())
    assert settings["epochs_before"] == 2 and settings["init"] == str(finished / "stage1")


def test_a_frozen_backbone_keeps_weights_and_statistics_and_the_second_stage_begins_there(finished):
    stage1, stage2 = (
        read_checkpoint(finished / stage / LAST, TOOL) for stage in ("stage1", "stage2")
    )
    torch.manual_seed(stage1["seed"])
    started = defect_task.make_network(stage1, RANDOM).state_dict()
    state, changed = stage1["model_state_dict"], stage2["model_state_dict"]
    for name, tensor in started.items():
        is_backbone = name.startswith("backbone.")
        assert torch.equal(state[name], tensor) == is_backbone or "num_batches" in name, name
        if is_backbone and "num_batches" in name:
            assert state[name] == 0 and changed[name] > 0
    trained = [name for name in started if not name.startswith("backbone.")]
    assert "log_variances" in trained and state["log_variances"].abs().sum() > 0
    moved = [
        (changed[name] - state[name]).abs().mean() < (changed[name] - started[name]).abs().mean()
        for name in trained
        if name.endswith("weight") and changed[name].ndim > 1
    ]
    assert np.mean(moved) > 0.5  # it did not begin anew
    assert len(stage1["optimizer_state_dict"]["state"]) < len(
        stage2["optimizer_state_dict"]["state"]
    )


def killing(step):
    """A command that kills itself after so many steps."""
    return (
        "import os, signal, sys\n"
        "from classifier.train_defect_model import main\n"
        "from training.loop import Training\n"
        "take, done = Training.take_step, []\n"
        "def take_step(self, batches):\n"
        "    take(self, batches)\n"
        "    done.append(1)\n"
        f"    if len(done) == {step}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Training.take_step = take_step\n"
        "sys.exit(main())\n"
    )


def test_a_killed_training_goes_on_to_the_same_weights_in_both_stages(data, finished, tmp_path):
    words = flags(data, tmp_path, *STAGES, "--save_every", 1e-9)
    for step, stage in ((4, "stage1"), (6, "stage2")):  # 3 steps an epoch; 2 were left of stage 1
        done = processes.run("-c", killing(step), *words, folder=ROOT)
        assert done.returncode == -signal.SIGKILL, done.stderr
        last = read_checkpoint(tmp_path / stage / LAST, TOOL)
        assert (last["epoch"], last["step"]) == ((1, 0) if stage == "stage1" else (0, 2))
        words = flags(data, tmp_path, *STAGES, "--save_every", 1e-9, "--resume")
    assert train(parse_args(["--resume", str(tmp_path), "--gpu_id", "-1"]))
    for stage in ("stage1", "stage2"):
        for name in (LAST, BEST_ACCURACY, BEST_IOU):
            assert weights(tmp_path / stage / name) == weights(finished / stage / name)
        metrics = [folder / stage / "metrics.jsonl" for folder in (tmp_path, finished)]
        assert metrics[0].read_text() == metrics[1].read_text()


def test_features_of_a_frozen_backbone_are_computed_once(data, tmp_path, monkeypatch):
    calls, compute = [], defect_task.DefectTask._compute_features

    def counted(task, network):
        calls.append(len(task.samples))
        return compute(task, network)

    monkeypatch.setattr(defect_task.DefectTask, "_compute_features", counted)
    more = (*QUICK, "--freeze_backbone", "--augment", "False", "--epochs", 2)
    train(parse_args(flags(data, tmp_path / "kept", *more)))
    assert calls == [18]
    monkeypatch.setattr(defect_task, "MOST_KEPT", 0)
    train(parse_args(flags(data, tmp_path / "again", *more)))
    assert len(calls) == 1 + 1  # refused as too large, and not tried again
    kept, again = (
        read_checkpoint(tmp_path / name / LAST, TOOL)["model_state_dict"]
        for name in ("kept", "again")
    )
    assert all(torch.allclose(kept[name], again[name], atol=1e-5) for name in kept)
    words = flags(data, tmp_path / "killed", *more, "--save_every", 1e-9)
    done = processes.run("-c", killing(4), *words, folder=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    train(parse_args(["--resume", str(tmp_path / "killed"), "--gpu_id", "-1"]))
    assert weights(tmp_path / "killed" / LAST) == weights(tmp_path / "kept" / LAST)


def test_a_network_of_transformers_trains_goes_on_and_loads_without_its_first_weights(
    data, tmp_path
):
    pretrained = tmp_path / "pretrained"
    first = make_backbone("dinov3_vits16", 1, RANDOM, TINY).network
    first.save_pretrained(pretrained)
    name, epochs = ("--backbone", "dinov3_vits16"), ("--freeze_backbone", "--epochs", 1)
    more = (*QUICK, *name, "--pretrained", pretrained, *epochs)
    (folder,) = train(parse_args(flags(data, tmp_path / "run", *more)))
    shutil.rmtree(pretrained)
    train(parse_args(["--resume", str(folder), "--epochs", "2", "--gpu_id", "-1"]))
    model = load_defect_model(folder / LAST)
    trained = model.network.backbone.network.state_dict()
    assert model.epoch == 2
    assert all(torch.equal(trained[key], tensor) for key, tensor in first.state_dict().items())
    # the class may change the mask from now on: the tensors are the same
    init = (*QUICK, *name, "--init", folder, "--epochs", 1, "--guidance", "mean")
    (second,) = train(parse_args(flags(data, tmp_path / "second", *init)))
    changed = load_defect_model(second / LAST).network.backbone.network.state_dict()
    assert not torch.equal(changed["norm.weight"], trained["norm.weight"])


def test_a_mask_alone_is_trained_and_measured(data, tmp_path):
    more = (*QUICK, "--architecture", "segmentation", "--epochs", 1)
    (folder,) = train(parse_args(flags(data, tmp_path / "run", *more)))
    assert load_defect_model(folder / BEST_IOU).network.architecture == "segmentation"
    assert np.isfinite(history(folder)[0]["valid_image_auroc"])


@pytest.mark.parametrize(
    "more",
    [
        ("--architecture", "classification"),
        ("--guidance", "stopped", "--seg_loss", "dice"),
        ("--architecture", "dual_branch", "--focal_loss", "--class_weights", "balanced"),
        ("--guidance", "concatenated", "--use_dynamic_weights", "--weight_schedule", "linear"),
    ],
)
def test_other_networks_train_on_any_number_of_channels_and_without_masks(more, tmp_path):
    root = write_data(tmp_path / "data", count=2, masked=0)
    for path in (root / "train").rglob("*.png"):
        strip = np.random.default_rng(len(path.stem)).integers(0, 255, (5, *SIZE), dtype=np.uint8)
        path.unlink()
        write_strip(path.with_suffix(".tiff"), strip)
    shutil.rmtree(root / "valid")
    (folder,) = train(parse_args(flags(root, tmp_path / "run", *QUICK, "--epochs", 1, *more)))
    model = load_defect_model(folder / BEST_ACCURACY)
    assert model.channels == 5 and not (folder / BEST_IOU).exists()
    assert np.isfinite(history(folder)[0]["loss"])


def refused(capsys, words):
    capsys.readouterr()
    assert run_command(lambda: train(parse_args(list(map(str, words)))) and 0) == 1
    line = capsys.readouterr().err.partition("error: ")[2].splitlines()[0]
    assert line, words
    return line


def test_data_that_cannot_be_trained_on_is_one_line(data, tmp_path, capsys):
    def with_changes(name, change, *more):
        root = tmp_path / name
        shutil.copytree(data, root)
        change(root)
        return refused(capsys, flags(root, tmp_path / "run", *QUICK, "--epochs", 1, *more))

    def one_class(root):
        for kind in KINDS:
            shutil.rmtree(root / "train" / kind)

    def mask_of_another_size(root):
        write_mask(mask_path(root, "train", KINDS[0], "0"), np.ones((9, 9), np.uint8))

    def corrupt(root):
        path = root / "valid" / GOOD / "1.png"
        path.write_bytes(path.read_bytes()[:60])

    def deeper(root):
        path = root / "train" / GOOD / "0.png"
        write_image(path, np.full((*SIZE, 1), 4000, np.uint16))

    def other_size(root):
        write_image(root / "train" / GOOD / "0.png", np.full((30, 30, 1), 90, np.uint8))
        write_image(root / "train" / GOOD / "1.png", np.full((*SIZE, 1), 90, np.uint8))

    def colour(root):
        write_image(root / "valid" / GOOD / "0.png", np.full((*SIZE, 3), 90, np.uint8))

    def unseen(root):
        (root / "valid" / KINDS[0]).rename(root / "valid" / "hole")

    def no_masks(root):
        shutil.rmtree(root / "ground_truth_train")

    def no_good_ones(root):
        shutil.rmtree(root / "train" / GOOD)
        shutil.rmtree(root / "valid" / GOOD)

    alone = ("--architecture", "segmentation")
    assert "found no mask" in with_changes("no_masks", no_masks, *alone)
    assert "found no kind good" in with_changes("no_good_ones", no_good_ones, *alone)
    for change, words in (
        (one_class, "found one kind in train/ (good)"),
        (mask_of_another_size, "spot"),
        (corrupt, "1.png"),
        (deeper, "--input_max"),
        (other_size, "or --image_size"),
        (colour, "found 3 channels, expected 1"),
        (unseen, "found hole in valid/"),
        (lambda root: shutil.rmtree(root / "train"), "found no train/"),
    ):
        assert words in with_changes(change.__name__, change), change.__name__
    assert not list((tmp_path / "run").glob("*.pth"))


@pytest.mark.parametrize(
    "more, lines",
    [
        (
            ("--alpha", 1, "--beta", 2, "--use_dynamic_weights"),
            ["--alpha, --beta: no effect with --use_dynamic_weights"],
        ),
        (
            ("--beta", 1, "--use_uncertainty_weighting"),  # its default, but given
            ["--beta: no effect with --use_uncertainty_weighting"],
        ),
        (
            ("--weight_schedule", "linear", "--switch_epoch", 3, "--focal_gamma", 1),
            [
                "--weight_schedule, --switch_epoch: no effect without --use_dynamic_weights",
                "--focal_gamma: no effect without --focal_loss",
            ],
        ),
        (
            ("--stage1_lr", 1e-3, "--stage1_batch_size", 4, "--focal_alpha", 0.5, "--focal_loss"),
            ["--stage1_lr, --stage1_batch_size: no effect without --two_stages"],
        ),
        (
            ("--guidance", "mean", "--architecture", "dual_branch"),
            ["--guidance: no effect with --architecture dual_branch"],
        ),
        (("--guidance", "mean", "--alpha", 1, "--two_stages", "--stage1_epochs", 1), []),
        (("--use_dynamic_weights", "--switch_epoch", 2, "--architecture", "dual_branch"), []),
    ],
)
def test_a_flag_without_effect_is_one_line(more, lines, tmp_path, capsys):
    with pytest.raises(UserError, match="found no such folder"):
        train(parse_args(flags(tmp_path / "none", tmp_path, *more)))
    assert capsys.readouterr().err.splitlines() == [f"warning: {line}" for line in lines]


def settings_of(data):
    return from_values(DefectSettings, vars(parse_args(flags(data, "unused", *QUICK))))


def test_masks_of_no_image_are_named_before_a_training(data, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    for split, name in (("train", "misnamed"), ("train", "other"), ("valid", "misnamed")):
        write_mask(mask_path(root, split, KINDS[0], name), np.ones(SIZE, np.uint8))
    find_images(settings_of(root))
    (line,) = capsys.readouterr().err.strip().splitlines()
    first = mask_path(root, "train", KINDS[0], "misnamed")
    assert f"found masks that belong to no image and are left out: 3, the first {first};" in line
    assert "--check_data" in line
    find_images(settings_of(data))
    assert not capsys.readouterr().err


def test_flags_and_checkpoints_that_do_not_fit_are_one_line(data, finished, tmp_path, capsys):
    quick = (*QUICK, "--epochs", 1)
    run = flags(data, tmp_path / "run", *quick)
    init = finished / "stage1"
    for more, words in (
        (("--init", init, "--architecture", "dual_branch"), "--architecture attention_guided"),
        (("--init", init), "--use_uncertainty_weighting True, expected False"),
        (("--init", init, "--guidance", "concatenated"), "--guidance stopped"),
        (("--init", tmp_path), "found no best_accuracy.pth"),
        (("--init", ROOT / "tests/earlier/robust.pth"), "found a model of the strip detector"),
        (("--backbone", "resnet18", "--pretrained", tmp_path), "found no config.json"),
    ):
        assert words in refused(capsys, [*run, *more])
    last = finished / "stage2" / LAST
    assert "keeps its settings" in refused(
        capsys, ["--resume", last, "--gpu_id", -1, "--dropout", 0.5]
    )
    assert "expected last.pth" in refused(capsys, ["--resume", last.with_name(BEST_IOU)])
    assert "found no last.pth" in refused(capsys, ["--resume", tmp_path])
    assert "found a second stage" in refused(capsys, flags(data, finished, *STAGES))
    assert "found a folder inside" in refused(capsys, flags(data, data / "run", *quick))
    other = write_data(tmp_path / "other", seed=1)
    assert "found a run on other images" in refused(
        capsys, ["--resume", last, "--data_root", other, "--epochs", 3]
    )
    for more in (
        ("--use_dynamic_weights", "--use_uncertainty_weighting"),
        ("--two_stages", "--freeze_backbone"),
        ("--image_size", 8, 8, 8),
    ):
        with pytest.raises(SystemExit):
            parse_args([*run, *map(str, more)])
        assert "expected" in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(SystemExit) as ended:
        parse_args([*run, "--backbone", "dinov3_vitb14"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert said.startswith("error: --backbone: found dinov3_vitb14, expected one of small, ")


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_folder_takes_no_run_in_another_number_of_stages(more, data, finished, tmp_path, capsys):
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(finished / "stage1" / LAST, single / LAST)
    staged = tmp_path / "staged"
    shutil.copytree(finished / "stage1", staged / "stage1")
    epochs = (*QUICK, "--epochs", 1)
    for folder, words, line in (
        (single, STAGES, f"{single / LAST}: found a run in one stage, expected a new --save_dir"),
        (staged, epochs, "found a run in two stages, expected a new --save_dir"),
        (finished, epochs, f"{finished / 'stage2' / LAST}: found a run in two stages"),
    ):
        before = sorted(folder.rglob("*"))
        assert line in refused(capsys, flags(data, folder, *words, *more))
        assert sorted(folder.rglob("*")) == before
    resumed = ("--resume", single / LAST, "--save_dir", staged, "--gpu_id", -1, *more)
    assert "found a run in two stages" in refused(capsys, resumed)


def test_a_folder_of_two_runs_is_refused_wherever_it_is_looked_into(
    data, finished, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path / "both")
    both, run = tmp_path / "both", flags(data, tmp_path / "run", *QUICK, "--epochs", 1)
    shutil.copy(finished / "stage1" / LAST, both / LAST)
    line = f"{both}: found two runs, last.pth and stage2/last.pth, expected one"
    with pytest.raises(UserError, match=line):
        checkpoint_in(both)
    assert line in refused(capsys, [*run, "--init", both])
    assert line in refused(capsys, ["--resume", both])
    assert line in refused(capsys, ["--resume", "--save_dir", both])
    assert checkpoint_in(both / "stage2") == both / "stage2" / BEST_ACCURACY


def test_a_training_in_two_stages_that_begins_again_leaves_no_earlier_second_stage(
    data, finished, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    words = flags(data, run, *STAGES, "--overwrite")
    done = processes.run("-c", killing(2), *words, "--save_every", 1e-9, folder=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (run / "stage1" / LAST).is_file() and not list((run / "stage2").glob("*.pth"))


def test_the_command_starts_as_a_file_from_any_folder(tmp_path):
    script = ROOT / "classifier" / "train_defect_model.py"
    done = processes.run(script, "--help", folder=tmp_path)
    assert done.returncode == 0 and "--two_stages" in done.stdout, done.stderr
