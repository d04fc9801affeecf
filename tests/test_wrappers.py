"""The shell wrappers, in a copy of the repository whose path has a space, from another folder."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tifffile
import torch

from tests import processes
from tests.autoencoder_models import write_kind
from tests.conftest import ROOT

GENUINE = {"GENUINE": "1"}
WITHOUT_REFERENCES = "autoencoder/train.sh"
QUICK_START = "classifier/quick_start.sh"
TINY = ("--base_channels", 2, "--depth", 2, "--epochs", 1, "--epoch_crops", 8, "--bs", 4)
TINY += ("--input_size", 16, "--ssim_window", 7, "--valid_share", 0.3, "--gpu_id", -1)
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
    for name in ("requirements.txt", "requirements-autoencoder.txt", "requirements-imagenet.txt"):
        shutil.copy(ROOT / name, folder / ".venv" / f"installed-{name}")
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


@pytest.mark.parametrize(
    "script, flag",
    [
        ("train.sh", "--image_type"),
        ("inference_pytorch.sh", "--image_type"),
        ("inference_onnx.sh", "--image_type"),
        (WITHOUT_REFERENCES, "--scale_range"),
        (QUICK_START, "--backbone"),
    ],
)
def test_help_builds_nothing(copy, tmp_path, script, flag):
    before = sorted(copy.rglob("*"))
    assert flag in bash(copy / script, "--help", cwd=tmp_path).stdout
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


def test_the_tool_without_references_trains_builds_a_library_and_scores(copy, tmp_path):
    root, checkpoints = tmp_path / "資 料", tmp_path / "檢查 點"
    for seed, name in enumerate(("瓶 蓋", "wood")):
        write_kind(root / name, seed, train=8, test=2)
    (tmp_path / "model.py").write_text("raise SystemExit('of the folder that the user is in')")
    where = ("--training_dataset_path", "資 料", "--checkpoint_path", "檢查 點", *TINY)
    first = bash(copy / WITHOUT_REFERENCES, *where, cwd=tmp_path, **GENUINE)
    (best,) = checkpoints.glob("*_best.pth")
    run = best.name.removesuffix("_best.pth")
    assert (checkpoints / f"{run}_library.pth").is_file()
    scored = checkpoints / f"{run}_test"
    assert len(scores(scored)) == 8 and (scored / "report.html").is_file()
    table = first.stdout.split("  group")[1].splitlines()
    assert [line.split("  ")[1] for line in table[1:4]] == ["wood", "瓶 蓋", "mean over groups"]
    *_, report, export = first.stdout.splitlines()
    assert report.endswith(f"next: open 檢查 點/{run}_test/report.html in a browser")
    assert f"--library '檢查 點/{run}_library.pth'" in export

    refused = bash(copy / WITHOUT_REFERENCES, *where, cwd=tmp_path, expected=1)
    assert "found a run of that name, expected --resume" in refused.stderr
    shutil.rmtree(scored)  # as if it had been interrupted before
    resumed = bash(copy / WITHOUT_REFERENCES, "--resume", "檢查 點", "--gpu_id", -1, cwd=tmp_path)
    assert "1 of 1 epochs" in resumed.stdout and len(scores(scored)) == 8


def test_the_tool_without_references_makes_its_data_set_and_passes_flags_on(copy, tmp_path):
    shown = tmp_path / "shown"
    shown.write_text('#!/bin/sh\necho "$@" "path=$PYTHONPATH" "safe=$PYTHONSAFEPATH"\n')
    shown.chmod(0o755)

    def lines(*words, **environment):
        done = bash(
            copy / WITHOUT_REFERENCES, *words, cwd=tmp_path, PYTHON=str(shown), **environment
        )
        return done.stdout.replace(str(copy), "HERE").splitlines()

    environment = {"PYTHONPATH": "", "PYTHONSAFEPATH": ""}
    ways = " path=HERE safe=1"
    step, folder = (
        "-m autoencoder.train_and_score",
        "--checkpoint_path HERE/checkpoints/autoencoder",
    )
    assert lines("--lr", "0.1", **environment) == [
        "HERE/prepare_dataset.py textures --output HERE/dataset/textures path= safe=",
        f"{step} {folder} --training_dataset_path HERE/dataset/textures --lr 0.1{ways}",
    ]
    (copy / "dataset" / "textures").mkdir(parents=True)
    assert len(lines(**environment)) == 1  # it is there now
    assert lines("--resume", **environment) == [f"{step} {folder} --resume{ways}"]
    assert lines("--resume", "auto", **environment) == [f"{step} {folder} --resume auto{ways}"]
    assert lines("--resume", "a.pth", **environment) == [f"{step} --resume a.pth{ways}"]
    own = "--training_dataset_path=mine"
    assert lines(own, **environment, NPROC="2") == [
        f"HERE/training/launch.py 2 {step} {folder} {own}{ways}"
    ]
    shutil.rmtree(copy / "dataset")


def test_the_quick_start_draws_trains_classifies_and_exports(copy, tmp_path):
    small = ("--backbone", "small", "--image_size", 32, "--stage1_epochs", 1, "--epochs", 1)
    small += ("--gpu_id", -1)
    first = bash(copy / QUICK_START, *small, cwd=tmp_path)
    results = copy / "output" / "quick_start"
    assert str(results / "report.html") in first.stdout
    with (results / "predictions.csv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert len(set(labels)) == 5 and labels.count("good") == 24
    assert len(list(results.rglob("*_panels.png"))) == len(labels)
    assert (copy / "onnx_models" / "quick_start.onnx").is_file()
    for stage in ("stage1", "stage2"):
        assert (copy / "checkpoints" / "quick_start" / stage / "best_accuracy.pth").is_file()
    again = bash(copy / QUICK_START, *small, cwd=tmp_path, expected=1)
    assert "found a second stage, expected --resume to go on" in again.stderr
    resumed = bash(copy / QUICK_START, *small, "--resume", cwd=tmp_path)
    assert "1 of 1 epochs" in resumed.stdout and str(results / "report.html") in resumed.stdout
    for name in ("dataset/quick_start", "checkpoints/quick_start", "output/quick_start"):
        shutil.rmtree(copy / name)


def test_the_quick_start_of_windows_has_the_same_commands(copy, tmp_path):
    shown = tmp_path / "shown"
    shown.write_text('#!/bin/sh\necho "$@"\n')
    shown.chmod(0o755)
    done = bash(copy / QUICK_START, "--lr", "0.1", cwd=tmp_path, PYTHON=str(shown))
    expected = done.stdout.replace(str(copy), "HERE").splitlines()
    assert len(expected) == 4
    script = (copy / QUICK_START).with_suffix(".bat").read_bytes()
    assert script.count(b"\r\n") == script.count(b"\n")  # labels are not found without
    text = script.decode("ascii").replace("\r", "")
    settings = dict(re.findall(r'^set "(data|run)=(.+)"$', text, re.MULTILINE))
    found = []
    for line in re.findall(r'^ *"%PYTHON%" (".+classifier.+) \|\| exit /b 1$', text, re.MULTILINE):
        for name, value in {**settings, "here": "HERE"}.items():
            line = line.replace(f"%{name}%", value)
        found.append(line.replace('"', "").replace("\\", "/").replace("%*", "--lr 0.1"))
    assert found == expected
    refused = bash(copy / QUICK_START, "--data_root=mine", cwd=tmp_path, expected=2)
    assert refused.stderr.startswith("error: found --data_root or --save_dir, expected neither")


def test_the_quick_start_installs_what_it_needs(tmp_path):
    folder, tools = tmp_path / "a clone", tmp_path / "tools"
    names = ("environment.sh", "requirements.txt", "requirements-imagenet.txt", QUICK_START)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    tools.mkdir()
    python = tools / "python3"  # `-m venv FOLDER` puts itself there
    python.write_text(
        '#!/bin/sh\ncase "$1 $2" in\n"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;\n'
        '"-m pip") if [ "$3" = install ]; then echo "$@"; fi ;;\n'
        '"-c "*) ;;\n*) echo "$1" ;;\nesac\n'
    )
    python.chmod(0o755)
    path = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": ""}
    lines = bash(folder / QUICK_START, cwd=tmp_path, **path).stdout.splitlines()
    assert [line.rpartition("/")[2] for line in lines] == [
        "requirements.txt", "requirements-imagenet.txt", "prepare_defect_data.py",
        "train_defect_model.py", "inference_defect_model.py", "export_defect_model.py",
    ]  # fmt: skip
    assert len(bash(folder / QUICK_START, cwd=tmp_path, **path).stdout.splitlines()) == 4


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
