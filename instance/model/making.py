"""Does what was given fit the signature of a model's class?

Before anything is made: each name that `__init__` does not have, each that it needs and each value
that is not what it is annotated with is one fault, and all of them are told at once.
"""

import difflib
import inspect
import os
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from traceback import walk_tb
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


_NOT_THEIRS = (
    *(f"{path}{os.sep}" for path in set(sysconfig.get_paths().values())),
    f"{Path(__file__).parents[1]}{os.sep}",
    "<",
)


class LoadError(Exception):
    """The model cannot be served; the message is one line for whoever started it."""


def told(error: BaseException) -> str:
    """`ValueError: what it says (models.py, line 3)`: what the user's code failed by, and where."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = [(each.f_code.co_filename, line) for each, line in walk_tb(error.__traceback__)]
    theirs = [frame for frame in frames if not frame[0].startswith(_NOT_THEIRS)]
    if not theirs or isinstance(error, SyntaxError):  # that says itself where
        return said
    return f"{said} ({Path(theirs[-1][0]).name}, line {theirs[-1][1]})"


def checked(made: Callable[..., Any], args: Mapping[str, Any], model: str) -> dict[str, Any]:
    """`args`, each as the type that it is annotated with; LoadError names all that do not fit."""
    if not args:
        return {}
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError):  # written in C: it says itself what does not fit
        return dict(args)
    named = {name: each for name, each in parameters.items() if each.kind in _BY_NAME}
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    faults, given = [], dict(args)
    for name in args if not takes_any else ():
        if name not in named:
            close = difflib.get_close_matches(name, named, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            faults.append(f"args.{name}: {model} takes no such argument{hint}")
    for name, parameter in named.items():
        if name not in args and parameter.default is inspect.Parameter.empty:
            faults.append(f"args.{name}: is missing")
    hints = _hints(made)
    for name in named.keys() & args.keys() & hints.keys():
        try:
            given[name] = TypeAdapter(hints[name]).validate_python(args[name])
        except ValidationError as error:
            faults += _told(name, error)
        except PydanticUserError:  # a type of the user's own: what does not fit, it says itself
            continue
    if faults:
        raise LoadError("; ".join(sorted(faults)))
    return given


def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except Exception:  # names that are there for a type checker alone
        return {}


def _told(name: str, error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        place = ".".join(str(part) for part in (name, *fault["loc"]))
        yield f"args.{place}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
