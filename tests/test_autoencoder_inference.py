"""Scoring of a folder of pictures in PyTorch and in ONNX Runtime."""

import csv
import json
import shutil

import numpy as np
import pytest
import tifffile
import torch

import autoencoder.inference as command
from autoencoder import feature_library
from autoencoder import loaded as loaded_module
from autoencoder.calibration import good_scores
from autoencoder.clusters import titled
from autoencoder.folder_scoring import (
    FolderScoring,
    choose_thresholds,
    jump_threshold,
    z_scores,
)
from autoencoder.library import load_library
from autoencoder.loaded import calibrate, load_scorers
from autoencoder.model import load_model
from autoencoder.nearest_good import BEYOND, NearestGood
from autoencoder.predictor import PicturePredictor
from autoencoder.scorer import to_unit
from common.errors import UserError
from data.image_files import Channels
from data.picture_channels import load_picture
from tests.autoencoder_models import SIZE, draw_picture, write_checkpoint, write_kind, write_picture
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "零件"
    for seed, name in enumerate(("瓶", "wood")):
        write_kind(root / name, seed)
    return root


@pytest.fixture(scope="module")
def checkpoint(root):
    return write_checkpoint(root.parent / "模型" / "a_best.pth", root)


def score(*words):
    return command.infer(command.parse_args(["--gpu_id", "-1", *map(str, words)]))


def rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scored(root, checkpoint):
    output = root.parent / "出"
    assert score("--models", checkpoint, "--output_dir", output) == 0
    return output


def test_a_folder_gets_all_files(scored, root, capsys):
    found = rows(scored / "submission.csv")
    assert list(found[0]) == ["id", "score", "label"] and len(found) == 12
    assert found[0]["id"].startswith("wood/test/") or found[0]["id"].startswith("瓶/test/")
    verdicts = rows(scored / "scores.csv")
    for row, verdict in zip(found, verdicts):
        assert row["id"] == verdict["file"] and row["score"] == verdict["score"]
        assert row["label"] == str(int(verdict["verdict"] == "NG"))
    heatmap = tifffile.imread(scored / "瓶/test/亮斑/0_heatmap.tiff")
    assert heatmap.shape == SIZE and heatmap.dtype == np.float32
    assert (scored / "瓶/test/亮斑/0_panels.png").is_file()
    metrics = json.loads((scored / "metrics.json").read_text(encoding="utf-8"))
    assert metrics
    report = (scored / "report.html").read_text(encoding="utf-8")
    assert "output" in report and "瓶" in report


def test_an_ensemble_of_one_scores_as_the_model_and_one_of_a_copy_too(scored, checkpoint, root):
    output, copy = root.parent / "twice", root.parent / "copy_best.pth"
    shutil.copyfile(checkpoint, copy)
    score("--models", checkpoint, copy, "--output_dir", output)
    for one, two in zip(rows(scored / "submission.csv"), rows(output / "submission.csv")):
        assert float(one["score"]) == pytest.approx(float(two["score"]), abs=1e-6)


def test_one_bad_file_among_many_is_named_and_the_others_are_scored(
    checkpoint, root, tmp_path, capsys
):
    folder = tmp_path / "in"
    for number in range(3):
        write_picture(folder / f"{number}.png", draw_picture((9, number)))
    (folder / "1.png").write_bytes(b"no picture")
    assert score("--models", checkpoint, "--test_path", folder, "--output_dir", tmp_path / "o") == 1
    assert "1.png: found no readable image" in capsys.readouterr().err
    assert len(rows(tmp_path / "o" / "submission.csv")) == 2


def test_pictures_of_several_sizes_are_scored(checkpoint, tmp_path):
    for number, size in enumerate([(20, 31), (64, 40), (9, 9)]):
        write_picture(tmp_path / "in" / f"{number}.png", draw_picture((9, number), size=size))
    words = ["--test_path", tmp_path / "in", "--output_dir", tmp_path / "out"]
    assert score("--models", checkpoint, *words) == 0
    assert tifffile.imread(tmp_path / "out" / "1_heatmap.tiff").shape == (64, 40)


def test_good_pictures_that_were_learned_from_set_no_threshold(checkpoint, root, tmp_path, capsys):
    train = root / "瓶/train/good"
    words = [
        "--models",
        checkpoint,
        "--test_path",
        root / "瓶/test",
        "--output_dir",
        tmp_path / "o",
    ]
    for number in range(12):
        (tmp_path / "copies").mkdir(exist_ok=True)
        copy = tmp_path / "copies" / f"renamed_{number}.png"
        copy.write_bytes((train / f"{number}.png").read_bytes())
    assert score(*words, "--good_path", tmp_path / "copies") == 0
    printed = capsys.readouterr()
    left_out = int(printed.err.split("left out ")[1].split(" ")[0])
    assert 0 < left_out < 12
    assert f"of {12 - left_out} good pictures" in printed.out
    learned = [
        root / name
        for name in torch.load(checkpoint, weights_only=True)["train_pictures"]
        if name.startswith("瓶")
    ]
    for path in (tmp_path / "copies").iterdir():
        path.unlink()
    for path in learned:
        (tmp_path / "copies" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="all of which were learned from"):
        score(*words, "--good_path", tmp_path / "copies")


def test_first_jump_separates_a_folder_without_good_pictures(checkpoint, tmp_path, capsys):
    folder = tmp_path / "in"
    for number in range(24):
        picture = draw_picture((9, number))
        if number % 8 == 0:
            picture[5:15, 5:20] = 255
        write_picture(folder / f"{number:02}.png", picture)
    words = ["--models", checkpoint, "--test_path", folder, "--first_jump", "--jump_factor", 4]
    assert score(*words, "--output_dir", tmp_path / "out") == 0
    assert "first jump" in capsys.readouterr().out
    labels = {row["id"]: row["label"] for row in rows(tmp_path / "out" / "submission.csv")}
    assert [name for name, label in labels.items() if label == "1"] == [
        "00.png",
        "08.png",
        "16.png",
    ]


@pytest.mark.parametrize("count", [1, 20])
def test_first_jump_needs_more_pictures_than_it_compares_with(checkpoint, tmp_path, count):
    for number in range(count):
        write_picture(tmp_path / "in" / f"{number}.png", draw_picture((9, number)))
    words = ["--models", checkpoint, "--test_path", tmp_path / "in", "--first_jump"]
    with pytest.raises(UserError, match=f"--first_jump: found {count} picture"):
        score(*words, "--output_dir", tmp_path / "out")


def test_a_jump_lies_between_the_scores_around_it():
    z = np.array([*np.linspace(-1, 1, 21), 40.0, 41.0])
    scores = to_unit(torch.from_numpy(z)).tolist()
    assert np.allclose(z_scores(scores), z, atol=1e-6)
    settings = FolderScoring(
        output_dir=None, channels=Channels.GREY, input_max=255.0, target_false_alarms=0.05
    )
    threshold = jump_threshold(scores, settings)
    assert scores[20] < threshold.value < scores[21]
    assert jump_threshold(scores[:21], settings).value == 1.0
    assert jump_threshold([0.4] * 30, settings).value == 1.0


def test_a_cluster_is_called_one_once(capsys):
    assert titled("瓶") == "cluster 瓶" and titled("cluster 1") == "cluster 1"
    scores = [number / 20 for number in range(11)]
    good = good_scores(("cluster 1", "cluster 2"), scores, [0] * 10 + [1], "set on good pictures")
    settings = FolderScoring(
        output_dir=None, channels=Channels.GREY, input_max=255.0, target_false_alarms=0.05
    )
    choose_thresholds(None, None, good, settings)
    assert "warning: cluster 2: found fewer held-out good pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--padding", "none", "--windows", 64],
            "^--windows 64 and --padding none: found windows of 64 pixels",
        ),
        (["--windows", 60000], "^--windows 60000 and --padding reflect: found 60000 x 60000 pix"),
        (["--score", "library"], "--score library"),
        (["--models", "missing.pth"], "missing.pth: found no such"),
        (
            ["--models", ROOT / "tests" / "earlier" / "robust.onnx"],
            "robust.onnx: found no readable checkpoint .* expected one of python -m autoencoder",
        ),
    ],
)
def test_bad_input_is_one_line(checkpoint, root, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        score("--models", checkpoint, "--output_dir", tmp_path / "out", *words)


@pytest.mark.parametrize("words", [["--jump_base", "30"], ["--jump_factor=4"]])
def test_flags_of_a_jump_need_a_jump(words, capsys):
    with pytest.raises(SystemExit):
        command.parse_args(words)
    assert f"found {words[0].split('=')[0]} without --first_jump" in capsys.readouterr().err
    assert command.parse_args([*words, "--first_jump"]).first_jump


def test_a_file_that_is_named_twice_is_refused(checkpoint, library):
    for flag, path in (("--models", checkpoint), ("--library", library)):
        same = path.parent / ".." / path.parent.name / path.name
        asked = command.parse_args([flag, str(path), str(same)])
        with pytest.raises(UserError, match=f"^{flag}: found {path} twice, expected different"):
            load_scorers(asked, torch.device("cpu"))


def test_windows_that_ask_for_too_much_memory_are_named(checkpoint, tmp_path, monkeypatch):
    def compute(*_):
        raise MemoryError

    monkeypatch.setattr(loaded_module, "calibrate_scorers", compute)
    with pytest.raises(UserError, match="--windows 16 32: found too little memory, "):
        score("--models", checkpoint, "--output_dir", tmp_path / "o", "--windows", 16, 32)
    with pytest.raises(MemoryError):
        score("--models", checkpoint, "--output_dir", tmp_path / "o")


def test_a_folder_of_other_channels_and_an_output_among_the_pictures_are_refused(
    checkpoint, root, tmp_path
):
    write_picture(tmp_path / "in" / "a.png", draw_picture((1,), channels=3))
    with pytest.raises(UserError, match="colour"):
        score(
            "--models", checkpoint, "--test_path", tmp_path / "in", "--output_dir", tmp_path / "o"
        )
    words = ["--good_path", tmp_path / "in", "--output_dir", tmp_path / "o"]
    with pytest.raises(
        UserError, match=r"a.png: found a picture in colour .3 channels., expected grey"
    ):
        score("--models", checkpoint, *words)
    with pytest.raises(UserError, match="found an output folder among the pictures"):
        score("--models", checkpoint, "--output_dir", root / "瓶" / "out")


def test_a_model_and_a_library_of_two_roots_with_equal_names_score_together(tmp_path):
    roots = [write_kind(tmp_path / name, seed, 1, 6, 1) for seed, name in enumerate("ab")]
    checkpoint, library = write_checkpoint(tmp_path / "a_best.pth", roots[0]), tmp_path / "b.pth"
    words = ["--training_dataset_path", roots[1], "--output_path", library, "--valid_share", 0.4]
    feature_library.main([str(word) for word in [*words, "--input_size", 32, "--cell", 4]])
    held_out = load_model(checkpoint).valid, load_library(library).valid
    assert set(held_out[0]) & set(held_out[1])
    arguments = command.parse_args(["--models", str(checkpoint), "--library", str(library)])
    found, _ = calibrate(load_scorers(arguments, torch.device("cpu")), arguments)
    expected = [root / name for root, names in zip(roots, held_out) for name in names]
    assert [picture.path for picture in found.pictures] == expected


@pytest.fixture(scope="module")
def library(root):
    """A library that remembers every cell, at the pictures' own scale."""
    path = root.parent / "模型" / "库.pth"
    words = ["--training_dataset_path", root, "--output_path", path, "--memory", 4000]
    words += ["--cell", 4, "--input_size", SIZE[0], "--valid_share", 0.4]
    feature_library.main([str(word) for word in words])
    return path


@torch.inference_mode()
def test_the_nearest_good_picture_of_one_in_the_library_is_that_picture(library):
    loaded = load_library(library)
    number = next(at for at, name in enumerate(loaded.train) if name.startswith("wood"))
    path = loaded.training_dataset_path / loaded.train[number]
    image = load_picture(path, 255.0, Channels.GREY)[0]
    batch = torch.from_numpy(image)[None] / 255
    cluster = torch.tensor([loaded.names.index("wood")])
    assert np.array_equal(NearestGood(loaded)(batch, (14, 10), cluster), image)
    shifted = np.concatenate([image[:, 4:], image[:, -4:]], axis=1)
    panel = NearestGood(loaded)(torch.from_numpy(shifted)[None] / 255, (14, 10), cluster)
    assert np.array_equal(panel[:, :28], image[:, 4:]) and (panel[:, 28:] == BEYOND).all()


def test_a_library_scores_alone_and_shows_the_nearest_good_picture(library, root, tmp_path):
    output = tmp_path / "out"
    assert score("--library", library, "--output_dir", output) == 0
    assert len(rows(output / "submission.csv")) == 12
    loaded = load_scorers(command.parse_args(["--library", str(library)]), torch.device("cpu"))
    predictor = PicturePredictor(loaded.scorers, [0.5, 0.5], NearestGood(loaded.libraries[0]))
    found = predictor(draw_picture((5,))[:, :, 0].astype(np.float32)[None])
    assert list(found.panels) == ["nearest good"] and found.panels["nearest good"].shape == SIZE


def test_several_libraries_score_by_the_mean_of_their_z_scores(library, root, tmp_path):
    other, mixed = tmp_path / "other.pth", tmp_path / "mixed.pth"
    words = ["--training_dataset_path", root, "--memory", 40, "--cell", 4, "--valid_share", 0.4]
    words += ["--input_size", SIZE[0], "--contrast_windows", 0.25, "--output_path"]
    feature_library.main([str(word) for word in [*words, other]])
    feature_library.main([str(word) for word in [*words, mixed, "--routing", "none"]])

    def planes_of(*paths):
        flags = ["--library", *map(str, paths), "--score", "library", "patches"]
        arguments = command.parse_args([*flags, "--smoothing", "0"])
        loaded = load_scorers(arguments, torch.device("cpu"))
        calibrate(loaded, arguments)
        scorer = loaded.scorers.of(SIZE)
        batch = torch.from_numpy(draw_picture((5,))[None, :, :, 0].astype(np.float32))[None] / 255
        clusters = torch.tensor([1])
        planes = scorer.planes(batch, clusters)
        z = (planes - scorer.plane_mean[clusters][:, :, None, None]) / scorer.plane_spread[
            clusters
        ][:, :, None, None]
        return planes, z, scorer.merged(planes, clusters)

    with torch.inference_mode():
        planes, both, merged = planes_of(library, other)
        first, second = planes_of(library), planes_of(other)
    # the patches once, of the first library, which routes
    assert torch.allclose(planes, torch.cat([first[0], second[0][:, :1]], dim=1), atol=1e-4)
    assert torch.allclose(both[:, :-1], first[1], atol=1e-4)
    joined = (both[:, :1] + both[:, -1:]) / 2
    maps = torch.cat([joined, both[:, 1:-1]], dim=1)
    assert torch.allclose(merged, maps.mean(dim=1, keepdim=True), atol=1e-4)
    with pytest.raises(UserError, match=r"mixed.pth: found other clusters than in .*库.pth"):
        planes_of(library, mixed)


def test_groups_in_grey_and_in_colour_are_scored_in_colour(tmp_path):
    root = tmp_path / "mixed"
    write_kind(root / "grey", 0, train=6, test=1)
    write_kind(root / "colour", 1, channels=3, train=6, test=1)
    checkpoint = write_checkpoint(tmp_path / "a_best.pth", root, channels=3)
    library = tmp_path / "library.pth"
    words = ["--training_dataset_path", root, "--output_path", library, "--valid_share", 0.4]
    feature_library.main([str(word) for word in [*words, "--input_size", 32, "--cell", 4]])
    words = ["--models", checkpoint, "--library", library, "--output_dir", tmp_path / "out"]
    assert score(*words) == 0
    assert len(rows(tmp_path / "out" / "submission.csv")) == 4
