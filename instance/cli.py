"""How is an instance started from a command line?"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from instance.plan import PlanError, plan_for
from instance.settings import DEVICES, SWITCH, VARIABLES, Option, is_server_file, options

COMPLETE = "_HEADGATE_INSTANCE_COMPLETE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves one model, or what a file serves; exit code 0 after an orderly stop, 1 if it cannot
    start, 2 for wrong usage."""
    if asked := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(COMMAND, {}, "headgate instance", COMPLETE, asked)
    ours, theirs = _divided(sys.argv[1:] if arguments is None else arguments)
    try:
        with COMMAND.make_context("headgate instance", [*ours]) as context:
            given = {name: value for name, value in context.params.items() if value is not None}
            if theirs:
                if not is_server_file(given["model"]):
                    raise click.UsageError("what follows -- is for a file that runs a LitServer")
                given["arguments"] = tuple(theirs)
    except click.exceptions.Exit as exit:  # the help was printed
        return exit.exit_code
    except click.UsageError as mistake:
        said = " ".join(mistake.format_message().split())
        print(f"headgate instance: {said} (see headgate instance --help)", file=sys.stderr)
        return 2
    except OSError as error:  # nobody takes the help: whoever reads has left, or a disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0
        print(f"headgate instance: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return 1
    return _serve(given)


def _serve(given: dict[str, Any]) -> int:
    try:
        plan = plan_for(given)
    except PlanError as error:
        print(f"headgate instance: {error}", file=sys.stderr)
        return 1
    from instance.app import run  # not before: whoever asks for help need not wait for it

    return run(plan)


def _divided(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """(our arguments, those after `--`)."""
    if "--" not in arguments:
        return arguments, ()
    at = list(arguments).index("--")
    return arguments[:at], arguments[at + 1 :]


def _option(option: Option) -> click.Option:
    flag, is_switch = option.flag, option.unit is SWITCH
    return click.Option(
        [f"--{flag}/--no-{flag}" if is_switch else f"--{flag}", option.setting],
        type=bool if is_switch else option.unit.parse,
        metavar=option.unit.name or None,
        multiple=option.unit is DEVICES,
        callback=_joined if option.unit is DEVICES else None,
        default=None,
        envvar=option.variable,
        show_envvar=True,
        help=f"{option.help} ({option.default})",
    )


def _joined(
    _: click.Context, __: click.Parameter, lists: Sequence[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """What several `--device` name together."""
    return tuple(each for some in lists for each in some) or None


COMMAND = click.Command(
    "headgate instance",
    params=[
        click.Argument(
            ["model"],
            type=click.Path(),
            help="package.module:Name, path/to/file.py:Name, or a file that runs a LitServer (its"
            " own arguments after --)",
        ),
        *map(_option, options()),
    ],
    help=f"Serve one model on one port. An option wins over its variable {VARIABLES}…, and that"
    " over what the model's class or file says.",
    epilog="\b\nExample: headgate instance models.py:Linear --port 8001 --max-batch-size 32",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def manual() -> str:
    """The table of options in docs/instance.md."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for each in options():
        flags = f"`--{each.flag}`" + (f", `--no-{each.flag}`" if each.unit is SWITCH else "")
        rows.append(f"| {flags} | {each.default} | {each.help} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(manual())
