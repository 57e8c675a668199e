"""How is an error told to a person, a line for each thing that is wrong?

A line says what was refused and, where it can, what to do next. Errors that are nobody's
intention are named as what they are, without a traceback: HEADGATE_DEBUG=1 shows that one.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from click import Argument, MissingParameter, NoSuchCommand, NoSuchOption, UsageError

import gateway.cli.elsewhere as elsewhere
from gateway.clients.addresses import DEFAULT_URL
from gateway.clients.errors import Fault, Refused, Unreachable
from gateway.core.faults import brief, did_you_mean, readable

USUAL = "headgate.yaml"  # how a configuration file is called as a rule


class Refusal(Exception):
    """A command cannot do what was asked; the message is the line."""


class RefusedFile(Exception):
    """The gateway refused what it was sent of the file `name`."""

    def __init__(self, name: str, refused: Refused) -> None:
        self.name, self.refused = name, refused
        super().__init__(name)


@contextmanager
def of_file(name: str) -> Iterator[None]:
    """Has what is wrong with content that is sent told by where it is in the file `name`."""
    try:
        yield
    except Refused as refused:
        raise (RefusedFile(name, refused) if refused.status == 400 else refused) from None


def lines(error: Exception) -> list[str]:
    """What `error` means to the person who typed the command.

    One line, or one for each fault where the gateway found several in what it was sent.
    """
    if isinstance(error, RefusedFile):
        faults = [_fault(fault) for fault in error.refused.faults] or [error.refused.detail]
        return [_one_line(_in_file(error.name, said)) for said in faults]
    if isinstance(error, Refused) and error.status == 400 and error.faults:
        return [_one_line(_fault(fault)) for fault in error.faults]
    return [_one_line(_words(error))]


def misused(mistake: UsageError, command: str = "headgate") -> list[str]:
    """What is wrong with a command line, and where to read how it is written: with the `command`,
    where the mistake itself does not know."""
    said = _one_line(_elsewhere(mistake) or mistake.format_message())
    where = mistake.ctx.command_path if mistake.ctx else command
    if isinstance(mistake, NoSuchOption) and mistake.ctx and mistake.ctx.parent is None:
        said += f" Options come after the command: headgate COMMAND {mistake.option_name}"
    return [f"headgate: {said[:1].lower()}{said[1:]}", f"try: {where} --help"]


def _elsewhere(mistake: UsageError) -> str:
    """What was typed out of the habit of another program, and how it is written here."""
    if isinstance(mistake, NoSuchCommand) and (said := elsewhere.command(mistake.command_name)):
        return f"{mistake.message.rstrip('.')}: {said}"
    if isinstance(mistake, NoSuchOption) and mistake.ctx:
        of = mistake.ctx.command
        takes_file = any(isinstance(p, Argument) and p.name == "file" for p in of.params)
        said = elsewhere.option(of.name or "", mistake.option_name, takes_file=takes_file)
        return f"{mistake.message.rstrip('.')}: {said}" if said else ""
    is_file = isinstance(mistake, MissingParameter) and getattr(mistake.param, "name", "") == "file"
    if is_file and mistake.ctx and os.path.isfile(USUAL):
        said = mistake.format_message().rstrip(".")
        return f"{said}: {mistake.ctx.command_path} {USUAL}"
    return ""


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean x?)` for the nearest of `known`; empty when none is near."""
    hint = did_you_mean(word, known)
    return f" ({hint})" if hint else ""


def _words(error: Exception) -> str:
    if isinstance(error, Refused):
        return _refused(error)
    if isinstance(error, Unreachable) and f" {DEFAULT_URL}:" in str(error):
        return f"{error}; if it listens elsewhere, say where with --url or HEADGATE_URL"
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":  # as it was typed
        return f"{repr(os.fsencode(error.object))[1:]} is not UTF-8"
    if isinstance(error, Refusal | Unreachable | ValueError):
        return str(error)
    if isinstance(error, FileNotFoundError) and error.filename is None:  # of os.getcwd() alone
        return "the working directory is not there any more: change to another"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}"
    return (
        f"a fault in headgate itself: {type(error).__name__}: {error}"
        " (HEADGATE_DEBUG=1 shows where)"
    )


def _refused(error: Refused) -> str:
    if error.status == 401:
        return (
            "the admin API wants another token: give --token, HEADGATE_TOKEN, or the"
            " --state-dir of the gateway"
        )
    if error.status == 412:
        return "someone else edited in between: look again, then repeat"
    return error.detail


def _fault(fault: Fault) -> str:
    where = readable(fault.get("pointer", "")).lstrip("/")
    detail = fault.get("detail", "")
    line = re.match(r"line \d+: ", detail)  # of a file that was applied: before the place in it
    first = line[0] if line else ""
    return f"{first}{where}: {detail.removeprefix(first)}" if where else detail


def _in_file(name: str, said: str) -> str:
    """`said` as `headgate check` tells it: `name:2: what is wrong`, which editors can follow."""
    line = re.match(r"line (\d+): ", said)
    return f"{name}:{line[1]}: {said[line.end() :]}" if line else f"{name}: {said}"


def _one_line(text: str) -> str:
    printable = "".join(c if c.isprintable() or c.isspace() else "?" for c in text)
    return brief(" ".join(printable.split()))
