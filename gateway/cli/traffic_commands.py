"""Which commands show what is live, and move traffic between backends and instances?"""

import click

from gateway.cli.declaring import command, live, option
from gateway.cli.parameters import CLIENT, EDIT, number, percents, seconds, whole

ROLLOUT_WORDS = ("pause", "resume", "promote", "approve", "abort")
OF_BACKEND = option(
    "--backend", metavar="NAME", shell_complete=live("backend"),
    help="the one meant, where several share it",
)  # fmt: skip
WAIT = (
    option("--wait", help="until nothing is in flight there"),
    option("--timeout", metavar="SECONDS", type=seconds, help="stop waiting after this long"),
)
LOOKS = (
    option(
        "-n", "--interval", metavar="SECONDS", type=seconds, help="seconds from look to look (1)"
    ),
    option("--count", metavar="N", type=whole, help="stop after this many looks"),
)
ADDRESS = click.Argument(
    ["instance"], shell_complete=live("instance"), help="its address, host:port"
)


def _instance(name: str, summary: str, *options: click.Option, more: str = "") -> click.Command:
    example = f"{name} 127.0.0.1:8001{more}"
    parameters = (ADDRESS, OF_BACKEND, *options, *EDIT)
    return command(name, summary, f"editing:{name}", *parameters, example=example)


def _rollout_words(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Completes what comes next of `rollout`: a route or a word for one, then a backend."""
    words = context.params.get("words") or ()
    if not words:
        verbs = [word for word in ROLLOUT_WORDS if word.startswith(begun)]
        return [*live("route")(context, parameter, begun), *verbs]
    kind = "route" if words[0] in ROLLOUT_WORDS else "backend"
    return live(kind)(context, parameter, begun)


ROUTES = command("routes", "the routes that are configured", "showing:routes", *CLIENT)
BACKENDS = command(
    "backends", "the backends that are configured", "showing:backends",
    *CLIENT, example="backends -o yaml",
)  # fmt: skip
STATUS = command(
    "status", "what is live: health, load, rates, latencies", "watching:status",
    option("-w", "--watch", help="then each row that changed, until Ctrl-C"),
    *LOOKS, *CLIENT, example="status --watch",
)  # fmt: skip
TOP = command(
    "top", "status that refreshes, until Ctrl-C", "watching:top",
    *LOOKS, *CLIENT, example="top -n 2",
)  # fmt: skip
WEIGHTS = command(
    "weights", "show or edit the split of a route", "weighing:weights",
    click.Argument(["route"], shell_complete=live("route"), help="the name of a route"),
    click.Argument(
        ["weights"], nargs=-1, metavar="[BACKEND=WEIGHT]...", shell_complete=live("weight"),
        help="a weight (digits-cnn=10), and the others keep theirs; or a percent of the route"
        " (digits-cnn=10%), and the others keep their proportion in the rest",
    ),
    *EDIT, example="weights digits digits-cnn=10%",
)  # fmt: skip
MIRROR = command(
    "mirror", "how often a route's mirror agrees, and where it does not", "mirror:mirror",
    click.Argument(["route"], shell_complete=live("route"), help="the name of a route"),
    option(
        "-n", "--lines", metavar="N", type=number, help="at most this many examples (10)"
    ),
    *CLIENT, example="mirror digits",
)  # fmt: skip
ROLLOUT = command(
    "rollout", "let the gateway move a route's traffic to another backend, or follow it",
    "rollout:rollout",
    click.Argument(
        ["words"], nargs=-1, required=True, metavar="ROUTE [BACKEND]",
        shell_complete=_rollout_words,
        help="with a BACKEND of the route's split a rollout to it begins; then, or with the"
        " ROUTE alone, it is followed to its end: exit 0 when it is done, 3 when it went back."
        " `pause`, `resume`, `promote`, `approve` or `abort` before the ROUTE tells it so",
    ),
    option(
        "--steps", metavar="PERCENTS", type=percents,
        help="percents of the route that rise (1,5,25,50,100)",
    ),
    option("--hold", metavar="DURATION", help="at least so long at each step (2m)"),
    option(
        "--min-requests", metavar="N", type=whole,
        help="and so many requests judged at the backend (100)",
    ),
    option(
        "--warmup", metavar="N", type=number, help="its first requests teach nothing (20)"
    ),
    option(
        "--slower-than", metavar="TIMES", type=seconds,
        help="an answer after so many times the others' 90 % point is slow (1.2)",
    ),
    option(
        "--predictions", metavar="POINTER",
        help="also compare what is answered at this JSON pointer (/digit), and warn",
    ),
    option(
        "--agreement", metavar="PART", type=seconds,
        help="also compare answers, by the route's mirror, and hold where less than this part"
        " agrees (0.98)",
    ),
    option(
        "--on-done", metavar="WHAT", type=click.Choice(["keep", "remove_old"]),
        help="keep, or remove_old: take the old backends out of the split",
    ),
    option("-d", "--detach", help="begin it and do not follow it"),
    option("--dry-run", help="show what would change and change nothing"),
    option("-m", "--reason", metavar="TEXT", help="why, for the history"),
    *CLIENT, example="rollout digits digits-cnn --steps 1,5,25,50,100 --hold 2m",
)  # fmt: skip
DRAIN = _instance(
    "drain", "let an instance finish what it has, send it nothing new", *WAIT, more=" --wait"
)  # fmt: skip
RESUME = _instance("resume", "send requests to a drained instance again")
DISABLE = _instance("disable", "take an instance out, healthy or not", more=" -m 'new driver'")
ENABLE = _instance("enable", "let a disabled instance back in")
