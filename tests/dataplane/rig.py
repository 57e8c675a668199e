"""A data plane in the test's own loop, with a scripted control process and instances."""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from gateway.controlplane.watch.counters import Totals
from gateway.controlplane.watch.tallies import Tally
from gateway.core.health import UNKNOWN
from gateway.core.options import DataplaneOptions
from gateway.core.table import Table
from gateway.dataplane.deadlines import TICK_S, Timed
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.listener import Client
from gateway.dataplane.plane import Plane
from gateway.telemetry.metrics import REQUEST, REQUESTS, RETRIES
from gateway.wire.channel import Channel
from tests.dataplane.clocks import StoppedClock

Script = Callable[["Conversation"], Awaitable[None]]


class Conversation:
    """One connection to a scripted instance: read requests, write what you like."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> tuple[bytes, bytes]:
        """The next request: head and body."""
        head = await self.head()
        lower = head.lower()
        if b"\r\ntransfer-encoding: chunked" in lower:
            body = b""
            while True:
                size = int((await self.reader.readuntil(b"\r\n")), 16)
                data = await self.reader.readexactly(size + 2)
                if not size:
                    return head, body
                body += data[:-2]
        length = 0
        for line in lower.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head, await self.reader.readexactly(length)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, body: bytes = b"ok", status: int = 200, extra: bytes = b"") -> None:
        self.write(
            b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), extra, body)
        )
        await self.writer.drain()

    def reset(self) -> None:
        """Ends with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()


async def echo(conversation: Conversation) -> None:
    """Answers every request with its own body."""
    while True:
        _, body = await conversation.request()
        await conversation.answer(body)


class StubInstance:
    """A scripted instance; `requests` are the heads it saw, by `Conversation.request`."""

    def __init__(self, script: Script, host: str = "127.0.0.1") -> None:
        self.script = script
        self.host = host
        self.connections = 0
        self.open = 0
        self.received: list[bytes] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._place = socket.socket()
        self.port = 0

    async def start(self, port: int = 0) -> "StubInstance":
        if not self.port:
            # Its place is its own when it does not listen, too: nobody else's stub answers there.
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._place.bind((self.host, port))
            self.port = self._place.getsockname()[1]
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, reuse_port=True
        )
        return self

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.script(Conversation(reader, writer, self.connections))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Stops for good, and leaves its place to others."""
        await self.stop()
        self._place.close()


class _Moment(Timed):
    def expired(self, now: float) -> None:
        """It was over long ago: the plane looks at once what else is due."""


class Rig:
    """A plane that listens on an ephemeral port, without any control process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, **options: Any) -> None:
        self.clock = clock
        loop = asyncio.get_running_loop()
        self.plane = Plane(DataplaneOptions(**options), loop, now=clock)
        self.exchange_of: type[Exchange] = Exchange
        self.port = 0
        self.revision = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> "Rig":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Client(self.plane, self.exchange_of), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def table(self, document: dict[str, Any], words: str = "up") -> None:
        """Serves `document`; every instance is said to be `words`."""
        self.revision += 1
        table = Table.from_document(document, self.revision)
        self.plane.swap(table)
        self.hear(
            {
                name: {instance.address: words for instance in backend.instances}
                for name, backend in table.backends.items()
            }
        )

    def hear(self, words: dict[str, dict[str, str]]) -> None:
        """The probes say `words`, whole; what requests met stays."""
        known = self.plane.live.states(self.plane.now())
        states = {
            name: {
                address: replace(known.get(name, {}).get(address, UNKNOWN), word=word)
                for address, word in words.get(name, {}).items()
            }
            for name in {*known, *words}
        }
        self.plane.live.hear(states, [])

    @property
    def seen(self) -> list[str]:
        """What requests met that is told to the others, but that all is well."""
        names = [name for _, _, _, name in self.plane.signals]
        return [name for name in names if name not in ("answered", "success")]

    def one(self, *stubs: StubInstance, route: Any = None, backend: Any = None) -> None:
        """The usual table: every path, one backend `b` of these instances."""
        self.table(
            {
                "backends": {"b": {"instances": [stub.url for stub in stubs], **(backend or {})}},
                "routes": {"r": {"match": "/", "split": {"b": 1}, **(route or {})}},
            }
        )

    def table_of(self, *stubs: StubInstance) -> Table:
        """The next table of `one`, which nobody serves yet."""
        self.revision += 1
        document = {
            "backends": {"b": {"instances": [stub.url for stub in stubs]}},
            "routes": {"r": {"match": "/", "split": {"b": 1}}},
        }
        return Table.from_document(document, self.revision)

    def later(self, seconds: float) -> None:
        """So long passes at once, and the moment by which a deadline may be late."""
        assert isinstance(self.clock, StoppedClock)
        self.clock.now += seconds + 1.5 * TICK_S
        self.plane.wheel.set(_Moment(), 0.0)

    async def connect(self) -> "Peer":
        return Peer(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, data: bytes) -> "Answer":
        """One request on a connection of its own."""
        peer = await self.connect()
        peer.write(data)
        answer = await peer.answer()
        peer.close()
        return answer

    async def final(self, data: bytes) -> "Answer":
        """The same, past what comes before its answer (1xx)."""
        peer = await self.connect()
        peer.write(data)
        answer = await peer.final()
        peer.close()
        return answer

    def series(self, metric: str) -> list[Tally]:
        """All series of `metric`, as the control process reads them."""
        self.plane.ledger.flush()
        totals = Totals(self.plane.counters.book.memory)
        totals.read()
        return list(totals.of(metric).values())

    def counted(self) -> Counter[Any]:
        """Requests counted, by method, code and reason."""
        return sum((Counter(tally.counts) for tally in self.series(REQUESTS)), Counter())

    @property
    def copies(self) -> int:
        """Mirrored requests under way."""
        return sum(len(each.copies) for each in self.plane.live.backends.values())

    def timed(self) -> int:
        """Requests whose time was counted."""
        return sum(tally.buckets.total() for tally in self.series(REQUEST))

    def retries(self) -> int:
        return sum(int(sum(tally.counts.values())) for tally in self.series(RETRIES))

    def count(self, reason: str | None = None) -> int:
        """Requests counted, of one reason or all."""
        return sum(
            count
            for (_, _, why), count in self.counted().items()
            if reason is None or why == reason
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for client in list(self.plane.clients):
            client.abort()
        for backend in self.plane.live.backends.values():
            for instance in backend.instances.values():
                for upstream in list(instance.pool.connections):
                    upstream.abort()
                for task in list(instance.pool.connecting):
                    task.cancel()
        await asyncio.sleep(0.01)


class Answer:
    """A response as it came: `whole` is false when the connection ended inside it."""

    def __init__(self, head: bytes, body: bytes, whole: bool) -> None:
        self.head = head
        self.body = body
        self.whole = whole
        self.interim: list[Answer] = []
        lines = head.split(b"\r\n")
        self.status = int(lines[0].split(b" ")[1]) if lines[0] else 0
        self.fields = [
            (name.lower().decode(), value.strip().decode("latin-1"))
            for name, _, value in (line.partition(b":") for line in lines[1:])
        ]

    def get(self, name: str) -> str | None:
        found = [value for key, value in self.fields if key == name.lower()]
        return found[0] if found else None

    @property
    def error(self) -> str | None:
        return self.get("x-headgate-error")


class Peer:
    """A raw client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, method: bytes = b"GET") -> Answer:
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n"))[:-4]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            return Answer(b"", getattr(error, "partial", b""), False)
        answer = Answer(head, b"", True)
        if method == b"HEAD" or answer.status in (101, 204, 304) or answer.status < 200:
            return answer
        try:
            answer.body = await self._body(answer)
        except asyncio.IncompleteReadError as error:
            answer.body += error.partial
            answer.whole = False
        except ConnectionError:
            answer.whole = False
        return answer

    async def final(self, method: bytes = b"GET") -> Answer:
        """The answer, which has those before it (1xx) as `interim`."""
        interim: list[Answer] = []
        while 100 <= (answer := await self.answer(method)).status < 200:
            if answer.status == 101:
                break
            interim.append(answer)
        answer.interim = interim
        return answer

    async def _body(self, answer: Answer) -> bytes:
        length = answer.get("content-length")
        if length is not None:
            return await self.reader.readexactly(int(length))
        if answer.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                data = await self.reader.readexactly(size + 2)
                if not size:
                    return body
                body += data[:-2]
                answer.body = body
        return await self.reader.read()

    async def at_end(self, timeout: float = 60.0) -> bytes:
        """Everything until the gateway ends the connection."""
        async with asyncio.timeout(timeout):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self.writer.close()


async def until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    """Waits until `condition` holds; fails when it does not in time."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


class ControlEnd(Channel[Any, Any]):
    """The control process's end of a channel, of which a test may leave unread what it likes."""

    __slots__ = ("transport",)

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.transport = cast(asyncio.Transport, writer.transport)


@contextlib.asynccontextmanager
async def control(path: Path) -> AsyncIterator["asyncio.Queue[ControlEnd]"]:
    """A control process that only accepts channels."""
    channels: asyncio.Queue[ControlEnd] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await channels.put(ControlEnd(reader, writer))

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield channels
    finally:
        server.close()
