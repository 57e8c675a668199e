"""Which commands are there, with which arguments, options and examples?

One table of click's commands, from which the parser, the help, the manual and the completion are
made. It imports no command: `_command` names where each one lives, as `module:function`.
"""

import importlib
import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import click

PROGRAM = "headgate"
NAME = re.compile(r"[\w.:=\[\]-]+")
# Whether it can be read is for the command to find out: that is refused, and no wrong usage.
PATH, FOLDER = click.Path(readable=False), click.Path(file_okay=False, readable=False)
ROLLOUT_WORDS = ("pause", "resume", "promote", "approve", "abort")
KEY_ACTIONS = ("add", "rotate", "retire", "revoke")
SHELLS = ("bash", "zsh", "fish")
FOUND = "the gateway whose .headgate/ lies here or above, else http://127.0.0.1:8081"


def whole(text: str) -> int:
    """A revision, or how many of something."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)


def number(text: str) -> int:
    """How many of something, or none."""
    return whole(text) if text != "0" else 0


def percents(text: str) -> list[float]:
    """Percents, as `1,5,25,50,100`; whether they rise is for the gateway to say."""
    try:
        found = [float(word.strip().removesuffix("%")) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is no list of percents, such as 1,5,25,50,100") from None
    return [int(each) if each == int(each) else each for each in found]


def seconds(text: str) -> float:
    """How long something takes."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(f"{text!r} is not a number of seconds")
    return found


def _load(name: str) -> Callable[..., Any]:
    """The function that `module:function` names below gateway.cli, imported now and not before."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"gateway.cli.{module}"), function)
    return found


def live(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes names that the running gateway knows: route, backend, instance, key or weight."""

    def names(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
        found = _load("asking:live_names")(kind, SimpleNamespace(**context.params))
        # What a shell would take for more than a word is no name of ours.
        return [name for name in found if name.startswith(begun) and NAME.fullmatch(name)]

    return names


def _option(*names: str, metavar: str = "", **more: Any) -> click.Option:
    """An option; without a `metavar` it is a switch."""
    kind: dict[str, Any] = {"metavar": metavar} if metavar else {"is_flag": True}
    return click.Option([*names], show_envvar=True, **kind, **more)


STATE_DIR = _option(
    "--state-dir", metavar="DIR", type=FOLDER, envvar="HEADGATE_STATE_DIR",
    help="where state and token are; left out: .headgate/ beside the file, and without a file the"
    " nearest, here or above",
)  # fmt: skip
DEV_TLS = _option(
    "--dev-tls", help="by https, with a certificate for localhost that is made here: for trying"
)
ACCESS_LOG = _option(
    "--access-log", metavar="WHERE", type=PATH,
    help="a file, - for standard output, or off; on a terminal a file beside the state",
)  # fmt: skip
OUTPUT = (
    _option(
        "-o", "--output", metavar="FORMAT", type=click.Choice(["table", "json", "yaml"]),
        default="table", help="table, json or yaml",
    ),
    click.Option(["--json", "output"], flag_value="json", help="the same as -o json"),
)  # fmt: skip
CLIENT = (
    *OUTPUT,
    _option(
        "--url", metavar="URL", envvar="HEADGATE_URL", help=f"the admin API; left out: {FOUND}"
    ),
    _option(
        "--token", metavar="TOKEN", envvar="HEADGATE_TOKEN",
        help="the admin token; left out: the one in the state directory",
    ),
    _option(
        "--cacert", metavar="FILE", envvar="HEADGATE_CACERT",
        help="whom to trust at https://; left out: the system's CAs, and the gateway found here",
    ),
    _option(
        "--client-cert", metavar="FILE", envvar="HEADGATE_CLIENT_CERT",
        help="a certificate to show where the admin API asks for one",
    ),
    _option(
        "--client-key", metavar="FILE", envvar="HEADGATE_CLIENT_KEY",
        help="its key; left out: it is in the same file",
    ),
    STATE_DIR,
)  # fmt: skip
EDIT = (
    _option("--dry-run", help="show what would change and change nothing"),
    _option("-m", "--reason", metavar="TEXT", help="why, for the history"),
    _option("--if-revision", metavar="N", type=whole, help="only if this is still the revision"),
    *CLIENT,
)
STRICT = _option(
    "--strict",
    help="apply nothing, and exit 1, where processes would have to be started and nobody does",
)
OF_BACKEND = _option(
    "--backend", metavar="NAME", shell_complete=live("backend"),
    help="the one meant, where several share it",
)  # fmt: skip
WAIT = (
    _option("--wait", help="until nothing is in flight there"),
    _option("--timeout", metavar="SECONDS", type=seconds, help="stop waiting after this long"),
)
HELD = (
    _option("--wait", help="until `headgate up` has started and stopped what the edit asks for"),
    _option("--timeout", metavar="SECONDS", type=seconds, help="stop waiting after this long"),
)
LOOKS = (
    _option(
        "-n", "--interval", metavar="SECONDS", type=seconds, help="seconds from look to look (1)"
    ),
    _option("--count", metavar="N", type=whole, help="stop after this many looks"),
)
OF_MODEL = (
    _option("--port", metavar="PORT", type=click.IntRange(0, 65535), help="of the gateway (8080)"),
    _option(
        "--write", metavar="FILE", type=PATH, help="write the configuration that does the same"
    ),
    _option("--device", metavar="DEVICE,...", help="cpu, cuda:N, mps or auto"),
    _option("--workers", metavar="N", type=whole, help="worker processes per device"),
    _option("--max-batch-size", metavar="N", type=whole, help="most inputs in one batch"),
    _option(
        "--batch-timeout",
        metavar="DURATION",
        help="longest time to wait for more requests to fill a batch",
    ),
    _option("--max-queue", metavar="N", type=whole, help="most requests that wait in an instance"),
    _option("--timeout", metavar="DURATION", help="how long one prediction may take"),
)
FILE = click.Argument(["file"], type=PATH, help="the configuration file")
BACKEND = click.Argument(["backend"], shell_complete=live("backend"), help="its name")
ADDRESS = click.Argument(
    ["instance"], shell_complete=live("instance"), help="its address, host:port"
)


def _optional_file(help: str) -> click.Argument:
    return click.Argument(["file"], type=PATH, required=False, help=help)


def _command(
    name: str, summary: str, run: str, *parameters: click.Parameter, example: str = ""
) -> click.Command:
    """The command `name`; `run` is `module:function` below gateway.cli."""

    def call(**given: Any) -> int:
        return int(_load(run)(SimpleNamespace(**given)))

    return click.Command(
        name,
        params=[*parameters],
        callback=call,
        help=f"{summary[0].upper()}{summary[1:]}.",
        short_help=summary,
        epilog=f"\b\nExample: {PROGRAM} {example or name}",
    )


def _instance(name: str, summary: str, *options: click.Option, more: str = "") -> click.Command:
    example = f"{name} 127.0.0.1:8001{more}"
    parameters = (ADDRESS, OF_BACKEND, *options, *EDIT)
    return _command(name, summary, f"editing:{name}", *parameters, example=example)


def _rollout_words(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Completes what comes next of `rollout`: a route or a word for one, then a backend."""
    words = context.params.get("words") or ()
    if not words:
        verbs = [word for word in ROLLOUT_WORDS if word.startswith(begun)]
        return [*live("route")(context, parameter, begun), *verbs]
    kind = "route" if words[0] in ROLLOUT_WORDS else "backend"
    return live(kind)(context, parameter, begun)


def _commands(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    return [name for name in HEADGATE.list_commands(context) if name.startswith(begun)]


COMMANDS: tuple[click.Command, ...] = (
    _command(
        "init", "write a small project that runs, to begin with", "beginning:init",
        click.Argument(["folder"], metavar="[DIR]", type=FOLDER, required=False,
                       help="where to; left out: here"),
        example="init words",
    ),
    _command(
        "up", "start every instance of a file and the gateway", "serving:up",
        click.Argument(
            ["file"], type=PATH,
            help="the configuration file; or code to serve as it is: server.py, server.py:Name or"
            " package.module:Name",
        ),
        _option("--reload", help="load a model anew when its code changes"),
        _option(
            "--on", metavar="ENGINE", type=click.Choice(["ray"]),
            help="ray: instances on the hosts of a Ray cluster, which go on when this ends",
        ),
        *OF_MODEL, DEV_TLS, ACCESS_LOG, STATE_DIR, example="up server.py --port 8080",
    ),
    _command(
        "gateway", "start the gateway alone", "serving:gateway",
        FILE,
        _option(
            "--take-over", help="in place of the one that runs with this state: with its sockets,"
            " so that no connection is refused; it serves on until this one is ready",
        ),
        DEV_TLS, STATE_DIR, example="gateway headgate.yaml",
    ),
    _command(
        "upgrade", "replace the gateway that runs by this version of the program, and lose no"
        " request", "upgrading:upgrade",
        _optional_file("its configuration file; left out: the one that runs here"),
        _option(
            "--timeout", metavar="SECONDS", type=seconds,
            help="how long the new one may take to be ready (60); else the old one serves on",
        ),
        *OUTPUT, STATE_DIR, example="upgrade --state-dir /var/lib/headgate",
    ),
    _command(
        "instance", "start one instance alone (headgate instance --help)", "serving:instance",
        example="instance models.py:Linear --port 8001",
    ),
    _command(
        "check", "validate a file: every problem, with its line", "serving:check",
        FILE, *OUTPUT, example="check headgate.yaml",
    ),
    _command(
        "apply", "apply a file to a running gateway; the difference comes first", "editing:apply",
        FILE, STRICT, *HELD, *EDIT, example="apply headgate.yaml --dry-run",
    ),
    _command(
        "export", "print the live table, weights included, as a configuration file for git",
        "exporting:export",
        _optional_file("the file whose `gateway:` section is kept; left out: the running one's"),
        *CLIENT, example="export > live.yaml",
    ),
    _command("routes", "the routes that are configured", "showing:routes", *CLIENT),
    _command(
        "backends", "the backends that are configured", "showing:backends",
        *CLIENT, example="backends -o yaml",
    ),
    _command(
        "status", "what is live: health, load, rates, latencies", "watching:status",
        _option("-w", "--watch", help="then each row that changed, until Ctrl-C"),
        *LOOKS, *CLIENT, example="status --watch",
    ),
    _command(
        "top", "status that refreshes, until Ctrl-C", "watching:top",
        *LOOKS, *CLIENT, example="top -n 2",
    ),
    _command(
        "weights", "show or edit the split of a route", "weighing:weights",
        click.Argument(["route"], shell_complete=live("route"), help="the name of a route"),
        click.Argument(
            ["weights"], nargs=-1, metavar="[BACKEND=WEIGHT]...", shell_complete=live("weight"),
            help="a weight (digits-cnn=10), and the others keep theirs; or a percent of the route"
            " (digits-cnn=10%), and the others keep their proportion in the rest",
        ),
        *EDIT, example="weights digits digits-cnn=10%",
    ),
    _command(
        "mirror", "how often a route's mirror agrees, and where it does not", "mirror:mirror",
        click.Argument(["route"], shell_complete=live("route"), help="the name of a route"),
        _option(
            "-n", "--lines", metavar="N", type=number, help="at most this many examples (10)"
        ),
        *CLIENT, example="mirror digits",
    ),
    _command(
        "rollout", "let the gateway move a route's traffic to another backend, or follow it",
        "rollout:rollout",
        click.Argument(
            ["words"], nargs=-1, required=True, metavar="ROUTE [BACKEND]",
            shell_complete=_rollout_words,
            help="with a BACKEND of the route's split a rollout to it begins; then, or with the"
            " ROUTE alone, it is followed to its end: exit 0 when it is done, 3 when it went back."
            " `pause`, `resume`, `promote`, `approve` or `abort` before the ROUTE tells it so",
        ),
        _option(
            "--steps", metavar="PERCENTS", type=percents,
            help="percents of the route that rise (1,5,25,50,100)",
        ),
        _option("--hold", metavar="DURATION", help="at least so long at each step (2m)"),
        _option(
            "--min-requests", metavar="N", type=whole,
            help="and so many requests judged at the backend (100)",
        ),
        _option(
            "--warmup", metavar="N", type=number, help="its first requests teach nothing (20)"
        ),
        _option(
            "--slower-than", metavar="TIMES", type=seconds,
            help="an answer after so many times the others' 90 % point is slow (1.2)",
        ),
        _option(
            "--predictions", metavar="POINTER",
            help="also compare what is answered at this JSON pointer (/digit), and warn",
        ),
        _option(
            "--agreement", metavar="PART", type=seconds,
            help="also compare answers, by the route's mirror, and hold where less than this part"
            " agrees (0.98)",
        ),
        _option(
            "--on-done", metavar="WHAT", type=click.Choice(["keep", "remove_old"]),
            help="keep, or remove_old: take the old backends out of the split",
        ),
        _option("-d", "--detach", help="begin it and do not follow it"),
        _option("--dry-run", help="show what would change and change nothing"),
        _option("-m", "--reason", metavar="TEXT", help="why, for the history"),
        *CLIENT, example="rollout digits digits-cnn --steps 1,5,25,50,100 --hold 2m",
    ),
    _instance(
        "drain", "let an instance finish what it has, send it nothing new", *WAIT, more=" --wait"
    ),
    _instance("resume", "send requests to a drained instance again"),
    _instance("disable", "take an instance out, healthy or not", more=" -m 'new driver'"),
    _instance("enable", "let a disabled instance back in"),
    _command("keys", "who may ask, by name, and for which routes", "keys:keys", *CLIENT),
    _command(
        "key", "make a key, renew it, or take it back", "keys:key",
        click.Argument(
            ["action"], metavar="ACTION", type=click.Choice(KEY_ACTIONS),
            help="add prints a new key, once; rotate prints a further one, and both are valid until"
            " retire; revoke lets nobody in by it any more",
        ),
        click.Argument(["name"], shell_complete=live("key"), help="the consumer's name"),
        _option(
            "--route", metavar="ROUTE", multiple=True, shell_complete=live("route"),
            help="a route that it opens, and no other; may be repeated",
        ),
        _option("--expires", metavar="WHEN", help="after 90d, 12h, 30m, or at a time in ISO 8601"),
        *EDIT, example="key add acme --route digits --expires 90d",
    ),
    _command(
        "scale", "set how many instances of a backend `headgate up` runs", "processes:scale",
        click.Argument(
            ["counts"], nargs=-1, required=True, metavar="BACKEND=N...",
            shell_complete=live("weight"), help="how many, such as digits-cnn=3",
        ),
        *HELD, *EDIT, example="scale digits-cnn=3 --wait",
    ),
    _command(
        "reload", "replace each instance of a backend by a new one, none sooner than that is ready",
        "processes:reload", BACKEND, *HELD, *EDIT, example="reload digits-cnn --wait",
    ),
    _command(
        "restart", "end each instance of a backend and start it again, one after the other",
        "processes:restart", BACKEND, *EDIT, example="restart digits-cnn",
    ),
    _command(
        "logs", "the last lines that the instances of a backend wrote", "processes:logs",
        BACKEND,
        _option("-f", "--follow", help="then each line that comes, until Ctrl-C"),
        _option("-n", "--lines", metavar="N", type=whole, help="at most this many (100)"),
        *CLIENT, example="logs digits-cnn -f",
    ),
    _command(
        "ray-env", "print the environment that each host of a Ray cluster needs, with a new token",
        "fleets:ray_env",
        _option(
            "--storage", metavar="DIR", type=PATH, default="/var/lib/headgate/ray",
            help="where the head keeps what it knows, on its disk (/var/lib/headgate/ray)",
        ),
        example="ray-env > ray.env",
    ),
    _command(
        "fleet", "what `headgate up --on ray` has placed in a cluster, and its end", "fleets:fleet",
        click.Argument(
            ["word"], type=click.Choice(["status", "down"]), metavar="status|down",
            help="status shows host, address, GPU, restarts and since when; down ends all of it",
        ),
        *OUTPUT, example="fleet status",
    ),
    _command(
        "history", "the edits so far: who, when, why", "showing:history",
        click.Argument(
            ["revision"], type=whole, required=False, help="show this one and what it changed"
        ),
        _option("-n", "--limit", metavar="N", type=whole, help="at most this many"),
        *CLIENT, example="history -n 5",
    ),
    _command(
        "restore", "go back to a revision, as a new one", "editing:restore",
        click.Argument(["revision"], type=whole, help="the revision to go back to"),
        *HELD, *EDIT, example="restore 41 -m 'the new version is slower'",
    ),
    _command(
        "token", "print the admin token of a local state directory", "showing:token",
        _optional_file("a configuration file: its state directory lies beside it"),
        STATE_DIR, example="token headgate.yaml",
    ),
    _command(
        "schema", "print the JSON Schema of a configuration file, for editors", "showing:schema",
        example="schema > headgate.schema.json",
    ),
    _command(
        "completion", "print a completion script for a shell", "completing:completion",
        click.Argument(
            ["shell"], metavar="SHELL", type=click.Choice(SHELLS), help="bash, zsh or fish"
        ),
        example="completion bash",
    ),
    _command(
        "version", "print the version, and whether the request path is compiled", "showing:version"
    ),
    _command(
        "help", "explain a command", "showing:explanation",
        click.Argument(
            ["name"], required=False, metavar="[COMMAND]", shell_complete=_commands,
            help="left out: all of them",
        ),
        example="help weights",
    ),
)  # fmt: skip


def _version(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        context.exit(_load("showing:version")(None))


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
        _option(
            "-V", "--version", is_eager=True, expose_value=False, callback=_version,
            help="print the version",
        )
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
