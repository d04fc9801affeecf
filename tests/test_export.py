import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxscript import rewriter

import export_onnx_fullimage
from common.errors import UserError
from deploy.export_flags import DEFAULT_OPSET
from deploy.onnx_export import SLOW_RULE, without_slow_rule
from model import SegmentationNetworkONNX
from ops.tiling import calculate_kept_ranges, tile_positions
from tests.conftest import QUICK_OPSET, SMALL_SIZE, export_file, run
from training.checkpoint import build_network, load_checkpoint

# that the onnx package knows; torch or ONNX Runtime may know less
NEWEST_OPSET = onnx.defs.onnx_opset_version()


def sizes(value):
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


# with the least IR version of each: a runtime that knows the opset knows this one, too
@pytest.mark.parametrize(
    "opset, ir_version", [(11, 6), (13, 7), (17, 8), (18, 8), (20, 9), (23, 11)]
)
def test_the_file_is_of_the_opset_that_was_asked_for(make_checkpoint, tmp_path, opset, ir_version):
    model = onnx.load(export_file(make_checkpoint(), tmp_path / "model.onnx", opset=opset))
    assert [(imported.domain, imported.version) for imported in model.opset_import] == [("", opset)]
    assert model.ir_version == ir_version
    assert sum(node.op_type != "Constant" for node in model.graph.node) <= 250
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "output")
    assert sizes(model.graph.input[0]) == sizes(model.graph.output[0]) == ["batch", 3, *SMALL_SIZE]
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 28  # one copy of the network
    assert not any(node.metadata_props for node in model.graph.node)


def test_the_newest_opset_is_written_as_asked_or_is_an_error_and_no_file(make_checkpoint, tmp_path):
    try:
        path = export_file(make_checkpoint(), tmp_path / "model.onnx", opset=NEWEST_OPSET)
        assert onnx.load(path).opset_import[0].version == NEWEST_OPSET
    except UserError as error:
        assert str(error).startswith(f"--opset_version {NEWEST_OPSET}: ")
        assert not (tmp_path / "model.onnx").exists()


def test_a_slow_rule_is_left_out_of_an_export_and_of_nothing_else():
    rules = rewriter._DEFAULT_REWRITE_RULES
    names = [rule.name for rule in rules]
    for is_left_out in (True, False):
        with pytest.raises(ZeroDivisionError), without_slow_rule(is_left_out):
            kept = [rule.name for rule in rewriter._DEFAULT_REWRITE_RULES]
            1 / 0  # noqa: B018
        assert kept == [name for name in names if name != SLOW_RULE or not is_left_out]
        assert rewriter._DEFAULT_REWRITE_RULES is rules


@pytest.mark.parametrize("opset", [9, 10, NEWEST_OPSET + 1, NEWEST_OPSET + 50])
def test_an_opset_that_no_exporter_knows_is_an_error_and_no_file(make_checkpoint, tmp_path, opset):
    with pytest.raises(UserError, match=f"--opset_version {opset}"):
        export_file(make_checkpoint(), tmp_path / "out" / "model.onnx", opset=opset)
    assert list((tmp_path / "out").glob("*")) == []


# the exporter of the default opset takes ten times as long as that of the other one
@pytest.mark.parametrize(
    "size, opset",
    [
        ((976, 176), DEFAULT_OPSET),
        ((200, 150), QUICK_OPSET),
        ((131, 257), DEFAULT_OPSET),
    ],
)
def test_onnx_gives_what_a_plain_double_loop_over_patches_gives(
    make_checkpoint, tmp_path, size, opset
):
    checkpoint = make_checkpoint()
    path = export_file(
        checkpoint,
        tmp_path / "model.onnx",
        "--image_size",
        *size,
        opset=opset,
    )
    patch_network = SegmentationNetworkONNX(build_network(load_checkpoint(checkpoint), checkpoint))
    strips = np.random.default_rng(0).random((2, 3, *size), np.float32)
    expected = np.zeros((2, *size), np.float32)
    rows, columns = (calculate_kept_ranges(length, 128) for length in size)
    for number, (y, x) in enumerate(tile_positions(size, 128)):
        (top, bottom), (left, right) = rows[number // len(columns)], columns[number % len(columns)]
        with torch.inference_mode():
            tile = patch_network(torch.from_numpy(strips[:, :, y : y + 128, x : x + 128])).numpy()
        expected[:, top:bottom, left:right] = tile[:, 0, top - y : bottom - y, left - x : right - x]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 2):
        answer = session.run(["output"], {"input": strips[:batch]})[0]
        assert answer.shape == (batch, 3, *size) and not answer[:, 1:].any()
        assert np.abs(answer[:, 0] - expected[:batch]).max() < 1e-5


def test_the_patch_wrapper_exports_too(make_network, tmp_path):
    wrapper, patches = SegmentationNetworkONNX(make_network()).eval(), torch.rand(2, 3, 128, 128)
    torch.onnx.export(
        wrapper,
        (patches,),
        tmp_path / "patch.onnx",
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(
        tmp_path / "patch.onnx", providers=["CPUExecutionProvider"]
    )
    answer = session.run(None, {session.get_inputs()[0].name: patches.numpy()})[0]
    with torch.inference_mode():
        assert np.abs(answer - wrapper(patches).numpy()).max() < 1e-5


def test_the_report_and_the_metadata(make_checkpoint, tmp_path, capsys):
    checkpoint = make_checkpoint(input_max=4095.0)
    path = export_file(checkpoint, tmp_path / "models")
    assert path == tmp_path / "models" / "model_best.onnx"
    report = capsys.readouterr().out
    for line in (
        "opset",
        "IR version",
        "producer",
        "inputs",
        "outputs",
        "size",
        "nodes",
        "load time",
        "channel 0",
        "sums 0 and 0",
    ):
        assert line in report
    assert all(
        name in report
        for name in ("strips, batch 1", "strips, batch 3", "noise, batch 1", "noise, batch 3")
    )
    entries = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        .get_modelmeta()
        .custom_metadata_map
    )
    assert (
        entries["checkpoint"] == "model_best.pth"
        and entries["input_max"] == "4095.0"
        and entries["tile_size"] == "128 128"
    )


def test_strips_to_compare_on_may_be_given(make_checkpoint, dataset, tmp_path):
    export_file(make_checkpoint(), tmp_path / "model.onnx", "--test_path", dataset / "test")
    with pytest.raises(
        UserError,
        match=r"strip_2.tiff: found \(200, 150\).*expected \(300, 150\): see --image_size",
    ):
        export_file(
            make_checkpoint(),
            tmp_path / "other.onnx",
            "--test_path",
            dataset / "test",
            "--image_size",
            300,
            150,
        )
    assert not (tmp_path / "other.onnx").exists()


def test_a_file_that_differs_from_pytorch_is_not_written(make_checkpoint, tmp_path, monkeypatch):
    output = tmp_path / "out" / "model.onnx"
    export_file(make_checkpoint(), output)
    before = output.read_bytes()

    def wrong(graph, *facts, compare=export_onnx_fullimage.prove_parity):
        with torch.no_grad():
            graph.detector.patch_network.network.head.bias[1].add_(0.1)
        return compare(graph, *facts)

    monkeypatch.setattr(export_onnx_fullimage, "prove_parity", wrong)
    with pytest.raises(
        UserError, match=r"heatmaps differ from PyTorch's by .* expected less than 0\.0001"
    ):
        export_file(make_checkpoint(), output)
    assert output.read_bytes() == before and list(output.parent.iterdir()) == [output]


def test_skip_existing_exports_again_only_for_another_checkpoint(make_checkpoint, tmp_path, capsys):
    checkpoint, output = make_checkpoint(), tmp_path / "model.onnx"
    export_file(checkpoint, output, "--skip_existing")
    first = output.read_bytes()
    capsys.readouterr()
    export_file(checkpoint, output, "--skip_existing")
    assert capsys.readouterr().out == "" and output.read_bytes() == first
    make_checkpoint(epoch=2)
    # each of another kind than what is there
    for more in ((), ("--opset_version", 16), ("--image_size", 150, 200)):
        export_file(checkpoint, output, "--skip_existing", *more)
        assert "opset" in capsys.readouterr().out and output.read_bytes() != first
    output.write_bytes(first[:1000])
    export_file(checkpoint, output, "--skip_existing")
    assert "opset" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(100, 176), (976, 127)])
def test_a_strip_smaller_than_a_patch_cannot_be_exported(make_checkpoint, tmp_path, size):
    done = run(
        "export_onnx_fullimage.py",
        "--checkpoint_path",
        make_checkpoint(),
        "--image_size",
        *map(str, size),
        cwd=tmp_path,
    )
    assert (
        done.returncode == 1
        and "expected at least 128" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_the_defaults_find_the_newest_best_checkpoint(make_checkpoint, tmp_path):
    make_checkpoint("checkpoints/old_best.pth")
    make_checkpoint("checkpoints/new_best.pth")
    make_checkpoint("checkpoints/new.pth")
    done = run("export_onnx_fullimage.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "onnx_models").iterdir()] == ["new_best.onnx"]
    assert done.stdout.splitlines()[-1].startswith(
        "the model is in onnx_models/new_best.onnx; next: python inference_onnx.py"
    )
    assert done.stderr == ""


def test_another_range_than_the_checkpoint_s_is_refused(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(input_max=4095.0)
    with pytest.raises(UserError, match="found a model of --input_max 4095, expected 255"):
        export_file(checkpoint, tmp_path / "model.onnx", "--input_max", 255)
    assert not (tmp_path / "model.onnx").exists()
