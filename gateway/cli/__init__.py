"""What does `headgate` do with its command line?

It reads it, hands it to one command and turns every way that can end into an exit code: 0 done,
1 refused with one clear line on stderr, 2 wrong usage. No traceback reaches a user. Everything
beyond this file is imported by the command that needs it, so that a worker process never loads
a table printer and `headgate --version` answers at once.
"""

import os
import sys
from collections.abc import Sequence

from gateway.processes import standard_streams
from gateway.processes.console import write
from gateway.processes.signals import ANEW, be_quiet, end_at_ctrl_c

LINE = "_HEADGATE_LINE"  # what stands on a shell's line, when that wants to know how it may go on


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command in `argv` (the process's own arguments when None)."""
    if argv is None:  # the process is ours
        end_at_ctrl_c()
        be_quiet(*ANEW)
        standard_streams.make_usable()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if LINE in os.environ:
        from gateway.cli import completing

        return completing.answer(os.environ.pop(LINE), run_instance)
    if arguments[:1] == ["instance"]:
        return run_instance(arguments[1:])
    code = 0
    try:
        code = print_version() if arguments in (["--version"], ["-V"]) else run(arguments)
        sys.stdout.flush()  # else Python does at its end, and has words of its own for a fault
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left (`| head`): nothing is wrong, nobody listens.
        standard_streams.drop_output()
    except OSError as error:  # a disk that is full
        standard_streams.drop_output()
        if not code:  # else it is said already
            write(sys.stderr, f"headgate: {(error.strerror or str(error)).lower()}")
            code = 1
    standard_streams.drop_unwritten_words()
    return code


def run(arguments: list[str]) -> int:
    """Parses `arguments` and runs their command; every refusal is one line and a 1."""
    from click import UsageError
    from click.exceptions import Exit, NoArgsIsHelpError

    from gateway.cli import refusals
    from gateway.cli.commands import HEADGATE
    from gateway.cli.declaring import PROGRAM

    try:
        with HEADGATE.make_context(PROGRAM, arguments) as context:
            return int(HEADGATE.invoke(context))
    except Exit as exit:  # the help was printed
        return exit.exit_code
    except NoArgsIsHelpError as nothing:
        write(sys.stderr, nothing.format_message())
        return 2
    except UsageError as mistake:
        known = PROGRAM if arguments[0] not in HEADGATE.commands else f"{PROGRAM} {arguments[0]}"
        for line in refusals.misused(mistake, known):
            write(sys.stderr, line)
        return 2
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("HEADGATE_DEBUG"):
            raise
        for line in refusals.lines(error):
            write(sys.stderr, f"headgate: {line}")
        return 1


def run_instance(arguments: Sequence[str]) -> int:
    """Becomes the instance's own program: the two packages meet over HTTP and here."""
    from gateway.processes.shadowed import shadowed

    if hidden := shadowed("."):  # in words of ours, and not only of whatever fails by it
        write(sys.stderr, f"headgate: {hidden}")
        if not _can_be_loaded("instance.app", "instance.model.worker", "instance.model.planning"):
            return 1
    sys.stdout.flush()
    return os.execv(sys.executable, [sys.executable, "-m", "instance", *arguments])  # noqa: S606


def _can_be_loaded(*modules: str) -> bool:
    """Whether Python finds all that these need, from here: it may not even tell by an exception."""
    import subprocess

    program = [sys.executable, "-c", f"import {', '.join(modules)}"]
    tried = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True)  # noqa: S603
    return tried.returncode == 0


def print_version() -> int:
    """Says which version runs, and whether its request path is machine code."""
    version, is_compiled = version_and_form()
    known = f"headgate {version}" if version else "headgate, run from its source"
    print(f"{known} ({'compiled' if is_compiled else 'pure Python'})")
    return 0


def version_and_form() -> tuple[str | None, bool]:
    """(the version, None where nothing is installed; whether the request path is compiled)."""
    from importlib.machinery import EXTENSION_SUFFIXES
    from importlib.metadata import PackageNotFoundError, version

    import gateway.core.heads as hot

    is_compiled = str(hot.__file__).endswith(tuple(EXTENSION_SUFFIXES))
    try:
        return version("headgate"), is_compiled
    except PackageNotFoundError:
        return None, is_compiled
