"""The search of settings: its spec, its strips, its study, and what it may conclude."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from optuna.trial import TrialState

from common.errors import UserError
from data.demo_strips import make_strip
from data.folder import list_strips
from data.write_images import write_strip
from evaluation.matching import MatchResult, TrueDefect
from evaluation.results import MetricSet
from gaussian import TARGET
from scale.comparison import compare
from scale.found_points import FoundPoints, StripPoints, read_found_points
from scale.search import parse_args
from scale.search import search as run_search
from scale.search_result import SearchResult
from scale.search_strips import SAMPLE, WHOLE, make_data_sets, names_of, scored_folder
from scale.spec import Objective, Spec, parse_spec
from scale.study import RUNS, SharedStudy
from scale.trial_lease import Lease, has_living_owner
from tests.conftest import ROOT

SIZE = (128, 128)
SPOTS = ((40, 30), (90, 100))  # (y, x)
SEARCHED = {"lr": {"low": "1e-4", "high": 0.01, "log": True}}
QUICK = {"epochs": 2, "base_channels": 2, "gpu_id": -1, "bs": 4, "align": "none"}


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strips to train on, strips with known points in a table, and strips that nobody knows."""
    root = tmp_path_factory.mktemp("strips")
    rows = ["file,y,x"]
    for folder, count in (("train/good", 3), ("found", 4), ("lots", 4)):
        for number in range(count):
            strip = make_strip(np.random.default_rng((len(folder), number)), SIZE)
            if folder == "found":
                for y, x in SPOTS:
                    strip[TARGET, y - 1 : y + 2, x - 1 : x + 2] += 60
                    rows.append(f"{number}.tiff,{y},{x}")
            write_strip(root / folder / f"{number}.tiff", np.clip(strip, 0, 255))
    (root / "known.csv").write_text("\n".join(rows))
    return root


def content_of(strips: Path, study: Path, **more: Any) -> dict[str, Any]:
    """The content of a spec; `more` replaces what it has, None leaves it out."""
    content = {
        "study": str(study),
        "training_dataset_path": str(strips / "train" / "good"),
        "test_path": str(strips / "found"),
        "points": str(strips / "known.csv"),
        "fp_path": [f"{strips / 'lots'}:0.5"],
        "objective": {"recall_at_k": 30},
        "trials": 3,
        "sample": 0.5,
        "finalists": 1,
        "seeds": 1,
        "flags": QUICK | SEARCHED,
    }
    return {name: value for name, value in (content | more).items() if value is not None}


@pytest.fixture
def spec(strips: Path, tmp_path: Path) -> Spec:
    return parse_spec(content_of(strips, tmp_path / "study"))


@pytest.mark.parametrize(
    "more, line",
    [
        ({"trails": 3}, "found 'trails': did you mean trials?"),
        ({"trials": 0}, "found trials 0, expected a whole number from 1"),
        ({"objective": None}, "found no objective"),
        ({"objective": {"recall_at_k": 7}}, "one of 30, 50, 150, 500, or false_alarms"),
        ({"objective": {"false_alarms": 11}}, "a rate up to 10 per strip"),
        ({"sample": 1.5}, "found sample 1.5, expected a share"),
        ({"study": "s3://bucket/study"}, "expected a folder that all processes share"),
        ({"study": "sqlite:///a.db"}, "expected a folder that all processes share"),
        ({"test_path": "nowhere"}, "found no such file or folder as test_path 'nowhere'"),
        ({"fp_path": ["nowhere:0.1"]}, "found no folder as fp_path 'nowhere:0.1'"),
        ({"flags": QUICK}, "found nothing to search"),
        ({"flags": SEARCHED}, "found no fixed epochs"),
        ({"flags": QUICK | {"lrr": {"low": 1, "high": 2}}}, "flags: found no flag lrr: did you"),
        ({"flags": QUICK | {"lr": {"low": 0, "high": 2}}}, "flags: argument --lr: found 0"),
        ({"flags": QUICK | {"bs": {"low": 1, "high": 2.5}}}, "flags: argument --bs: invalid whole"),
        ({"flags": QUICK | {"lr": {"low": 2, "high": 1}}}, "lr: found {'high': 1, 'low': 2}"),
        ({"flags": QUICK | SEARCHED | {"name": "a"}}, "which the search sets itself"),
        ({"flags": QUICK | {"arch": {"choices": ["unet", "vit"]}}}, "argument --arch: invalid"),
        ({"amounts": {"contrst": 3}}, "amounts: found no amount 'contrst'"),
        ({"amounts": {"leak_share": {"low": 0, "high": 2}}}, "amounts: found leak_share 2"),
    ],
)
def test_a_wrong_spec_is_one_line(strips, tmp_path, capsys, more, line):
    (tmp_path / "spec.yaml").write_text(
        yaml.safe_dump(content_of(strips, tmp_path / "study") | more)
        if None not in more.values()
        else yaml.safe_dump(content_of(strips, tmp_path / "study", **more))
    )
    with pytest.raises(UserError) as error:
        run_search(parse_args(["--spec", str(tmp_path / "spec.yaml")]))
    assert line in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "spec.yaml"))
    assert not (tmp_path / "study").exists()


def test_every_form_of_a_searched_value_becomes_parameters_and_values(strips, tmp_path):
    flags = QUICK | SEARCHED | {"num_defects_range": [{"low": 3, "high": 5}, 9]}
    amounts = {"contrast": {"choices": [[5, 100], [9, 90]]}, "leak_share": 0.1}
    spec = parse_spec(content_of(strips, tmp_path, flags=flags, amounts=amounts))
    space = spec.space
    assert list(space.parameters()) == ["lr", "num_defects_range.0", "amounts.contrast"]
    assert space.parameters()["amounts.contrast"].labels == ["[5, 100]", "[9, 90]"]
    assert space.draw(lambda name, part: part.extremes()[-1]) == {
        "flags": {"lr": 0.01, "num_defects_range": [5, 9]},
        "amounts": {"contrast": [9, 90]},
    }
    assert space.fixed_amounts == {"leak_share": 0.1} and spec.epochs == 2


def test_the_data_sets_have_every_truth_and_the_sample_is_part_of_the_whole(spec, tmp_path):
    make_data_sets(spec, tmp_path / "sets")
    names = {name: names_of(tmp_path / "sets" / name) for name in (SAMPLE, WHOLE)}
    assert set(names[SAMPLE].items()) < set(names[WHOLE].items())
    assert len(names[SAMPLE]) == 2 + 1 and len(names[WHOLE]) == 4 + 2
    for name in (SAMPLE, WHOLE):
        found = list_strips(scored_folder(tmp_path / "sets" / name))
        by_name = {names[name][strip.relative.as_posix()]: strip for strip in found}
        assert {strip.points for name, strip in by_name.items() if "lots" not in name} == {SPOTS}
        assert {strip.is_defective for name, strip in by_name.items() if "lots" in name} == {False}
    train = [len(list((tmp_path / "sets" / name / "train").rglob("*.tiff"))) for name in names]
    assert train == [2, 3]


def test_a_trial_without_a_living_owner_is_enqueued_once_and_counts_once(spec):
    first = SharedStudy(spec)
    default, lease = first.take(first.search, 2)
    assert default.user_attrs["is_default"] and lease.path.is_file()
    second = SharedStudy(spec)
    trial, other = second.take(second.search, 2)
    assert trial.number == 1 and second.take(second.search, 2) == (None, None)
    trial.suggest_float("lr", 1e-4, 0.01, log=True)
    lost = json.loads(other.path.read_text())
    lost["processes"] = {str(2**22 + 1): "a process that has ended"}
    other.path.write_text(json.dumps(lost))
    # a process that was killed between the two steps of taking it back
    first.enqueue_again(first.search, first.search.get_trials()[1])
    again, _ = first.take(first.search, 2)
    assert again.user_attrs["resumes"] == 1 and again.user_attrs["run"] == "trial_0001"
    assert again.suggest_float("lr", 1e-4, 0.01, log=True) == trial.params["lr"]
    assert second.take(second.search, 2) == (None, None)
    states = [each.state for each in second.search.get_trials()]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]
    second.search.tell(0, 0.5)
    second.search.tell(2, 0.25)
    with pytest.raises(StopIteration):
        second.take(second.search, 2)
    with pytest.raises(UserError, match="found a study with another sample"):
        SharedStudy(Spec(**vars(spec) | {"sample": 1.0}))


def test_a_lease_lives_as_long_as_its_owner_or_its_training(tmp_path):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        lease = Lease(tmp_path / "lease.json")
        lease.training = sleeper.pid
        lease.renew()
        content = json.loads(lease.path.read_text())
        assert has_living_owner(lease.path)
        content["processes"].pop(str(os.getpid()))
        lease.path.write_text(json.dumps(content))
        assert has_living_owner(lease.path)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert not has_living_owner(lease.path)
    for host_time, expected in ((time.time(), True), (time.time() - 3600, False)):
        lease.path.write_text(json.dumps(content | {"host": "another", "time": host_time}))
        assert has_living_owner(lease.path) is expected
    lease.path.write_text("half a lea")
    assert not has_living_owner(lease.path)


def random_points(seed: int, strips: int = 12) -> tuple[FoundPoints, MetricSet]:
    """Detections on strips, some of them of unknown truth, and the metrics of the same ones."""
    generator = np.random.default_rng(seed)
    found, metrics = [], MetricSet()
    for number in range(strips):
        scores = np.sort(generator.normal(size=20))[::-1]
        truths = tuple(TrueDefect((at, at)) for at in range(number % 3))
        of = np.full(20, -1)
        of[generator.permutation(20)[: max(0, len(truths) - 1)]] = 0
        outcome = None if number == 5 else MatchResult(scores, of, truths)
        metrics.ranks.update(scores, outcome)
        if outcome:
            metrics.points.update(outcome)
        alarms, of_truths = metrics.points.by_strip()[-1] if outcome else (None, np.empty(0))
        found.append(
            StripPoints(
                f"{number}.tif",
                [[truth.center[0], 0] for truth in truths] if outcome else [],
                of_truths.tolist(),
                None if alarms is None else alarms.tolist(),
                scores.tolist(),
            )
        )
    return FoundPoints(found), metrics


@pytest.mark.parametrize("seed", range(4))
def test_the_recall_of_points_is_that_of_the_metrics(seed, tmp_path):
    found, metrics = random_points(seed)
    found.save(tmp_path / "points.json")
    again = read_found_points(tmp_path / "points.json")
    for k, expected in zip((30, 50), metrics.ranks.compute()):
        assert found.recall(Objective(k=k)) == again.recall(Objective(k=k)) == expected.recall
        ranks = [rank for rank in found.ranks() if rank is not None and rank <= k]
        assert len(ranks) == expected.found == found.found(Objective(k=k)).sum()
    for rate in (0.1, 1, 2.5):
        expected = metrics.points.recall(rate)
        assert found.recall(Objective(false_alarms=rate)) == pytest.approx(expected)


def test_a_point_below_the_detections_that_are_kept_has_no_rank():
    strips = [StripPoints("0.tif", [[1, 1], [9, 9], [5, 5]], [4.0, 0.5, -np.inf], [], [5.0, 4.0])]
    assert FoundPoints(strips).ranks() == [2, None, None]
    assert FoundPoints([StripPoints("0.tif", [[1, 1]], [-np.inf], [], [])]).ranks() == [None]


def points_with_ranks(is_found: list[bool]) -> FoundPoints:
    """One point on each strip, and forty false alarms on each of five more, which hide the weak."""
    strips = [
        StripPoints(f"{number}.tif", [[1, 1]], [9.0 if found else -1.0], [], [9.0 if found else -1])
        for number, found in enumerate(is_found)
    ]
    alarms = np.linspace(5, 4, 40).tolist()
    return FoundPoints(
        [*strips, *(StripPoints(f"more_{at}.tif", [], [], alarms, alarms) for at in range(5))]
    )


def test_few_points_recommend_nothing_and_many_do():
    top = Objective(k=30)
    default = [points_with_ranks([True] * 10 + [False] * 10)]
    little = compare([points_with_ranks([True] * 12 + [False] * 8)], default, top)
    assert little.difference.value == pytest.approx(0.1) and not little.is_better
    much = compare([points_with_ranks([True] * 19 + [False])], default, top)
    assert (much.better, much.worse) == (9, 0) and much.is_better
    same = compare(default, default, top)
    assert same.difference.low == same.difference.high == 0 and not same.is_better
    worse = compare(default, [points_with_ranks([True] * 19 + [False])], top)
    assert worse.difference.high < 0 and not worse.is_better
    unseen = np.array([False] * 14 + [True] * 11)
    some = compare([points_with_ranks([True] * 19 + [False])], default, top, unseen)
    assert (some.better, some.worse) == (5, 0) and not some.is_better
    # three strips, on each of which one setting is better: chance does as much
    few = compare([points_with_ranks([True] * 3)], [points_with_ranks([False] * 3)], top)
    assert few.difference.low == 1 and not few.is_better


def start(path: Path) -> subprocess.Popen:
    """A process of the search, as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "scale.search", "--spec", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_share_a_study_and_one_of_them_is_killed(strips, tmp_path):
    study, path = tmp_path / "study", tmp_path / "spec.yaml"
    content = content_of(strips, study, trials=2)
    path.write_text(yaml.safe_dump(content))
    killed = start(path)
    default = study / RUNS / "trial_0000"
    while not (default / "trial_0000.pth").exists():
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.05)
    other = start(path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    printed = other.communicate()[0]
    assert other.returncode == 0, printed
    starts = json.loads((default / "trial_0000_environment.json").read_text())
    assert [entry["resumed_from"] for entry in starts] == [None, str(default / "trial_0000.pth")]
    epochs = (default / "trial_0000_metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in epochs] == [1, 2]

    shared = SharedStudy(parse_spec(content))
    trials = shared.search.get_trials()
    lost = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    counted = [trial for trial in trials if trial.state != TrialState.FAIL]
    assert lost == [0] and len(counted) == 2
    assert all(trial.state.is_finished() for trial in counted)
    assert [trial.number for trial in trials if trial.user_attrs.get("resumes") == 0] != []
    finals = shared.finals.get_trials()
    assert [trial.state for trial in finals] == [TrialState.COMPLETE] * 2

    result = SearchResult(shared)
    for trial in result.trials:  # the study has the figures of the trainings themselves
        assert trial.recall.value == trials[trial.number].value
    summary = json.loads((study / "result.json").read_text())
    assert summary["verdict"].startswith("no better than the default") and not summary["command"]
    assert summary["verdict"] in printed and len(summary["points"]) == 8
    assert {entry["trial"] for entry in summary["finals"]} >= {None}
    assert not list((study / "leases").iterdir())
    page = (study / "report.html").read_text()
    for words in ("Finals, on all strips", "Trials, on the sample", "Known points", "lots:0.5"):
        assert words in page, words


def test_there_is_no_report_without_a_study(strips, tmp_path):
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content_of(strips, tmp_path / "study")))
    with pytest.raises(UserError, match="study: found no study, expected one that a search has"):
        run_search(parse_args(["--spec", str(tmp_path / "spec.yaml"), "--report"]))
    assert not (tmp_path / "study").exists()


def test_a_training_that_cannot_run_ends_the_search_with_its_line(strips, tmp_path):
    flags = QUICK | SEARCHED | {"teacher": str(tmp_path / "missing.pth")}
    content = content_of(strips, tmp_path / "study", flags=flags)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"trial_0000: the training failed: .*missing.pth: found"):
        run_search(parse_args(["--spec", str(tmp_path / "spec.yaml")]))
