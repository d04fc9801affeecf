"""The exported file of the reference-free detector, what runs it, and what refuses it."""

import csv
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import autoencoder.export as command
import autoencoder.inference as inference
import inference_onnx
from autoencoder import feature_library
from autoencoder.loaded import calibrate, load_scorers
from autoencoder.onnx_metadata import read_picture_metadata
from common.errors import UserError
from data.pictures import list_pictures, read_picture
from deploy.metadata import read_metadata
from deploy.onnx_predictor import OnnxPredictor
from tests.autoencoder_models import SIZE, draw_picture, write_checkpoint, write_kind, write_picture
from tests.conftest import ROOT
from training.checkpoint import load_checkpoint

TARGET = 0.2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "零件"
    for seed, name in enumerate(("瓶", "wood")):
        write_kind(root / name, seed, brightness=100 * seed)
    return root


@pytest.fixture(scope="module")
def members(root):
    folder = root.parent / "模型"
    return [
        write_checkpoint(folder / f"{seed}_best.pth", root, task, seed=seed)
        for seed, task in enumerate(("reconstruct", "repair"))
    ]


@pytest.fixture(scope="module")
def library(root):
    return write_library(root, "库.pth")


def write_library(root, name, **more):
    path = root.parent / "模型" / name
    words = {
        "training_dataset_path": root,
        "output_path": path,
        "memory": 40,
        "cell": 4,
        "input_size": 32,
        "valid_share": 0.4,
        **more,
    }
    feature_library.main(
        [str(word) for pair in words.items() for word in (f"--{pair[0]}", pair[1])]
    )
    return path


@pytest.fixture(scope="module")
def flags(members, library, root):
    """An ensemble of two networks, and one of two libraries with two clusters."""
    other = write_library(root, "库2.pth", contrast_windows=0.25)
    words = ["--models", *members, "--library", library, other, "--score", "pixel", "library"]
    return [*words, "--smoothing", 1, "--top_share", 0.02, "--target_false_alarms", TARGET]


@pytest.fixture(scope="module")
def exported(flags, root):
    path = root.parent / "出" / "集.onnx"
    assert command.export(parse(*flags, "--input", "uint8", "--output_path", path)) == path
    return path


def parse(*words):
    return command.parse_args(list(map(str, words)))


def open_file(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def metadata_of(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def pictures_of(root):
    return np.stack([read_picture(file, 255.0)[0] for file in list_pictures(root)])


def rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_example_of_the_documents_runs(exported, root, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs/how-to/score-pictures.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    shutil.copy(exported, "detector.onnx")
    shutil.copy(root / "瓶/test/亮斑/0.png", "picture.png")
    exec(compile(example, "example", "exec"), {})
    score, verdict = capsys.readouterr().out.split()
    assert float(score) > 0.5 and verdict == "NG"


def test_the_file_gives_what_pytorch_gives_in_any_batch(exported, flags, root):
    arguments = parse(*flags)
    loaded = load_scorers(arguments, torch.device("cpu"))
    _, good = calibrate(loaded, arguments)
    images = pictures_of(root)
    with torch.inference_mode():
        expected = loaded.scorers.of(SIZE)(torch.from_numpy(images) / 255)
    session, inputs = open_file(exported), images.astype(np.uint8)
    names = [output.name for output in session.get_outputs()]
    assert names == ["heatmap", "score", "cluster", "verdict"]
    found = session.run(None, {"input": inputs})
    assert found[0].shape == (12, 1, *SIZE)
    for ours, theirs in zip(found, expected):
        assert np.abs(ours - theirs.numpy()).max() < 1e-5
    assert set(found[2].tolist()) == {0, 1}
    thresholds = np.array([threshold.value for threshold in good.thresholds(TARGET)], np.float32)
    assert thresholds[0] != thresholds[1]
    assert np.array_equal(found[3], found[1] > thresholds[found[2]])
    given = np.array([0.0, 1.0], np.float32)
    verdict = session.run(["verdict"], {"input": inputs, "threshold": given})[0]
    assert np.array_equal(verdict, found[2] == 0)


def test_the_file_has_each_network_once_and_says_what_it_is(exported):
    names = [weight.name for weight in onnx.load(exported).graph.initializer]
    assert len([name for name in names if "encoder.0.0.0.weight" in name]) == 2
    assert len([name for name in names if "bank" in name]) == 1
    entries = metadata_of(exported)
    assert entries["tool"] == "autoencoder" and entries["image_size"] == "32 40"
    assert entries["models"] == "0_best.pth 1_best.pth 库.pth 库2.pth"
    assert "heatmap, good" in entries["parity"] and "score, defective" in entries["parity"]
    metadata = read_picture_metadata(entries)
    assert (metadata.channels, metadata.input_kind, metadata.target) == (1, "uint8", TARGET)
    values = [repr(threshold.value) for threshold in metadata.good.thresholds(TARGET)]
    assert " ".join(values) == entries["thresholds"]


def test_both_commands_give_the_same_scores_and_verdicts(exported, flags, root, tmp_path, capsys):
    ours = ["--output_dir", tmp_path / "torch", "--gpu_id", -1, "--pictures_per_kind", 0]
    inference.infer(inference.parse_args(list(map(str, [*flags, *ours]))))
    words = ["--model_path", exported, "--output_dir", tmp_path / "onnx", "--batch", 5]
    inference_onnx.infer(inference_onnx.parse_args(list(map(str, words))))
    inputs = pictures_of(root).astype(np.uint8)
    verdicts = open_file(exported).run(["verdict"], {"input": inputs})[0]
    tables = [rows(tmp_path / name / "submission.csv") for name in ("torch", "onnx")]
    for torch_row, onnx_row, verdict in zip(*tables, verdicts):
        assert float(torch_row["score"]) == pytest.approx(float(onnx_row["score"]), abs=1e-5)
        assert (torch_row["id"], torch_row["label"]) == (onnx_row["id"], onnx_row["label"])
        assert torch_row["label"] == str(int(verdict))
    assert capsys.readouterr().out.count("each cluster has its own: ") == 2


def score_onnx(path, *words):
    words = ["--model_path", path, *words]
    return inference_onnx.infer(inference_onnx.parse_args(list(map(str, words))))


def test_an_onnx_file_takes_a_new_threshold_and_names_pictures_of_another_size(
    exported, root, tmp_path, capsys
):
    for number, size in enumerate([SIZE, SIZE, (20, 20)]):
        write_picture(tmp_path / "in" / f"{number}.png", draw_picture((7, number), size=size))
    words = ["--test_path", tmp_path / "in", "--output_dir", tmp_path / "out"]
    good = ["--good_path", root / "瓶" / "test", "--target_false_alarms", 0.4]
    assert score_onnx(exported, *words, *good) == 1
    printed = capsys.readouterr()
    assert "of 3 good pictures" in printed.out
    assert "2.png: found (20, 20) (height, width), expected the ONNX file's (32, 40)" in printed.err
    assert len(rows(tmp_path / "out" / "submission.csv")) == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["--missing", "separate"], "--missing: found a file for pictures"),
        (["--channels", "2,1,0"], "--channels: found a file for pictures"),
        (["--target_false_alarms", 2], "expected a share of good ones"),
        (["--input_max", 1023], "found a model of --input_max 255"),
    ],
)
def test_flags_for_strips_are_refused_for_a_file_for_pictures(exported, words, message):
    with pytest.raises(UserError, match=message):
        score_onnx(exported, *words)


def test_a_strip_detector_refuses_the_file_a_checkpoint_and_a_library_by_name(
    exported, members, library
):
    refusal = "found a model of the autoencoder, expected one of the strip detector"
    with pytest.raises(UserError, match=refusal):
        OnnxPredictor(exported)
    with pytest.raises(UserError, match=refusal):
        read_metadata(metadata_of(exported))
    for path in (members[0], library):
        with pytest.raises(UserError, match=refusal):
            load_checkpoint(path)


def test_files_of_a_strip_detector_are_refused_by_name(make_checkpoint):
    refusal = "found a model of the strip detector, expected one of the autoencoder"
    for flag in ("--models", "--library"):
        with pytest.raises(UserError, match=refusal):
            load_scorers(parse(flag, make_checkpoint()), torch.device("cpu"))
    with pytest.raises(UserError, match=refusal):
        read_picture_metadata({"schema_version": "2"})


def test_a_file_that_disagrees_with_pytorch_never_gets_its_name(
    exported, flags, root, monkeypatch, tmp_path
):
    def write_other(graph, images, opset, path, outputs, thresholds):
        shutil.copyfile(exported, path)

    monkeypatch.setattr(command, "write_graph", write_other)
    words = [*flags, "--input", "uint8", "--output_path", tmp_path / "out" / "file.onnx"]
    assert command.export(parse(*words)).is_file()  # the same settings
    (tmp_path / "out" / "file.onnx").unlink()
    with pytest.raises(UserError, match=r"outputs differ from PyTorch's by 0\.\d+ \("):
        command.export(parse(*words, "--smoothing", 1.01))
    with pytest.raises(UserError, match="found the outputs verdict"):
        command.export(parse(*words, "--target_false_alarms", 0.7))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        (["--windows", 64, "--padding", "none"], "windows of 64 pixels"),
        (["--score", "mask"], "--score mask: found a network of --task reconstruct"),
        (["--library", "missing.pth"], "missing.pth: found no such file"),
    ],
)
def test_flags_that_do_not_fit_the_model(members, words, message):
    with pytest.raises(UserError, match=message):
        command.export(parse("--models", members[0], *words))


@pytest.mark.parametrize("name", ["瓶/a.onnx", "models"])
def test_a_file_may_not_lie_among_the_pictures(members, root, name):
    words = ["--models", members[0], "--output_path", root / name]
    with pytest.raises(UserError, match=r"^--output_path: .+ found an output folder among"):
        command.export(parse(*words))
    assert not (root / "models").exists()


def test_uint8_needs_a_camera_of_8_bits_and_a_library_the_same_camera(root, library, tmp_path):
    other = write_checkpoint(tmp_path / "a_best.pth", root, input_max=300.0)
    with pytest.raises(UserError, match="--input uint8: found a camera up to 300"):
        command.export(parse("--models", other, "--input", "uint8"))
    with pytest.raises(UserError, match="found pictures of values up to 255, expected 300"):
        command.export(parse("--models", other, "--library", library))


def test_held_out_pictures_of_several_sizes_need_an_image_size(members, tmp_path):
    for number, size in enumerate([SIZE, (20, 31), (64, 40)]):
        write_picture(tmp_path / f"{number}.png", draw_picture((9, number), size=size))
    with pytest.raises(UserError, match="--image_size: found none, and held-out pictures of 3 siz"):
        command.export(parse("--models", members[0], "--good_path", tmp_path))
