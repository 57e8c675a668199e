"""What does this command line mean?

The parser is made from the table of commands. A word that is no command or option is answered
with the nearest one that is, in one line; nothing here runs a command.
"""

import argparse
import difflib
import importlib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, cast

from gateway.cli.commands import BY_NAME, COMMANDS, SHOWN, Command


class Usage(Exception):
    """The command line cannot be meant as it stands: exit code 2."""


class Parser(argparse.ArgumentParser):
    """argparse, with one line for a mistake instead of a screenful."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"headgate: {message}\ntry: {self.prog} --help\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options in `arguments`; their `run` names the command's function.

    SystemExit when there is nothing to run: 2 with the mistake on stderr, 0 after --help.
    """
    parser = build()
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(2)
    wrong = next((word for word in arguments if not word.startswith("-")), None)
    if wrong is not None and wrong not in BY_NAME and not arguments[0].startswith("-"):
        parser.error(f"there is no command {wrong!r}{suggestion(wrong, [c.name for c in SHOWN])}")
    if arguments[0] not in ("-h", "--help") and arguments[0].startswith("-"):
        parser.error(f"options come after the command: headgate COMMAND {arguments[0]}")
    options, rest = parser.parse_known_args(arguments)
    if rest:
        command = BY_NAME[options.command]
        known = [option.name for option in command.options]
        parser.prog = f"headgate {command.name}"
        parser.error(f"{parser.prog} does not take {rest[0]!r}{suggestion(rest[0], known)}")
    return options


def build() -> Parser:
    """The parser of the whole table."""
    parser = Parser(
        "headgate", description="Serve machine-learning models behind one weighted gateway."
    )
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    group = parser.add_subparsers(
        metavar="COMMAND", dest="command", required=True, parser_class=Parser
    )
    for command in COMMANDS:
        if command.summary:
            one = group.add_parser(command.name, help=command.summary, allow_abbrev=False)
        else:  # without a help of its own the group's help leaves the command out
            one = group.add_parser(command.name, allow_abbrev=False)
        _add(one, command)
    return parser


def load(run: str) -> Callable[[argparse.Namespace], int]:
    """The function that `module:function` names below here, imported now and not before."""
    module, _, function = run.partition(":")
    found = getattr(importlib.import_module(f"gateway.cli.{module}"), function)
    return cast(Callable[[argparse.Namespace], int], found)


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest of `known`; empty when none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def whole(text: str) -> int:
    """A revision, or how many of something."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """How long something takes."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return found


_KINDS: dict[type, Callable[[str], Any]] = {str: str, int: whole, float: seconds}


def _add(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.description = command.summary[:1].upper() + command.summary[1:]
    parser.set_defaults(run=command.run)
    for argument in command.arguments:
        extra: dict[str, Any] = {} if argument.nargs is None else {"nargs": argument.nargs}
        if argument.nargs == "*":
            extra["default"] = []  # or argparse calls it required
        kind = _KINDS[argument.kind]
        parser.add_argument(argument.name, help=argument.help, type=kind, **extra)
    for option in command.options:
        names = [option.short, option.name] if option.short else [option.name]
        if option.metavar:
            kind = _KINDS[option.kind]
            parser.add_argument(*names, help=option.help, metavar=option.metavar, type=kind)
        else:
            parser.add_argument(*names, help=option.help, action="store_true")
