"""Which commands are there, with which arguments and options?

One table, from which the parser, the help, the suggestions and the shell completion are made.
It imports no command: `run` names where each one lives, as `module:function`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """One positional argument; `of` says what completes it."""

    name: str
    help: str
    of: str = ""
    nargs: str | None = None
    kind: type = str


@dataclass(frozen=True, slots=True)
class Option:
    """One option; without a `metavar` it is a switch. `of` says what completes its value."""

    name: str
    help: str
    metavar: str = ""
    short: str = ""
    kind: type = str
    of: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """One command; `run` is `module:function` below gateway.cli."""

    name: str
    summary: str
    run: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()


STATE_DIR = Option("--state-dir", "where state and token are kept", "DIR", of="directory")
JSON = Option("--json", "print JSON")
CLIENT = (
    Option("--url", "the admin API (HEADGATE_URL; http://127.0.0.1:8081)", "URL"),
    Option("--token", "the admin token (HEADGATE_TOKEN; the state directory's)", "TOKEN"),
    STATE_DIR,
    JSON,
)
EDIT = (
    Option("--dry-run", "show what would change and change nothing"),
    Option("--reason", "why, for the history", "TEXT", short="-m"),
    Option("--if-revision", "only if this is still the revision", "N", kind=int),
    *CLIENT,
)
FILE = Argument("file", "the configuration file", "file")
BESIDE = Argument("file", "a configuration file: its state directory lies beside it", "file", "?")
ADDRESS = Argument("instance", "its address, host:port", "instance")
OF_BACKEND = Option("--backend", "the one meant, where several share it", "NAME", of="backend")
WAIT = (
    Option("--wait", "until nothing is in flight there"),
    Option("--timeout", "stop waiting after this long", "SECONDS", kind=float),
)
INTERVAL = Option("--interval", "seconds from look to look", "SECONDS", short="-n", kind=float)
COUNT = Option("--count", "stop after this many looks", "N", kind=int)
LIMIT = Option("--limit", "at most this many", "N", short="-n", kind=int)


def _file(name: str, summary: str, run: str, *options: Option) -> Command:
    return Command(name, summary, run, (FILE,), options)


def _reads(name: str, summary: str, run: str, *options: Option) -> Command:
    return Command(name, summary, run, (), (*options, *CLIENT))


def _instance(name: str, summary: str, *options: Option) -> Command:
    return Command(name, summary, f"editing:{name}", (ADDRESS,), (OF_BACKEND, *options, *EDIT))


COMMANDS: tuple[Command, ...] = (
    _file("up", "start every instance of a file and the gateway", "serving:up", STATE_DIR),
    _file("gateway", "start the gateway alone", "serving:gateway", STATE_DIR),
    Command("instance", "start one instance alone (headgate instance --help)", "serving:instance"),
    _file("check", "validate a file: every problem, with its line", "serving:check", JSON),
    _file("apply", "apply a file to a running gateway", "editing:apply", *EDIT),
    _reads("routes", "the routes that are configured", "showing:routes"),
    _reads("backends", "the backends that are configured", "showing:backends"),
    _reads("status", "what is live: health, load, rates, latencies", "watching:status"),
    _reads("top", "status that refreshes, until Ctrl-C", "watching:top", INTERVAL, COUNT),
    Command(
        "weights",
        "show or edit the split of a route",
        "weighing:weights",
        (
            Argument("route", "the name of a route", "route"),
            Argument("weights", "BACKEND=WEIGHT: the others keep theirs", "weight", "*"),
        ),
        EDIT,
    ),
    _instance("drain", "let an instance finish what it has, send it nothing new", *WAIT),
    _instance("resume", "send requests to a drained instance again"),
    _instance("disable", "take an instance out, healthy or not"),
    _instance("enable", "let a disabled instance back in"),
    Command(
        "history",
        "the edits so far: who, when, why",
        "showing:history",
        (Argument("revision", "show this one and what it changed", "revision", "?", int),),
        (LIMIT, *CLIENT),
    ),
    Command(
        "restore",
        "go back to a revision, as a new one",
        "editing:restore",
        (Argument("revision", "the revision to go back to", "revision", kind=int),),
        EDIT,
    ),
    Command(
        "token",
        "print the admin token of a local state directory",
        "showing:token",
        (BESIDE,),
        (STATE_DIR,),
    ),
    Command(
        "completion",
        "print a completion script: headgate completion bash|zsh|fish",
        "completing:completion",
        (Argument("shell", "bash, zsh or fish", "shell"),),
    ),
    Command("_names", "", "completing:names", (Argument("kind", ""),), CLIENT),
)
SHOWN = tuple(command for command in COMMANDS if command.summary)
BY_NAME = {command.name: command for command in COMMANDS}
