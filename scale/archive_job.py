"""A job: the archive's listing, the shards that lack results, and an engine that scores them.

Only what has pyarrow imports this module.
"""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.errors import UserError, failures_as_user_errors, prefix_errors
from common.files import file_hash
from common.progress import progress_bar
from common.settings import from_values
from common.storage import fetch, is_remote
from data.folder import evenly_spaced
from data.verify import verify_strips
from deploy.session import SessionSettings
from reporting.score_folder import ScoringSettings, describe_intake
from reporting.scored_folder import require_output_elsewhere, require_usable
from scale.archive import Archive
from scale.lease import Lease, leased
from scale.listed import MEASURE_EVERY, Chunk, Shard, cut
from scale.local_engine import score_locally
from scale.output_folder import JOB, LISTING, MODEL, Done, OutputFolder
from scale.strip_scorer import Job, ScoredStrips, StripScorer
from scale.tables import Listing, ShardWriter, write_listing

CHUNK = 32  # strips, or the next multiple of --per_call: enough that handing them over costs little
SAMPLE = 20  # strips that are looked at before the first job begins
# settings of a job that have no influence on what it finds
FREE = ("test_path", "output_dir", "img_format", "good_path", "contrast_maps", "candidates")
FREE += ("use_ground_truth_mask", "match_radius", "method", "input_max", "mask_channel")
# settings of jobs that were begun before there was a choice
EARLIER = {"measure_every": 1}


def run_job(arguments: argparse.Namespace) -> int:
    """Score what an archive lacks; the exit code is 1 when some strips could not be used."""
    output = OutputFolder(arguments.output)
    if not (is_remote(arguments.output) or is_remote(arguments.input)):
        require_output_elsewhere(arguments.output, [arguments.input])
    # the scoring writes nothing itself
    settings = from_values(ScoringSettings, vars(arguments) | {"output_dir": Path()})
    session = SessionSettings(arguments.device, arguments.per_call, arguments.threads)
    every = choose_sample(arguments, output)
    job = Job(arguments.model, Archive(arguments.input), session, settings, every)
    # a head node has no GPU perhaps; and nothing is computed here
    scorer = StripScorer(replace(job, session=SessionSettings("cpu", 1, arguments.threads)))
    print(f"{job.model}, strips of {job.archive.location}")
    print(scorer.threshold.describe())
    output.make()
    with leased(output) as lease:
        output.remove_leftovers()
        model = file_hash(fetch(job.model))
        require_same_job(output, job_facts(job, model))
        info = scorer.detector.info
        output.write_notes(MODEL, {"input_max": info.input_max, "order": list(info.order)})
        listing = open_listing(output, job, arguments.shard)
        done = output.done()
        missing = [shard for shard in listing.shards if shard.name not in done]
        print(
            f"{listing.count} strips in {len(listing.shards)} shards, {len(missing)} of them to do"
        )
        if not done:
            look_at_sample(scorer, listing)
        writer = ShardWriter(output, model, scorer.statistic_names())
        del scorer  # its memory is the workers'
        score_shards(job, listing, missing, arguments, writer, lease)
        return describe_end(listing, output)


def choose_sample(arguments: argparse.Namespace, output: OutputFolder) -> int:
    """Of how many strips one is measured in full: as given, else as the job in the output has it.

    It is each strip where verdicts depend on what is measured.
    """
    if arguments.require_contrast is not None:
        return 1
    found = output.read_notes(JOB)
    known = (EARLIER | found)["measure_every"] if isinstance(found, dict) else MEASURE_EVERY
    return arguments.measure_every or known


def job_facts(job: Job, model: str) -> dict[str, Any]:
    """What all shards of an output have in common, as JSON has it. `model` is its SHA-256."""
    facts: dict[str, Any] = {"model": model, "input": str(job.archive.location)}
    facts["measure_every"] = job.measure_every
    for name, value in asdict(job.settings).items():
        if name in FREE:
            continue
        if isinstance(value, Path):
            with prefix_errors(value), failures_as_user_errors():
                value = file_hash(value)
        facts[name] = list(value) if isinstance(value, tuple) else value
    return facts


def require_same_job(output: OutputFolder, facts: dict[str, Any]) -> None:
    """Keep the facts of a new job; raise `UserError` where the output is another job's."""
    found = output.read_notes(JOB)
    if found is None:
        output.write_notes(JOB, facts)
        return
    known = EARLIER | found if isinstance(found, dict) else {}
    for name in sorted({*facts, *known}):
        if known.get(name) != facts.get(name):
            raise UserError(
                f"{output}: found results of --{name} {_shown(known.get(name))}, "
                f"expected {_shown(facts.get(name))}: give another --output"
            )


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"SHA-256 {text[:12]}" if is_hash else text


def open_listing(output: OutputFolder, job: Job, shard: int) -> Listing:
    """The listing in the output; where there is none, one of the archive as it is now.

    Raises `UserError` for an archive without strips.
    """
    path = output.fetch(LISTING)
    if path is None:
        strips = job.archive.list_strips(job.settings.img_format)
        output.write(LISTING, lambda file: write_listing(file, strips.parts(shard)))
        path = output.fetch(LISTING)
    return Listing(path)


def look_at_sample(scorer: StripScorer, listing: Listing) -> None:
    """Warn of strips that do not fit the model. Raises `UserError` where none can be used."""
    shards = evenly_spaced(listing.shards, SAMPLE)
    each = -(-SAMPLE // len(shards))
    sample = [strip for shard in shards for strip in evenly_spaced(listing.strips(shard), each)]
    archive, files, problems = scorer.job.archive, [], []
    for strip in sample:
        try:
            files.append(replace(scorer.strip_file(strip.path), path=archive.open(strip)))
        except UserError as error:
            problems.append(str(error))
    info = scorer.detector.info
    verification = verify_strips(files, info.input_max, scorer.detector.patch, info.image_size)
    verification = replace(verification, problems=[*problems, *verification.problems])
    require_usable(archive.location, len(sample), verification)
    describe_intake(verification, info)


def chunks_of(listing: Listing, shards: Iterable[Shard], size: int) -> Iterator[Chunk]:
    """The chunks of shards, in order; a shard is read when its turn comes."""
    for shard in shards:
        yield from cut(shard, listing.strips(shard), size)


def score_shards(
    job: Job,
    listing: Listing,
    missing: list[Shard],
    arguments: argparse.Namespace,
    writer: ShardWriter,
    lease: Lease,
) -> None:
    """Score shards and write each as soon as its last strip is scored."""
    if not missing:
        return
    per_call = arguments.per_call
    chunks = chunks_of(listing, missing, per_call * -(-CHUNK // per_call))
    received: dict[Shard, list[tuple[int, ScoredStrips]]] = {}
    progress = progress_bar(
        total=sum(shard.count for shard in missing), desc="scoring strips", unit="strip"
    )
    with progress, closing(start_engine(job, chunks, arguments)) as results:
        for chunk, scored in results:
            progress.update(len(chunk.strips))
            parts = received.setdefault(chunk.shard, [])
            parts.append((chunk.first, scored))
            if sum(len(part.strips) + len(part.errors) for _, part in parts) < chunk.shard.count:
                continue
            whole = ScoredStrips()
            for _, part in sorted(received.pop(chunk.shard), key=lambda entry: entry[0]):
                whole.extend(part)
            lease.require_own()
            writer.write(chunk.shard, whole)


def start_engine(
    job: Job, chunks: Iterator[Chunk], arguments: argparse.Namespace
) -> Iterator[tuple[Chunk, ScoredStrips]]:
    """The results of an engine."""
    if arguments.engine == "local":
        return score_locally(job, chunks, arguments.workers)
    from scale.ray_engine import Actors, score_with_ray  # its import takes seconds

    is_on_gpu = job.session.device in ("cuda", "tensorrt")
    gpus = 1 / arguments.workers_per_gpu if is_on_gpu else 0
    actors = Actors(arguments.workers, arguments.threads, gpus, arguments.ray)
    return score_with_ray(job, chunks, actors)


def describe_end(listing: Listing, output: OutputFolder) -> int:
    """Print what the output has, and return the exit code."""
    done = output.done()
    ends = [done[shard.name] for shard in listing.shards if shard.name in done]
    whole = Done(sum(end.strips for end in ends), sum(end.errors for end in ends))
    print(
        f"{whole.strips} of {listing.count} strips scored, {whole.errors} could not be used: "
        f"strips/, detections/ and errors/ are in {output}"
    )
    return 1 if whole.errors else 0
