"""Export of a torch module to one ONNX file of exactly the requested opset, cleaned and checked."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from common.errors import UserError, one_line, prefix_errors
from deploy.session import open_session

OLDEST_OPSET = 11
# A rewriting rule of torch's newer exporter that looks at all nodes once for each node: half of the
# time of an export. It merges two slices that split a tensor, of which these networks have none.
SLOW_RULE = "SlicesSplit"
# from this opset on torch's newer exporter writes the file, below it the TorchScript exporter
FIRST_DYNAMO_OPSET = 18
THRESHOLD = "threshold"  # name of the second input, in files that have one


def write_graph(
    model: nn.Module,
    images: torch.Tensor,
    opset: int,
    path: Path,
    outputs: tuple[str, ...] = ("output",),
    threshold: float | Sequence[float] | None = None,
) -> None:
    """Write the graph of a module, without metadata, for any batch size.

    `images` is an example input (B, C, H, W), B above 1. The file's input is `input`, its outputs
    are named `outputs`. With a `threshold` the module takes one (1,) as its second input, with
    several as many (N,); a caller of the file may omit that input, which then has this value.
    Raises `UserError` when no exporter can write the opset.
    """
    if opset < OLDEST_OPSET:
        raise UserError(f"--opset_version {opset}: expected {OLDEST_OPSET} or newer")
    use_dynamo = opset >= FIRST_DYNAMO_OPSET
    # dynamo bakes a batch of 1 into the graph as a constant, TorchScript one of 2
    images = images if use_dynamo else images[:1]
    inputs = (
        {"input": images}
        if threshold is None
        else {"input": images, THRESHOLD: _as_tensor(threshold)}
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
        with quiet_exporters(), without_slow_rule(use_dynamo), torch.no_grad():
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
            f"--opset_version {opset}: torch cannot write it ({one_line(error)}), "
            f"expected {FIRST_DYNAMO_OPSET} or newer"
        ) from None
    with torch.no_grad():
        results = model(*inputs.values())
    results = results if isinstance(results, tuple) else (results,)
    _clean(path, [result.shape for result in results], threshold)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Suppress what the exporters print; `inspect_file` checks what matters in it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    print_graph = torch._C._jit_onnx_log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # the TorchScript exporter prints the whole graph where it cannot write an operation
        torch._C._jit_onnx_log = lambda *_: None
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            torch._C._jit_onnx_log = print_graph
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextmanager
def without_slow_rule(use_dynamo: bool) -> Iterator[None]:
    """Leave SLOW_RULE out of the newer exporter, where this version of onnxscript has it."""
    if not use_dynamo:
        yield
        return
    from onnxscript import rewriter  # half a second

    rules = getattr(rewriter, "_DEFAULT_REWRITE_RULES", ())
    rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in rules if rule.name != SLOW_RULE)
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules


def _as_tensor(threshold: float | Sequence[float]) -> torch.Tensor:
    return torch.atleast_1d(torch.tensor(threshold, dtype=torch.float32))


def _clean(path: Path, shapes: list[torch.Size], threshold: float | Sequence[float] | None) -> None:
    """Clean the file that an exporter wrote.

    Removes stack traces, sets the outputs' sizes that the exporter left open, gives the threshold
    its default value, and stamps the file for the oldest runtime.
    """
    model = onnx.load(path)
    stamp_ir_version(model)
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
        default = _as_tensor(threshold).numpy()
        model.graph.initializer.append(numpy_helper.from_array(default, THRESHOLD))
    onnx.save(model, path)


def stamp_ir_version(model: onnx.ModelProto) -> None:
    """Set the IR version to the least that the model's opsets need.

    Exporters stamp a newer one: torch writes IR version 10 over opset 18, which runtimes that know
    this opset refuse (ONNX Runtime before 1.18).
    """
    model.ir_version = helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)


def inspect_file(path: Path, opset: int) -> dict[str, str]:
    """Check a file and return the report's lines on it.

    Raises `UserError` when the file is not valid or its opset is not `opset`.
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
    nodes = sum(node.op_type != "Constant" for node in model.graph.node)
    return {
        "opset": str(opset),
        "IR version": str(model.ir_version),
        "producer": f"{model.producer_name} {model.producer_version}",
        "inputs": ", ".join(map(describe_value, model.graph.input)),
        "outputs": ", ".join(map(describe_value, model.graph.output)),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "nodes": f"{nodes} that are not constants",
        "load time (CPU)": f"{load_seconds:.2f} s",
    }


def describe_value(value: onnx.ValueInfoProto) -> str:
    """A tensor's name, shape and type as text."""
    tensor = value.type.tensor_type
    sizes = ", ".join(size.dim_param or str(size.dim_value) for size in tensor.shape.dim)
    return f"{value.name} ({sizes}) {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}"
