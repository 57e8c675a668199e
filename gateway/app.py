"""How does a file become a running gateway?

`run_gateway` is the supervisor's process: it reads the file, takes the ports and starts the
others. `run_control`, `run_worker` and `run_compare` are what those run. Whatever is
wrong with what was given (file, port, state) is one clear line on stderr and exit code 1, and
nothing is left running.
"""

import asyncio
import gc
import json
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.core.faults import readable
from gateway.core.table import Document
from gateway.processes.children import python_path
from gateway.processes.console import say, take_over, write
from gateway.processes.plan import Plan
from gateway.processes.private_directory import NoPlace, place
from gateway.processes.service_manager import ServiceManager, Unusable
from gateway.processes.sockets import ListenError, bind_more, url_of
from gateway.processes.successor import Inheritance, NoSuccession, Succession, keep
from gateway.processes.supervisor import Supervisor, supervise
from gateway.processes.tasks import Tasks, told
from gateway.wire.line import CompareStart, ControlStart, Ready, WorkerStart
from gateway.wire.messages import HAND_OVER_S

# What reads a file (pydantic) is loaded where one is read: a worker does without, and is there
# twice as soon.
if TYPE_CHECKING:
    from gateway.controlplane.configuration.reading import Loaded
    from gateway.controlplane.configuration.settings import Settings
    from gateway.controlplane.store.state_directory import StateDirectory

DRAIN_MARGIN_S = 1.0
ROUTES_SHOWN = 10
MAX_DESCRIPTORS = 1 << 16


@dataclass(frozen=True, slots=True)
class Prepared:
    """A gateway that is ready to be started: its file is read, its ports are taken and its
    state directory is locked. `before` is the private directory of the gateway that it follows."""

    plan: Plan
    settings: "Settings"
    document: Document
    data_url: str
    admin_url: str
    state: "StateDirectory"
    note: str = ""
    before: Path | None = None

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


def prepare(
    file: Path,
    state_dir: Path,
    owner: Path | None = None,
    inherits: Callable[["Settings"], Inheritance] = lambda settings: Inheritance(),
    *,
    dev_tls: bool = False,
    text: str | None = None,
) -> Prepared:
    """The gateway that `file` describes; CannotStart when there is anything wrong with it. Its
    state belongs to `owner`, where the file was made from that one, and its `text` is written once
    it is sure that no other gateway reads it. `inherits` gives what is there
    already of it, once the file is known to be sound. With `dev_tls` it gets a certificate for
    trying. The file is read once: it may be a pipe."""
    from gateway.controlplane.admin.guards import start_refusals
    from gateway.controlplane.configuration.reading import ConfigurationError, load

    try:
        loaded = load(file, text=text)
        if dev_tls:
            loaded = _with_tls(loaded, state_dir)
    except ConfigurationError as error:
        raise CannotStart(str(error)) from None
    settings = loaded.settings
    if refusals := [*start_refusals(settings), *_refusals(file, settings, loaded.document)]:
        raise CannotStart("\n".join(refusals))
    there = inherits(settings)
    data, admin = _ports(settings, there, state_dir, is_made=text is not None)
    admin_url = url_of(admin, "http" if settings.admin_tls is None else "https")
    try:
        state, note = _claimed(state_dir, owner or file, there.state_fd, settings, admin_url)
        if text is not None:
            _write(file, text, state)
    except CannotStart:
        for bound in (*data, admin):
            bound.close()
        raise
    plan = Plan(
        data=data,
        admin=admin,
        configuration=loaded.text.encode(),  # as it was read: a pipe gives it once
        name=str(file),
        drain_timeout_s=settings.lame_duck_s + HAND_OVER_S + settings.drain_s + DRAIN_MARGIN_S,
        # Drawn once here: a control process that takes over must not rename the gateway.
        environment={**python_path(), "HEADGATE_NODE": settings.node},
        state_dir=state_dir,
        state_fd=state.lock,
        workers=settings.workers,
        given=there.given,
        memory=there.memory,
        before=there.before,
        arguments=("gateway", str(file), "--state-dir", str(state_dir), "--take-over"),
    )
    data_url = url_of(data[0], "http" if settings.tls is None else "https")
    return Prepared(
        plan, settings, loaded.document, data_url, admin_url, state, note, there.directory
    )


def _write(file: Path, text: str, state: "StateDirectory") -> None:
    """Has `file`, in the `state` directory, say `text`; CannotStart gives the state back."""
    from gateway.controlplane.store.names import unusable

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        state.close()
        raise CannotStart(unusable(state.path, error)) from None


def _claimed(
    state_dir: Path, owner: Path, given: int | None, settings: "Settings", admin_url: str
) -> "tuple[StateDirectory, str]":
    """The state directory, which is `owner`'s from now on, and what a person should know of it;
    `given` is the lock that this process was started with. CannotStart where it cannot be used."""
    from gateway.controlplane.store.state_directory import StateDirectory
    from gateway.controlplane.store.state_owner import claim
    from gateway.controlplane.store.store import StateRefused

    note = ""
    try:
        state = StateDirectory(state_dir, given, only_copies=settings.store == "etcd")
        try:
            note = claim(state_dir, owner)
            if given is None:
                state.tell(admin_url, settings.admin_tls.cert if settings.admin_tls else None)
        except OSError as error:
            state.complain(error)
        place(state_dir)
    except (StateRefused, NoPlace) as error:
        raise CannotStart(str(error)) from None
    except OSError as error:  # it may not say where
        raise CannotStart(f"state directory {state_dir}: {error.strerror or error}") from None
    if state.complaint:
        note = (
            f"state directory {state_dir} cannot be written ({state.complaint}): this gateway goes"
            " on, as its table is in etcd; while etcd is away it starts again with an old copy, or"
            " not at all"
        )
    return state, note


def _with_tls(loaded: "Loaded", state_dir: Path) -> "Loaded":
    """What was `loaded`, with a certificate for localhost, which the processes that are started
    find in their environment; CannotStart where there is one already, or none can be made."""
    from gateway.controlplane.configuration.reading import parse
    from gateway.processes.dev_certificate import NoCertificate, dev_certificate

    if loaded.settings.tls is not None:
        raise CannotStart("--dev-tls is for who has no certificate, and gateway.tls names one")
    try:
        files = dev_certificate(state_dir)
    except NoCertificate as error:
        raise CannotStart(str(error)) from None
    os.environ["HEADGATE_TLS"] = json.dumps(files)
    say(f"the certificate is for trying, and nobody trusts it: curl --cacert {files['cert']} …")
    settings, _ = parse(loaded.text, environment=os.environ, name=str(loaded.path))
    return replace(loaded, settings=settings)


def _ports(
    settings: "Settings", there: Inheritance, state_dir: Path, *, is_made: bool
) -> tuple[list[socket.socket], socket.socket]:
    """The sockets for requests and that of the admin API: those that are `there`, and what is
    missing; CannotStart when one cannot be had."""
    data, setting = [*there.data], "listen"
    try:
        if not there.given[0]:
            data = bind_more(settings.listen, settings.workers, there.data)
        admin, setting = there.admin, "admin"
        if admin is None or not there.given[1]:
            (admin,) = bind_more(settings.admin, 1, [] if admin is None else [admin])
    except ListenError as error:
        for bound in data:
            bound.close()
        # Perhaps it is the gateway of this very state that has the port, which says more.
        why = None if there.state_fd is not None else _taken(state_dir)
        variable = f"HEADGATE_{setting.upper()}"
        mend = f"gateway.{setting} ({variable}) names another address"
        if is_made:  # nobody wrote a file
            mend = "--port names another" if setting == "listen" else f"{variable} names another"
        raise CannotStart(why or f"{error}; {mend}") from None
    return data, admin


def _taken(state_dir: Path) -> str | None:
    """Who has the state in `state_dir`, in one line; None where nobody has it, or none is there."""
    from gateway.controlplane.store.names import LOCK
    from gateway.controlplane.store.state_directory import StateDirectory
    from gateway.controlplane.store.store import StateRefused

    if (state_dir / LOCK).exists():
        try:
            StateDirectory(state_dir).close()
        except StateRefused as error:
            return str(error)
    return None


def _refusals(file: Path, settings: "Settings", document: Document) -> Iterator[str]:
    """Which files and variables of this configuration lead to nothing, a line for each."""
    from gateway.controlplane.configuration.references import missing, unusable

    for fault in unusable(settings):
        # Whoever says where the log is need not be the file.
        where = fault.pointer[1:].replace("/", ".").replace("gateway.access_log", "access_log")
        yield f"{where}: {fault.detail}"
    for fault in missing(document.get("backends", {})):
        yield f"{file}: {readable(fault.pointer).strip('/')}: {fault.detail}"


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


def run_gateway(
    file: str | os.PathLike[str],
    state_dir: str | os.PathLike[str],
    *,
    dev_tls: bool = False,
    takes_over: bool = False,
) -> int:
    """The exit code, once the gateway of `file` has been stopped; clients come by a certificate for
    trying with `dev_tls`. With `takes_over` it begins with what the gateway has that runs with this
    state, and in its place."""
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    succession = _succession(Path(state_dir)) if takes_over else None
    if takes_over and succession is None:
        say("no gateway runs with this state: this one starts anew")

    def inherits(settings: "Settings") -> Inheritance:
        if succession is not None:
            return succession.inherit(settings.workers)
        return inherited(manager)

    try:
        prepared = prepare(Path(file), Path(state_dir), inherits=inherits, dev_tls=dev_tls)
    except (CannotStart, NoSuccession) as error:
        if succession is not None:
            succession.refuse("; ".join(str(error).splitlines()))
        for line in str(error).splitlines():
            say(line)
        return 1
    take_over()
    return asyncio.run(_run_supervisor(prepared, manager, succession))


def _succession(state_dir: Path) -> Succession | None:
    from gateway.controlplane.store.state_directory import running_in

    directory = running_in(state_dir)
    return None if directory is None else Succession.begin(directory)


def inherited(manager: ServiceManager) -> Inheritance:
    """What a service manager gives a gateway to begin with; CannotStart where that is unusable."""
    try:
        data, admin = manager.sockets()
    except Unusable as error:
        raise CannotStart(str(error)) from None
    return Inheritance(data, admin, (bool(data), admin is not None))


async def _run_supervisor(
    prepared: Prepared, manager: ServiceManager, succession: Succession | None
) -> int:
    if succession is not None:
        try:
            await succession.take()
        except NoSuccession as error:
            say(str(error))
            prepared.close()
            return 1

    def ready(facts: Ready) -> None:
        announce(prepared, facts)
        if succession is not None:
            signed(prepared, supervisor)
            succession.serves()

    supervisor = Supervisor(prepared.plan, on_ready=ready, say=say, manager=manager)
    if succession is None:
        signed(prepared, supervisor)
        return await supervise(supervisor)
    if prepared.before is not None:
        keep(prepared.before, supervisor.directory.path)

    def failed(why: str) -> None:
        say(f"the gateway before serves on: {why}")
        supervisor.give_up()

    own = Tasks(lambda name, error: failed(told(error)))
    own.run("the talk with the gateway before", succession.follow(failed))
    try:
        return await supervise(supervisor)
    finally:
        await own.close()
        succession.close("its processes did not become ready; their own words are in the log")


def signed(prepared: Prepared, supervisor: Supervisor) -> None:
    """Notes in the state directory who has it, and where commands find it."""
    tls = prepared.settings.admin_tls
    try:
        prepared.state.tell(prepared.admin_url, tls.cert if tls else None)
        prepared.state.sign(supervisor.directory.path)
    except OSError as error:
        if not prepared.state.complaint:  # it was said
            say(f"state directory {prepared.state.path}: {error.strerror}")


def run_control(arguments: Sequence[str]) -> int:
    """The control process, as the supervisor starts it."""
    import uvloop

    from gateway.control import control
    from gateway.processes.event_loop import EventLoop
    from gateway.telemetry import logs

    _collect_from_now_on()
    _take_descriptors()
    start: ControlStart = json.loads(arguments[0])
    logs.set_up()
    return uvloop.run(control(start), loop_factory=EventLoop)


def run_worker(arguments: Sequence[str]) -> int:
    """A worker process, as the supervisor starts it."""
    import uvloop

    from gateway.dataplane.worker import WorkerOptions, serve
    from gateway.processes.event_loop import EventLoop

    _collect_from_now_on()
    _take_descriptors()
    start: WorkerStart = json.loads(arguments[0])
    bound = [socket.socket(fileno=fd) for fd in start["data_fds"]]
    knows = WorkerOptions(
        permits=start["permits_fd"],
        counters=start["counters_fd"],
        certificates=start["certificates_fd"],
        compare=start["compare"],
    )
    serving = serve(knows, bound, start["channel"], start["slot"])
    return uvloop.run(serving, loop_factory=EventLoop)


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


def _take_descriptors() -> None:
    """Lets this process have as many descriptors as it may: what most systems begin with, 1,024,
    is half of that in clients. Only a process that starts no models, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
