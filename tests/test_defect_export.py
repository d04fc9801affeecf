"""The exported file of the defect classifier, what runs it, and what refuses it."""

import csv
import json
import shutil
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import classifier.export_defect_model as command
import inference_onnx
from classifier.calibration import read_calibration
from classifier.defect_checkpoint import COMMAND as TRAINER
from classifier.defect_data import list_labelled, read_labelled
from classifier.inference_defect_model import infer
from classifier.inference_defect_model import parse_args as parse_inference
from classifier.loaded_classifier import load_calibrated
from classifier.onnx_classifier import load_onnx_classifier
from classifier.onnx_metadata import read_classifier_metadata
from classifier.train_defect_model import parse_args as parse_training
from classifier.train_defect_model import train
from common.errors import UserError, run_command
from data.folder import GOOD
from data.write_images import write_strip
from deploy.onnx_predictor import OnnxPredictor
from tests.conftest import ROOT
from tests.defect_images import KINDS, SIZE, write_data

QUICK = ("--gpu_id", -1, "--batch_size", 8, "--decoder_channels", 8, 4, "--head_channels", 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), count=8)


def trained(data, folder, *more):
    words = ("--data_root", data, "--save_dir", folder, *QUICK, *more)
    train(parse_training([str(word) for word in words]))
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A training's folder, with a temperature that 12 held-out images would not have set."""
    folder = trained(data, tmp_path_factory.mktemp("run"), "--epochs", 3)
    content = torch.load(folder / "best_accuracy.pth", weights_only=True)
    content["calibration"]["fitted"]["temperature"] = 1.7
    torch.save(content, folder / "best_accuracy.pth")
    return folder


def exported(checkpoint, path, *more):
    words = ("--checkpoint", checkpoint, "--output_path", path, *more)
    return command.export(command.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return exported(run, path, "--target_error", 0.95)


def classify(checkpoint, output_dir, *words):
    words = ("--checkpoint", checkpoint, "--output_dir", output_dir, "--gpu_id", -1, *words)
    assert infer(parse_inference([str(word) for word in words])) == 0
    with (output_dir / "predictions.csv").open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def test_the_file_says_what_pytorch_says_of_any_number_of_images(data, run, file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    graph = load_calibrated(run, None, torch.device("cpu")).graph()
    assert [node.name for node in session.get_outputs()] == list(graph.outputs)
    assert session.get_inputs()[0].shape == ["batch", 1, *SIZE]
    images = np.stack([read_labelled(one, 255.0)[0] for one in list_labelled(data, "valid")]) / 255
    for batch in (1, 3, len(images)):
        given = images[:batch].astype(np.float32)
        found = dict(zip(graph.outputs, session.run(None, {"input": given})))
        with torch.no_grad():
            expected = graph(torch.from_numpy(given))
        for name, values in zip(graph.outputs, expected):
            assert np.abs(found[name] - values.numpy()).max() < 1e-4, name
        assert found["probabilities"].shape == (batch, 3)
        assert found["probabilities"].sum(axis=1) == pytest.approx(np.ones(batch), abs=1e-5)
        assert found["mask"].shape == (batch, 1, *SIZE) and found["attention"].shape[0] == batch
    (imported,) = onnx.load(file).opset_import
    assert imported.version == 18


def test_a_file_averages_over_flips_with_a_calibration_of_its_own(data, run, tmp_path):
    path = exported(run, tmp_path / "flips.onnx", "--average_flips", "--target_error", 0.95)
    plain = load_calibrated(run, None, torch.device("cpu"))
    averaged = load_calibrated(run, None, torch.device("cpu"), averages_flips=True)
    assert averaged.fitted.calibration != plain.fitted.calibration
    assert averaged.fitted.calibration.temperature != 1.7  # that of the file is of one view
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    assert entries["network"] == "attention_guided on small, averaged over flips"
    images = np.stack([read_labelled(one, 255.0)[0] for one in list_labelled(data, "valid")]) / 255
    given = images[:3].astype(np.float32)
    found, flipped = (session.run(None, {"input": one}) for one in (given, given[..., ::-1].copy()))
    assert np.abs(found[0] - flipped[0]).max() < 1e-5
    assert np.abs(found[1] - flipped[1][..., ::-1]).max() < 1e-5
    with torch.no_grad():
        one_view = plain.graph()(torch.from_numpy(given))
    assert np.abs(found[1] - one_view[1].numpy()).max() > 1e-4
    words = ("--image_dir", data / "valid")
    rows = classify(path, tmp_path / "onnx", *words)
    for row, other in zip(rows, classify(run, tmp_path / "pth", *words, "--average_flips")):
        assert row["predicted"] == other["predicted"]
        for name in ("confidence", "distance"):
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-4)


def test_the_metadata_have_names_limits_and_where_the_file_came_from(data, run, file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    calibration = load_calibrated(run, None, torch.device("cpu")).fitted.calibration
    assert json.loads(entries["kinds"]) == [GOOD, *KINDS]
    assert entries["tool"] == "defect classifier" and entries["image_size"] == "24 32"
    assert float(entries["temperature"]) == calibration.temperature
    assert float(entries["lowest_sure_confidence"]) == calibration.lowest_sure(0.95)
    assert float(entries["highest_known_distance"]) == calibration.highest_known(0.01)
    assert read_calibration(json.loads(entries["calibration"])) == calibration
    assert entries["data_root"] == str(data) and entries["checkpoint"] == "best_accuracy.pth"
    assert len(entries["checkpoint_sha256"]) == 64 and "images, batch 3" in entries["parity"]


def test_inference_with_the_file_is_that_with_the_checkpoint(data, run, file, tmp_path):
    words = ("--image_dir", data / "valid", "--target_error", 0.6)
    rows = classify(run, tmp_path / "pth", *words)
    assert classify(file, tmp_path / "onnx", *words)[0].keys() == rows[0].keys()
    for row, other in zip(rows, classify(file, tmp_path / "onnx", *words), strict=True):
        same = ("file", "label", "predicted", "status")
        assert [row[name] for name in same] == [other[name] for name in same]
        for name in ("confidence", "distance"):
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-4)
    found = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("pth", "onnx")]
    assert found[0]["confusion"] == found[1]["confusion"]
    assert found[0]["lowest_sure_confidence"] == found[1]["lowest_sure_confidence"]


def test_a_checkpoint_is_exported_with_its_calibration_without_its_data_set(run, file, tmp_path):
    content = torch.load(run / "best_accuracy.pth", weights_only=True)
    torch.save(content | {"data_root": "/nowhere"}, tmp_path / "moved.pth")
    path = exported(tmp_path / "moved.pth", tmp_path / "a.onnx", "--target_error", 0.95)
    found, expected = (
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"])
        .get_modelmeta()
        .custom_metadata_map
        for one in (path, file)
    )
    same = ("temperature", "calibration", "lowest_sure_confidence", "highest_known_distance")
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    assert "noise, batch 3" in found["parity"] and "images" not in found["parity"]


def test_another_input_is_scaled_in_the_file(data, run, file, tmp_path):
    other = exported(run, tmp_path, "--input", "uint8", "--opset_version", 17)
    assert other == tmp_path / "best_accuracy.onnx"
    image = read_labelled(list_labelled(data, "valid")[0], 255.0)[0][None]
    results = []
    for path, given in ((file, image / 255), (other, image)):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        node = session.get_inputs()[0]
        dtype = np.uint8 if node.type == "tensor(uint8)" else np.float32
        results.append(session.run(["probabilities"], {"input": given.astype(dtype)})[0])
    assert dtype is np.uint8 and onnx.load(other).opset_import[0].version == 17
    assert np.abs(results[0] - results[1]).max() < 1e-4
    predicted = load_onnx_classifier(other, True).predict((image / 255).astype(np.float32))
    assert np.abs(predicted["probabilities"] - results[0]).max() < 1e-4


def test_four_channels_and_other_architectures(tmp_path):
    for architecture, outputs in (
        ("classification", ["probabilities", "distance"]),
        ("segmentation", ["probabilities", "mask", "attention"]),
    ):
        root = write_data(tmp_path / architecture, count=2)
        for path in [*(root / "train").rglob("*.png"), *(root / "valid").rglob("*.png")]:
            pixels = np.random.default_rng(len(str(path))).integers(0, 255, (4, *SIZE))
            path.unlink()
            write_strip(path.with_suffix(".tiff"), pixels.astype(np.uint8))
        folder = tmp_path / f"{architecture}_run"
        trained(root, folder, "--epochs", 1, "--architecture", architecture)
        path = exported(folder, tmp_path / f"{architecture}.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert [node.name for node in session.get_outputs()] == outputs
        rows = classify(path, tmp_path / "out", "--image_dir", root / "valid")
        other = classify(folder, tmp_path / "out", "--image_dir", root / "valid")
        assert [row["predicted"] for row in rows] == [row["predicted"] for row in other]


def refused(capsys, action):
    capsys.readouterr()
    assert run_command(action) == 1
    return capsys.readouterr().err.partition("error: ")[2].splitlines()[0]


def test_tools_refuse_each_others_files(data, file, tmp_path, capsys):
    with pytest.raises(UserError, match="of the defect classifier, expected one of the strip"):
        OnnxPredictor(file)
    words = ["--model_path", str(file), "--test_path", str(data / "valid" / GOOD)]
    said = refused(capsys, lambda: inference_onnx.infer(inference_onnx.parse_args(words)))
    assert "found a model of the defect classifier" in said
    strips = ROOT / "tests" / "earlier" / "robust.onnx"
    said = refused(
        capsys, lambda: classify(strips, tmp_path / "out", "--image_dir", data / "valid")
    )
    assert "found a model of the strip detector, expected one of the defect classifier" in said
    assert not (tmp_path / "out").exists()
    said = refused(capsys, partial(exported, strips, tmp_path / "a.onnx"))
    assert said.startswith(f"{strips}: found a model of the strip detector, expected one of")
    said = refused(capsys, partial(exported, file, tmp_path / "a.onnx"))
    assert said == f"{file}: found an exported file, expected a checkpoint of {TRAINER}"


def test_a_file_that_is_no_checkpoint_names_the_command_that_writes_one(data, tmp_path, capsys):
    image = data / "valid" / GOOD / "0.png"
    renamed = tmp_path / "image.onnx"
    shutil.copy(image, renamed)
    run = ["--data_root", str(data), "--save_dir", str(tmp_path / "run")]
    for path in (image, renamed):
        for action in (
            partial(exported, path, tmp_path / "a.onnx"),
            partial(train, parse_training([*run, "--init", str(path)])),
            partial(train, parse_training(["--resume", str(path)])),
        ):
            said = refused(capsys, action)
            assert "found no readable checkpoint" in said and said.endswith(f"one of {TRAINER}")
    assert f"{image}: found no readable checkpoint" in refused(
        capsys, lambda: classify(image, tmp_path / "out", "--image", image)
    )


def test_what_cannot_be_exported_or_run_is_one_line(data, run, file, tmp_path, capsys):
    content = torch.load(run / "best_accuracy.pth", weights_only=True)
    moved = tmp_path / "moved.pth"
    del content["calibration"]  # as in a file of an interrupted training
    torch.save(content | {"data_root": "/nowhere", "input_max": 4095.0}, moved)
    for checkpoint, more, said in (
        (moved, ("--input", "uint8"), "found a camera up to 4095"),
        (moved, ("--target_error", 0.1), "found no held-out images"),
        (run, ("--opset_version", 9999), "--opset_version 9999"),
        (tmp_path / "none.pth", (), "found no such file"),
    ):
        assert said in refused(capsys, partial(exported, checkpoint, tmp_path / "a.onnx", *more))
    assert not list(tmp_path.glob("a.onnx*"))
    words = ("--image_dir", data / "valid", "--data_root", data)
    said = refused(capsys, lambda: classify(file, tmp_path / "out", *words))
    assert "which holds its calibration" in said
    words = ("--image_dir", data / "valid", "--average_flips")
    said = refused(capsys, lambda: classify(file, tmp_path / "out", *words))
    assert "averages or not as it was exported" in said
    still = tmp_path / "still.pth"
    torch.save(content | {"augment": False}, still)
    said = refused(capsys, partial(exported, still, tmp_path / "a.onnx", "--average_flips"))
    assert said.startswith(f"{still}: --average_flips: found a training with --augment False")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(file.read_bytes()[:-400])
    said = refused(capsys, lambda: classify(damaged, tmp_path / "out", *words[:2]))
    assert "damaged.onnx: found" in said


def test_unusable_entries_are_refused(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    assert read_classifier_metadata(entries).kinds == (GOOD, *KINDS)
    for name, value in (
        ("kinds", '["good"]'),
        ("kinds", "["),
        ("input", "float64"),
        ("channels", "-1"),
        ("image_size", "24"),
        ("input_max", "nan"),
        ("cell", "²"),
        ("calibration", "{}"),
        ("schema_version", "99999"),
        ("tool", "autoencoder"),
    ):
        with pytest.raises(UserError, match="found"):
            read_classifier_metadata(entries | {name: value})
    with pytest.raises(UserError, match="found no kinds"):
        read_classifier_metadata({name: entries[name] for name in entries if name != "kinds"})
