"""How does a file become a running gateway?

`run_gateway` is the supervisor's process: it reads the file, takes the ports and starts the
others. `run_control`, `run_worker` and `run_compare` are what those run. Whatever is
wrong with what was given (file, port, state) is one clear line on stderr and exit code 1, and
nothing is left running.
"""

import asyncio
import errno
import gc
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.core.table import Document
from gateway.processes.certificates import Certificate, CertificateError
from gateway.processes.children import python_path
from gateway.processes.console import say, take_over, write
from gateway.processes.outlet import open_file
from gateway.processes.private_directory import NoPlace, place
from gateway.processes.sockets import ListenError, bind, url_of
from gateway.processes.supervisor import Plan, Supervisor, supervise
from gateway.wire.line import CompareStart, ControlStart, Ready, WorkerStart
from gateway.wire.messages import HAND_OVER_S

# What reads a file (pydantic) is loaded where one is read: a worker does without, and is there
# twice as soon.
if TYPE_CHECKING:
    from gateway.controlplane.configuration.settings import Settings
    from gateway.controlplane.store.state_directory import StateDirectory

DRAIN_MARGIN_S = 1.0
ROUTES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Prepared:
    """A gateway that is ready to be started: its file is read, its ports are taken and its
    state directory is locked."""

    plan: Plan
    settings: "Settings"
    document: Document
    data_url: str
    admin_url: str
    state: "StateDirectory"
    note: str = ""

    @property
    def is_log_chosen(self) -> bool:
        """Whether somebody said where the access log goes."""
        return "access_log" in self.settings.model_fields_set

    def close(self) -> None:
        """Gives ports and state directory back, for a gateway that is not started after all."""
        self.state.close()
        for bound in (*self.plan.data, self.plan.admin):
            bound.close()


class CannotStart(Exception):
    """Why the gateway cannot start, one line per problem."""


def prepare(file: Path, state_dir: Path, owner: Path | None = None) -> Prepared:
    """The gateway that `file` describes; CannotStart when there is anything wrong with it. Its
    state belongs to `owner`, where the file was made from that one."""
    from gateway.controlplane.admin.guards import start_refusals
    from gateway.controlplane.configuration.reading import ConfigurationError, load
    from gateway.controlplane.store.state_directory import StateDirectory
    from gateway.controlplane.store.state_owner import claim
    from gateway.controlplane.store.store import StateRefused

    try:
        loaded = load(file)
    except ConfigurationError as error:
        raise CannotStart(str(error)) from None
    settings = loaded.settings
    if refusals := [
        *start_refusals(settings),
        *_log_refusals(settings.access_log),
        *_tls_refusals(settings),
        *_reference_refusals(file, loaded.document),
    ]:
        raise CannotStart("\n".join(refusals))
    data: list[socket.socket] = []
    try:
        data = bind(settings.listen, settings.workers)
        (admin,) = bind(settings.admin)
    except ListenError as error:
        for bound in data:
            bound.close()
        raise CannotStart(str(error)) from None
    try:
        state = StateDirectory(state_dir)
        note = claim(state_dir, owner or file)
        admin_url = url_of(admin, "http" if settings.admin_tls is None else "https")
        state.tell(admin_url, settings.admin_tls.cert if settings.admin_tls else None)
        place(state_dir)
    except (StateRefused, NoPlace, OSError) as error:
        for bound in (*data, admin):
            bound.close()
        raise CannotStart(str(error)) from None
    plan = Plan(
        data=data,
        admin=admin,
        configuration=file.read_bytes(),
        name=str(file),
        drain_timeout_s=settings.lame_duck_s + HAND_OVER_S + settings.drain_s + DRAIN_MARGIN_S,
        # Drawn once here: a control process that takes over must not rename the gateway.
        environment={**python_path(), "HEADGATE_NODE": settings.node},
        state_dir=state_dir,
        state_fd=state.lock,
    )
    data_url = url_of(data[0], "http" if settings.tls is None else "https")
    return Prepared(plan, settings, loaded.document, data_url, admin_url, state, note)


def _log_refusals(access_log: str) -> list[str]:
    """Why the access log cannot be written. Each worker opens it; one line says it for all."""
    if access_log in ("-", "off"):
        return []
    try:
        os.close(open_file(access_log))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return [f"access_log: {access_log}: nobody reads this pipe; start its reader first"]
        return [
            f"access_log: {access_log}: {error.strerror}; name a file in a directory that is there"
        ]
    return []


def _tls_refusals(settings: "Settings") -> list[str]:
    """Why clients cannot be spoken to by TLS. Each worker reads the files; one line for all."""
    refusals = []
    for name, said in (("tls", settings.tls), ("admin_tls", settings.admin_tls)):
        try:
            if said is not None:
                Certificate(said.files, say)
        except CertificateError as error:
            refusals.append(f"gateway.{name}: {error}")
    return refusals


def _reference_refusals(file: Path, document: Document) -> list[str]:
    """Which files and variables that backends name lead to nothing."""
    from gateway.controlplane.configuration.references import missing

    return [
        f"{file}: {fault.pointer}: {fault.detail}"
        for fault in missing(document.get("backends", {}))
    ]


def announce(prepared: Prepared, facts: Ready) -> None:
    """Prints where the gateway is, on stdout, and what is worth knowing about this start."""
    for line in (prepared.note, *facts["notes"]):
        if line:
            say(line)
    lines = ["headgate is ready", f"  requests  {prepared.data_url}"]
    routes = facts["routes"]
    for path, split in routes[:ROUTES_SHOWN]:
        lines.append(f"            {path} → {split}")
    if len(routes) > ROUTES_SHOWN:
        lines.append(f"            and {len(routes) - ROUTES_SHOWN} more routes")
    lines.append(f"  admin     {prepared.admin_url}")
    if facts["token"]:
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
    take_over()
    return asyncio.run(_run_supervisor(prepared))


async def _run_supervisor(prepared: Prepared) -> int:
    supervisor = Supervisor(
        prepared.plan, on_ready=lambda facts: announce(prepared, facts), say=say
    )
    return await supervise(supervisor)


def run_control(arguments: Sequence[str]) -> int:
    """The control process, as the supervisor starts it."""
    import uvloop

    from gateway.control import control
    from gateway.telemetry import logs

    _collect_from_now_on()
    start: ControlStart = json.loads(arguments[0])
    logs.set_up()
    return uvloop.run(control(start))


def run_worker(arguments: Sequence[str]) -> int:
    """A worker process, as the supervisor starts it."""
    import uvloop

    from gateway.dataplane.worker import WorkerOptions, serve

    _collect_from_now_on()
    start: WorkerStart = json.loads(arguments[0])
    bound = socket.socket(fileno=start["data_fd"])
    knows = WorkerOptions(
        permits=start["permits_fd"], counters=start["counters_fd"], compare=start["compare"]
    )
    return uvloop.run(serve(knows, [bound], start["channel"], start["slot"]))


def run_compare(arguments: Sequence[str]) -> int:
    """The process that compares answers of mirrors, as the supervisor starts it."""
    import uvloop

    from gateway.comparing.process import serve
    from gateway.telemetry import logs

    _collect_from_now_on()
    start: CompareStart = json.loads(arguments[0])
    logs.set_up()
    return uvloop.run(serve(socket.socket(fileno=start["fd"])))


def _collect_from_now_on() -> None:
    """What was loaded is never looked through for garbage: it stays as long as the process."""
    gc.freeze()
    gc.enable()
