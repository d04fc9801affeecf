"""The likelihood ratio as a weight of the network's odds: its formula, its files, its flags."""

import json

import numpy as np
import onnx
import pytest
import torch

from common.errors import UserError
from data.demo_strips import make_strip
from data.image_files import to_unit_range
from deploy.onnx_predictor import OnnxPredictor
from deploy.precision import inner_layers
from deploy.session import SessionSettings
from evaluation.predictors import TorchPredictor
from model import SegmentationNetworkONNXFullImage
from ops.likelihood import likelihood_ratio, weighted_probability
from ops.registration import Alignment
from tests.conftest import SMALL_SIZE, arguments_for, export_file
from trainer import parse_args, train
from training.checkpoint import load_checkpoint, model_info

WEIGHTED = {"align": "fine", "weighting": "strong_likelihood"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def strips():
    """Two strips (2, 3, H, W), grey levels, with points of 60 grey levels in Target alone."""
    images = np.stack([make_strip(np.random.default_rng(number), SMALL_SIZE) for number in (5, 6)])
    for y, x in ((40, 50), (120, 20), (0, 149)):
        images[:, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] += 60
    return np.clip(images, 0, 255)


@pytest.mark.parametrize(
    "mode, name, power",
    [("tiles", "likelihood", 2), ("whole", "likelihood", 2), ("whole", "strong_likelihood", 4)],
)
def test_the_odds_are_those_of_the_network_times_a_power_of_the_ratio_plus_one(
    make_network, strips, mode, name, power
):
    network, images = make_network(), torch.from_numpy(to_unit_range(strips))
    weighted, plain = (
        SegmentationNetworkONNXFullImage(network, SMALL_SIZE, 128, "fine", mode, weighting).eval()
        for weighting in (name, "none")
    )
    with torch.inference_mode():
        found, expected = (each(images)[:, :1].double() for each in (weighted, plain))
        ratio = likelihood_ratio(Alignment("fine")(images)[0], 1.0).double()
    assert ratio[:, 0, 40, 50].min() > 20 and (ratio == 0).double().mean() > 0.5
    is_between = (found > 1e-3) & (found < 0.999)
    odds = [heatmap[is_between] / (1 - heatmap[is_between]) for heatmap in (found, expected)]
    np.testing.assert_allclose(odds[0] / odds[1], (1 + ratio[is_between]) ** power, rtol=1e-3)
    is_alone = (ratio == 0) & (expected < 0.999)
    np.testing.assert_allclose(found[is_alone], expected[is_alone], atol=1e-6)


@pytest.mark.parametrize("mode, opset", [("tiles", 11), ("whole", 13), ("points", 18)])
def test_a_file_finds_what_pytorch_finds(make_checkpoint, make_network, strips, mode, opset):
    checkpoint = make_checkpoint(**WEIGHTED)
    path = checkpoint.with_suffix(".onnx")
    export_file(checkpoint, path, "--mode", mode, opset=opset)
    predictor = OnnxPredictor(path, SessionSettings("cpu"))
    detector = SegmentationNetworkONNXFullImage(
        make_network(), SMALL_SIZE, 128, mode=mode, **WEIGHTED
    ).eval()
    with torch.inference_mode():
        expected = detector(torch.from_numpy(to_unit_range(strips)))[:, 0].numpy()
    for image, heatmap in zip(strips, expected):
        np.testing.assert_allclose(predictor(image), heatmap, atol=1e-4, rtol=0)
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert (entries["weighting"], entries["align"]) == ("strong_likelihood", "fine")


def test_scoring_takes_the_weighting_from_the_checkpoint(make_checkpoint, make_network, strips):
    names = ("none", "likelihood", "strong_likelihood")
    paths = [make_checkpoint(f"{name}_best.pth", align="fine", weighting=name) for name in names]
    paths += [make_checkpoint("old_best.pth", align="fine")]
    found = [model_info(load_checkpoint(path)).weighting for path in paths]
    assert found == [*names, "none"]
    peaks = [
        TorchPredictor(make_network(), 128, CPU, "fine", name)(strips[0])[40, 50] for name in names
    ]
    assert peaks == sorted(set(peaks))
    expected = "found weighting 'both', expected one of none, likelihood, strong_likelihood"
    with pytest.raises(UserError, match=expected):
        load_checkpoint(make_checkpoint("wrong_best.pth", weighting="both"))
    with pytest.raises(UserError, match="found weighting likelihood and align none"):
        load_checkpoint(make_checkpoint("plain_best.pth", weighting="likelihood"))


@pytest.mark.parametrize("weighting", ["likelihood", "strong_likelihood"])
def test_strong_points_stay_apart(weighting):
    """A product of the odds would be 1 in float32 for each of these."""
    strip = np.full((3, 64, 64), 100.0) + np.random.default_rng(0).normal(0, 2, (3, 64, 64))
    peaks = []
    for contrast in (60, 90, 120):
        strip[0, 31:34, 31:34] = 100 + contrast
        images = torch.from_numpy(to_unit_range(strip.astype(np.float32)))[None]
        ratio = likelihood_ratio(images, 1.0)
        margin = torch.full_like(ratio, -10.0)
        peaks.append(float(weighted_probability(margin, ratio, weighting).max()))
    assert peaks[0] < peaks[1] < peaks[2] < 1


def test_int8_takes_the_same_layers_with_a_weighting_and_with_candidates(make_checkpoint):
    layers = []
    kinds = (("none", "tiles"), ("likelihood", "tiles"), ("strong_likelihood", "points"))
    for number, (weighting, mode) in enumerate(kinds):
        checkpoint = make_checkpoint(f"{number}_best.pth", align="shift", weighting=weighting)
        path = checkpoint.with_suffix(".onnx")
        export_file(checkpoint, path, "--mode", mode, opset=13)
        graph = onnx.load(path).graph
        nodes = {node.name: node.op_type for node in graph.node}
        layers.append([nodes[name] for name in inner_layers(graph)])
    assert layers[0] == layers[1] == layers[2] and layers[0].count("Conv") > 20


def test_a_training_keeps_its_weighting_and_validates_with_it(dataset, tmp_path):
    flags = ("--arch", "difference", "--align", "fine", "--weighting", "strong_likelihood")
    best = train(parse_args(arguments_for(dataset, tmp_path, *flags, "--epochs", 1)))
    content = load_checkpoint(best)
    assert (content["weighting"], content["align"]) == ("strong_likelihood", "fine")
    assert len(content["contrast_response"]["ratios"]) > 300  # points painted into good strips
    (settings,) = tmp_path.glob("*_arguments.json")
    assert json.loads(settings.read_text())["weighting"] == "strong_likelihood"


def test_a_weighting_needs_registered_references(capsys, tmp_path):
    with pytest.raises(SystemExit):
        flags = ["--weighting", "likelihood", "--align", "none"]
        parse_args(["--training_dataset_path", str(tmp_path), *flags])
    expected = "--weighting likelihood: found --align none, expected registered references"
    assert expected in capsys.readouterr().err
