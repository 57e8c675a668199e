"""What is an address that takes no connection, and says so to nobody?"""

import socket


class BlackHole:
    """A listener with a full backlog: the kernel drops every further SYN."""

    def __init__(self, port: int = 0, listener: socket.socket | None = None) -> None:
        """On `port`, or in place of whoever accepted from `listener`."""
        if listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
        self.listener = listener
        self.listener.listen(0)
        self.port: int = self.listener.getsockname()[1]
        self.fill = [self._connect(self.port) for _ in range(4)]

    def _connect(self, port: int) -> socket.socket:
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        return one

    def close(self) -> None:
        for one in (*self.fill, self.listener):
            one.close()
