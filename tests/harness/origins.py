"""What answers in an instance's place, and what exactly did it receive?

An `Origin` listens on a free port, records every byte, frames requests strictly with h11 and
hands each to a responder, a coroutine function that may answer, be slow, break off or lie.
Health probes and the gateway's own questions are answered apart and never recorded as requests.
"""

import asyncio
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from tests.harness.exchange import OPENAPI, Connection, Exchange, Gone, Responder
from tests.harness.ports import held


class Origin:
    """A stub instance in this process. `respond` may be replaced at any time.

    `ready`: what probes are told (True 200, False 503, None: never answered).
    `refuse`: every new connection is reset at once.
    """

    def __init__(
        self, respond: Responder | None = None, name: str = "origin", host: str = "127.0.0.1"
    ) -> None:
        self.respond: Responder = respond or echo
        self.host = host
        self.name = name
        self.port = 0
        self.ready: bool | None = True
        self.refuse = False
        self.record = True
        self.exchanges: list[Exchange] = []
        self.connections: list[Connection] = []
        self.malformed: list[str] = []
        self.errors: list[BaseException] = []
        self.running = 0
        self._server: asyncio.Server | None = None
        self._place: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def traffic(self) -> list[Connection]:
        """The connections that carried anything but probes."""
        return [c for c in self.connections if not c.probe and c.received]

    def executions(self) -> Counter[str]:
        """How often each request id arrived here."""
        return Counter(exchange.id for exchange in self.exchanges)

    async def start(self) -> None:
        """Listen: on a free port the first time, on the same port ever after."""
        loop = asyncio.get_running_loop()
        if self._place is None:
            self._place = held(self.host, self.port)
            self.port = self._place.getsockname()[1]
        self._server = await loop.create_server(
            lambda: Connection(self), self.host, self.port, backlog=1024
        )

    def stop_listening(self) -> None:
        """Listen no more; the connections that are there live on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def stop_accepting(self) -> socket.socket:
        """Take no more connections while the port listens on; the listener, nobody's now."""
        assert self._server is not None
        listener = self._server.sockets[0].dup()
        self.stop_listening()
        return listener

    async def stop(self) -> None:
        """Listen no more and reset every connection, as a killed process does."""
        self.stop_listening()
        for connection in self.connections:
            if not connection.closed:
                connection.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def release(self) -> None:
        """Give the port back; there is no start after this."""
        if self._place is not None:
            self._place.close()

    def take(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        task = asyncio.get_running_loop().create_task(self._answer(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, exchange: Exchange) -> None:
        self.running += 1
        try:
            await self.respond(exchange)
        except Gone:
            pass
        except Exception as error:
            self.errors.append(error)
            exchange.close()
        finally:
            self.running -= 1

    def answer_probe(self, connection: Connection, target: bytes) -> None:
        if target == OPENAPI:
            connection.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif self.ready is not None:
            status = "200 OK" if self.ready else "503 Not Ready"
            connection.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode())


async def echo(exchange: Exchange) -> None:
    """Answers with what was received, as JSON."""
    await exchange.read()
    exchange.reply(200, described(exchange), [("Content-Type", "application/json")])


def described(exchange: Exchange) -> bytes:
    """What the origin saw of one request, for the client to compare."""
    return json.dumps(
        {
            "id": exchange.id,
            "instance": exchange.origin.name,
            "method": exchange.method,
            "target": exchange.target.decode("latin-1"),
            "length": exchange.length,
            "sha256": exchange.digest.hexdigest(),
        }
    ).encode()


def fixed(status: int = 200, body: bytes = b"ok", headers: Iterable = ()) -> Responder:
    """Always the same answer, once the body has been read."""

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        exchange.reply(status, body, headers)

    return respond


def after(seconds: float, then: Responder = echo) -> Responder:
    """`then`, but `seconds` after the request's body was read."""

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.sleep(seconds)
        await then(exchange)

    return respond


def raw(data: bytes, close: bool = True) -> Responder:
    """Exactly these bytes, whatever was asked."""

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        exchange.write(data)
        if close:
            exchange.close()

    return respond


async def hang(exchange: Exchange) -> None:
    """Never answers; ends when the gateway closes."""
    await exchange.gone.wait()


async def reset(exchange: Exchange) -> None:
    """Breaks the connection before any byte of an answer."""
    await exchange.read()
    exchange.reset()


def served(
    slots: int,
    service_s: float,
    *,
    spread: float = 0.0,
    report: bool = True,
    seed: int = 1,
    is_mixed: bool = False,
) -> Responder:
    """As an instance does: `slots` at once, the rest queue; answers carry the load report, and
    in X-Held-S how many seconds each held its slot.

    `spread` is the sigma of a lognormal factor of mean 1 on the service time (0: constant). Where
    the lengths are mixed, a tenth of the requests takes 5.5 times as long and the others half.
    """
    room = asyncio.Semaphore(slots)
    chance = random.Random(seed)
    waiting = running = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal waiting, running
        await exchange.read()
        waiting += 1
        try:
            await room.acquire()
        finally:
            waiting -= 1
        running += 1
        since = time.monotonic()
        try:
            factor = chance.lognormvariate(-spread * spread / 2, spread) if spread else 1.0
            if is_mixed:
                factor *= 5.5 if chance.random() < 0.1 else 0.5
            await exchange.sleep(service_s * factor)
        finally:
            running -= 1
            room.release()
        held = f"{time.monotonic() - since:.6f}"
        headers = [("Content-Type", "application/json"), ("X-Held-S", held)]
        if report:
            wait = 1000 * service_s * (waiting + 1) / slots if running >= slots else 0.0
            load = {"queue": waiting, "running": running, "slots": slots, "wait_ms": wait}
            value = "JSON " + json.dumps({"named_metrics": load})
            headers.append(("endpoint-load-metrics", value))
        exchange.reply(200, described(exchange), headers)

    return respond


def events(count: int, interval_s: float, size: int = 20) -> Responder:
    """Server-sent events, chunked; each carries its number and the moment it was written."""

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        exchange.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(count):
            data = f"data: {number} {time.monotonic():.6f} {'x' * size}\n\n".encode()
            exchange.write(b"%x\r\n%s\r\n" % (len(data), data))
            await exchange.sleep(interval_s)
        exchange.write(b"0\r\n\r\n")

    return respond


@asynccontextmanager
async def origins(
    count: int = 1,
    respond: Responder | None = None,
    each: Callable[[], Responder] | None = None,
) -> AsyncIterator[list[Origin]]:
    """`count` origins named o0, o1, …, with one responder or with one made for `each`."""
    async with AsyncExitStack() as stack:
        made = []
        for number in range(count):
            one = Origin(each() if each is not None else respond, f"o{number}")
            stack.callback(one.release)
            await one.start()
            stack.push_async_callback(one.stop)
            made.append(one)
        yield made


@asynccontextmanager
async def one_origin(respond: Responder | None = None) -> AsyncIterator[Origin]:
    async with origins(1, respond) as made:
        yield made[0]
