"""How do connections come in, when some never agree on TLS, and what if there is no room for one?

A connection by TLS is a client's once that is agreed on, and until then it holds a descriptor all
the same. There are few of these at once, each has its time, and where one more comes than there may
be the one that has taken longest goes: who opens connections and says nothing keeps nobody out.
What is spoken on a connection is not decided here.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress

from gateway.processes.certificates import ON_FAULT, Certificate
from gateway.processes.handshakes import reason_of
from gateway.processes.tasks import Tasks

BREATH_S = 0.05  # between two looks for room


class Acceptor:
    """Accepts on `bound`, which listens, from `begin` to `close`.

    `make` gives the protocol of a connection. With a `certificate` TLS is agreed on first, by what
    it is at that moment, each within `within_s`, and by no more than `most()` at a time. `own`
    keeps what is under way, and `failed` is told of each that does not come to an agreement: why,
    and the client's address. No more than `at_once` are accepted before others are attended to, and
    where no descriptor is left `give_up` frees what it can.
    """

    def __init__(
        self,
        bound: socket.socket,
        make: Callable[[], asyncio.Protocol],
        own: Tasks,
        *,
        at_once: int,
        certificate: Certificate | None = None,
        within_s: float | None = None,
        most: Callable[[], float] = lambda: 0,
        give_up: Callable[[], None] = lambda: None,
        failed: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self._bound, self._make, self._own = bound, make, own
        self._at_once, self._give_up, self._failed = at_once, give_up, failed
        self._certificate, self._most = certificate, most
        self._within_s = None if certificate is None else within_s
        self._agreeing: dict[socket.socket, None] = {}  # on TLS, the first one for longest
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def agreeing(self) -> int:
        """How many have yet to agree on TLS."""
        return len(self._agreeing)

    def begin(self) -> None:
        """Accepts from now on."""
        self._bound.setblocking(False)
        self._listen()

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
        for _ in range(self._at_once):
            try:
                taken, _ = self._bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._out_of_room(error)
                return
            taken.setblocking(False)
            if self._certificate is not None:
                if len(self._agreeing) >= self._most() and not self._end_oldest(1):
                    taken.close()
                    continue
                self._agreeing[taken] = None
            self._own.run("accepting a connection", self._take(taken))

    async def _take(self, taken: socket.socket) -> None:
        context, peer = None, ""
        if self._certificate is not None:
            context, peer = self._certificate.context, _address(taken)
            ON_FAULT.set(lambda fault: self._failed(reason_of(fault), peer))
        try:
            await self._loop.connect_accepted_socket(
                self._make, taken, ssl=context, ssl_handshake_timeout=self._within_s
            )
        except ConnectionAbortedError:  # as the loop calls it: it takes too long
            self._failed("timeout", peer)
            taken.close()
        except OSError:  # gone already, or speaks TLS otherwise than we do
            taken.close()
        finally:
            self._agreeing.pop(taken, None)

    def _end_oldest(self, count: int) -> int:
        """Ends up to `count` connections that have taken longest to agree; how many."""
        oldest = list(self._agreeing)[:count]
        for taken in oldest:
            del self._agreeing[taken]
            with suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)
        return len(oldest)

    def _out_of_room(self, error: OSError) -> None:
        """Nothing can be accepted just now: what is nobody's yet is given up first."""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            self._give_up()
            self._end_oldest(self._at_once)
        self._loop.remove_reader(self._bound)
        self._pause = self._loop.call_later(BREATH_S, self._listen)


def _address(taken: socket.socket) -> str:
    """Whose connection it is, for people."""
    try:
        name = taken.getpeername()
    except OSError:  # it has left
        return "a client that has left"
    return name[0].removeprefix("::ffff:") if isinstance(name, tuple) else "unix"
