"""How long benchmarks/autoencoder.py still takes: what its rows need, and what of it is done."""

import time
from collections.abc import Callable, Iterable

from benchmarks.autoencoder_rows import TRAININGS, Row

# Seconds of two quiet cores for the nine classes at the settings of --quick. What is shared, such
# as a library that several rows score with, counts once.
EPOCH, LIBRARY, CLUSTERS, BASELINE = 4.0, 50.0, 12.0, 20.0
MAPS = {"model": 15.0, "library": 30.0}
ROW = 2.0
WINDOWS = {"sliding": 4.0, "pyramid": 1.5}  # times the maps of one scale
PRESET_EPOCHS, USUAL_CLASSES = 20, 9

Parts = dict[tuple[object, ...], float]  # seconds by what is computed


def parts_of(row: Row, data_set: str, seeds: Iterable[int]) -> Parts:
    """What a row of a data set needs."""
    flags = row.score
    windows = "pyramid" if "pyramid" in flags else "sliding" if "--windows" in flags else ""
    asked = (windows, *(kind for kind in flags if kind in ("ssim", "feature_difference")))
    parts: Parts = {(data_set, row.name, *seeds): BASELINE if row.baseline else ROW}
    for seed in seeds:
        if row.model:
            training = TRAININGS[row.model]
            epochs = training[training.index("--epochs") + 1] if "--epochs" in training else None
            parts[data_set, "training", row.model, seed] = EPOCH * (epochs or PRESET_EPOCHS)
            if "mask" in flags or "library" not in flags:
                maps = MAPS["model"] * WINDOWS.get(windows, 1.0)
                parts[data_set, "maps", row.model, seed, asked] = maps
        if row.library:
            parts[data_set, "library", row.library, row.model, seed] = LIBRARY
            parts[data_set, "maps", row.library, row.model, seed] = MAPS["library"]
        if row.clusters:
            parts[data_set, "clusters", row.clusters, row.model, seed] = CLUSTERS
    return parts


class Progress:
    """Counts what is left of `parts`, and at which speed it goes.

    `say` takes a line of text after each row.
    """

    def __init__(self, parts: Parts, say: Callable[[str], None]):
        self.left, self.say = dict(parts), say
        self.done = self.seconds = 0.0
        self.start = time.perf_counter()
        if parts:
            say(f"to compute: {len(parts)} parts, about {_minutes(sum(parts.values()))}")

    def begin(self) -> None:
        """Note the time at which a row begins."""
        self.start = time.perf_counter()

    def finish(self, name: str, parts: Iterable[tuple[object, ...]]) -> None:
        """Count a row's parts as done, and say how long the others take."""
        elapsed = time.perf_counter() - self.start
        self.seconds += elapsed
        self.done += sum(self.left.pop(part, 0.0) for part in parts)
        left = sum(self.left.values()) * self.seconds / max(self.done, ROW)
        self.say(f"{name}: {elapsed:.0f} s; about {_minutes(left)} left")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
