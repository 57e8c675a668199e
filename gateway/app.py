"""How does a file become a running gateway?

`run_gateway` is the supervisor's process: it reads the file, takes the ports and starts the
others. `run_control` and `run_worker` are what those run. Whatever is wrong with what was
given (file, port, state) is one clear line on stderr and exit code 1, and nothing is left
running.
"""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.children import python_path
from gateway.console import say, write
from gateway.core.table import Document
from gateway.settings import Settings
from gateway.sockets import ListenError, bind, url_of
from gateway.supervisor import Plan, Supervisor, supervise

DRAIN_MARGIN_S = 1.0
ROUTES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Prepared:
    """A gateway that is ready to be started: its file is read and its ports are taken."""

    plan: Plan
    settings: Settings
    document: Document
    data_url: str
    admin_url: str

    def close(self) -> None:
        """Gives the ports back, for a gateway that is not started after all."""
        for bound in (*self.plan.data, self.plan.admin):
            bound.close()


class CannotStart(Exception):
    """Why the gateway cannot start, one line per problem."""


def prepare(file: Path, state_dir: Path) -> Prepared:
    """The gateway that `file` describes; CannotStart when there is anything wrong with it."""
    from gateway.controlplane.configuration import ConfigurationError, load
    from gateway.controlplane.guards import start_refusals

    try:
        loaded = load(file)
    except ConfigurationError as error:
        raise CannotStart(str(error)) from None
    settings = loaded.settings
    if refusals := start_refusals(settings):
        raise CannotStart("\n".join(refusals))
    data: list[socket.socket] = []
    try:
        data = bind(settings.listen, settings.workers)
        (admin,) = bind(settings.admin)
    except ListenError as error:
        for bound in data:
            bound.close()
        raise CannotStart(str(error)) from None
    plan = Plan(
        data=data,
        admin=admin,
        configuration=file.read_bytes(),
        control=("--state-dir", str(state_dir), "--name", str(file)),
        worker=(),
        patience_s=settings.lame_duck_s + settings.drain_s + DRAIN_MARGIN_S,
        # Drawn once here: a control process that takes over must not rename the gateway.
        environment={**python_path(), "HEADGATE_NODE": settings.node},
        state_dir=state_dir,
    )
    return Prepared(plan, settings, loaded.document, url_of(data[0]), url_of(admin))


def announce(prepared: Prepared, facts: Mapping[str, Any]) -> None:
    """Prints where the gateway is, on stdout, and what is worth knowing about this start."""
    for line in facts.get("notes", ()):
        say(line)
    lines = ["headgate is ready", f"  requests  {prepared.data_url}"]
    routes: Sequence[tuple[str, str]] = facts.get("routes", ())
    for path, split in routes[:ROUTES_SHOWN]:
        lines.append(f"            {path} → {split}")
    if len(routes) > ROUTES_SHOWN:
        lines.append(f"            and {len(routes) - ROUTES_SHOWN} more routes")
    lines.append(f"  admin     {prepared.admin_url}")
    if facts.get("token"):
        lines.append(f"  token     {facts['token']}  (shown once; `headgate token` finds it)")
    write(sys.stdout, "\n".join(lines))


def run_gateway(file: str | os.PathLike[str], state_dir: str | os.PathLike[str]) -> int:
    """The exit code, once the gateway of `file` has been stopped."""
    try:
        prepared = prepare(Path(file), Path(state_dir))
    except CannotStart as error:
        for line in str(error).splitlines():
            say(line)
        return 1
    return asyncio.run(_run_supervisor(prepared))


async def _run_supervisor(prepared: Prepared) -> int:
    supervisor = Supervisor(
        prepared.plan, on_ready=lambda facts: announce(prepared, facts), say=say
    )
    return await supervise(supervisor)


def run_control(arguments: Sequence[str]) -> int:
    """The control process, as the supervisor starts it."""
    import uvloop

    from gateway.control import ControlOptions, control
    from gateway.telemetry import logs

    parser = argparse.ArgumentParser(prog="headgate _control")
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    for descriptor in ("--admin-fd", "--channels-fd", "--line-fd", "--workers"):
        parser.add_argument(descriptor, type=int, required=True)
    parser.add_argument("--again", action="store_true")
    options = ControlOptions(**vars(parser.parse_args(arguments)))
    logs.set_up()
    return uvloop.run(control(options))


def run_worker(arguments: Sequence[str]) -> int:
    """A worker process, as the supervisor starts it."""
    import uvloop

    from gateway.dataplane.worker import WorkerOptions, serve

    parser = argparse.ArgumentParser(prog="headgate _worker")
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--data-fd", type=int, required=True)
    parser.add_argument("--turns-fd", type=int, required=True)
    parser.add_argument("--channel", required=True)
    options = parser.parse_args(arguments)
    bound = socket.socket(fileno=options.data_fd)
    knows = WorkerOptions(turns=options.turns_fd)
    return uvloop.run(serve(knows, [bound], options.channel, options.slot))
