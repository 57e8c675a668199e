"""The commands that start something or look at a file: up, gateway, instance, check.

They hand over to the modules that do it, imported only then.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli import finding, screen
from gateway.cli.refusals import Refusal

if TYPE_CHECKING:
    from gateway.controlplane.configuration import Problem


def up(options: argparse.Namespace) -> int:
    """Runs the file's instances and the gateway until told to stop."""
    from gateway import launcher

    file = _file(options.file)
    return launcher.run_up(file, _state_dir(options, file))


def gateway(options: argparse.Namespace) -> int:
    """Runs the gateway until told to stop."""
    from gateway import app

    file = _file(options.file)
    return app.run_gateway(file, _state_dir(options, file))


def instance(options: argparse.Namespace) -> int:
    """Reached with an option before the command only: an instance reads its own options."""
    raise Refusal("write it as: headgate instance MODEL [options]")


def check(options: argparse.Namespace) -> int:
    """Prints every problem of the file with its line; 1 when there is any."""
    from gateway.controlplane import configuration

    file = _file(options.file)
    problems: list[configuration.Problem] = []
    try:
        configuration.load(file)
    except configuration.ConfigurationError as error:
        problems = error.problems
    if options.json:
        screen.print_json({"ok": not problems, "problems": [_fields(p) for p in problems]})
    elif problems:
        for problem in problems:
            print(_line(options.file, problem), file=sys.stderr)
    else:
        screen.show(screen.Cell(f"{options.file} is valid", "good"))
    return 1 if problems else 0


def _fields(problem: "Problem") -> dict[str, Any]:
    return {
        "line": problem.line,
        "pointer": problem.pointer,
        "detail": problem.detail,
        "hint": problem.hint or None,
    }


def _line(file: str, problem: "Problem") -> str:
    """`file:12: routes/digits: what is wrong; did you mean this?`, which editors can follow."""
    where = f"{file}:{problem.line}: " if problem.line else f"{file}: "
    pointer = f"{problem.pointer.lstrip('/')}: " if problem.pointer.strip("/") else ""
    hint = f"; {problem.hint}" if problem.hint else ""
    return screen.clean(f"{where}{pointer}{problem.detail}{hint}")


def _file(name: str) -> Path:
    """The file, refused in words where it cannot be read."""
    path = Path(name)
    if not path.exists():
        raise Refusal(f"there is no file {name}")
    if path.is_dir():
        raise Refusal(f"{name} is a directory: name the configuration file in it")
    return path


def _state_dir(options: argparse.Namespace, file: Path) -> Path:
    named = options.state_dir or os.environ.get("HEADGATE_STATE_DIR")
    return Path(named) if named else file.absolute().parent / finding.STATE_NAME
