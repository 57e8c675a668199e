"""Whether a client still takes what it is sent.

Slow is not gone: what counts is whether any byte has moved, down to those that the system has
accepted and the client's end has not.
"""

import asyncio
import fcntl
import struct
import sys
import termios

_INT = struct.Struct("i")


class Taking:
    """What one client has taken; `put` counts the bytes written for it so far."""

    __slots__ = ("_since", "_taken", "put")

    def __init__(self) -> None:
        self.put = 0
        self._taken = -1
        self._since = 0.0

    def idle_s(self, transport: asyncio.Transport, now: float) -> float:
        """Seconds for which nothing has moved, as far as earlier calls could tell; 0 when
        nothing waits here for the client."""
        waiting = transport.get_write_buffer_size()
        if not waiting:
            self._taken = -1
            return 0.0
        taken = self.put - waiting - _in_the_system(transport)
        if taken != self._taken:
            self._taken, self._since = taken, now
        return now - self._since


def _in_the_system(transport: asyncio.Transport) -> int:
    """Bytes that were handed to the system and that the client's end has not acknowledged;
    where it does not tell, what it has accepted counts as taken."""
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _INT.pack(0))
    except OSError:
        return 0
    return int(_INT.unpack(answer)[0])
