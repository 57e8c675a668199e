"""How do connections come in by TLS, when some never agree on it?

A connection is a client's once TLS is agreed on, and until then it holds a descriptor all the same.
There are few of these at once, each has its time, and where one more comes than there may be the
one that has taken longest goes: who opens connections and says nothing keeps nobody out.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from gateway.processes.sockets import BACKLOG
from gateway.processes.tasks import Tasks

MOST_AGREEING = 4096
AT_ONCE = 64  # accepted before others are attended to
BREATH_S = 0.05


class SecureListener:
    """Accepts on `bound` until `close`. `client` makes the protocol of a connection, `room` says
    how many more there may be, those that have not agreed on TLS counted out; `own` keeps
    the handshakes, each for `within_s` at most."""

    def __init__(
        self,
        bound: socket.socket,
        context: ssl.SSLContext,
        client: Callable[[], asyncio.Protocol],
        room: Callable[[], float],
        within_s: float,
        own: Tasks,
    ) -> None:
        self._bound, self._context, self._client = bound, context, client
        self._room, self._within_s, self._own = room, within_s, own
        self._agreeing: dict[socket.socket, None] = {}  # the first one for longest
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        bound.setblocking(False)
        bound.listen(BACKLOG)
        self._listen()

    @property
    def agreeing(self) -> int:
        """How many have yet to agree on TLS."""
        return len(self._agreeing)

    def close(self) -> None:
        """Accepts no more; who is agreeing goes on. Once more it does nothing."""
        if self._bound.fileno() < 0:
            return
        self._loop.remove_reader(self._bound)
        if self._pause is not None:
            self._pause.cancel()
        self._bound.close()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._bound, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                taken, _ = self._bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._out_of_room(error)
                return
            taken.setblocking(False)
            most = min(self._room(), MOST_AGREEING)
            if len(self._agreeing) >= most and not self._end_oldest(1):
                taken.close()
                continue
            self._agreeing[taken] = None
            self._own.run("agreeing on TLS", self._agree(taken))

    async def _agree(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._client, taken, ssl=self._context, ssl_handshake_timeout=self._within_s
            )
        except OSError:  # what does not speak TLS as we do, or is too slow
            taken.close()
        finally:
            self._agreeing.pop(taken, None)

    def _end_oldest(self, count: int) -> int:
        """Ends up to `count` connections that have taken longest; how many."""
        oldest = list(self._agreeing)[:count]
        for taken in oldest:
            del self._agreeing[taken]
            with suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)
        return len(oldest)

    def _out_of_room(self, error: OSError) -> None:
        """Nothing can be accepted just now: what is not a client's yet is given up first."""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            self._end_oldest(AT_ONCE)
        self._loop.remove_reader(self._bound)
        self._pause = self._loop.call_later(BREATH_S, self._listen)
