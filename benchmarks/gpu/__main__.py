"""Measure and prove on a GPU everything that CUDA touches.

    # about six minutes on one GPU
    python -m benchmarks.gpu
    # the same steps on the CPU, with sizes that take seconds
    python -m benchmarks.gpu --dry_run
    # put the results of a GPU into docs/how-to/gpu.md
    python -m benchmarks.gpu --write_docs output/gpu/results.jsonl

The steps run one after another, the most valuable first. Each has a time limit; what it measured
until then is kept. --output gets three files, written anew after each step: results.jsonl, table.md
and failures.txt, the whole output of the steps in which something is not as wanted. The exit code
is 1 when a step failed or a figure is not as wanted.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.command_line import ROOT, make_parser
from benchmarks.gpu.report import format_results, machine, write_docs
from benchmarks.gpu.runner import LEAST_SECONDS, Outcome, Step, run_step
from common.errors import UserError, run_command

STEPS = (
    Step("training_run", "train.sh, kill and resume, equal weights", 150),
    Step("training_speed", "this trainer beside a plain loop", 110),
    Step("parity", "CUDA beside the CPU, in PyTorch", 60),
    Step("inference", "time of a strip in PyTorch", 60),
    Step("runtime", "ONNX Runtime on CUDA, from Python and C++", 120),
    Step("processes", "NCCL and gloo", 60),
    Step("failures", "doctor, a full GPU, Ctrl-C", 60),
    Step("compiling", "torch.compile", 100),
)


def main() -> int:
    arguments = parse_args()
    if arguments.write_docs:
        write_docs(arguments.write_docs)
        print(f"{arguments.write_docs} is in docs/how-to/gpu.md")
        return 0
    if not arguments.dry_run and not torch.cuda.is_available():
        raise UserError("found no GPU that torch can use, expected one, or --dry_run")
    return measure(arguments)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    names = [step.name for step in STEPS]
    parser.add_argument("--dry_run", action="store_true", help="take the CPU for the GPU")
    parser.add_argument("--steps", nargs="+", choices=names, default=names, metavar="STEP")
    parser.add_argument(
        "--seconds", type=float, default=560, help="of all steps; later ones are not started"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "gpu")
    parser.add_argument("--write_docs", type=Path, metavar="RESULTS", help="measure nothing")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> int:
    """Run the steps, print and write their results, and return the exit code."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines, failures = [json.dumps(machine(arguments.dry_run))], []
    end = time.monotonic() + arguments.seconds
    for step in (step for step in STEPS if step.name in arguments.steps):
        first = len(lines)
        left = end - time.monotonic()
        if left < LEAST_SECONDS:
            outcome = Outcome("not run: the time is over", 0, "")
        else:
            limit = left if arguments.dry_run else min(step.limit, left)
            outcome = run_step(step, arguments.dry_run, limit, lines)
        ending = {"step": step.name, "name": "the step took", "value": outcome.seconds, "unit": "s"}
        if outcome.ending:
            ending |= {"value": outcome.ending, "unit": "", "wanted": "its end", "is_met": False}
        lines.append(json.dumps(ending))
        if any(json.loads(line).get("is_met") is False for line in lines[first:]):
            failures += [f"=== {step.name}", outcome.output]
        write_results(arguments.output, lines, failures)
        print(format_results([lines[0], *lines[first:]]).partition("\n\n")[2], end="\n\n")
        sys.stdout.flush()
    missed = [line for line in map(json.loads, lines[1:]) if line.get("is_met") is False]
    for line in missed:
        print(f"not as wanted: {line['step']}, {line['name']}: {line['value']}", file=sys.stderr)
    print(f"{arguments.output} has results.jsonl, table.md and failures.txt")
    return 1 if missed else 0


def write_results(folder: Path, lines: list[str], failures: list[str]) -> None:
    """Write the three files of --output."""
    (folder / "results.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "table.md").write_text(f"{format_results(lines)}\n")
    (folder / "failures.txt").write_text("".join(f"{part}\n" for part in failures))


if __name__ == "__main__":
    sys.exit(run_command(main))
