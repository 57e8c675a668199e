"""A small real HTTP server that answers as models and gateways do, in a thread of its own.

`with ModelPlayer() as models:` listens on a port of its own choice. A test reads whom it was asked
by, and what was given up.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

PROBLEM = {
    "title": "The queue is full", "status": 503, "detail": "8 wait already", "code": "queue_full",
    "request_id": "abc",
}  # fmt: skip
OPENAI = {"error": {"message": "no such model", "type": "invalid_request_error",
                    "param": None, "code": "no_model"}}  # fmt: skip
FAULT = b'{"status":500,"code":"predict","detail":"it fell"}'
SSE, LINES = "text/event-stream", "application/x-ndjson"
STREAMS: dict[str, tuple[str, list[bytes]]] = {
    "lines": (LINES, [b'{"i":0}\n{"i"', b":1}\r\n", b'{"i":2}']),
    "events": (
        SSE,
        [
            b': hello\n\ndata: {"i":0}\n\nda',
            b'ta:{"i":\ndata: 1}\r\n\r\n',
            b"id: 7\ndata: words\n\n",
        ],
    ),
    "done": (SSE, [b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n"]),
    "json": ("application/json", [b"[1,", b"2]"]),
    "text": ("text/plain; charset=utf-8", [b"gr\xc3", b"\xbcn"]),
    "odd": ("text/plain; charset=hex", [b"gr\xc3", b"\xbcn"]),
    "bytes": ("application/octet-stream", [b"\x00\x01"]),
    "failed-event": (SSE, [b"data: 0\n\nevent: error\ndata: %b\n\n" % FAULT]),
    "failed-line": (LINES, [b'0\n{"error":%b}\n' % FAULT]),
    "failed-openai": (
        SSE,
        [b'data: 0\n\ndata: {"error":{"message":"it fell","code":"predict"}}\n\n'],
    ),
}


class ModelPlayer:
    """The server, and what it has seen."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[dict[str, str], bytes]] = []  # headers in small letters, body
        self.connections: set[Any] = set()
        self.open = 0
        self.under_way = 0
        self.most_at_once = 0
        self.given_up = 0
        self.answered: set[Any] = set()
        self.taken, self.fallen = threading.Event(), threading.Event()
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/{what}", self._counted)
        app.router.add_post("/v1/{what}", self._counted)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listening, ssl_context=self._tls).start()
        port = listening.getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{port}"
        self._started.set()
        await self._over.wait()
        # asyncio loses who is accepted in the moment in which a server is closed, and the
        # descriptor with it: nobody is, and after three steps who was is a connection that waits.
        self._loop.remove_reader(listening)
        for _ in range(3):
            await asyncio.sleep(0)
        await runner.cleanup()

    async def _counted(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport.get_extra_info("peername"))
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert len(headers) == len(request.headers), "a header twice"
        self.asked.append((headers, body))
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            what: Callable[[web.Request], Awaitable[web.StreamResponse]]
            what = getattr(self, request.match_info["what"].partition("-")[0])
            return await what(request)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.under_way -= 1

    # -- what is at /NAME, or /NAME-… ------------------------------------------------------------

    async def echo(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read(), content_type=request.content_type)

    async def empty(self, request: web.Request) -> web.StreamResponse:
        return web.Response(content_type="application/json")

    async def hang(self, request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def full(self, request: web.Request) -> web.StreamResponse:
        kind = "application/problem+json"
        return web.json_response(
            PROBLEM, status=503, headers={"Retry-After": "3"}, content_type=kind
        )

    async def late(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"code": "deadline", "detail": "the deadline passed"}, status=504)

    async def openai(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(OPENAI, status=404, headers={"X-Request-Id": "def"})

    async def page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>", status=502, content_type="text/html")

    async def moved(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "/echo"})

    async def unlike(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"{", content_type="application/json")

    async def four(self, request: web.Request) -> web.StreamResponse:
        """Answers when 4 are under way, and those that were."""
        number = await request.json()
        self.answered.add(number)
        while not self.answered.issuperset(range(number // 4 * 4, number // 4 * 4 + 4)):
            await asyncio.sleep(0.001)
        return web.json_response(number)

    async def backwards(self, request: web.Request) -> web.StreamResponse:
        """Answers 3 first, then 2, 1, 0."""
        number = await request.json()
        while number < 3 and number + 1 not in self.answered:
            await asyncio.sleep(0.001)
        self.answered.add(number)
        return web.json_response(number)

    async def second(self, request: web.Request) -> web.StreamResponse:
        """Refuses 2 once 4 are under way; the others hang."""
        if await request.json() != 2:
            return await self.hang(request)
        while self.under_way < 4:
            await asyncio.sleep(0.001)
        return await self.full(request)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        kind, pieces = STREAMS[request.match_info["what"].partition("-")[2]]
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.001)  # mostly a piece of its own at the other end, too
        return response

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(b"0\n")
        return await self.hang(request)

    async def broken(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(b"0\n")
        assert request.transport is not None
        request.transport.close()
        return response

    async def falls(self, request: web.Request) -> web.StreamResponse:
        """One event; once that was `taken` another one, why there are no more, and a break."""
        response = web.StreamResponse(headers={"Content-Type": SSE})
        await response.prepare(request)
        await response.write(b"data: 0\n\n")
        await asyncio.to_thread(self.taken.wait)
        await response.write(b"data: 1\n\nevent: error\ndata: %b\n\n" % FAULT)
        assert request.transport is not None
        request.transport.close()
        asyncio.get_running_loop().call_soon(self.fallen.set)  # the socket is closed by then
        return response
