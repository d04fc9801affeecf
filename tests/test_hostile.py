"""The benchmark of damaged files sees what must not happen, and draws its damage from a seed."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.hostile import damage
from benchmarks.hostile.__main__ import COLUMNS, failures, new_job
from benchmarks.hostile.children import run_jobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def raise_mistake() -> None:
    raise RuntimeError("a mistake")


def write(name: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("x")


@pytest.mark.parametrize(
    "command, expected",
    [
        (lambda: 1, set()),
        (raise_mistake, {"tracebacks"}),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), {"ended by a signal"}),
        (lambda: write("out/x"), set()),
        (lambda: write("../../../x"), {"wrote elsewhere"}),
        (lambda: write("x"), {"wrote elsewhere"}),
    ],
    ids=["refused", "traceback", "signal", "output", "above", "beside"],
)
def test_what_must_not_happen_is_seen(command, expected, tmp_path):
    (outcome,) = run_jobs([new_job(tmp_path / "job", "name", command, "out/")], at_once=1)
    assert {name for name, is_so in zip(COLUMNS, failures(outcome)) if is_so} == expected


def test_damage_is_drawn_from_its_seed():
    content = bytes(range(256)) * 20
    damaged = [
        [damage.damage_bytes(content, np.random.default_rng((seed, n))) for n in range(20)]
        for seed in (0, 0, 1)
    ]
    assert damaged[0] == damaged[1] != damaged[2]
    assert sum(each != content for each in damaged[0]) >= 15


def small_model() -> bytes:
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8])
        for name in ("input", "output")
    ]
    weights = onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "weights")
    nodes = [onnx.helper.make_node("Conv", ["input", "weights"], ["output"])]
    graph = onnx.helper.make_graph(nodes, "graph", values[:1], values[1:], [weights])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, {"product": "x", "calibration": "null"})
    return model.SerializeToString()


def test_models_and_checkpoints_are_damaged_in_many_ways():
    whole = small_model()
    models = set()
    for number in range(20):
        model = onnx.load_from_string(whole)
        damage.damage_model(model, np.random.default_rng(number))
        models.add(model.SerializeToString())
    assert len(models - {whole}) >= 15
    content = {"a": {"b": 1}, "c": "text", "seed": 42}
    for change in (damage.damage_content, damage.damage_setting):
        shown = {repr(change(content, np.random.default_rng(number))) for number in range(30)}
        assert len(shown) >= 10 and content == {"a": {"b": 1}, "c": "text", "seed": 42}
