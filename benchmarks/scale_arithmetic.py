"""The arithmetic of a large archive: bytes, hours, what bounds them, and money.

Every figure it starts from is a field of `Plan`, and a flag of benchmarks/scale.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

HOUR, DAY = 3600.0, 86400.0  # seconds
GPUS = (1, 4, 16, 64)
TB, GB = 1e12, 1e9  # bytes
LISTED_PER_REQUEST = 1000  # objects, of S3
SHARD = 2000  # strips
FILES_PER_SHARD = 4
# values of a strip, three channels of 976 x 176
VALUES = 3 * 976 * 176


def _figure(value: float, says: str) -> Any:
    """A field of `Plan` with what --help says of it."""
    return field(default=value, metadata={"says": says})


@dataclass(frozen=True)
class Plan:
    """What an archive, its machines and their prices are like.

    The figures of strips are those of the table in docs/explanation/ten-million-strips.md, on one
    core of an AMD EPYC; those of a GPU are of docs/how-to/gpu.md, an H200 with PyTorch. Prices are
    list prices in dollars of May and June 2026: storage and requests of S3 Standard in us-east-1,
    and what large clouds ask for an hour of an H200 on demand.
    """

    archive: int = _figure(10_000_000, "strips of the archive")
    float32_ms: float = _figure(10.8, "GPU time of a strip with a network in float32, ms")
    float16_ms: float = _figure(2.2, "GPU time of a strip with a network in float16, ms")
    host_ms: float = _figure(8.0, "processor time of a strip beside the model, in a worker, ms")
    driver_ms: float = _figure(0.2, "time of a strip in the process that hands out and writes, ms")
    workers_per_gpu: int = _figure(4, "workers that share a GPU, a core each")
    link: float = _figure(10.0, "Gbit/s that the storage gives to all machines together")
    listing_us: float = _figure(107.0, "time of a strip in the listing, microseconds")
    listing_bytes: float = _figure(210.0, "memory of a strip in the listing, bytes")
    result_bytes: float = _figure(400.0, "bytes of a strip in the tables")
    gpu_hour: float = _figure(7.0, "price of a GPU with its share of a machine, an hour")
    read_1000: float = _figure(0.0004, "price of 1,000 requests that read an object")
    write_1000: float = _figure(0.005, "price of 1,000 requests that write or list")
    egress_gb: float = _figure(0.09, "price of a GB that leaves the storage's region")


FIGURES = {entry.name: entry for entry in fields(Plan)}


@dataclass(frozen=True)
class Case:
    """Strips of a data type, of so many bytes a value, and a network in a precision."""

    name: str
    bytes_per_value: int
    precision: str

    @property
    def strip_bytes(self) -> int:
        return VALUES * self.bytes_per_value


CASES = (
    Case("float32 strips, float32 network", 4, "float32"),
    Case("uint8 strips, float16 network", 1, "float16"),
)


def rates(plan: Plan, case: Case, gpus: int) -> dict[str, float]:
    """Strips/s that each part could do alone, by its name."""
    gpu_ms = plan.float32_ms if case.precision == "float32" else plan.float16_ms
    return {
        "GPUs": gpus * 1000 / gpu_ms,
        # a worker computes what is beside the model while its GPU waits
        "workers": gpus * plan.workers_per_gpu * 1000 / (gpu_ms + plan.host_ms),
        "network": plan.link * 1e9 / 8 / case.strip_bytes,
        "writing": 1000 / plan.driver_ms,
    }


def bound(plan: Plan, case: Case, gpus: int) -> tuple[str, float]:
    """The slowest part and its strips/s."""
    return min(rates(plan, case, gpus).items(), key=lambda entry: entry[1])


def dollars(plan: Plan, gpus: int, seconds: float) -> float:
    """The price of the machines for some time."""
    return gpus * seconds / HOUR * plan.gpu_hour


def time_rows(plan: Plan, case: Case) -> Iterator[tuple[str, ...]]:
    """The rows of GPUS: strips/s of each part, the bound, hours, dollars of machines."""
    for gpus in GPUS:
        name, rate = bound(plan, case, gpus)
        seconds = plan.archive / rate
        parts = rates(plan, case, gpus).values()
        cells = (f"{gpus}", *(f"{part:,.0f}" for part in parts), name, span(seconds))
        yield (*cells, f"{dollars(plan, gpus, seconds):,.0f}")


def byte_rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """What does not depend on the machines: bytes, requests, the listing, money of storage."""
    for case in CASES:
        archive = plan.archive * case.strip_bytes
        name = case.name.split()[0]
        yield f"{name} strips", f"{archive / TB:,.1f} TB"
        seconds = archive * 8 / (plan.link * 1e9)
        yield f"{name} strips through {plan.link:g} Gbit/s", span(seconds)
        price = archive / GB * plan.egress_gb
        yield f"{name} strips, read from another region", f"{price:,.0f} $"
    listed = plan.archive / LISTED_PER_REQUEST
    written = plan.archive / SHARD * FILES_PER_SHARD
    reads = plan.archive / 1000 * plan.read_1000
    writes = (listed + written) / 1000 * plan.write_1000
    yield "requests that read a strip", f"{plan.archive:,}, {reads:,.2f} $"
    yield "requests that list or write", f"{listed + written:,.0f}, {writes:,.2f} $"
    yield "listing, made once", span(plan.archive * plan.listing_us / 1e6)
    yield "memory while it is made", f"{plan.archive * plan.listing_bytes / GB:,.1f} GB"
    yield "tables of the result", f"{plan.archive * plan.result_bytes / GB:,.1f} GB"


def span(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("days", DAY), ("hours", HOUR), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
