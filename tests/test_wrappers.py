"""The shell wrappers, in a copy of the repository whose path has a space, from another folder."""

import csv
import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tifffile
import torch

from tests import processes
from tests.conftest import ROOT

GENUINE = {"GENUINE": "1"}
pytestmark = pytest.mark.skipif(os.name == "nt", reason="bash wrappers")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository as if its packages were installed already, by the interpreter that runs the
    tests.

    Its interpreter starts at once what it is asked for, unless GENUINE is in the environment.
    """
    folder = tmp_path_factory.mktemp("a new user") / "the tool"
    folder.mkdir()
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        # A linked .venv is listed, too: what is ignored is a folder of that name.
        if name.startswith(("tests/", "docs/")) or not (ROOT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    interpreter = folder / ".venv" / "bin" / "python"
    processes.write_interpreter(interpreter)
    shutil.copy(ROOT / "requirements.txt", folder / ".venv" / "installed-requirements.txt")
    return folder


def bash(script, *arguments, cwd, expected=0, timeout=600, **environment):
    words, environment = ["bash", script, *map(str, arguments)], os.environ | environment
    done = subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment
    )
    assert done.returncode == expected, done.stderr
    return done


def scores(folder):
    with (folder / "scores.csv").open() as file:
        return {row["file"]: float(row["score"]) for row in csv.DictReader(file)}


def test_train_then_both_inferences_without_arguments(copy, dataset, tmp_path):
    small = ("--base_channels", 4, "--bs", 4, "--epochs", 1, "--gpu_id", -1)
    relative = os.path.relpath(dataset / "train" / "good", tmp_path)
    bash(copy / "train.sh", "--training_dataset_path", relative, *small, cwd=tmp_path, **GENUINE)
    assert len(list((copy / "checkpoints").glob("*_best.pth"))) == 1
    bash(copy / "inference_pytorch.sh", "--gpu_id", -1, cwd=tmp_path, **GENUINE)
    first = bash(copy / "inference_onnx.sh", cwd=tmp_path, **GENUINE)
    assert "ONNX Runtime - PyTorch" in first.stdout
    outputs = [copy / "output" / kind for kind in ("pytorch", "onnx")]
    assert scores(outputs[0]).keys() == scores(outputs[1]).keys() and len(scores(outputs[0])) == 4
    for path in outputs[0].rglob("*_heatmap.tiff"):
        other = tifffile.imread(outputs[1] / path.relative_to(outputs[0]))
        assert np.abs(tifffile.imread(path) - other).max() < 1e-4
    again = bash(copy / "inference_onnx.sh", "--output_dir", tmp_path / "elsewhere", cwd=tmp_path)
    assert "ONNX Runtime - PyTorch" not in again.stdout  # the file holds this checkpoint already
    assert scores(tmp_path / "elsewhere") == scores(outputs[1])

    quick = ("--arch", "unet", "--align", "none", "--overwrite")
    bash(copy / "train.sh", f"--training_dataset_path={relative}", *small, *quick, cwd=tmp_path)
    retrained = bash(copy / "inference_onnx.sh", cwd=tmp_path)
    assert "ONNX Runtime - PyTorch" in retrained.stdout
    assert scores(outputs[1]) != scores(tmp_path / "elsewhere")


def test_a_method_needs_no_checkpoint(copy, dataset, tmp_path):
    words = (
        "--method",
        "double",
        "--test_path",
        dataset / "test",
        "--good_path",
        dataset / "valid",
    )
    done = bash(copy / "inference_onnx.sh", *words, "--output_dir", tmp_path, cwd=tmp_path)
    assert "ONNX Runtime - PyTorch" not in done.stdout and "double detection" in done.stdout
    assert len(scores(tmp_path)) == 4


@pytest.mark.parametrize("script", ["train.sh", "inference_pytorch.sh", "inference_onnx.sh"])
def test_help_builds_nothing(copy, tmp_path, script):
    before = sorted(copy.rglob("*"))
    assert "--image_type" in bash(copy / script, "--help", cwd=tmp_path).stdout
    assert [
        path
        for path in sorted(copy.rglob("*"))
        if path not in before and "__pycache__" not in path.parts
    ] in (
        [],
        [copy / ".setup.lock"],
    )


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="the figures are those of the small preset")
def test_training_without_arguments_reaches_its_figures(copy, tmp_path):
    bash(copy / "train.sh", cwd=tmp_path, timeout=1800)
    (summary,) = (copy / "checkpoints").glob("*_ep10_*_test/metrics.json")
    figures = json.loads(summary.read_text())
    assert (
        figures["image_auroc"] >= 0.98
        and figures["pixel_average_precision"] >= 0.5
        and figures["strips"] == 80
    )
    bash(copy / "inference_onnx.sh", cwd=tmp_path)
    bash(copy / "inference_pytorch.sh", cwd=tmp_path)
    outputs = [copy / "output" / kind for kind in ("pytorch", "onnx")]
    for path in outputs[0].rglob("*_heatmap.tiff"):
        assert (
            np.abs(
                tifffile.imread(path) - tifffile.imread(outputs[1] / path.relative_to(outputs[0]))
            ).max()
            < 1e-4
        )


def test_a_wrapper_can_be_called_through_a_link(copy, tmp_path):
    (tmp_path / "score").symlink_to(copy / "inference_pytorch.sh")
    assert "--image_type" in bash(tmp_path / "score", "--help", cwd=tmp_path).stdout


def test_a_wrapper_takes_the_interpreter_that_python_names_and_installs_nothing(copy, tmp_path):
    bare = shutil.copytree(copy, tmp_path / "bare", ignore=shutil.ignore_patterns(".venv"))
    own = copy / ".venv" / "bin" / "python"
    for script in ("train.sh", "inference_onnx.sh"):
        printed = bash(bare / script, "--help", cwd=tmp_path, PYTHON=str(own)).stdout
        assert "--image_type" in printed and not (bare / ".venv").exists()


def test_a_wrapper_passes_the_exit_code_on(copy, tmp_path):
    done = bash(
        copy / "inference_pytorch.sh", "--model_path", "missing.pth", cwd=tmp_path, expected=1
    )
    assert (
        done.stderr.startswith("error: missing.pth: found no such file")
        and done.stderr.count("\n") == 1
    )


def test_nproc_trains_in_several_processes_and_resume_goes_on(copy, dataset, tmp_path):
    small = (
        "--base_channels",
        4,
        "--bs",
        2,
        "--epochs",
        1,
        "--gpu_id",
        -1,
        "--checkpoint_path",
        tmp_path,
    )
    flags = ("--training_dataset_path", dataset / "train" / "good", *small)
    together = bash(copy / "train.sh", *flags, cwd=tmp_path, NPROC="2", **GENUINE)
    assert "4 patches per step (1 batches of 2 in each of 2 processes)" in together.stdout
    resumed = bash(copy / "train.sh", "--resume", tmp_path, "--epochs", 2, cwd=tmp_path, NPROC="2")
    assert "now of 2 epochs" in resumed.stdout and "epoch   2:" in resumed.stdout


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_reach_the_training(copy, dataset, tmp_path, number, code):
    arguments = [
        "--training_dataset_path",
        dataset / "train" / "good",
        "--base_channels",
        "4",
        "--bs",
        "4",
        "--epochs",
        "100000",
    ]
    arguments.append("--overwrite")
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(["bash", copy / "train.sh", *arguments], cwd=tmp_path, **output)
    while "epoch   1" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in printed and "interrupted" in printed
