"""The likelihood ratio as a weight of the network's odds: its formula, its files, its flags."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import trainer
from common.errors import UserError
from common.settings import from_values
from data.demo_strips import make_strip
from data.folder import StripFile, list_strips
from data.image_files import to_unit_range
from deploy.onnx_predictor import OnnxPredictor
from deploy.precision import inner_layers
from deploy.session import SessionSettings
from evaluation.predictors import TorchPredictor
from model import SegmentationNetworkONNXFullImage
from ops.likelihood import likelihood_ratio, weighted_probability
from ops.registration import Alignment
from tests.conftest import SMALL_SIZE, arguments_for, export_file, write_strip
from trainer import parse_args, train
from training.checkpoint import load_checkpoint, model_info, save_checkpoint
from training.strip_settings import TrainingSettings
from training.weighting_choice import choose_weighting, with_defects

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


class Brightest(nn.Module):
    """A network that takes the brightest pixels for defects, those of 200 for doubtful ones."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 2, H, W) logits of patches (B, 3, H, W), values 0-1."""
        target = images[:, :1]
        defect = torch.where(target > 0.985, 8.0, -8.0)
        defect = torch.where((target > 0.75) & (target < 0.82), -1.0, defect)
        return torch.cat([torch.zeros_like(defect), defect], dim=1)


def write_spotted_strip(folder, number, contrast_of_dots):
    """A strip with six true points of 15 grey levels, and with six dots that are none.

    The dots have 200 grey levels, `contrast_of_dots` more than what is around them.
    """
    generator = np.random.default_rng(number)
    image = generator.normal(240, 1, (3, *SMALL_SIZE))
    width = SMALL_SIZE[1]
    image[:, :, width // 2 :] -= 240 - (200 - contrast_of_dots)
    points = [(20 + 28 * place, width // 4) for place in range(6)]
    for y, x in points:
        image[0, y - 1 : y + 2, x - 1 : x + 2] = 255
        image[0, y - 1 : y + 2, x + width // 2 - 1 : x + width // 2 + 2] = 200
    path = folder / f"{number}.tiff"
    write_strip(path, np.clip(image, 0, 255).round().astype(np.uint8))
    return StripFile(path, Path(path.name), "spots", None, points=tuple(points))


@pytest.mark.parametrize("contrast_of_dots, expected", [(150, "none"), (4, "strong_likelihood")])
def test_the_weighting_that_finds_more_held_out_points_is_chosen(
    contrast_of_dots, expected, tmp_path, dataset, capsys
):
    settings = training_settings(dataset, tmp_path)
    strips = [write_spotted_strip(tmp_path, number, contrast_of_dots) for number in range(2)]
    assert choose_weighting(Brightest(), strips, settings, CPU) == expected
    assert capsys.readouterr().out.startswith(f"weighting: {expected}; recall of 12 points")


def training_settings(dataset, folder, *flags):
    """The settings of a short training with registered references."""
    arguments = parse_args(arguments_for(dataset, folder, "--align", "shift", *flags))
    return from_values(TrainingSettings, vars(arguments))


@pytest.mark.parametrize("chosen_by", ["valid/good", "valid without masks"])
def test_good_strips_are_painted_to_choose_by(chosen_by, dataset, tmp_path, capsys):
    strips = list_strips(dataset / "valid", use_masks=False)
    if chosen_by == "valid/good":
        strips = list_strips(dataset / "valid" / "good")
    settings = training_settings(dataset, tmp_path)
    kinds = [strip.kind for strip in with_defects(strips, settings)]
    assert kinds == ["good", "good"] + ["painted"] * 20
    choose_weighting(Brightest(), strips, settings, CPU)
    assert " points of 22 held-out strips at 0.1 and 1 false alarms" in capsys.readouterr().out


def test_without_a_held_out_strip_the_default_is_kept(dataset, tmp_path, capsys):
    settings = training_settings(dataset, tmp_path)
    assert choose_weighting(Brightest(), [], settings, CPU) == "strong_likelihood"
    assert "no held-out strip to choose by" in capsys.readouterr().out


def train_one_epoch(dataset, folder, *flags):
    """The best and the last checkpoint of a training of an epoch."""
    flags = ("--align", "shift", "--epochs", 1, *flags)
    best = train(parse_args(arguments_for(dataset, folder, *flags)))
    (last,) = [path for path in folder.glob("*.pth") if path != best]
    return best, last


def resume(last, *flags):
    """The best checkpoint of a run that goes on for a second epoch."""
    words = ["--resume", last, "--epochs", 2, "--gpu_id", -1, *flags]
    return train(parse_args(list(map(str, words))))


def test_what_a_training_chooses_is_what_it_measures_and_keeps(dataset, tmp_path, monkeypatch):
    asked, measured = [], []

    def choose(network, strips, settings, device):
        asked.append(settings.weighting)
        return "none"

    def measure(predictor, *others):
        measured.append(predictor.weighting)
        return measure_all(predictor, *others)

    measure_all = trainer.measure
    monkeypatch.setattr(trainer, "choose_weighting", choose)
    monkeypatch.setattr(trainer, "measure", measure)
    best, last = train_one_epoch(dataset, tmp_path, "--weighting", "auto")
    assert [load_checkpoint(path)["weighting"] for path in (best, last)] == ["none", "none"]
    (report,) = tmp_path.glob("*_test/report.html")
    assert re.search(r"weighting\W.{0,60}none", report.read_text(), re.S)
    # a resumed run trains as it began, and chooses again
    assert load_checkpoint(resume(last))["chooses_weighting"]
    assert (asked, measured) == (["strong_likelihood"] * 2, ["none"] * 2)


def test_a_training_with_a_named_weighting_chooses_nothing(dataset, tmp_path, capsys):
    best, last = train_one_epoch(dataset, tmp_path, "--weighting", "likelihood")
    content = load_checkpoint(last)
    del content["chooses_weighting"]  # as in a run of an earlier version
    save_checkpoint(last, content)
    for path in (best, resume(last)):
        assert load_checkpoint(path)["weighting"] == "likelihood"
    assert "weighting:" not in capsys.readouterr().out
    flags = arguments_for(dataset, tmp_path, "--weighting", "auto")
    assert not parse_args(flags).chooses_weighting  # its references are not registered


def test_a_resumed_run_keeps_its_weighting(dataset, tmp_path):
    _, last = train_one_epoch(dataset, tmp_path / "auto", "--weighting", "auto")
    with pytest.raises(UserError, match="a run of --weighting auto, expected strong_likelihood"):
        resume(last, "--weighting", "strong_likelihood")
    resume(last, "--weighting", "auto")
    _, last = train_one_epoch(dataset, tmp_path / "none", "--weighting", "none")
    with pytest.raises(UserError, match="found a run of --weighting none, expected auto"):
        resume(last, "--weighting", "auto")


def test_a_weighting_needs_registered_references(capsys, tmp_path):
    with pytest.raises(SystemExit):
        flags = ["--weighting", "likelihood", "--align", "none"]
        parse_args(["--training_dataset_path", str(tmp_path), *flags])
    expected = "--weighting likelihood: found --align none, expected registered references"
    assert expected in capsys.readouterr().err
