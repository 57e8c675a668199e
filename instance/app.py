"""How do the parts of an instance come together, start and stop?

Composes settings, driver, surface and server; owns the listening socket and the signals.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import suppress

from instance.engine.driver import Driver, StartError
from instance.guards import installed_torch, start_refusals
from instance.settings import Settings
from instance.surface.connection import Server
from instance.surface.http import Surface
from instance.surface.traced import TracedSurface
from instance.telemetry.logs import configure_logging
from instance.telemetry.metrics import Metrics
from instance.telemetry.tracing import from_environment

log = logging.getLogger("instance")
BACKLOG = 1024
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


async def serve(settings: Settings) -> int:
    """Runs the instance until a signal ends it; gives the exit code."""
    sock = listen(settings.host, settings.port)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.info("listening on http://%s:%d, loading %s", shown, port, settings.model)
    metrics = Metrics()
    driver = Driver(settings, metrics)
    tracing = from_environment(os.environ, f"{shown}:{port}")
    if tracing is None:
        surface = Surface(driver, metrics)
    else:
        surface = TracedSurface(driver, metrics, tracing)
    server = Server(surface, settings.max_body, settings.keep_alive_s, driver.arena)
    listener = await asyncio.get_running_loop().create_server(server.factory, sock=sock)
    try:
        return await _until_signalled(driver, server)
    finally:
        listener.close()
        server.close_idle()
        await driver.stop()
        await surface.finish()
        server.close()
        if tracing is not None:
            tracing.close()


async def _until_signalled(driver: Driver, server: Server) -> int:
    """Starts, serves, and drains at the first signal; a second one ends it at once."""
    loop = asyncio.get_running_loop()
    signals = asyncio.Queue[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    stop = loop.create_task(signals.get())
    start = loop.create_task(driver.start())
    await asyncio.wait({stop, start}, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        with suppress(asyncio.CancelledError):
            await start
        return 0
    try:
        start.result()
    except StartError:
        stop.cancel()
        raise
    log.info("ready: %s at %s", driver.info["name"], driver.info["path"])
    _rest_the_collector()
    await stop
    log.info("shutting down: finishing what was accepted")
    drain = loop.create_task(_drain(driver, server))
    again = loop.create_task(signals.get())
    await asyncio.wait({drain, again}, return_when=asyncio.FIRST_COMPLETED)
    for task in (drain, again):
        task.cancel()
    # One more turn for the answers that have just been resolved to be written.
    await asyncio.sleep(0.05)
    return 0


async def _drain(driver: Driver, server: Server) -> None:
    """Returns when all that was accepted is answered, and nobody is about to ask on a connection
    that we close: a request that crosses its end on the way could not be sent again. Who asks
    now is refused and told to close; a gateway goes elsewhere from then on."""
    await driver.drain()
    await server.emptied(LAME_DUCK_S)


def _rest_the_collector() -> None:
    """What is there now stays, and requests leave no cycles behind: the collector need not
    look through all of it after every few hundred requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def run(settings: Settings) -> int:
    """Runs the instance in this process; exit code 1 and one line when it cannot start."""
    configure_logging()
    refusals = start_refusals(settings.host, os.environ, torch_version=installed_torch())
    for refusal in refusals:
        print(f"headgate instance: {refusal}", file=sys.stderr)
    if refusals:
        return 1
    try:
        if sys.platform != "win32":
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(serve(settings))
        return asyncio.run(serve(settings))
    except (PortTaken, StartError) as error:
        print(f"headgate instance: {error}", file=sys.stderr)
        return 1
