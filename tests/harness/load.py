"""How does a test send many requests and keep honest records of them?

A small HTTP/1.1 client over asyncio protocols, and an open loop: requests start at their
intended moments whether or not earlier ones have been answered, and are timed from there, so
that a gateway that stalls cannot hide it. No error is raised for what a peer does: every
request ends as one `Reply`, and `error` says how it failed.
"""

import asyncio
import json as jsonlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import httptools

PATIENT_S = 30.0  # a process that is being replaced answers late where others are busy
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")


@dataclass(slots=True)
class Reply:
    """How one request ended; status 0 means that no final head came. Times are monotonic."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    error: str = ""
    id: str = ""
    intended: float = 0.0
    first_byte: float = 0.0
    done: float = 0.0
    informational: int = 0

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300 and not self.error

    @property
    def took_s(self) -> float:
        return self.done - self.intended

    def header(self, name: str) -> str:
        """The first value of header `name`, or "" where there is none."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), "")

    def json(self) -> Any:
        return jsonlib.loads(self.body)


@dataclass(slots=True)
class Ask:
    """What to send. The client goes away (abort) after `leave_after_s`, or once `leave_when` is
    set, if there is no answer yet."""

    method: str = "GET"
    path: str = "/"
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    id: str = ""
    leave_after_s: float | None = None
    leave_when: asyncio.Event | None = None


def get_each(number: int) -> Ask:
    """For a load: GET of a path of its own for each request."""
    return Ask(path=f"/{number}")


def post_each(number: int) -> Ask:
    """For a load: POST, which nobody may send twice, to a path of its own for each request."""
    return Ask("POST", f"/{number}", body=b"{}")


class _Connection(asyncio.Protocol):
    """One client connection with at most one request on it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.reply = Reply()
        self.waiter: asyncio.Future[None] | None = None
        self.head_only = False
        self.listener: Callable[[bytes], None] | None = None
        self.keep = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def begin(self, reply: Reply, head_only: bool, listener: Any) -> "asyncio.Future[None]":
        self.reply, self.head_only, self.listener = reply, head_only, listener
        self.parser = httptools.HttpResponseParser(self)
        self.waiter = asyncio.get_running_loop().create_future()
        self.chunks: list[bytes] = []
        self.framed = self.head_done = False
        return self.waiter

    def data_received(self, data: bytes) -> None:
        if self.waiter is None or self.waiter.done():
            self.close()  # an answer nobody asked for
            return
        if not self.reply.first_byte:
            self.reply.first_byte = time.monotonic()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.end("")
        except httptools.HttpParserError as error:
            self.end(f"malformed: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        text = name.decode("latin-1")
        self.framed = self.framed or text.lower() in ("content-length", "transfer-encoding")
        self.reply.headers.append((text, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200 and status != 101:
            self.reply.informational += 1
            self.reply.headers.clear()
            self.framed = False
            return
        self.reply.status, self.head_done = status, True
        if self.head_only:
            self.end("")

    def on_body(self, data: bytes) -> None:
        self.chunks.append(data)
        if self.listener is not None:
            self.listener(data)

    def on_message_complete(self) -> None:
        if self.head_done:
            self.end("")

    def end(self, error: str) -> None:
        if self.waiter is None or self.waiter.done():
            return
        self.reply.error, self.reply.done = error, time.monotonic()
        self.reply.body = b"".join(self.chunks)
        self.keep = not error and not self.head_only and self.parser.should_keep_alive()
        self.waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.waiter is None or self.waiter.done():
            return
        if self.head_done and not self.framed and exc is None:
            self.end("")
            self.keep = False
        else:
            kind = "reset" if exc else "closed"
            self.end(f"{kind}_mid_body" if self.head_done else kind)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Client:
    """Keep-alive connections per host and port; never more than one request on each."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[_Connection]] = {}

    async def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def get(self, url: str, timeout: float = PATIENT_S, **more: Any) -> Reply:
        return await self.request("GET", url, timeout=timeout, **more)

    async def post(
        self, url: str, body: bytes = b"{}", timeout: float = PATIENT_S, **more: Any
    ) -> Reply:
        return await self.request("POST", url, body=body, timeout=timeout, **more)

    async def json(
        self, method: str, url: str, body: Any, headers: Iterable = (), timeout: float = PATIENT_S
    ) -> Reply:
        raw = None if body is None else jsonlib.dumps(body).encode()
        fields = list(headers)
        if raw is not None:
            fields.append(("Content-Type", "application/json"))
        return await self.request(method, url, headers=fields, body=raw, timeout=timeout)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        timeout: float = PATIENT_S,
        intended: float | None = None,
        on_body: Callable[[bytes], None] | None = None,
        fresh: bool = False,
    ) -> Reply:
        """Send one request and return how it ended.

        An idempotent request on a reused connection that was closed before any byte of an
        answer is sent once more on a new one, as every browser does (RFC 9110 §9.2.2).
        """
        parts = urlsplit(url)
        key = (parts.hostname or "", parts.port or 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        message = _message(method, target, f"{key[0]}:{key[1]}", headers, body)
        reply = Reply(intended=time.monotonic() if intended is None else intended)
        for again in (True, False):
            connection, reused = await self._connect(key, reply, timeout, fresh or not again)
            if connection is None:
                return reply
            if connection.transport is None:  # closed as soon as it was there
                reply.error, reply.done = "closed", time.monotonic()
                return reply
            waiter = connection.begin(reply, method == "HEAD", on_body)
            connection.transport.write(message)
            await self._wait(connection, waiter, reply, timeout)
            stale = reused and reply.error in ("closed", "reset") and method in IDEMPOTENT
            if not (stale and again):
                break
            reply.error = ""
        if not reply.error and connection.keep and connection.transport is not None:
            self._idle.setdefault(key, []).append(connection)
        else:
            connection.close()
        return reply

    async def _connect(
        self, key: tuple[str, int], reply: Reply, timeout: float, fresh: bool
    ) -> tuple[_Connection | None, bool]:
        idle = self._idle.get(key, [])
        while idle and not fresh:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection, True
        try:
            _, made = await asyncio.wait_for(
                asyncio.get_running_loop().create_connection(_Connection, *key), timeout
            )
        except (OSError, TimeoutError) as error:
            reply.error, reply.done = f"connect: {type(error).__name__}", time.monotonic()
            return None, False
        return made, False

    async def _wait(
        self, connection: _Connection, waiter: "asyncio.Future[None]", reply: Reply, timeout: float
    ) -> None:
        try:
            await asyncio.wait_for(asyncio.shield(waiter), timeout)
        except TimeoutError:
            connection.end("timeout")
        except asyncio.CancelledError:
            connection.close()
            raise


def _message(
    method: str, target: str, host: str, headers: Iterable[tuple[str, str]], body: bytes | None
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    fields = list(headers)
    if not any(name.lower() == "host" for name, _ in fields):
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


async def ask(client: Client, url: str, what: Ask, intended: float, timeout: float) -> Reply:
    """Send `what` now; a client that leaves ends as error `left`."""
    leaves = what.leave_after_s is not None or what.leave_when is not None
    request = client.request(
        what.method, url + what.path, headers=what.headers, body=what.body,
        timeout=timeout, intended=intended, fresh=leaves,
    )  # fmt: skip
    if not leaves:
        reply = await request
    elif what.leave_when is not None:
        reply = await _unless(what.leave_when, request, intended)
    else:
        try:
            reply = await asyncio.wait_for(request, what.leave_after_s)
        except TimeoutError:
            reply = Reply(error="left", intended=intended, done=time.monotonic())
    reply.id = what.id
    return reply


async def _unless(left: asyncio.Event, request: Awaitable[Reply], intended: float) -> Reply:
    """How `request` ended, or that its client has left by then."""
    asking, leaving = asyncio.ensure_future(request), asyncio.create_task(left.wait())
    await asyncio.wait([asking, leaving], return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if asking.done():
        return asking.result()
    asking.cancel()
    await asyncio.wait([asking])
    return Reply(error="left", intended=intended, done=time.monotonic())


async def open_loop(
    url: str,
    rate: float,
    seconds: float,
    make: Callable[[int], Ask],
    *,
    poisson: bool = False,
    seed: int = 1,
    timeout: float = 10.0,
    client: Client | None = None,
    enough: asyncio.Event | None = None,
) -> list[Reply]:
    """Send `make(0)`, `make(1)`, … at `rate` per second for `seconds`; replies in that order.

    No more are sent once there were `enough`.
    """
    chance = random.Random(seed)
    own = client or Client()
    began, offset, tasks = time.monotonic(), 0.0, []
    while offset < seconds and not (enough is not None and enough.is_set()):
        delay = began + offset - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        what = make(len(tasks))
        tasks.append(asyncio.create_task(ask(own, url, what, began + offset, timeout)))
        offset += chance.expovariate(rate) if poisson else 1 / rate
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        if client is None:
            await own.close()


async def closed_loop(
    url: str, workers: int, count: int, make: Callable[[int], Ask], timeout: float = 10.0
) -> list[Reply]:
    """`count` requests by `workers` clients, each sending its next when the last is answered."""
    client, numbers, replies = Client(), iter(range(count)), []

    async def work() -> None:
        for number in numbers:
            reply = await ask(client, url, make(number), time.monotonic(), timeout)
            replies.append(reply)

    await asyncio.gather(*(work() for _ in range(workers)))
    await client.close()
    return replies


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile; 0 for no values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Timed(Protocol):
    """What was asked for, and how long it took."""

    @property
    def took_s(self) -> float: ...


def delayed(asked: Iterable[Timed], twins: Iterable[Timed], times: float) -> float:
    """The share of `asked` that took more than `times` the baseline and were alone with it.

    `twins` were asked elsewhere in the same moments, and their 99th percentile is the baseline:
    that one's own is at most `times` as long while the share is at most 0.01. Where a twin was as
    late, it was the machine; and below 5 ms it is the client that is measured.
    """
    pairs = [(one.took_s, twin.took_s) for one, twin in zip(asked, twins, strict=True)]
    baseline = max(0.005, percentile((twin for _, twin in pairs), 99))
    late = [one for one, twin in pairs if one - max(twin, baseline) > (times - 1) * baseline]
    return len(late) / len(pairs)


def failures(replies: Iterable[Reply]) -> list[str]:
    """What went wrong, one word per failed reply, for assertions that read well."""
    return [r.error or str(r.status) for r in replies if not r.ok]
