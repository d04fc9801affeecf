"""A torch module to one ONNX file of just the opset that was asked for: written, cleaned and
checked.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from common.errors import UserError, one_line, prefix_errors
from deploy.session import open_session

OLDEST_OPSET = 11
# torch's newer exporter writes this and above, its TorchScript exporter what is older
FIRST_DYNAMO_OPSET = 18
THRESHOLD = "threshold"  # name of the second input, where there is one


def write_graph(
    model: nn.Module,
    images: torch.Tensor,
    opset: int,
    path: Path,
    outputs: tuple[str, ...] = ("output",),
    threshold: float | None = None,
) -> None:
    """The graph alone, of any batch of images like those of the example (B, C, H, W), B above 1:
    `input`, and `outputs`.

    With a `threshold` the model takes one (1,) as its second input; in the file that input may be
    left out and then has this value. Raises `UserError` when no exporter can write that opset.
    """
    if opset < OLDEST_OPSET:
        raise UserError(f"--opset_version {opset}: expected {OLDEST_OPSET} or newer")
    use_dynamo = opset >= FIRST_DYNAMO_OPSET
    # dynamo takes a batch of 1 for a constant, TorchScript one of 2
    images = images if use_dynamo else images[:1]
    inputs = (
        {"input": images}
        if threshold is None
        else {"input": images, THRESHOLD: torch.tensor([threshold])}
    )
    if use_dynamo:
        batch = {
            "dynamic_shapes": tuple(
                {0: torch.export.Dim("batch")} if name == "input" else None for name in inputs
            )
        }
    else:
        batch = {"dynamic_axes": {name: {0: "batch"} for name in ("input", *outputs)}}
    options = {
        "input_names": list(inputs),
        "output_names": list(outputs),
        "external_data": False,
        "verbose": False,
    }
    try:
        with quiet_exporters(), torch.no_grad():
            torch.onnx.export(
                model,
                tuple(inputs.values()),
                path,
                opset_version=opset,
                dynamo=use_dynamo,
                **batch,
                **options,
            )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--opset_version {opset}: torch cannot write it ({one_line(error)})"
        ) from None
    with torch.no_grad():
        answers = model(*inputs.values())
    answers = answers if isinstance(answers, tuple) else (answers,)
    _clean(path, [answer.shape for answer in answers], threshold)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keeps the exporters' warnings off the screen; what matters in them is checked in the file
    afterwards.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _clean(path: Path, shapes: list[torch.Size], threshold: float | None) -> None:
    """Take stack traces out, say the outputs' sizes where it left them open, and give the threshold
    its default.
    """
    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for output, (_, *sizes) in zip(model.graph.output, shapes):
        output.CopyFrom(
            helper.make_tensor_value_info(
                output.name, output.type.tensor_type.elem_type, ["batch", *sizes]
            )
        )
    if threshold is not None:
        default = torch.tensor([threshold]).numpy()
        model.graph.initializer.append(numpy_helper.from_array(default, THRESHOLD))
    onnx.save(model, path)


def inspect_file(path: Path, opset: int) -> dict[str, str]:
    """Check the file and describe it.

    Raises `UserError` when it is not valid or of another opset than `opset`.
    """
    model = onnx.load(path)
    written = {imported.domain or "ai.onnx": imported.version for imported in model.opset_import}
    if written != {"ai.onnx": opset}:
        raise UserError(f"--opset_version {opset}: torch wrote {written} instead")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"--opset_version {opset}: the file is not valid ONNX ({one_line(error)})"
        ) from None
    started = time.perf_counter()
    with prefix_errors(f"--opset_version {opset}"):
        open_session(path)
    load_seconds = time.perf_counter() - started
    return {
        "opset": str(opset),
        "IR version": str(model.ir_version),
        "producer": f"{model.producer_name} {model.producer_version}",
        "inputs": ", ".join(map(describe_value, model.graph.input)),
        "outputs": ", ".join(map(describe_value, model.graph.output)),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "nodes": f"{sum(node.op_type != 'Constant' for node in model.graph.node)} that are not constants",
        "load time (CPU)": f"{load_seconds:.2f} s",
    }


def describe_value(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = ", ".join(size.dim_param or str(size.dim_value) for size in tensor.shape.dim)
    return f"{value.name} ({sizes}) {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}"
