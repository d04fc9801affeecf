import argparse
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from common.distributed import SINGLE_PROCESS
from data import registered_copies
from data.demo_strips import make_strip
from data.folder import list_strips
from data.image_files import load_image
from data.registered_copies import VERSION, StripAligner, aligned_copies
from evaluation.predictors import TorchPredictor
from gaussian import MAX_GREY
from model import SegmentationNetworkONNXFullImage
from tests.conftest import QUICK_OPSET, RUN, SMALL_SIZE, arguments_for, run
from trainer import PreparedRun, parse_args, prepare
from training.checkpoint import load_checkpoint
from training.run_folder import ALIGNED_SUFFIX
from training.strip_task import training_patches

CPU = torch.device("cpu")


def prepared(arguments: argparse.Namespace) -> PreparedRun:
    with ExitStack() as held:
        return prepare(arguments, SINGLE_PROCESS, held)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.tiff")}


def test_copies_are_made_once_and_again_where_something_changed(dataset, tmp_path):
    strips = list_strips(dataset / "train" / "good")
    copies = aligned_copies(strips, "full", 255, tmp_path / "copies", CPU)
    first = times(tmp_path / "copies")
    aligner = StripAligner("full", CPU)
    for strip, copy in zip(strips, copies):
        assert np.array_equal(tifffile.imread(copy), aligner(load_image(strip.path))[0])
    assert (
        aligned_copies(strips, "full", 255, tmp_path / "copies", CPU) == copies
        and times(tmp_path / "copies") == first
    )
    copies[0].unlink()
    aligned_copies(strips, "full", 255, tmp_path / "copies", CPU)
    second = times(tmp_path / "copies")
    assert second.keys() == first.keys() and sum(second[name] != first[name] for name in first) == 1
    aligned_copies(strips, "shift", 255, tmp_path / "copies", CPU)
    assert all(second[name] != changed for name, changed in times(tmp_path / "copies").items())


def test_a_strip_is_aligned_as_it_was_when_the_version_was_written_down():
    """Whoever changes these values raises VERSION, or old copies stay in use."""
    image = make_strip(np.random.default_rng(5), SMALL_SIZE)
    aligned, measures = StripAligner("full", CPU)(image)
    expected = [
        [-0.42684, -0.04281, 0.03614, 0.88212, 0.01279],
        [-0.38429, -0.20592, 0.05384, 0.97395, 0.01352],
    ]
    pixels = [[83.059, 88.196, 83.188, 77.710], [80.907, 85.618, 83.573, 76.823]]
    assert VERSION == 3
    assert np.allclose(measures, expected, atol=1e-4)
    assert np.allclose(aligned[1:, 100, 70:74], pixels, atol=0.01)


def test_copies_of_another_version_are_made_anew(dataset, tmp_path, monkeypatch):
    strips = list_strips(dataset / "train" / "good")
    aligned_copies(strips, "full", 255, tmp_path, CPU)
    before = times(tmp_path)
    monkeypatch.setattr(registered_copies, "VERSION", VERSION + 1)
    aligned_copies(strips, "full", 255, tmp_path, CPU)
    assert all(before[name] != changed for name, changed in times(tmp_path).items())


def test_a_training_sample_is_cut_from_what_the_network_is_given_in_inference(dataset, tmp_path):
    arguments = parse_args(arguments_for(dataset, tmp_path, "--align", "full"))
    found = prepared(arguments)
    patches = training_patches(found.settings, found.dataset)
    seen = []
    full_image = SegmentationNetworkONNXFullImage(torch.nn.Identity(), SMALL_SIZE, 128, "full")
    full_image.patch_network.defect_probability = lambda tiles: seen.append(tiles) or tiles[:, :1]
    for number, strip in enumerate(found.dataset.train):
        with torch.inference_mode():
            full_image(torch.from_numpy(load_image(strip.path) / np.float32(MAX_GREY))[None])
        for tile in range(4):
            index = 4 * number + tile
            sample = next(
                patches[epoch, index]
                for epoch in range(20)
                if not patches[epoch, index]["target_mask"].any()
            )
            assert (sample["three_channel_input"] - seen[-1][tile]).abs().max() < 1e-5


def test_a_training_on_aligned_strips_says_so_and_leaves_no_copies(dataset, tmp_path):
    # the recipe's own is part of the name
    flags = ("--align", "full", "--recipe", "robust", "--arch", "difference", "--lr", 0.001)
    flags, name = (*flags, "--epochs", 1), RUN.replace("ep3", "ep1")
    done = run("trainer.py", *arguments_for(dataset, tmp_path, *flags))
    assert done.returncode == 0, done.stderr
    content = load_checkpoint(tmp_path / f"{name}_best.pth")
    assert (content["align"], content["recipe"], content["network"]) == (
        "full",
        "robust",
        "DifferenceSegmentationNetwork",
    )
    assert {"ref1_shift_y", "ref2_gain", "ref1_remainder"} < content["channel_ranges"].keys()
    assert not (tmp_path / f"{name}{ALIGNED_SUFFIX}").exists()
    header, *rows = (tmp_path / f"{name}_test" / "channels.csv").read_text().splitlines()
    assert len(rows) == 4 and "ref2_shift_x" in header.split(",")
    path, quick = tmp_path / f"{name}_best.pth", ("--opset_version", QUICK_OPSET)
    for command in (
        (
            "export_onnx_fullimage.py",
            "--checkpoint_path",
            path,
            "--output_path",
            tmp_path / "model.onnx",
            *quick,
        ),
        (
            "inference_onnx.py",
            "--model_path",
            tmp_path / "model.onnx",
            "--output_dir",
            tmp_path / "onnx",
        ),
        ("inference_pytorch.py", "--model_path", path, "--output_dir", tmp_path / "pytorch"),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stderr
    for heatmap in (tmp_path / "onnx").rglob("*_heatmap.tiff"):
        other = tifffile.imread(tmp_path / "pytorch" / heatmap.relative_to(tmp_path / "onnx"))
        assert np.abs(tifffile.imread(heatmap) - other).max() < 1e-4
    rows = [(tmp_path / kind / "channels.csv").read_text() for kind in ("onnx", "pytorch")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("align", ["shift", "full"])
def test_the_predictor_aligns_before_it_cuts(make_network, align):
    network = make_network()
    image = make_strip(np.random.default_rng(0), SMALL_SIZE)
    aligned, _ = StripAligner(align, CPU)(image)
    assert (
        np.abs(
            TorchPredictor(network, 128, CPU, align)(image)
            - TorchPredictor(network, 128, CPU)(aligned)
        ).max()
        < 1e-5
    )
