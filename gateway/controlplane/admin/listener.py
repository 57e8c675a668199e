"""The admin listener: bounds on its connections, and a plain answer to bytes that are no request.

A connection that has shown no token is a stranger's: there are few of them at once, they are
soon closed when nothing comes, and where one more comes than there may be, the oldest goes.
Strangers can thus neither use up the descriptors that edits and probes need nor keep the door
shut for somebody with a token, who is no stranger after the first request.

aiohttp shows bytes that are no HTTP request to the client and writes them to the log, with a
traceback each. They may hold a token or come in floods, so here they get one plain problem
and leave no trace. Requests that can be read go to the application and never come here.
"""

import asyncio
import logging
import resource
import secrets
import socket
import time
from typing import Any, cast

from aiohttp import web

from gateway.controlplane.admin.problems import Problem
from gateway.controlplane.admin.security import HEADERS
from gateway.processes.accepting import Acceptor
from gateway.processes.certificates import Certificate
from gateway.processes.console import say
from gateway.processes.handshakes import FailedHandshakes
from gateway.processes.tasks import Tasks, told

log = logging.getLogger(__name__)

STRANGER_S = 10.0
"""To send a first request, between two without a token, and to take an answer to one."""

MAX_STRANGERS = 256  # connections without a token, and
MAX_KNOWN = 4096  # with one; fewer where the process may have few descriptors
AT_ONCE = 32  # are accepted in one turn of the loop
KEEP_ALIVE_S = 75.0


class Door:
    """Counts who is connected. A part of the descriptors that there are is left to the rest of
    the process, whoever comes."""

    def __init__(self, descriptors: float) -> None:
        self.max_strangers = int(max(4, min(MAX_STRANGERS, descriptors // 4)))
        self._max_known = int(max(4, min(MAX_KNOWN, descriptors // 4)))
        self._strangers: dict[_Connection, None] = {}
        self._known: set[_Connection] = set()

    def enter(self, connection: "_Connection") -> None:
        """Takes in a new connection; the oldest stranger makes room for it."""
        self._strangers[connection] = None
        if len(self._strangers) > self.max_strangers:
            self.thin(1)

    def thin(self, count: int) -> None:
        """Ends the `count` strangers that have been here longest."""
        for connection in list(self._strangers)[:count]:
            self.leave(connection)
            connection.abort()

    def admit(self, connection: "_Connection") -> bool:
        """Whether `connection`, which has shown a token, may stay as long as it likes."""
        if connection in self._known:
            return True
        if connection not in self._strangers or len(self._known) >= self._max_known:
            return False
        del self._strangers[connection]
        self._known.add(connection)
        return True

    def leave(self, connection: "_Connection") -> None:
        self._strangers.pop(connection, None)
        self._known.discard(connection)


def note(request: web.Request) -> None:
    """Says that `request` came, whole."""
    if isinstance(request.protocol, _Connection):
        request.protocol.note_request()


def admit(request: web.Request) -> None:
    """Says that `request` came with what lets it in."""
    if isinstance(request.protocol, _Connection):
        request.protocol.admit()


class _Connection(web.RequestHandler):
    """One client connection that keeps what it could not read to itself."""

    __slots__ = ("_deadline", "_door", "_peer")

    def __init__(self, manager: web.Server, door: Door, **options: Any) -> None:
        super().__init__(manager, **options)
        self._door = door
        self._deadline: asyncio.TimerHandle | None = None
        self._peer: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._peer = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(STRANGER_S, self.abort)
        self._door.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def note_request(self) -> None:
        """A stranger who asked something has as long again for the answer and the next."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = asyncio.get_running_loop().call_later(STRANGER_S, self.abort)

    def admit(self) -> None:
        """Counts the connection among the known, and no more among strangers, if there is room."""
        if self._deadline is not None and self._door.admit(self):
            self._deadline.cancel()
            self._deadline = None

    def abort(self) -> None:
        """Ends the connection at once."""
        self._door.leave(self)
        if self._peer is not None:
            self._peer.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A plain answer to bytes that are no request: no echo of them, no trace in the log."""
        if status >= 500:
            log.error("a connection failed outside of any request: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        code = "bad_request" if status < 500 else "internal"
        response = Problem(code, "this is not a request that can be read").response(
            secrets.token_hex(8)
        )
        response.headers.update(HEADERS)
        response.force_close()
        return response


class AdminListener:
    """Serves `application` on `bound`, and accepts a few connections at a time: a flood of them
    must not take every descriptor before the first of them can be ended. No access log (edits are
    audited), and short farewells.

    With a `certificate` it is spoken to by TLS: who has not agreed on that yet is a stranger too.
    """

    def __init__(
        self,
        application: web.Application,
        bound: socket.socket,
        certificate: Certificate | None = None,
    ) -> None:
        self._runner, self._bound = web.AppRunner(application, shutdown_timeout=1.0), bound
        self._door = Door(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._certificate = certificate
        self._own = Tasks(lambda name, error: log.error(f"{name} failed: {told(error)}"))
        self._acceptor: Acceptor | None = None

    async def start(self) -> None:
        """Begins to accept."""
        await self._runner.setup()
        strangers = self._door.max_strangers
        self._acceptor = Acceptor(
            self._bound,
            self._connection,
            self._own,
            at_once=AT_ONCE,
            certificate=self._certificate,
            within_s=STRANGER_S,
            most=lambda: strangers,
            give_up=lambda: self._door.thin(strangers // 2),
            failed=FailedHandshakes("gateway.admin_tls", say, time.monotonic).note,
        )
        self._acceptor.begin()

    async def close(self) -> None:
        """Accepts no more, and returns when what was asked is answered."""
        if self._acceptor is not None:
            self._acceptor.close()
        await self._runner.cleanup()

    def _connection(self) -> "_Connection":
        server = self._runner.server
        assert server is not None
        return _Connection(
            server,
            self._door,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=1.0,
        )
