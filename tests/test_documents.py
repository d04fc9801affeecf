"""What the documents say against what the code does: links, flags, defaults, commands."""

import argparse
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.product import PRODUCT
from docs.draw_architecture import repository_modules
from tests.conftest import ROOT, export_file, run_module

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SCRIPTS = (
    "trainer",
    "inference_pytorch",
    "inference_onnx",
    "export_onnx_fullimage",
    "prepare_dataset",
)
WITHOUT_REFERENCES = tuple(
    f"autoencoder.{name}"
    for name in ("trainer", "feature_library", "inference", "export", "epochs")
)
CLASSIFIER = (
    "classifier.prepare_defect_data",
    "classifier.train_defect_model",
    "classifier.inference_defect_model",
    "classifier.export_defect_model",
    "classifier.review_detections",
)
SCALE = ("scale.score_archive", "scale.report", "scale.search")
COMMANDS = (*SCRIPTS, *WITHOUT_REFERENCES, *CLASSIFIER, *SCALE)
SCRIPT_OF_WRAPPER = {
    "train.sh": "trainer",
    "autoencoder/train.sh": "autoencoder.train_and_score",
    "inference_pytorch.sh": "inference_pytorch",
    "inference_onnx.sh": "inference_onnx",
}


NO_VALUE = argparse._HelpAction | argparse._VersionAction


class Caught(Exception):
    """Carries a parser out of a script's `parse_args`."""


def parser_of(script, monkeypatch):
    def catch(parser, arguments=None, namespace=None):
        raise Caught(parser)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        with pytest.raises(Caught) as caught:
            importlib.import_module(script).parse_args([])
    return caught.value.args[0]


def flags_of(parser):
    """Flag to its action, sub-commands' flags included."""
    flags = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                flags |= flags_of(command)
        elif action.option_strings and not isinstance(action, NO_VALUE):
            flags[action.option_strings[0]] = action
    return flags


def commands_in(text):
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [
        line.split(" #")[0].strip()
        for block in blocks
        for line in block.splitlines()
        if line.strip()
    ]


@pytest.mark.parametrize("script", COMMANDS)
def test_the_reference_names_every_flag_and_its_default(script, monkeypatch):
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    sections = re.split(r"^#+ (?=.*\.py|.*autoencoder\.)", text, flags=re.MULTILINE)[1:]
    name = script if script in WITHOUT_REFERENCES else f"{script.replace('.', '/')}.py"
    section = "".join(part for part in sections if re.search(rf"\b{name}\b", part.splitlines()[0]))
    rows = {
        flag: default.strip()
        for flag, default in re.findall(r"^\| `(--\w+)` \|([^|]*)\|", section, flags=re.MULTILINE)
    }
    flags = flags_of(parser_of(script, monkeypatch))
    assert rows.keys() == flags.keys()
    for flag, action in flags.items():
        values = action.default if isinstance(action.default, list) else [action.default]
        if action.default not in (None, []) and not isinstance(action, argparse._StoreTrueAction):
            assert rows[flag].strip("`") == " ".join(map(str, values)), flag
        assert ("required" in rows[flag]) == action.required


def test_the_reference_has_a_table_for_each_way_to_make_a_set_of_the_classifier(monkeypatch):
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    script = CLASSIFIER[0]
    (commands,) = (
        action.choices
        for action in parser_of(script, monkeypatch)._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for name, parser in commands.items():
        section = re.search(
            rf"^### \S+prepare_defect_data\.py {name}$(.*?)(?=^#|\Z)", text, re.M | re.S
        )
        rows = dict(re.findall(r"^\| `(--\w+)` \|([^|]*)\|", section[1], flags=re.MULTILINE))
        flags = flags_of(parser)
        assert rows.keys() == flags.keys(), name
        for flag, action in flags.items():
            if type(action.default) in (int, float, str) and action.default != argparse.SUPPRESS:
                assert rows[flag].strip(" `") == str(action.default), (name, flag)


@pytest.mark.parametrize("script", COMMANDS)
def test_help_states_every_default_in_groups(script, monkeypatch):
    parser = parser_of(script, monkeypatch)
    for flag, action in flags_of(parser).items():
        text = parser._get_formatter()._expand_help(action)
        assert action.nargs == 0 or "default: " in text or action.required, flag
    titles = [group.title for group in parser._action_groups if group._group_actions]
    without_groups = ("prepare_dataset", "autoencoder.epochs", "classifier.prepare_defect_data")
    without_groups += ("scale.report", "scale.search")
    assert len(titles) > 4 or script in without_groups


@pytest.mark.parametrize(
    "script, words, nearest",
    [
        ("inference_onnx", ["--treshold", "0.3"], "--threshold"),
        ("inference_pytorch", ["--model-path=a.pth"], "--model_path"),
        ("trainer", ["--epoch", "3"], "--epochs"),
        ("prepare_dataset", ["demo", "--output", "a", "--sed", "1"], "--seed"),
        ("autoencoder.inference", ["--libary", "a.pth"], "--library"),
    ],
)
def test_an_unknown_flag_gets_the_nearest_one(script, words, nearest, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(script).parse_args(words)
    assert f"did you mean {nearest}?" in capsys.readouterr().err


@pytest.mark.parametrize("script", COMMANDS)
def test_no_flag_takes_a_url_for_a_path_of_this_machine(script, monkeypatch):
    """Else a folder of the name s3: would be made without a word."""
    parser = parser_of(script, monkeypatch)
    for flag, action in flags_of(parser).items():
        if action.nargs == 0 or action.choices:
            continue
        try:
            found = parser._get_value(action, "s3://bucket/some/folder")
        except argparse.ArgumentError:
            continue
        assert not isinstance(found, Path), flag


def test_a_url_where_none_is_taken_is_one_line(capsys):
    for script, words in (
        ("autoencoder.inference", ["--output_dir", "s3://b/x"]),
        ("prepare_dataset", ["demo", "--output", "s3://b/x"]),
        ("prepare_dataset", ["combine", "--ref1", "s3://b/x"]),
    ):
        with pytest.raises(SystemExit, match="2"):
            importlib.import_module(script).parse_args(words)
        printed = capsys.readouterr().err
        assert f"{words[-2]}: found s3://b/x, expected a path of this machine" in printed


@pytest.mark.parametrize("script", COMMANDS)
def test_every_command_says_its_version(script, capsys):
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(script).parse_args(["--version"])
    assert capsys.readouterr().out == f"{PRODUCT}\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_can_be_parsed(document):
    for command in commands_in(document.read_text()):
        words = [word for word in shlex.split(command) if not re.match(r"[A-Z]+=", word)]
        assert words[0] in ("bash", "python", "source"), command
        if words[1] == "-m":
            runnable = {name.removesuffix(".__main__") for name in repository_modules()}
            assert words[2] in runnable | {"pip"}, command
            if words[2] in WITHOUT_REFERENCES:
                importlib.import_module(words[2]).parse_args(words[3:])
            continue
        if words[0] == "source" or words[1] == "tests/run.sh":
            continue
        assert (ROOT / words[1]).is_file(), command
        named = words[1].removesuffix(".py").replace("/", ".")
        script = SCRIPT_OF_WRAPPER.get(words[1], named)
        if script in (*SCRIPTS, *CLASSIFIER) or words[1] in SCRIPT_OF_WRAPPER:
            is_training = script in ("trainer", "autoencoder.train_and_score")
            required = ["--training_dataset_path", "demo"] if is_training else []
            importlib.import_module(script).parse_args([*words[2:], *required])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_and_picture_is_there(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith("https://"):
            assert (document.parent / target).is_file(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_section_finds_its_heading(document):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
        place = document.parent / target if target else document
        assert anchor in anchors_of(place), f"{target}#{anchor}"


def anchors_of(document):
    """The anchors that a page of Markdown has for its headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def test_no_command_starts_with_packages_that_only_some_of_its_work_needs():
    late = "{'matplotlib', 'sklearn', 'scipy.stats', 'transformers'}"
    loaded = f"import sys, {', '.join(COMMANDS)}; print(*{late} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        == "\n"
    )


def test_the_loader_benchmark_runs():
    flags = ("--strips", "2", "--rounds", "1", "--seconds", "0.05")
    done = run_module("benchmarks.loader", *flags, genuine=True)
    assert done.returncode == 0 and re.search(
        r"\| this loader \| [\d,]+ \| [\d,]+ \|", done.stdout
    ), done.stderr


def test_the_benchmark_of_the_schedules_shows_what_is_finished(tmp_path):
    figures = dict.fromkeys(
        ("pixel_average_precision", "pixel_auroc", "image_average_precision", "image_auroc"), 0.5
    )
    for seed, value in ((42, 0.25), (1, 0.75)):
        summary = tmp_path / f"alpha_0.9_seed{seed}" / "RUN_test" / "metrics.json"
        summary.parent.mkdir(parents=True)
        summary.write_text(json.dumps(figures | {"pixel_average_precision": value}))
    done = run_module("benchmarks.schedules", "--output", tmp_path, "--runs", "0")
    assert (
        done.returncode == 0
        and "| cosine | 0.9 | 2 | 0.500 ± 0.354 |" in done.stdout
        and done.stdout.count("| 0 |") == 6
    )


@pytest.mark.long
def test_the_benchmark_of_the_schedules_trains_and_goes_on(tmp_path):
    done = run_module("benchmarks.schedules", "--output", tmp_path, "--runs", "1", timeout=1800)
    assert done.returncode == 0 and "| cosine | 0.75 | 1 | 0." in done.stdout, done.stderr


@pytest.mark.long
def test_the_training_benchmark_runs():
    small = ("--base_channels", "2", "--rounds", "1", "--steps", "1", "--strips", "2")
    done = run_module("benchmarks.training", *small)
    assert (
        done.returncode == 0
        and done.stdout.count("| CPU, ") == 3
        and done.stdout.count("| kept in ") == 3
    ), done.stderr


@pytest.mark.long
def test_the_benchmark_of_the_networks_runs():
    done = run_module("benchmarks.networks", "--base_channels", "2", "--rounds", "1")
    assert done.returncode == 0 and "| mobile | 2 |" in done.stdout, done.stderr


@pytest.mark.long
def test_the_benchmark_of_scoring_runs():
    done = run_module("benchmarks.scoring", "--strips", "4", "8")
    assert done.returncode == 0 and re.search(r"\| 8 \| \d+ \| \d+ \| \d\.\d \|", done.stdout), (
        done.stderr
    )
    assert done.stdout.count("| double detection, ") == 2


@pytest.mark.long
def test_the_quality_benchmark_shows_what_is_there_and_keeps_its_scores(tmp_path):
    flags = ("--output", tmp_path, "--runs", "0", "--strips", "10", "--shots", "2")
    flags += ("--groups", "suite")
    first = run_module("benchmarks.quality", *flags, timeout=1800)
    assert first.returncode == 0 and first.stdout.count("| double detection, plain |") == 5, (
        first.stderr
    )
    assert (
        "suite: 70 strips with 525 defects and 700 distractors" in first.stdout
        and "classic recipe" not in first.stdout
        and first.stdout.count("| ceiling: matched filter, perfect references |") == 5
    )
    again = run_module("benchmarks.quality", *flags)
    assert again.stdout == first.stdout


@pytest.mark.long
def test_the_benchmark_of_distillation_shows_what_is_there(make_checkpoint, tmp_path):
    teacher = make_checkpoint(align="full", base_channels=4)
    done = run_module(
        "benchmarks.distillation", "--teacher", teacher, "--output", tmp_path, "--runs", "0"
    )
    assert (
        done.returncode == 0
        and "| the teacher | 1 | 0." in done.stdout
        and done.stdout.count("| 0 |  |  |") == 4
    ), done.stderr


def test_the_export_benchmark_runs():
    done = run_module(
        "benchmarks.export", "--rows", "double, no network", "--rounds", "1", "--strips", "4"
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])["double, no network"]
    assert (
        row["difference"] < 1e-5
        and 0 <= row["recall"][1] <= row["recall"][0] <= row["recall"][2] <= 1
        and row["memory_mb"] > 0
    )
    assert "| double, no network |" in done.stdout and min(row["batch1_ms"], row["batch8_ms"]) > 0


def test_both_readmes_have_the_same_commands_pictures_links_and_figures():
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-TW.md"))
    assert commands_in(english) == commands_in(chinese) and len(commands_in(english)) == 6
    # comments are in each one's language
    assert english.count("```bash") == chinese.count("```bash")
    for pattern in (
        r"\(docs/[^)]*\)",
        r"`bash [^`]*`",
        r"\d+(?= min| 分鐘)",
        r"(?:AUROC|AP) [\d.]+",
    ):
        assert re.findall(pattern, english) == re.findall(pattern, chinese)


def test_the_python_example_runs(make_checkpoint, dataset, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "how-to" / "call-the-onnx-file.md").read_text()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    export_file(make_checkpoint(), "onnx_models")
    shutil.copy(dataset / "test" / "bright_spots" / "strip_2.tiff", "strip.tiff")
    capsys.readouterr()
    exec(compile(example, "example", "exec"), {})
    assert 0 < float(capsys.readouterr().out.split()[0]) <= 1


def test_nothing_of_another_machine_is_in_the_repository():
    for path in [*DOCUMENTS, *repository_modules().values(), *ROOT.glob("*.sh")]:
        assert not re.search(r"/home/\w|/root/|/tmp/\w", path.read_text()), path
    assert not list(Path(ROOT).glob("*.pth"))
