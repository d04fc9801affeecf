"""Checkpoints and ONNX files of earlier code go on and say what they said; tests/earlier/README.md
has where they are from.
"""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from inference_onnx import infer
from inference_onnx import parse_args as parse_inference
from tests.conftest import ROOT
from trainer import parse_args, train
from training.checkpoint import load_checkpoint

EARLIER = ROOT / "tests" / "earlier"
RUNS = {
    "classic": "BgRemoval_lr0.001_ep1_bs4_200x150_strip",
    "robust": "BgRemoval_lr0.002_ep1_bs4_200x150_strip",
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_earlier_code_began_goes_on(dataset, tmp_path, name):
    last = tmp_path / f"{RUNS[name]}.pth"
    shutil.copyfile(EARLIER / f"{name}.pth", last)
    arguments = [
        "--resume",
        last,
        "--epochs",
        2,
        "--training_dataset_path",
        dataset / "train" / "good",
        "--gpu_id",
        -1,
    ]
    best = train(parse_args(list(map(str, arguments))))
    finished = load_checkpoint(best.with_name(best.name.replace("_best", "")))
    expected = np.load(EARLIER / f"{name}_finished.npz")
    assert [entry["epoch"] for entry in finished["history"]] == [1, 2]
    assert finished["history"][1]["loss"] == pytest.approx(float(expected["loss"]), rel=0.01)
    # bit for bit on one machine: benchmarks/identity.py
    for key, weights in finished["model_state_dict"].items():
        assert np.allclose(weights.numpy(), expected[key], atol=2e-3), key


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_onnx_file_of_earlier_code_says_what_it_said(dataset, tmp_path):
    flags = (
        "--model_path",
        EARLIER / "robust.onnx",
        "--test_path",
        dataset / "test",
        "--output_dir",
        tmp_path,
        "--device",
        "cpu",
    )
    assert infer(parse_inference(list(map(str, flags)))) == 0
    found, expected = rows_of(tmp_path / "detections.csv"), rows_of(EARLIER / "detections.csv")
    # later columns come after the earlier ones, so that readers by number go on, too
    assert found and list(found[0])[: len(expected[0])] == list(expected[0])
    assert all(row["score"] == row["margin"] for row in found)
    same = ("file", "y", "x", "status")
    assert [[row[name] for name in same] for row in found] == [
        [row[name] for name in same] for row in expected
    ]
    assert [float(row["peak"]) for row in found] == pytest.approx(
        [float(row["peak"]) for row in expected], abs=1e-3
    )
