"""The event loop of the control process and of the workers: uvloop's, where TLS begins on a
connection that is there.

uvloop closes the socket below a TLS connection whose making is given up as its handshake ends, and
then writes the end of that handshake to it: a `RuntimeError` that nobody can catch, with its
traceback in the log, for each probe or request that was cancelled in that moment. `start_tls` gives
up the TLS connection itself, so a connection is made in two steps here.

Nor does uvloop read on once it could not write: what the other end had said before it left, an
answer to an upload that it read no further, would be thrown away. Below TLS nobody else can still
read it (`Upstream` does, where there is no TLS). This module changes nothing else of the loop.
"""

import asyncio
import contextlib
import os
import socket
import ssl as tls
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import uvloop

P = TypeVar("P", bound=asyncio.BaseProtocol)


class LostAtOnce(ConnectionResetError):
    """TLS was agreed on, and then the other end was gone before anything was said."""


REST: Final = 256 << 10
"""So many bytes are read at most of who cannot be written to; it may go on to send."""


class _Gathers(asyncio.Protocol):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        """More of it."""
        self.data += data


class _ReadsRest(asyncio.BufferedProtocol):
    """The protocol of `transport` that is below `tls`; it gets what came before a write failed.
    Who uses `tls` gets that once it is known to be closing: an answer lets the next request go."""

    def __init__(self, transport: asyncio.Transport, tls: asyncio.Transport) -> None:
        self._transport, self._tls = transport, tls
        self._below = below = cast(asyncio.BufferedProtocol, transport.get_protocol())
        for name in ("get_buffer", "buffer_updated", "eof_received"):  # as fast as they were
            setattr(self, name, getattr(below, name))

    def pause_writing(self) -> None:
        self._below.pause_writing()

    def resume_writing(self) -> None:
        self._below.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        above, rest = cast(asyncio.Protocol, self._tls.get_protocol()), _Gathers()
        try:
            if error is not None:
                self._tls.set_protocol(rest)
                with contextlib.suppress(OSError):
                    self._read()
        finally:
            self._tls.set_protocol(above)
            self._below.connection_lost(error)
        if rest.data:
            above.data_received(rest.data)

    def _read(self) -> None:
        self._tls.resume_reading()  # who paused waits for nobody any more
        fileno = os.dup(self._transport.get_extra_info("socket").fileno())
        left = REST
        with socket.socket(fileno=fileno) as s:
            while left > 0:
                size = s.recv_into(self._below.get_buffer(left), 0, socket.MSG_DONTWAIT)
                if not size:
                    break
                left -= size
                self._below.buffer_updated(size)


class EventLoop(uvloop.Loop):
    """uvloop's loop, on which giving up a connection while it is made leaves no trace."""

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], P],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: tls.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **more: Any,
    ) -> tuple[asyncio.Transport, P]:
        """A connection and its protocol, as asyncio's; LostAtOnce if it was lost as its handshake
        ended."""
        connect = cast(Callable[..., Any], super().create_connection)
        if not ssl:
            named = {"server_hostname": server_hostname} if server_hostname is not None else {}
            return cast(
                tuple[asyncio.Transport, P],
                await connect(protocol_factory, host, port, **named, **more),
            )
        if not (server_hostname or host):
            raise ValueError("TLS without a host needs a server_hostname")
        plain, meanwhile = await connect(asyncio.Protocol, host, port, **more)
        if plain.is_closing():
            raise ConnectionResetError("lost before its handshake")
        transport = await self.start_tls(
            plain,
            meanwhile,
            tls.create_default_context() if isinstance(ssl, bool) else ssl,
            server_hostname=server_hostname or host,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if transport.is_closing():
            raise LostAtOnce("lost as its handshake ended")
        plain.set_protocol(_ReadsRest(plain, cast(asyncio.Transport, transport)))
        protocol = protocol_factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return cast(asyncio.Transport, transport), protocol
