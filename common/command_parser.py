"""The parser of every command: whole flags, with titles and defaults in --help."""

import argparse
import difflib
from pathlib import Path
from typing import Any, NoReturn

from common.locations import is_remote
from common.product import PRODUCT

UNRECOGNIZED = "unrecognized arguments: "  # how argparse's message on unknown flags begins


class CommandParser(argparse.ArgumentParser):
    """A parser of whole flags, which names the nearest flag for one that it does not know.

    A flag whose type is `Path` takes no URL: that would become a folder with the name of a scheme.
    """

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.register("type", Path, local_path)

    def error(self, message: str) -> NoReturn:
        """Print the message with the nearest flag to each unknown one, and exit with code 2."""
        if message.startswith(UNRECOGNIZED):
            known = {_plain(flag): flag for flag in _flags(self)}
            for word in message.removeprefix(UNRECOGNIZED).split():
                flag = word.partition("=")[0]
                nearest = difflib.get_close_matches(_plain(flag), known, 1)
                if flag.startswith("-") and nearest:
                    message += f"; {flag}: did you mean {known[nearest[0]]}?"
        super().error(message)


def local_path(text: str) -> Path:
    """Parse a path of this machine. Raises `argparse.ArgumentTypeError` for a URL."""
    if is_remote(text):
        raise argparse.ArgumentTypeError(f"found {text}, expected a path of this machine, no URL")
    return Path(text)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the description's line breaks and states the default of each flag."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        has_value = bool(action.option_strings) and action.nargs != 0
        if not has_value or "default" in text or action.default is argparse.SUPPRESS:
            return text
        if action.required:
            return f"{text}; required"
        values = action.default if isinstance(action.default, list) else [action.default]
        default = "none" if action.default is None else " ".join(map(str, values))
        return f"{text}; default: {default}".removeprefix("; ").replace("%", "%%")


def command_parser(description: str) -> CommandParser:
    """A parser whose flags have no abbreviations; it prints `description` with its line breaks."""
    parser = CommandParser(
        description=description, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=PRODUCT)
    return parser


def group_flags(parser: argparse.ArgumentParser, groups: dict[str, str]) -> None:
    """Show flags below titles in --help; the others stay below `options`.

    `groups` has the flags of each title, without dashes, separated by spaces. A flag that the
    parser lacks is left out.
    """
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names.split():
            action = parser._option_string_actions.get(f"--{name}")
            if action:  # argparse has no public way to group a flag that is there already
                parser._optionals._group_actions.remove(action)
                group._group_actions.append(action)


def add_alias(parser: argparse.ArgumentParser, flag: str, alias: str) -> None:
    """Give a flag that the parser has a second name."""
    action = parser._option_string_actions[flag]  # argparse has no public way to its flags
    action.option_strings.insert(0, alias)
    parser._option_string_actions[alias] = action


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """All flags of a parser and of its sub-commands."""
    flags = list(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags += [flag for command in action.choices.values() for flag in _flags(command)]
    return flags


def _plain(flag: str) -> str:
    return flag.lower().lstrip("-").replace("-", "_")
