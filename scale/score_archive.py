"""Score an archive of strips of any size, with as many processes or machines as there are.

    python -m scale.score_archive --model onnx_models/RUN_best.onnx \\
        --input /data/archive --output /data/judged

    # from and to object storage
    python -m scale.score_archive --model s3://models/RUN_best.onnx \\
        --input s3://strips/2026-11 --output s3://judged/2026-11

    # with Ray, on this machine or on a cluster
    python -m scale.score_archive --model RUN_best.onnx --input /data/archive \\
        --output /data/judged --engine ray --ray 10.0.0.1:6379 --workers 16

The scores are those of inference_onnx.py. The results are Parquet tables: `strips/`, `detections/`
and `errors/`. A job that ended, however it ended, goes on where it was when it is started again.
"""

if __name__ == "__main__":
    from common.errors import install_exception_hook

    install_exception_hook()  # before the imports that take seconds

import argparse
import os
import sys
from pathlib import Path

from arguments import (
    add_channels,
    add_detection_rules,
    add_ignored_pixels,
    add_img_format,
    add_target_false_alarms,
    add_verdict,
    whole_number,
)
from common.command_parser import command_parser, group_flags
from common.errors import run_command
from common.packages import require_packages
from common.storage import is_remote, to_url
from deploy.flags import add_session
from scale.listed import MEASURE_EVERY

ENGINES = ("local", "ray")
MOST_WORKERS = 4096
MOST_PER_GPU = 64
CPUS_PER_WORKER = 4  # on larger machines, where --workers and --threads are not given
GROUPS = {
    "what to score, and with what": "model input output img_format channels",
    "threshold": "target_false_alarms threshold require_contrast",
    "detections": "min_area polarity missing",
    "pixels that do not count": "dead_pixels ignore_mask",
    "statistics": "measure_every",
    "work": "engine ray workers shard",
    "machine": "device per_call threads workers_per_gpu",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--model", type=location, required=True, help="ONNX file")
    parser.add_argument(
        "--input",
        type=location,
        required=True,
        metavar="FOLDER|URL",
        help="folder of strips, searched with its sub-folders",
    )
    parser.add_argument(
        "--output",
        type=location,
        required=True,
        metavar="FOLDER|URL",
        help="folder of the tables; of one job alone",
    )
    add_img_format(parser, default=None)
    add_channels(parser, default=None)
    add_target_false_alarms(parser, default=None)
    add_verdict(parser)
    add_detection_rules(parser)
    add_ignored_pixels(parser)
    parser.add_argument(
        "--measure_every",
        type=whole_number(1),
        metavar="N",
        help="register the references of one strip in N once more, to measure how they lie and "
        "which contrast was inspected; chosen by its path; default: that of the job that goes on, "
        f"else {MEASURE_EVERY}, or 1 with --require_contrast",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="local: processes of this machine; ray: actors of Ray Data",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="HOST:PORT of a Ray cluster, or auto; default: Ray is started here, and ended",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1, MOST_WORKERS, "each holds a model"),
        help="processes, or at most so many actors; default: one for every "
        f"{CPUS_PER_WORKER} cores, one with --device cuda",
    )
    parser.add_argument(
        "--shard",
        type=whole_number(1),
        default=2000,
        help="strips whose results are written together; a job that ended does at most the shards "
        "again that it was at",
    )
    add_session(
        parser,
        "--per_call",
        8,
        "CPU threads of each worker; default: the machine's cores, shared by the workers",
    )
    parser.add_argument(
        "--workers_per_gpu",
        type=whole_number(1, MOST_PER_GPU, "each holds a model in the GPU's memory"),
        default=1,
        help="with --engine ray and a GPU: actors that share one",
    )
    group_flags(parser, GROUPS)
    parsed = parser.parse_args(arguments)
    if parsed.ray and parsed.engine != "ray":
        parser.error(f"found --ray beside --engine {parsed.engine}, expected --engine ray")
    if parsed.threshold is not None and parsed.target_false_alarms:
        parser.error("found --threshold beside --target_false_alarms, expected one way to set it")
    if parsed.require_contrast is not None and (parsed.measure_every or 1) > 1:
        parser.error(
            f"found --measure_every {parsed.measure_every} beside --require_contrast, expected 1: "
            "verdicts go by the contrast of each strip"
        )
    cores = os.cpu_count() or 1
    per_worker = parsed.threads or CPUS_PER_WORKER
    parsed.workers = parsed.workers or (
        1 if parsed.device in ("cuda", "tensorrt") else max(1, cores // per_worker)
    )
    parsed.threads = parsed.threads or max(1, cores // parsed.workers)
    return parsed


def location(text: str) -> Path | str:
    """The type of a flag that takes a path or a URL, of which a `Path` would drop a slash."""
    return to_url(text) if is_remote(text) else Path(text)


def score(arguments: argparse.Namespace) -> int:
    """Score the archive and return the exit code: 1 when some strips could not be used, else 0.

    Raises `UserError` when the model, the archive or the output cannot be used, or packages lack.
    """
    require_packages("pyarrow", *(["ray"] if arguments.engine == "ray" else []))
    from scale.archive_job import run_job  # it has pyarrow

    return run_job(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: score(parse_args())))
