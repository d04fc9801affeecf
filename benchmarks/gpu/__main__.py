"""Measure and prove on a GPU everything that CUDA touches.

    # at most a quarter of an hour on one GPU
    python -m benchmarks.gpu
    # the same steps on the CPU, with sizes that take seconds
    python -m benchmarks.gpu --dry_run
    # put the results of a GPU into docs/how-to/gpu.md
    python -m benchmarks.gpu --write_docs output/gpu/results.jsonl

The steps run one after another, the most valuable first. Each has a time limit, and each figure is
written at once. --output gets results.jsonl, table.md and log.txt, which has all that the steps
printed. The exit code is 1 when a step failed or a figure is not as wanted.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, make_parser
from benchmarks.gpu.figures import Figure
from benchmarks.gpu.report import format_results, machine, write_docs
from benchmarks.gpu.runner import LEAST_SECONDS, Outcome, Step, ask, run_step
from common.errors import UserError, run_command
from deploy.nvidia import visible_gpus

STEPS = (
    Step("training_run", 240),  # train.sh, kill and resume, equal weights
    Step("training_speed", 120),  # this trainer beside a plain loop
    Step("parity", 150),  # CUDA beside the CPU, in PyTorch
    Step("inference", 150),  # the time of a strip in PyTorch
    Step("runtime", 240),  # ONNX Runtime on CUDA, from Python and C++
    Step("processes", 90),  # NCCL and gloo
    Step("failures", 150),  # the doctor, a full GPU, Ctrl-C
    Step("compiling", 200),  # torch.compile
)


def main() -> int:
    arguments = parse_args()
    if arguments.write_docs:
        write_docs(arguments.write_docs)
        print(f"{arguments.write_docs} is in docs/how-to/gpu.md")
        return 0
    # the driver knows in a moment that there is no GPU; torch has the last word
    found = ask(machine, arguments.dry_run) if arguments.dry_run or visible_gpus() else None
    if found is None:
        raise UserError("found no GPU that torch can use, expected one, or --dry_run")
    return measure(arguments, found)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    names = [step.name for step in STEPS]
    parser.add_argument("--dry_run", action="store_true", help="take the CPU for the GPU")
    parser.add_argument("--steps", nargs="+", choices=names, default=names, metavar="STEP")
    parser.add_argument(
        "--seconds", type=float, default=900, help="of all steps; later ones are not started"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "gpu")
    parser.add_argument("--write_docs", type=Path, metavar="RESULTS", help="measure nothing")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, found: dict[str, Any]) -> int:
    """Run the steps on the machine that was found, print and write their results.

    Returns the exit code.
    """
    arguments.output.mkdir(parents=True, exist_ok=True)
    results, log = arguments.output / "results.jsonl", arguments.output / "log.txt"
    results.write_text(json.dumps(found) + "\n")
    log.write_text("")
    end = time.monotonic() + arguments.seconds
    for step in (step for step in STEPS if step.name in arguments.steps):
        shown = len(results.read_text().splitlines())
        left = end - time.monotonic()
        limit = left if arguments.dry_run else min(step.limit, left)
        outcome = Outcome("not run: the time is over", 0, "")
        if left >= LEAST_SECONDS:
            outcome = run_step(step, arguments.dry_run, limit, results)
        took = Figure("the step took", outcome.seconds, "s")
        if outcome.ending:
            took = Figure("the step took", outcome.ending, "", "its end", False)
        with results.open("a") as file:
            print(took.as_json(step.name), file=file)
        with log.open("a") as file:
            print(f"=== {step.name}\n{outcome.output}", file=file)
        lines = results.read_text().splitlines()
        (arguments.output / "table.md").write_text(f"{format_results(lines)}\n")
        print(format_results([lines[0], *lines[shown:]]).partition("\n\n")[2], end="\n\n")
        sys.stdout.flush()
    missed = [line for line in map(json.loads, lines[1:]) if line["is_met"] is False]
    for line in missed:
        print(f"not as wanted: {line['step']}, {line['name']}: {line['value']}", file=sys.stderr)
    print(f"{arguments.output} has results.jsonl, table.md and log.txt")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
