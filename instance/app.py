"""How do the parts of an instance come together, start and stop?

Composes settings, driver, surface and server; owns the listening socket and the signals.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from instance.front.connection import Connection
from instance.front.door import PROBED, door_of
from instance.front.driver import Driver, StartError
from instance.front.endpoint import Endpoint
from instance.front.http import Surface
from instance.front.middlewares import Middlewares
from instance.front.server import Server
from instance.front.several import Several
from instance.front.traced import TracedEndpoint
from instance.guards import installed_torch, is_loopback, start_refusals
from instance.plan import Plan
from instance.telemetry.logs import configure_logging, take_over
from instance.telemetry.metrics import Metrics
from instance.telemetry.outlet import Outlet
from instance.telemetry.tracing import Tracing, from_environment

log = logging.getLogger("instance")
BACKLOG = 4096
MAX_FILES = 1 << 16
LAME_DUCK_S = 1.0  # for kept connections, after the last answer


class PortTaken(Exception):
    """The address cannot be listened on; the message is one line."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; PortTaken says which address and why not."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PortTaken(f"cannot listen on {host}:{port}: {reason}") from None
    sock.setblocking(False)
    return sock


async def serve(plan: Plan, outlet: Outlet) -> int:
    """Runs the instance until a signal ends it; gives the exit code."""
    settings = plan.apis[0]
    sock = listen(settings.host, settings.port)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    only = ", for this machine only (--host 0.0.0.0 for all)" if is_loopback(host) else ""
    log.info("listening on http://%s:%d%s, loading %s", shown, port, only, settings.model)
    tracing = from_environment(os.environ, f"{shown}:{port}")
    drivers, surface = compose(plan, tracing, outlet)
    signalled, again = _signals()
    server = Server(surface, settings, drivers[0].arena)
    listener = await asyncio.get_running_loop().create_server(
        partial(Connection, server), sock=sock
    )
    try:
        return await _until_signalled(drivers, server, signalled, again)
    finally:
        listener.close()
        server.close_idle()
        await asyncio.gather(*(driver.stop(again) for driver in drivers))
        await surface.finish()
        server.close()
        if tracing is not None:
            tracing.close()


def compose(
    plan: Plan, tracing: Tracing | None, outlet: Outlet
) -> tuple[list[Driver], Surface | Several]:
    """(a driver for each API, what all of their clients see); counters are shared."""
    metrics, door = Metrics(), door_of(os.environ, plan.api_key)
    around = Middlewares(plan.middlewares) if plan.middlewares else None
    drivers: list[Driver] = []
    surfaces: list[Surface] = []
    for settings in plan.apis:
        driver = Driver(settings, metrics, outlet, drivers[0] if drivers else None)
        drivers.append(driver)
        if tracing is None:
            endpoint = Endpoint(driver, metrics)
        else:
            endpoint = TracedEndpoint(driver, metrics, tracing)
        surfaces.append(Surface(driver, endpoint, metrics, door, around))
    return drivers, surfaces[0] if len(surfaces) == 1 else Several(surfaces)


def _signals() -> tuple[asyncio.Future[None], asyncio.Future[None]]:
    """(is done at the first signal that is to end us, at a second one)."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[None] = loop.create_future()
    second: asyncio.Future[None] = loop.create_future()

    def heard() -> None:
        coming = second if first.done() else first
        if not coming.done():
            coming.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard)
    return first, second


async def _until_signalled(
    drivers: Sequence[Driver],
    server: Server,
    stop: asyncio.Future[None],
    again: asyncio.Future[None],
) -> int:
    """Starts, serves, and drains at the first signal, `stop`; one `again` ends that."""
    loop = asyncio.get_running_loop()
    start = loop.create_task(_start(drivers))
    await asyncio.wait({stop, start}, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        with suppress(asyncio.CancelledError):
            await start
        return 0
    start.result()
    shown = ", ".join(f"{driver.info['name']} at {driver.info['path']}" for driver in drivers)
    log.info("ready: %s", shown)
    _rest_the_collector()
    first: set[asyncio.Future[Any]] = {stop, *(driver.failed for driver in drivers)}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    log.info("shutting down: finishing what was accepted")
    if not stop.done():  # by a fault of ours: the next signal is none to begin with
        stop.set_result(None)
    drain = loop.create_task(_drain(drivers, server))
    await asyncio.wait({drain, again}, return_when=asyncio.FIRST_COMPLETED)
    drain.cancel()
    if drain.done() and not drain.cancelled() and (error := drain.exception()) is not None:
        drivers[0].fail("draining failed", error)
    # One more turn for the answers that have just been resolved to be written.
    await asyncio.sleep(0.05)
    return 1 if any(driver.failed.done() for driver in drivers) else 0


async def _start(drivers: Sequence[Driver]) -> None:
    """Starts all; StartError with the first reason when one cannot be."""
    starts = [asyncio.ensure_future(driver.start()) for driver in drivers]
    try:
        await asyncio.gather(*starts)
    finally:
        for start in starts:
            start.cancel()
    _check_paths(drivers)


def _check_paths(drivers: Sequence[Driver]) -> None:
    """Raises StartError when two are to be asked at one path."""
    taken = {driver.settings.health_path: "health" for driver in drivers}
    taken |= {driver.settings.info_path: "the model's description" for driver in drivers}
    taken |= PROBED
    if stop := drivers[0].settings.shutdown_path:
        if stop in taken:
            raise StartError(f"{stop} is the path of {taken[stop]}; give shutdown_path another")
        taken[stop] = "what stops the server"
    for driver in drivers:
        path = driver.info["path"]
        if path in taken:
            raise StartError(
                f"{path} is the path of {taken[path]}; give {driver.info['name']} another"
            )
        taken[path] = driver.info["name"]


async def _drain(drivers: Sequence[Driver], server: Server) -> None:
    """Returns when all that was accepted is answered, and nobody is about to ask on a connection
    that we close: a request that crosses its end on the way could not be sent again. Who asks
    now is refused and told to close; a gateway goes elsewhere from then on."""
    await asyncio.gather(*(driver.drain() for driver in drivers))
    await server.emptied(LAME_DUCK_S)


def _rest_the_collector() -> None:
    """What is there now stays, and requests leave no cycles behind: the collector need not
    look through all of it after every few hundred requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _allow_clients() -> None:
    """Lets this process have as many descriptors as it may: a first burst of a thousand clients
    meets 1,024 on most systems."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft < most:
        with suppress(ValueError, OSError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run(plan: Plan) -> int:
    """Runs the instance in this process; exit code 1 and one line when it cannot start."""
    outlet = configure_logging()
    take_over(outlet)
    for notice in plan.notices:
        log.warning("%s", notice)
    refusals = start_refusals(plan.apis[0].host, os.environ, torch_version=installed_torch())
    for refusal in refusals:
        print(f"headgate instance: {refusal}", file=sys.stderr)
    if refusals:
        return 1
    _allow_clients()
    try:
        if sys.platform != "win32":
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(serve(plan, outlet))
        return asyncio.run(serve(plan, outlet))
    except (PortTaken, StartError) as error:
        print(f"headgate instance: {error}", file=sys.stderr)
        return 1
