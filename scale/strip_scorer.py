"""Scoring the strips of an archive in one worker, with the code of inference_onnx.py."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.distributed import ProcessGroup
from common.errors import UserError, prefix_errors
from common.fetch_ahead import fetching_ahead
from common.storage import fetch
from data.folder import StripFile
from data.ignored_regions import IgnoredRegions
from data.labelled_strip import read_strip
from deploy.onnx_predictor import open_detector
from deploy.session import SessionSettings
from evaluation.calibration import channel_measure
from evaluation.detections import Detection
from evaluation.evaluate import evaluate
from evaluation.results import INSPECTED_CONTRAST, Measure, StripResult
from reporting.score_folder import (
    ScoringSettings,
    choose_response,
    choose_threshold,
    make_rules,
    require_missing,
)
from scale.archive import Archive
from scale.listed import ListedStrip, is_sampled

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What every worker of a job has to know. `model` is a path or a URL.

    Measuring a strip in full takes another registration of its references, which is longer than
    all else beside the model. So one strip in `measure_every` is.
    """

    model: Path | str
    archive: Archive
    session: SessionSettings
    settings: ScoringSettings
    measure_every: int = 1


@dataclass(frozen=True)
class ScoredStrips:
    """The rows of some strips: scored ones, their detections, and strips that cannot be used."""

    strips: list[Row] = field(default_factory=list)
    detections: list[Row] = field(default_factory=list)
    errors: list[Row] = field(default_factory=list)

    def extend(self, other: "ScoredStrips") -> None:
        """Add the rows of other strips behind these."""
        for name, rows in vars(self).items():
            rows.extend(getattr(other, name))


def deadly_strip(strip: ListedStrip, tries: int) -> ScoredStrips:
    """The row of a strip that ended each process that tried it, alone, so often."""
    problem = f"found that it ended {tries} processes that scored it alone, expected none"
    return ScoredStrips(errors=[{"path": strip.path, "problem": problem}])


class _Worker(ProcessGroup):
    """A process that draws no progress bar: the command has one of all workers."""

    hides_progress = True


class StripScorer:
    """Holds one session and scores strips with it.

    Raises `UserError` when the model, the device or the settings cannot be used.
    """

    def __init__(self, job: Job):
        self.job = job
        if job.session.threads:
            torch.set_num_threads(job.session.threads)
        detector, settings = open_detector(fetch(job.model), job.session), job.settings
        order = settings.channels or detector.info.order
        self.detector = replace(detector, info=replace(detector.info, order=order))
        require_missing(self.detector, settings.missing)
        ignored = IgnoredRegions(settings.dead_pixels, settings.ignore_mask)
        ignored.of(Path(job.model), self.detector.info.image_size)  # raises if it does not fit
        self.threshold = choose_threshold(self.detector, settings)
        response = choose_response(self.detector, settings, self.threshold)
        rules = make_rules(self.detector, settings, self.threshold, response, ignored)
        if rules.measure and job.measure_every > 1:
            rules = replace(rules, choose_measure=self._choose_measure(rules.measure))
        self.rules = rules

    def _choose_measure(self, in_full: Measure) -> Callable[[StripFile], Measure]:
        """What measures a strip: `in_full` for those of the sample, else without a registration."""
        unregistered, every = channel_measure("none", self.detector.device), self.job.measure_every
        return lambda strip: (
            in_full if is_sampled(strip.relative.as_posix(), every) else unregistered
        )

    def warm_up(self) -> None:
        """Do the work of the first calls. Raises `UserError` where the device lacks memory."""
        with prefix_errors(self.job.model):
            self.detector.predictor.warm_up()

    def statistic_names(self) -> list[str]:
        """The names of the statistics that a strip of the sample gets, in order."""
        if not self.rules.measure:
            return []
        black = np.zeros((3, *self.detector.info.image_size), np.float32)
        return [name for name in self.rules.measure(black, None) if name != INSPECTED_CONTRAST]

    def strip_file(self, path: str) -> StripFile:
        """A listed strip as the loaders take it. Nothing is known of its defects."""
        order = self.detector.info.order
        place = Path(self.job.archive.place(path))
        return StripFile(place, Path(path), None, None, order=order)

    def score(self, listed: tuple[ListedStrip, ...]) -> ScoredStrips:
        """Score strips; one that cannot be used becomes a row of `errors`."""
        started = time.perf_counter()
        archive = self.job.archive
        places = {strip.path: number for number, strip in enumerate(listed)}

        def load(strip: StripFile, input_max: float) -> tuple[np.ndarray, np.ndarray | None]:
            number = places[strip.relative.as_posix()]
            fetching.reach(number)
            path = archive.open(listed[number])
            try:
                return read_strip(replace(strip, path=path), input_max)
            except UserError as error:  # it names the copy of an object
                raise UserError(str(error).removeprefix(f"{path}: ")) from None

        files = [self.strip_file(strip.path) for strip in listed]
        with fetching_ahead([[archive.stored(strip)] for strip in listed]) as fetching:
            result = evaluate(
                self.detector.predictor,
                files,
                self.detector.info.input_max,
                use_masks=False,
                processes=_Worker(self.detector.device),
                rules=self.rules,
                load=load,
            )
        seconds = (time.perf_counter() - started) / len(listed)
        scored = {entry.strip.relative: entry for entry in result.results}
        failed = [file for file in files if file.relative not in scored]
        return ScoredStrips(
            [_strip_row(entry, self.threshold.value, seconds) for entry in result.results],
            [
                _detection_row(entry, rank, detection)
                for entry in result.results
                for rank, detection in enumerate(entry.detections, start=1)
            ],
            # problems have the order of their strips
            [self._error_row(file, problem) for file, problem in zip(failed, result.problems)],
        )

    def _error_row(self, file: StripFile, problem: str) -> Row:
        """A row without the path that the problem begins with."""
        path = file.relative.as_posix()
        for place in (self.job.archive.place(path), str(file.path)):
            problem = problem.removeprefix(f"{place}: ")
        return {"path": path, "problem": problem}


def _strip_row(entry: StripResult, threshold: float, seconds: float) -> Row:
    return {
        "path": entry.strip.relative.as_posix(),
        "verdict": entry.verdict,
        "reason": entry.reason,
        "score": entry.score,
        "threshold": threshold,
        "detections": len(entry.detections),
        "inspected_contrast": entry.inspected_contrast,
        "seconds": seconds,
        **entry.statistics,
    }


def _detection_row(entry: StripResult, rank: int, detection: Detection) -> Row:
    top, left, bottom, right = detection.box
    return {
        "path": entry.strip.relative.as_posix(),
        "rank": rank,
        "y": detection.y,
        "x": detection.x,
        "margin": detection.margin,
        "peak": detection.peak,
        "area": detection.area,
        "top": top,
        "left": left,
        "bottom": bottom,
        "right": right,
        "contrast_ref1": detection.contrast_ref1,
        "contrast_ref2": detection.contrast_ref2,
        "kind": detection.kind,
    }
