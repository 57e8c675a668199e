"""Which commands are there, in which order?

One table of click's commands, from which the parser, the help, the manual and the completion are
made. They are declared by what they are about, in the modules beside this one.
"""

from types import SimpleNamespace

import click

import gateway.cli.configuration_commands as configuration
import gateway.cli.key_commands as keys
import gateway.cli.process_commands as processes
import gateway.cli.traffic_commands as traffic
from gateway.cli.declaring import PROGRAM, command, load, option
from gateway.cli.parameters import FOUND, OUTPUT

SHELLS = ("bash", "zsh", "fish")


def _commands(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    return [name for name in HEADGATE.list_commands(context) if name.startswith(begun)]


COMPLETION = command(
    "completion", "print a completion script for a shell", "completing:completion",
    click.Argument(
        ["shell"], metavar="SHELL", type=click.Choice(SHELLS), help="bash, zsh or fish"
    ),
    example="completion bash",
)  # fmt: skip
VERSION = command(
    "version", "print the version, and whether the request path is compiled", "showing:version",
    *OUTPUT,
)  # fmt: skip
HELP = command(
    "help", "explain a command", "showing:explanation",
    click.Argument(
        ["name"], required=False, metavar="[COMMAND]", shell_complete=_commands,
        help="left out: all of them",
    ),
    example="help weights",
)  # fmt: skip

COMMANDS: tuple[click.Command, ...] = (
    configuration.INIT,
    processes.UP,
    processes.GATEWAY,
    processes.UPGRADE,
    processes.INSTANCE,
    configuration.CHECK,
    configuration.APPLY,
    configuration.EXPORT,
    traffic.ROUTES,
    traffic.BACKENDS,
    traffic.STATUS,
    traffic.TOP,
    traffic.WEIGHTS,
    traffic.MIRROR,
    traffic.ROLLOUT,
    traffic.DRAIN,
    traffic.RESUME,
    traffic.DISABLE,
    traffic.ENABLE,
    keys.KEYS,
    keys.KEY,
    processes.SCALE,
    processes.RELOAD,
    processes.RESTART,
    processes.START,
    processes.STOP,
    processes.LOGS,
    processes.RAY_ENV,
    processes.FLEET,
    configuration.HISTORY,
    configuration.RESTORE,
    keys.TOKEN,
    configuration.SCHEMA,
    COMPLETION,
    VERSION,
    HELP,
)


def _version(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        context.exit(load("showing:version")(SimpleNamespace(output="table")))


class Program(click.Group):
    """The program: its commands in the order of the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]


HEADGATE = Program(
    PROGRAM,
    commands=COMMANDS,
    help="Serve machine-learning models behind one weighted gateway. Commands that ask a gateway"
    f" mean that of --url or HEADGATE_URL, else {FOUND}.",
    params=[
        option(
            "-V", "--version", is_eager=True, expose_value=False, callback=_version,
            help="print the version",
        )
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
