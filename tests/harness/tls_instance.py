"""An instance behind TLS: it says what it was asked, streams, and takes WebSockets."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import WSMsgType, web

Files = tuple[Path, Path]
GATEWAYS = ("/health", "/openapi.json")  # what a gateway asks for itself, whenever it likes


def server_context(files: Files, client_ca: Path | None = None) -> ssl.SSLContext:
    """What an instance listens with; with `client_ca` only who has a certificate of it comes in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


class TlsInstance:
    """`asked` are path and header fields of each request that came, probes too."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.context = context
        self.port = 0
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def values(self, name: str, path: str = "") -> list[str]:
        """The values of one header in all requests for `path`, or in all that are a client's."""
        return [
            value
            for asked, fields in self.asked
            if (asked == path if path else not asked.startswith(GATEWAYS))
            for key, value in fields
            if key.lower() == name.lower()
        ]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, list(request.headers.items())))
        if request.path == "/ws":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    await socket.send_str(message.data[::-1])
            return socket
        if request.path == "/stream":
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            for number in range(3):
                await stream.write(b"data: %d\n\n" % number)
            await stream.write_eof()
            return stream
        return web.Response(body=await request.read() or b"ok")


@asynccontextmanager
async def tls_instance(context: ssl.SSLContext | None) -> AsyncIterator[TlsInstance]:
    """One that listens on a free port; without a context by plain HTTP."""
    made = TlsInstance(context)
    app = web.Application(client_max_size=16 << 20)
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()
