"""Which commands start, scale, replace and end the processes of gateway and instances?"""

import click

from gateway.cli.declaring import command, live, option
from gateway.cli.parameters import (
    CLIENT,
    EDIT,
    FILE,
    HELD,
    OUTPUT,
    PATH,
    STATE_DIR,
    duration,
    optional_file,
    port,
    seconds,
    whole,
)

DEV_TLS = option(
    "--dev-tls", help="by https, with a certificate for localhost that is made here: for trying"
)
ACCESS_LOG = option(
    "--access-log", metavar="WHERE", type=PATH,
    help="a file, - for standard output, or off; on a terminal a file beside the state",
)  # fmt: skip
OF_MODEL = (
    option("--port", metavar="PORT", type=port, help="of the gateway (8080)"),
    option("--write", metavar="FILE", type=PATH, help="write the configuration that does the same"),
    option("--device", metavar="DEVICE,...", help="cpu, cuda:N, mps or auto"),
    option("--workers", metavar="N", type=whole, help="worker processes per device"),
    option("--max-batch-size", metavar="N", type=whole, help="most inputs in one batch"),
    option(
        "--batch-timeout",
        metavar="DURATION",
        type=duration,
        help="longest time to wait for more requests to fill a batch",
    ),
    option("--max-queue", metavar="N", type=whole, help="most requests that wait in an instance"),
    option(
        "--timeout",
        metavar="DURATION",
        type=duration,
        help="how long one prediction may take; 0: for ever",
    ),
)
BACKEND = click.Argument(["backend"], shell_complete=live("backend"), help="its name")

UP = command(
    "up", "start every instance of a file and the gateway", "serving:up",
    click.Argument(
        ["file"], type=PATH,
        help="the configuration file; or code to serve as it is: server.py, server.py:Name or"
        " package.module:Name",
    ),
    option("--reload", help="load a model anew when its code changes"),
    option(
        "--on", metavar="ENGINE", type=click.Choice(["ray"]),
        help="ray: instances on the hosts of a Ray cluster, which go on when this ends",
    ),
    *OF_MODEL, DEV_TLS, ACCESS_LOG, STATE_DIR, example="up server.py --port 8080",
)  # fmt: skip
GATEWAY = command(
    "gateway", "start the gateway alone", "serving:gateway",
    FILE,
    option(
        "--take-over", help="in place of the one that runs with this state: with its sockets,"
        " so that no connection is refused; it serves on until this one is ready",
    ),
    option(
        "--on", metavar="ENGINE", type=click.Choice(["ray"]),
        help="ray: requests go to the instances that `headgate up --on ray` has placed for the"
        " file of this name, with store: etcd",
    ),
    DEV_TLS, STATE_DIR, example="gateway headgate.yaml",
)  # fmt: skip
UPGRADE = command(
    "upgrade", "replace the gateway that runs by this version of the program, and lose no"
    " request", "upgrading:upgrade",
    optional_file("its configuration file; left out: the one that runs here"),
    option(
        "--timeout", metavar="SECONDS", type=seconds,
        help="how long the new one may take to be ready (60); else the old one serves on",
    ),
    *OUTPUT, STATE_DIR, example="upgrade --state-dir /var/lib/headgate",
)  # fmt: skip
INSTANCE = command(
    "instance", "start one instance alone (headgate instance --help)", "serving:instance",
    example="instance models.py:Linear --port 8001",
)  # fmt: skip
SCALE = command(
    "scale", "set how many instances of a backend `headgate up` runs", "processes:scale",
    click.Argument(
        ["counts"], nargs=-1, required=True, metavar="BACKEND=N...",
        shell_complete=live("weight"), help="how many, such as digits-cnn=3",
    ),
    *HELD, *EDIT, example="scale digits-cnn=3 --wait",
)  # fmt: skip
RELOAD = command(
    "reload", "replace each instance of a backend by a new one, none sooner than that is ready",
    "processes:reload", BACKEND, *HELD, *EDIT, example="reload digits-cnn --wait",
)  # fmt: skip
RESTART = command(
    "restart", "end each instance of a backend and start it again, one after the other",
    "processes:restart", BACKEND, *EDIT, example="restart digits-cnn",
)  # fmt: skip
START = command(
    "start", "load a model that starts on demand, or run one again that was stopped",
    "processes:start", BACKEND, *HELD, *EDIT, example="start digits-cnn --wait",
)  # fmt: skip
STOP = command(
    "stop", "unload a model: one that starts on demand until it is asked for, any other until it is"
    " started", "processes:stop", BACKEND, *HELD, *EDIT, example="stop digits-cnn --wait",
)  # fmt: skip
LOGS = command(
    "logs", "the last lines that the instances of a backend wrote", "processes:logs",
    BACKEND,
    option("-f", "--follow", help="then each line that comes, until Ctrl-C"),
    option("-n", "--lines", metavar="N", type=whole, help="at most this many (100)"),
    *CLIENT, example="logs digits-cnn -f",
)  # fmt: skip
RAY_ENV = command(
    "ray-env", "print the environment that each host of a Ray cluster needs, with a new token",
    "fleets:ray_env",
    option(
        "--storage", metavar="DIR", type=PATH, default="/var/lib/headgate/ray",
        help="where the head keeps what it knows, on its disk (/var/lib/headgate/ray)",
    ),
    example="ray-env > ray.env",
)  # fmt: skip
FLEET = command(
    "fleet", "what `headgate up --on ray` has placed in a cluster, and its end", "fleets:fleet",
    click.Argument(
        ["word"], type=click.Choice(["status", "down"]), metavar="status|down",
        help="status shows host, address, GPU, restarts and since when; down ends all of it",
    ),
    *OUTPUT, example="fleet status",
)  # fmt: skip
