"""Training of the reference-free detector: samples, validation, health, files and bad input."""

import csv
import json
import shlex
import shutil
import signal
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from autoencoder import epochs, health, inference, validation
from autoencoder.health import collapse_warnings, measure_health
from autoencoder.loaded import load_scorers
from autoencoder.losses import PictureLoss
from autoencoder.model import TOOL, load_model
from autoencoder.network import UNet
from autoencoder.pictures import find_pictures
from autoencoder.samples import PictureCrops, draw_crop
from autoencoder.settings import AutoencoderSettings
from autoencoder.trainer import main, next_commands, parse_args, train
from autoencoder.validation_warnings import rank_correlation, warnings_of
from common.errors import UserError
from common.settings import from_values
from data.image_files import encode_image
from data.pictures import picture_hash
from dataloader import EpochBatches
from ops import efficientnet_lite0 as lite0
from tests import processes
from tests.conftest import ROOT
from training.checkpoint import load_checkpoint, read_checkpoint
from training.selection import VALID, Selection

FABRIC = "織布"
GROUPS = (FABRIC, "metal")
SIZE = (40, 48)
QUICK = ("--gpu_id", "-1", "--base_channels", "2", "--depth", "2", "--epochs", "2")
QUICK += (
    "--validate_every",
    "1",
    "--epoch_crops",
    "12",
    "--bs",
    "4",
    "--input_size",
    "32",
    "--defect_size",
    "4",
    "12",
)
RUN = "Autoencoder_segment_lr0.002_ep2_bs4_32"


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, pixels))


def draw(generator, group, channels=1):
    y = np.arange(SIZE[0])[:, None, None]
    stripes = 120 + 40 * np.sin(y / (2 if group == FABRIC else 5) + generator.uniform(0, 6))
    noise = generator.normal(0, 5, (*SIZE, channels))
    return np.clip(stripes + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes, one of them with a Chinese name; in the other, pictures are copied."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    for group in GROUPS:
        for number in range(6):
            write(root / group / "train" / "good" / f"好{number}.png", draw(generator, group))
        for number in range(3):
            write(root / group / "test" / "good" / f"{number}.png", draw(generator, group))
            picture = draw(generator, group)
            picture[10:20, 5:12] = 250
            write(root / group / "test" / "刮痕" / f"{number}.png", picture)
    good = root / "metal" / "train" / "good"
    for number in range(6):
        shutil.copy(good / f"好{number}.png", good / f"copy{number}.png")
    return root


def flags(data, folder, *more):
    words = ["--training_dataset_path", data, "--checkpoint_path", folder, *QUICK, *more]
    return [str(word) for word in words]


def settings_of(data, folder, *more):
    return from_values(AutoencoderSettings, vars(parse_args(flags(data, folder, *more))))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A whole run with everything that it may validate on and keep."""
    folder = tmp_path_factory.mktemp("finished")
    (best,) = train(parse_args(flags(data, folder, *everything(data))))
    return folder, best


def everything(data):
    more = ("--real_path", data, "--unlabelled_path", data / FABRIC / "test", "--keep_epochs", 1)
    return (*more, "--input_sizes", 32, 16)


def weights(path):
    content = read_checkpoint(path, TOOL)["model_state_dict"]
    return {name: tensor.numpy().tobytes() for name, tensor in content.items()}


def crops_of(data, folder, *more, processes=1):
    settings = settings_of(data, folder, *more)
    pictures = find_pictures(settings, folder)
    return PictureCrops(pictures.train, settings, settings.defects(), processes)


def test_grey_classes_beside_colour_ones_are_trained_on_in_colour(tmp_path):
    generator = np.random.default_rng(2)
    for number in range(4):
        for channels, group in enumerate(GROUPS):
            picture = draw(generator, group, 1 + 2 * channels)
            write(tmp_path / "data" / group / "train" / "good" / f"{number}.png", picture)
    crops = crops_of(tmp_path / "data", tmp_path / "run", "--task", "reconstruct")
    inputs = [crops[0, index]["input"] for index in range(8)]
    assert {tuple(each.shape) for each in inputs} == {(3, 32, 32)}
    is_grey = [bool((each == each[:1]).all()) for each in inputs]
    assert sum(is_grey) == 4 and is_grey[0] != is_grey[1]


@pytest.mark.parametrize("task", ["segment", "repair", "reconstruct"])
def test_a_crop_depends_on_seed_epoch_and_index_alone(data, tmp_path, task):
    more = ("--task", task, "--flips", "both")
    first, second = (crops_of(data, tmp_path, *more) for _ in range(2))
    for _ in range(3):
        first[0, 5]  # what was drawn before does not matter
    same, other = second[1, 3], second[2, 3]
    assert all(torch.equal(first[1, 3][name], same[name]) for name in ("input", "target"))
    assert not torch.equal(same["input"], other["input"])
    assert same["input"].shape == same["target"].shape == (1, 32, 32)
    assert same["input"].min() >= 0 and same["input"].max() <= 1
    changed = [not torch.equal(*first[0, index].values()) for index in range(12)]
    assert all(changed) or (task == "reconstruct" and not any(changed))


def test_each_batch_has_one_size_and_each_class_its_turn(data, tmp_path):
    crops = crops_of(data, tmp_path, "--input_sizes", 16, 32, "--epoch_crops", 40)
    batches, sizes = EpochBatches(len(crops), 4, 42), []
    for epoch in range(2):
        batches.epoch = epoch
        for batch in batches:
            drawn = {crops[key]["input"].shape[-1] for key in batch}
            assert len(drawn) == 1
            sizes += drawn
    assert set(sizes) == {16, 32}
    groups = Counter(
        crops.pictures.files[crops._picture_of(0, index)].group for index in range(len(crops))
    )
    assert groups == dict.fromkeys(GROUPS, 20)
    assert crops.origin(0)["file"].endswith(".png")


@pytest.mark.parametrize("more", [("--scale_range", 20, 60), ("--zoom_range", 0.3, 3)])
def test_a_crop_of_any_scale_is_filled_with_the_picture(data, tmp_path, more):
    settings = settings_of(data, tmp_path, *more)
    picture = np.random.default_rng(0).uniform(100, 200, (3, 17, 61)).astype(np.float32)
    for number in range(30):
        crop = draw_crop(picture, 32, settings, np.random.default_rng(number))
        assert crop.shape == (3, 32, 32) and crop.min() >= 100 and crop.max() <= 200


def test_training_and_validation_share_no_picture_even_where_files_are_copied(data, tmp_path):
    settings = settings_of(data, tmp_path, "--valid_share", 0.4)
    pictures = find_pictures(settings, tmp_path)
    sides = [{picture_hash(one.path) for one in side} for side in (pictures.train, pictures.valid)]
    assert not sides[0] & sides[1]
    assert {one.group for one in pictures.train} == {one.group for one in pictures.valid}
    assert len(pictures.train) + len(pictures.valid) == 18 == len(pictures.hashes)


def test_a_run_leaves_its_files_and_a_model_that_loads(data, finished):
    folder, best = finished
    assert best == folder / f"{RUN}_best.pth"
    model = load_model(best)
    assert (model.task, model.channels, model.input_size) == ("segment", 1, 32)
    assert model.training_dataset_path == data and not set(model.train) & set(model.valid)
    assert any(path.startswith(FABRIC) for path in model.valid)
    assert set(model.hashes) == {*model.train, *model.valid}
    assert model.network(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)
    kept = [load_model(folder / f"{RUN}_epochs" / f"epoch_{epoch:04}.pth") for epoch in (1, 2)]
    assert [one.epoch for one in kept] == [1, 2]
    (adam,) = read_checkpoint(folder / f"{RUN}.pth", TOOL)["optimizer_state_dict"]["param_groups"]
    assert adam["weight_decay"] == 1e-5
    assert cv2.imread(str(folder / f"{RUN}_samples.png")).shape[1] > 8 * 128
    picture = cv2.imread(str(folder / f"{RUN}_epochs.png"))
    assert picture.shape[1] == (1 + 2 * 2) * picture.shape[1] // 5 and picture.shape[0] > 9 * 128
    entries = [json.loads(line) for line in (folder / f"{RUN}_metrics.jsonl").open()]
    names = ("held_out_loss", "pseudo_auroc", "real_auroc", "unlabelled_above_held_out")
    names += (*validation.TRIVIAL, health.VARIANCE, "gradient_norm/head", "weight_spread/head")
    for name in (*names, "dead_share/encoder.0"):
        assert all(np.isfinite(entry[f"valid_{name}"]) for entry in entries), name


def test_the_best_epoch_has_the_lowest_loss_and_patience_counts_from_it():
    history = [{"epoch": 1 + n, "valid_x": x} for n, x in enumerate((3.0, 1.0, 2.0, 1.5))]
    lowest = Selection("valid_x", 10, "steps", 2, lowest_is_best=True)
    assert lowest.best_epoch(history) == 2 and lowest.is_finished(history)
    assert not lowest.is_finished(history[:3])
    assert Selection("valid_x", 10, "steps").best_epoch(history) == 1


def test_a_killed_run_goes_on_to_the_same_weights(data, finished, tmp_path):
    killing = (
        "import os, signal, sys\n"
        "from autoencoder.trainer import main\n"
        "from training.loop import Training\n"
        "step = Training.take_step\n"
        "def take_step(self, batches):\n"
        "    step(self, batches)\n"
        "    if self.steps_done == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Training.take_step = take_step\n"
        "sys.exit(main())\n"
    )
    folder, (whole, _) = tmp_path, finished
    words = flags(data, folder, *everything(data), "--save_every", 1e-9)
    done = processes.run("-c", killing, *words, folder=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    last = read_checkpoint(folder / f"{RUN}.pth", TOOL)
    assert (last["epoch"], last["step"]) == (1, 1)
    (best,) = train(parse_args(["--resume", "--checkpoint_path", str(folder), "--gpu_id", "-1"]))
    for path in (best, folder / f"{RUN}.pth"):
        assert weights(path) == weights(whole / path.name)
    metrics = [place / f"{RUN}_metrics.jsonl" for place in (folder, whole)]
    assert metrics[0].read_text() == metrics[1].read_text()


def test_an_ensemble_has_a_network_of_each_seed_on_the_same_pictures(data, tmp_path):
    best = train(parse_args(flags(data, tmp_path, "--epochs", 1, "--seeds", 42, 7)))
    name = RUN.replace("ep2", "ep1")
    assert [path.name for path in best] == [f"{name}_seed{seed}_best.pth" for seed in (42, 7)]
    assert weights(best[0]) != weights(best[1])
    assert load_model(best[0]).valid == load_model(best[1]).valid


def test_every_class_has_a_run_of_its_own(data, tmp_path):
    arguments = parse_args(flags(data, tmp_path, "--per_class", "--epochs", 1))
    best = train(arguments)
    assert [path.parent.name for path in best] == sorted(GROUPS)
    for path in best:
        assert all(one.startswith(path.parent.name) for one in load_model(path).train)
    again = parse_args(flags(data, tmp_path, "--per_class", "--epochs", 1, "--resume"))
    assert train(again) == best  # finished ones go on at their end


@pytest.mark.parametrize(
    "more",
    [
        ("--task", "repair", "--loss", "l1:1,perceptual:0.5", "--perceptual", "random"),
        ("--task", "reconstruct", "--coarse_dropout", "3", "--choose_by", "pseudo"),
    ],
)
def test_other_tasks_train_on_pictures_in_colour(tmp_path, more):
    generator = np.random.default_rng(2)
    for number in range(5):
        write(tmp_path / "good" / f"{number}.png", draw(generator, FABRIC, 3))
    (best,) = train(parse_args(flags(tmp_path / "good", tmp_path / "run", *more)))
    model = load_model(best)
    assert model.channels == 3 and model.network(torch.zeros(1, 3, 16, 16)).shape[1] == 3
    again = ("--loss", "perceptual", "--perceptual", "own", "--perceptual_model", best)
    train(
        parse_args(
            flags(tmp_path / "good", tmp_path / "own", "--task", "repair", "--epochs", 1, *again)
        )
    )


def forced(change):
    """The health of a network that `change` has damaged, as an entry of a history."""
    torch.manual_seed(3)
    network, pictures = UNet(1, 2, 4, "all"), torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        network.head.weight.mul_(0.3 / network.eval()(pictures).std())
        change(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    figures = measure_health(network, pictures, pictures, PictureLoss({"mse": 1.0}), False)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    return {f"{VALID}{name}": value for name, value in figures.items()}


def to_grey(network):
    network.head.weight.mul_(1e-4)


def to_dead(network):
    network.encoder[1][1][1].bias.fill_(-1e3)


def to_wild(network):
    network.head.weight.mul_(1e3)


@pytest.mark.parametrize(
    ("change", "words", "flag"),
    [
        (to_grey, "the output has collapsed", "--loss mse:1"),
        (to_dead, "half of the channels of encoder.1", "--lr"),
        (to_wild, "the output has burst", "--lr"),
    ],
)
def test_a_collapse_is_said_at_the_epoch_where_it_begins(change, words, flag):
    sound, collapsed = forced(lambda network: None), forced(change)
    history = [{"epoch": 1, **sound}, {"epoch": 2}, {"epoch": 3, **collapsed}]
    said = [line for line in collapse_warnings(history, False, 9) if words in line]
    assert len(said) == 1 and said[0].startswith("epoch 3: ") and flag in said[0]
    assert not collapse_warnings(history[:1], False, 9)
    assert not collapse_warnings([*history, {"epoch": 4, **collapsed}], False, 9)


def test_a_mask_may_be_flat_while_it_begins_but_not_later():
    flat, alive = ({"valid_variance_ratio": ratio} for ratio in (0.001, 0.5))
    early = [{"epoch": 1, **flat}]
    assert not collapse_warnings(early, True, 10)
    assert collapse_warnings([{"epoch": 1, **alive}, {"epoch": 2, **flat}], True, 10)
    assert collapse_warnings([*early, {"epoch": 6, **flat}], True, 10)


def history_of(pseudo, real=None, trivial=0.6):
    real = real or [0.7] * len(pseudo)
    return [
        {"epoch": 1, "valid_pseudo_auroc": one, "valid_real_auroc": other}
        | {f"valid_{name}": trivial for name in validation.TRIVIAL}
        for one, other in zip(pseudo, real)
    ]


def test_pseudo_defects_that_are_too_easy_are_said_once():
    easy = [0.8, 0.99, 1.0, 0.995]
    assert not warnings_of(history_of(easy[:3]), VALID)
    assert "stays at 0.990" in warnings_of(history_of(easy), VALID)[0]
    assert not warnings_of(history_of([*easy, 1.0]), VALID)
    assert "without a network tells 0.93" in warnings_of(history_of([0.8], trivial=0.93), VALID)[0]
    assert not warnings_of(history_of([0.8, 0.8], trivial=0.93), VALID)


def test_pseudo_and_real_in_opposite_order_are_said():
    rising, falling = [0.5, 0.6, 0.7, 0.8, 0.9], [0.9, 0.8, 0.7, 0.6, 0.5]
    assert "disagree in order" in warnings_of(history_of(rising, falling), VALID)[0]
    assert not warnings_of(history_of(rising, rising), VALID)
    assert rank_correlation(rising, falling) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9487, abs=1e-4)
    assert rank_correlation(rising, [0.5] * 5) == 0


def refused(capsys, words):
    """The line with which a command line or its input is refused."""
    try:
        train(parse_args([str(word) for word in words]))
    except UserError as error:
        return str(error)
    except SystemExit as error:
        assert error.code == 2
        return capsys.readouterr().err.splitlines()[-1]
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--input_size", "30"), "--input_size: found 30, expected a multiple of 4"),
        (("--input_sizes", "32", "33"), "--input_sizes: found 33"),
        (("--ssim_window", "10"), "--ssim_window: found 10, expected an odd number up to 32"),
        (("--ssim_window", "33"), "--ssim_window: found 33"),
        (("--loss", "ssm:1"), "--loss: found 'ssm:1'"),
        (("--task", "repair", "--loss", "perceptual"), "found no --perceptual, expected own"),
        (("--perceptual", "own"), "--perceptual_model, expected both or none"),
        (("--defect_kinds", "dent"), "--defect_kinds: found dent"),
        (("--zoom_range", "2", "1"), "--zoom_range: found 2 1, expected LOW no larger than HIGH"),
        (("--coarse_dropout", "2"), "--coarse_dropout: found --task segment"),
        (("--choose_by", "real"), "found no --real_path"),
        (("--depth", "7"), "found 7, expected 2 to 6"),
        (("--seeds", "1", "1"), "--seeds: found 1 twice"),
        (("--seeds", "1", "--resume", "x.pth"), "--resume x.pth: found --seeds"),
        (("--name", "织"), "expected up to 100 letters"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(data, tmp_path, capsys, more, expected):
    assert expected in refused(capsys, flags(data, tmp_path, *more))


@pytest.mark.parametrize("words", [["--per_class"], ["--seeds", "1"]])
def test_models_of_several_runs_go_on_with_their_data_set_alone(tmp_path, capsys, words):
    line = refused(capsys, ["--resume", "--checkpoint_path", str(tmp_path), *QUICK, *words])
    assert line == f"found no --training_dataset_path, expected it beside {words[0]}"


def folder_of(root, pictures):
    for number, pixels in enumerate(pictures):
        write(root / f"{number}.png", pixels)
    return root


GREY = np.arange(48 * 40, dtype=np.uint8).reshape(40, 48)


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        ([GREY], "expected at least two"),
        ([GREY, GREY], "expected at least two"),
        ([np.dstack([GREY] * 4)] * 2, "alpha"),
        ([GREY, np.dstack([GREY, GREY.T.reshape(GREY.shape), GREY])], "expected one kind"),
    ],
)
def test_pictures_that_cannot_be_trained_on_are_refused(tmp_path, capsys, pictures, expected):
    root = folder_of(tmp_path / "good", pictures)
    line = refused(capsys, flags(root, tmp_path / "run"))
    assert expected in line and str(root) in line


def test_a_folder_without_pictures_and_values_that_are_not_finite_are_refused(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refused(capsys, flags(empty, tmp_path / "run"))
    import tifffile

    root = tmp_path / "good"
    root.mkdir()
    for number in range(3):
        pixels = GREY.astype(np.float32) + number
        pixels[0, 0] = np.nan if number == 1 else 0
        tifffile.imwrite(root / f"{number}.tif", pixels)
    line = refused(capsys, flags(root, tmp_path / "run"))
    assert "files that cannot be used: 1" in line and "1.tif: found pixels that are NaN" in line


def test_checkpoints_of_the_tools_refuse_each_other(finished, make_checkpoint, tmp_path, capsys):
    strips = make_checkpoint(name="strips.pth")
    with pytest.raises(UserError, match="found a model of the strip detector, expected one of the"):
        load_model(strips)
    with pytest.raises(UserError, match=f"found a model of the {TOOL}, expected one of the strip"):
        load_checkpoint(finished[1])
    assert "strip detector" in refused(capsys, ["--resume", strips])


@pytest.mark.parametrize("name", ["task", "depth", "picture_hashes", "model_state_dict", "skips"])
def test_a_damaged_checkpoint_is_refused_by_the_entry(finished, tmp_path, name):
    content = torch.load(finished[1], weights_only=True)
    for damaged in (content | {name: 7.5}, {key: content[key] for key in content if key != name}):
        torch.save(damaged, tmp_path / "damaged.pth")
        with pytest.raises(UserError, match=name):
            load_model(tmp_path / "damaged.pth")


def test_a_resumed_run_keeps_its_settings_and_its_pictures(data, finished, tmp_path, capsys):
    folder, _ = finished
    copied = shutil.copy(folder / f"{RUN}.pth", tmp_path / f"{RUN}.pth")
    line = refused(capsys, ["--resume", copied, "--depth", 3])
    assert "found a run of --depth 2, expected 3" in line
    other = tmp_path / "other"
    shutil.copytree(data, other)
    write(other / FABRIC / "train" / "good" / "new.png", GREY)
    line = refused(capsys, ["--resume", copied, "--training_dataset_path", other])
    assert "found a run on other pictures" in line


def test_models_of_each_class_are_no_ensemble_and_the_next_command_has_one_class(data, tmp_path):
    words = flags(data, tmp_path, "--per_class", "--epochs", 1, "--epoch_crops", 4, "--seeds", 1, 2)
    arguments = parse_args(words)
    best = train(arguments)
    first, last = sorted(GROUPS)
    command, others = next_commands(arguments, best)
    models = shlex.join(map(str, best[:2]))
    assert command == (
        f"next, for {first}: python -m autoencoder.inference --models {models} "
        f"--test_path {shlex.quote(str(data / first))}"
    )
    assert others.startswith(f"the same for {last}, each with its own --models, --test_path")
    asked = inference.parse_args(["--models", *map(str, best)])
    with pytest.raises(UserError) as refusal:
        load_scorers(asked, torch.device("cpu"))
    assert f"{best[0]} of {first} and {best[2]} of {last}, expected" in str(refusal.value)
    asked = inference.parse_args(["--models", *map(str, best[:2])])
    assert len(load_scorers(asked, torch.device("cpu")).models) == 2


def test_a_folder_without_classes_has_no_run_of_each(tmp_path, capsys):
    root = folder_of(tmp_path / "good", [GREY, GREY // 2])
    assert "found no class folders" in refused(capsys, flags(root, tmp_path / "run", "--per_class"))


def test_a_folder_without_defects_is_no_real_path(data, tmp_path, capsys):
    line = refused(capsys, flags(data, tmp_path, "--real_path", data / FABRIC / "test" / "good"))
    assert line.startswith("--real_path") and "found no pictures of a kind of defect" in line


def test_lite0_that_is_not_installed_is_named(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lite0, "MODULE", "no_such_package")
    more = ("--task", "repair", "--loss", "l1,perceptual", "--perceptual", "lite0")
    assert lite0.PACKAGE in refused(capsys, flags(data, tmp_path, *more))


def test_a_folder_for_files_may_not_lie_among_the_pictures(data, capsys):
    line = refused(capsys, flags(data, data / "metal" / "run"))
    assert line.startswith("--checkpoint_path") and "found a folder inside" in line


def test_the_epochs_of_a_run_are_a_table_by_picture_and_epoch(
    data, finished, tmp_path, monkeypatch, capsys
):
    words = [finished[1], data / FABRIC / "test", "--csv", tmp_path / "t.csv", "--gpu_id", -1]
    monkeypatch.setattr("sys.argv", ["epochs", *map(str, words)])
    assert epochs.main() == 0
    assert "epoch 2: AUROC by loss" in capsys.readouterr().out
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["kind"], row["epoch"]) for row in rows] == [
        (kind, epoch) for kind in ("good", "刮痕") for _ in range(3) for epoch in "12"
    ]
    assert all(0 < float(row["loss"]) < 1 and not row["feature_difference"] for row in rows)
    with pytest.raises(UserError, match="found no epoch_"):
        epochs.kept_epochs(tmp_path / "other.pth")


def test_the_features_of_an_exact_output_do_not_differ(finished):
    model = load_model(finished[1])
    exact = replace(model, task="reconstruct", network=Identity(model.network))
    loss, difference = epochs.measure(exact, GREY[None].astype(np.float32), torch.device("cpu"))
    assert loss == difference == 0


class Identity(torch.nn.Module):
    """A network that gives every picture back, with another one's encoder."""

    def __init__(self, network):
        super().__init__()
        self.multiple, self.encode = network.multiple, network.encode

    def forward(self, pictures):
        return pictures


def test_a_run_is_validated_in_its_interval_and_at_its_end_and_the_command_says_what_next(
    data, tmp_path, monkeypatch, capsys
):
    words = flags(data, tmp_path, "--epochs", 3, "--validate_every", 2)
    monkeypatch.setattr("sys.argv", ["trainer", *words])
    assert main() == 0
    entries = [json.loads(line) for line in next(tmp_path.glob("*_metrics.jsonl")).open()]
    assert ["valid_held_out_loss" in entry for entry in entries] == [False, True, True]
    printed = capsys.readouterr().out.splitlines()
    best = tmp_path / f"{RUN.replace('ep2', 'ep3')}_best.pth"
    assert printed[-2] == f"best checkpoint: {best}"
    assert printed[-1].startswith("next: python -m autoencoder.inference --models ")
