"""The check of a GPU, on the CPU: every step, and what a step that fails leaves behind."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from benchmarks.gpu import report
from benchmarks.gpu.__main__ import STEPS, main
from benchmarks.gpu.figures import Figure, at_least, at_most, attempt
from benchmarks.gpu.runner import Step, run_step
from common.errors import UserError
from tests import processes
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process groups and a fork server")

# what a step must yield even where its other parts fail, as a GPU may show
PARTS = {
    "runtime": (
        "a training for the files",
        *("whole_fp16: written", "whole_fp16: nodes", "whole_fp32: written", "whole_fp32: nodes"),
        *(f"whole_fp{bits}: difference to PyTorch in float32 on the CPU" for bits in (16, 32)),
        *("whole_fp16: batch 1, opening and first call", "whole_fp16: batch 1"),
        *("whole_fp16: batch 1, CUDA graph", "whole_fp32: batch 1, CUDA graph"),
        *("whole_fp16: batch 1, channels last", "whole_fp16: batch 8, channels last"),
        "whole_fp16: batch 1, CUDA graph, difference to a call without",
        *("fp16 so far, batch 1", "fp16 so far, best batch"),
    ),
    "failures": (
        "`python inference_onnx.py --doctor`",
        "Ctrl-C saves, and says how to go on",
        "a batch that cannot fit is named in the last line",
        *("the other run is as before", "and it can be resumed"),
    ),
    "compiling": (
        *("batch 4, this trainer --amp: first step", "batch 4, this trainer --amp --compile"),
        "batch 4, this trainer --amp --compile: times the one without",
        *("bfloat16, torch.compile, batch 1: first call", "bfloat16, torch.compile, batch 1"),
    ),
}


def gpu_check(*flags, **environment):
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, flags)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """The output of a dry run of all steps.

    Its steps are forked from a process that has imported the libraries, as those of other tests.
    """
    folder = tmp_path_factory.mktemp("gpu")
    processes.write_interpreter(folder / "python")
    # other work may slow it down
    words = ["gpu", "--dry_run", "--seconds", "3600", "--output", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        patch.setenv("PYTHON", str(folder / "python"))
        patch.setenv("OMP_NUM_THREADS", "1")
        code = main()
    assert code == 0, (folder / "table.md").read_text() + (folder / "log.txt").read_text()
    return folder


def test_a_dry_run_goes_through_every_step(dry):
    machine, *lines = map(json.loads, (dry / "results.jsonl").read_text().splitlines())
    assert machine["card"] == "none: a dry run on the CPU" and machine["torch"]
    assert list(dict.fromkeys(line["step"] for line in lines)) == [step.name for step in STEPS]
    judged = [line for line in lines if line.get("is_met") is not None]
    assert len(judged) > 20 and all(line["is_met"] for line in judged)
    table = (dry / "table.md").read_text()
    assert table.count("| the step took |") == len(STEPS) and "**no**" not in table
    assert (dry / "log.txt").read_text().count("=== ") == len(STEPS)


@pytest.mark.parametrize("step", PARTS)
def test_a_dry_run_has_a_figure_of_each_part(dry, step):
    lines = map(json.loads, (dry / "results.jsonl").read_text().splitlines()[1:])
    names = [line["name"] for line in lines if line["step"] == step]
    assert [name for name in PARTS[step] if name not in names] == []
    # whether the library is there depends on whether test_cpp.py has built it before
    assert step != "runtime" or any(name.startswith("C++ library") for name in names)


def test_documents_take_results_of_a_gpu_only(dry, tmp_path, monkeypatch):
    page = tmp_path / "gpu.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "HOW_TO", page)
    with pytest.raises(UserError, match="found a dry run"):
        report.write_docs(dry / "results.jsonl")
    results = tmp_path / "results.jsonl"
    results.write_text((dry / "results.jsonl").read_text().replace("none: a dry", "A card: not a"))
    report.write_docs(results)
    assert page.read_text().startswith(f"before\n{report.BEGIN}\ndate 2")
    assert "| measured | wanted |" in page.read_text() and "old" not in page.read_text()
    assert page.read_text().endswith(f"{report.END}\nafter\n")
    with pytest.raises(UserError, match="expected a results file"):
        report.write_docs(page)


def test_the_page_has_a_place_for_the_results():
    text = report.HOW_TO.read_text(encoding="utf-8")
    assert text.index(report.BEGIN) < text.index(report.END)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_without_a_gpu_the_check_is_refused(tmp_path):
    done = gpu_check("--output", tmp_path / "none")
    assert done.returncode == 1 and not (tmp_path / "none").exists()
    assert done.stderr == "error: found no GPU that torch can use, expected one, or --dry_run\n"


def kill_after_first_figure(results):
    while not results.exists() or not results.read_text():
        time.sleep(0.005)
    multiprocessing.active_children()[0].kill()


def test_a_step_that_is_stopped_keeps_what_it_measured(tmp_path):
    results = tmp_path / "results.jsonl"
    thread = threading.Thread(target=kill_after_first_figure, args=[results])
    thread.start()
    outcome = run_step(Step("inference", 0), True, 600, results)
    thread.join()
    assert outcome.ending == "failed with exit code -9"
    kept = [json.loads(line)["name"] for line in results.read_text().splitlines()]
    assert kept[0] == "product of float16 matrices" and len(kept) < 10
    assert run_step(Step("inference", 0), True, 1e-3, results).ending == "stopped after 0 s"
    outcome = run_step(Step("nothing_of_that_name", 0), True, 60, results)
    assert outcome.ending == "failed with exit code 1"
    assert "No module named 'benchmarks.gpu.steps.nothing_of_that_name'" in outcome.output


def test_an_error_of_one_figure_leaves_the_others(capsys):
    def figures():
        yield Figure("first", 1.0)
        raise RuntimeError("operation not permitted when stream is capturing")

    first, second = attempt("a graph", figures)
    assert first == Figure("first", 1.0) and second.is_met is False
    assert second.value == "RuntimeError: operation not permitted when stream is capturing"
    assert "Traceback" in capsys.readouterr().err


def test_not_a_number_is_never_as_wanted():
    assert at_most("", float("nan"), 1).is_met is False
    assert at_least("", float("nan"), 1).is_met is False
    assert at_least("", 0.5, 1, is_binding=False).is_met is None
