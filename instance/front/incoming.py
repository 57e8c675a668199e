"""A request as it comes, and what its connection and who answers it are to each other.

`Incoming` is plain state: a connection fills it, a `Surface` says what it means, a `Client` takes
the answer. Neither side imports the other.
"""

import asyncio
from abc import abstractmethod
from typing import Any, Protocol
from urllib.parse import unquote

from instance.core.errors import Problem
from instance.front.answers import Buffer
from instance.wire.arena import Room
from instance.wire.frames import Body


class Client:
    """Who a request came from; `transport` is None once it has left."""

    transport: asyncio.Transport | None

    @abstractmethod
    def reply(self, incoming: "Incoming", data: bytes, body: Body = b"") -> None:
        """Writes a whole answer: its head, or head and body in one, and a large body."""

    @abstractmethod
    def write(self, data: Buffer) -> None:
        """Writes a part of a stream; ConnectionResetError when the client has left."""

    @abstractmethod
    async def drain(self) -> None:
        """Waits while the client is behind with reading."""

    @abstractmethod
    def finish(self, incoming: "Incoming", close: bool = False) -> None:
        """The answer to `incoming` is written: what comes next?"""

    @abstractmethod
    def break_off(self, reset: bool) -> None:
        """Closes within an answer. Where only the end of the connection ends an answer, a
        `reset` tells that it is not whole."""

    @abstractmethod
    def reset_at_end(self, resets: bool) -> None:
        """Whether its connection is reset when it ends, whoever ends it and be it the end of this
        process: so a client sees that an answer which nothing else ends is not whole."""

    @abstractmethod
    def sweep(self, now: float) -> None:
        """Closes what has been idle, or slow to send, for too long."""

    @abstractmethod
    def close_if_idle(self) -> None:
        """Closes it unless a request comes or is answered."""


class Incoming:
    """One request as it comes. What it becomes is set by the surface: `arrived` when it is whole,
    `question` while it is asked whether it may come in, `unpacked` if its body was compressed,
    `job` while its model is asked; `extra` is header lines that its answer gets besides,
    `ready` an answer that needs no model."""

    __slots__ = (
        "arrived", "body", "connection", "extra", "headers", "job", "keep_alive", "method",
        "parts", "question", "ready", "size", "target", "unpacked", "version",
    )  # fmt: skip

    def __init__(self, connection: Client) -> None:
        self.connection = connection
        self.method = ""
        self.target = b""
        self.version = "1.1"
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = True
        self.body: bytes | Room = b""
        self.parts: list[bytes] = []
        self.size = 0
        self.arrived = 0.0
        self.extra = b""
        self.question: Any = None
        self.ready: tuple[int, str, bytes, bytes] | None = None
        self.unpacked: asyncio.Future[list[bytes]] | asyncio.Future[Room] | None = None
        self.job: Any = None

    @property
    def path(self) -> str:
        """What is asked for: the target without its query, and as it reads with no `%` in it."""
        path = self.target.partition(b"?")[0].decode("latin-1")
        return unquote(path) if "%" in path else path

    def header(self, name: bytes) -> str | None:
        """The value of the header called `name`, in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Surface(Protocol):
    """What a connection asks of whoever knows what requests mean."""

    def begin(self, incoming: Incoming) -> Problem | None:
        """The head is there: why it is refused, or None."""

    def handle(self, incoming: Incoming) -> None:
        """The body is there too; answers now or later."""

    def leave(self, incoming: Incoming) -> None:
        """The client left before it had its answer."""

    def refuse(self, incoming: Incoming, problem: Problem) -> None:
        """Answers with an error, and closes."""
