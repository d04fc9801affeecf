"""Files in fewer bits, and the gate that they pass."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

import export_onnx_fullimage
from common.errors import UserError
from data.image_files import to_unit_range
from deploy import precision_gate
from deploy.precision import inner_layers
from deploy.precision_gate import Comparison, enough_strips, generated_strips
from export_onnx_fullimage import read_entries
from model import ARCHITECTURES
from tests.conftest import SMALL_SIZE, export_file
from tests.test_export_module import opened


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    monkeypatch.setattr(precision_gate, "FEWEST_POINTS", 30)
    monkeypatch.setattr(export_onnx_fullimage, "CALIBRATION_STRIPS", 2)


def heatmaps(path):
    strips = np.stack([image for (image, _), _ in zip(generated_strips(SMALL_SIZE), range(2))])
    return opened(path).run(["output"], {"input": to_unit_range(strips)})[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_variant_is_close_to_float32_and_says_what_it_costs(
    make_checkpoint, tmp_path, capsys, architecture, precision
):
    torch.manual_seed(0)
    network = ARCHITECTURES[architecture](base_channels=4)
    checkpoint = make_checkpoint(
        model_state_dict=network.state_dict(), network=type(network).__name__
    )
    flags = ("--precision", precision, "--force")  # of so small a network nothing is faster
    expected = export_file(checkpoint, tmp_path / "plain.onnx")
    path = export_file(checkpoint, tmp_path / "model.onnx", *flags)
    found = np.abs(heatmaps(path) - heatmaps(expected))
    assert 0 < found.max() < (0.01 if precision == "fp16" else 0.1)
    assert onnx.load(path).ir_version == onnx.load(expected).ir_version == 8  # of opset 17
    graph = onnx.load(path).graph
    half = [weights for weights in graph.initializer if weights.data_type == TensorProto.FLOAT16]
    assert bool(half) == (precision == "fp16")
    assert ("QuantizeLinear" in {node.op_type for node in graph.node}) == (precision == "int8")
    entries, report = read_entries(path), capsys.readouterr().out
    assert (
        entries["precision"] == {"fp16": "float16", "int8": "int8"}[precision]
        and "true points" in entries["gate"]
    )
    measured = (
        "speed not measured"
        if precision == "fp16" and not torch.cuda.is_available()
        else "times as fast"
    )
    assert measured in entries["gate"] and measured in report and "recall above 0.5" in report
    assert all(
        value.type.tensor_type.elem_type == TensorProto.FLOAT
        for value in [*graph.input, *graph.output]
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_variant_of_a_file_with_candidates_passes_the_same_gate(
    make_checkpoint, tmp_path, precision
):
    checkpoint = make_checkpoint(align="shift", weighting="strong_likelihood")
    flags = ("--mode", "points", "--places", 9, "--precision", precision, "--force")
    entries = read_entries(export_file(checkpoint, tmp_path / "model.onnx", *flags))
    assert (entries["mode"], entries["places"]) == ("points", "9")
    compared, _, drop = entries["gate"].partition("recall above 0.5: ")
    assert "true points" in compared and float(drop.split(",")[0]) > 0


def test_the_first_layer_and_the_head_stay_as_they_are(make_checkpoint, tmp_path):
    graph = onnx.load(export_file(make_checkpoint(align="full"), tmp_path / "model.onnx")).graph
    # the network's, in their order
    dense = [node.name for node in graph.node if node.op_type == "Conv"][-28:]
    inner = inner_layers(graph)
    assert dense[0] not in inner and dense[-1] not in inner and set(dense[1:-1]) < set(inner)
    kinds = {node.name: node.op_type for node in graph.node}
    assert len([name for name in inner if kinds[name] == "Conv"]) == 26


def test_the_differences_that_a_head_reads_stay_float32(make_checkpoint, tmp_path):
    network = ARCHITECTURES["difference"](base_channels=4)
    checkpoint = make_checkpoint(
        model_state_dict=network.state_dict(), network=type(network).__name__
    )
    graph = onnx.load(export_file(checkpoint, tmp_path / "model.onnx")).graph
    inner = set(inner_layers(graph))
    joined = [node for node in graph.node if node.op_type == "Concat" and node.name in inner]
    head = [node for node in graph.node if node.op_type == "Conv"][-1]
    assert len(joined) == 3 and not any(head.input[0] in node.output for node in joined)


def test_a_variant_that_is_worse_or_slower_is_refused_with_the_table(
    make_checkpoint, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "model.onnx"
    cases = [
        (
            Comparison({"recall": "so much"}, 0.02, 3.0),
            "it finds 2.0% less of the true points than float32, expected at most 1.0%",
        ),
        (Comparison({"recall": "so much"}, float("nan"), None), "it finds nan% less"),
        (Comparison({"recall": "so much"}, 0.0, 0.9), "it is 0.90 times as fast as float32"),
    ]
    for comparison, complaint in cases:
        monkeypatch.setattr(
            export_onnx_fullimage, "compare_variant", lambda *facts, found=comparison: found
        )
        with pytest.raises(UserError, match=f"--precision int8: {complaint}"):
            export_file(make_checkpoint(), output, "--precision", "int8")
        assert "so much" in capsys.readouterr().out and not output.exists()
    comparison = Comparison({"recall": "so much"}, 0.02, None)
    monkeypatch.setattr(export_onnx_fullimage, "compare_variant", lambda *facts: comparison)
    path = export_file(make_checkpoint(), output, "--precision", "int8", "--max_recall_drop", 0.03)
    assert read_entries(path)["gate"] == "recall: so much"
    written = path.read_bytes()
    export_file(
        make_checkpoint(),
        output,
        "--precision",
        "int8",
        "--max_recall_drop",
        0.03,
        "--skip_existing",
    )
    assert path.read_bytes() == written
    export_file(make_checkpoint(), output, "--skip_existing")  # float32 is not what is there
    assert read_entries(path)["precision"] == "float32"


def test_what_a_variant_cannot_be_made_of_is_one_line(make_checkpoint, dataset, tmp_path):
    checkpoint, output = make_checkpoint(size=(300, 150)), tmp_path / "model.onnx"
    cases = [
        (
            ("--precision", "int8", "--opset_version", 11),
            "--opset_version 11: int8 needs 13 or newer",
        ),
        (
            ("--precision", "int8", "--calibration_path", dataset / "test"),
            r"--calibration_path: found \(200, 150\)",
        ),
        (
            ("--precision", "fp16", "--method", "double", "--image_size", 200, 150),
            "--precision fp16: found --method double",
        ),
    ]
    for flags, complaint in cases:
        with pytest.raises(UserError, match=complaint):
            export_file(checkpoint, output, *flags)
    assert not output.exists()


def test_strips_with_too_few_points_are_not_compared_on(dataset, capsys, monkeypatch):
    strips = list(enough_strips(dataset / "test", SMALL_SIZE, 255.0))
    assert "expected 30: comparing on generated strips" in capsys.readouterr().out
    assert sum(len(truths) for _, truths, _ in strips) >= 30
    monkeypatch.setattr(precision_gate, "FEWEST_POINTS", 1)
    given = list(enough_strips(dataset / "test", SMALL_SIZE, 255.0))
    assert capsys.readouterr().out == "" and not any(
        np.array_equal(given[0][0], image) for image, _, _ in strips
    )
