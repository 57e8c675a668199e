"""A request while it waits for, and gets, its answer.

A `Job` belongs to the HTTP process: it is queued, taken into a batch, and resolved with a
reply. A streaming job is resolved when its head is known and then has `Parts`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from instance.core.errors import Problem
from instance.wire.frames import Body, Buffer
from instance.wire.replies import Answer, Reply


class Parts:
    """What has come of a stream and has not been sent on yet."""

    __slots__ = ("_queue", "_waiter", "content_type", "ended", "problem", "size")

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        self.ended = False
        self.problem: Problem | None = None
        self.size = 0  # bytes that wait here
        self._queue: deque[Buffer] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def add(self, part: Buffer) -> None:
        self._queue.append(part)
        self.size += len(part)
        self._wake()

    def end(self, problem: Problem | None) -> None:
        if not self.ended:
            self.ended, self.problem = True, problem
            self._wake()

    async def take(self) -> list[Buffer]:
        """All that is there, at least one part; empty when the stream has ended."""
        while not self._queue:
            if self.ended:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        parts = list(self._queue)
        self._queue.clear()
        self.size = 0
        return parts

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None


class Job:
    """One request; `on_reply` is called once, with the reply or, when a stream has begun, with
    its `Parts`. None when nobody waits any more. It is begun by its `deadline` or not at all;
    its client waits `until` then."""

    __slots__ = (
        "arrived", "batch", "body", "content_type", "deadline", "id", "meta", "on_reply", "parts",
        "request_id", "size", "sse", "taken", "until", "worker",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        arrived: float,
        body: Body,
        content_type: str,
        on_reply: Callable[[Answer | Problem | Parts], None],
        deadline: float = inf,
        sse: bool = False,
        meta: tuple[str, str, str, list[tuple[str, str]]] | None = None,
        request_id: str = "",
        until: float = inf,
    ) -> None:
        self.id = id
        self.request_id = request_id  # as its client knows it
        self.arrived = arrived
        self.deadline = deadline
        self.until = until
        self.body = body
        self.size = len(body)
        self.content_type = content_type
        self.sse = sse
        self.meta = meta
        self.on_reply: Callable[[Answer | Problem | Parts], None] | None = on_reply
        self.parts: Parts | None = None
        self.taken = 0.0
        self.batch = 0  # how many were taken together
        self.worker: Any = None

    def resolve(self, reply: Reply) -> None:
        """The reply, unless there is one or nobody waits; ends a stream that has begun."""
        if self.parts is not None:
            self.parts.end(reply if isinstance(reply, Problem) else None)
        else:
            self._tell(reply)

    def begin(self, content_type: str) -> None:
        """The head of a stream is known."""
        self.parts = Parts(content_type)
        self._tell(self.parts)

    def _tell(self, reply: Answer | Problem | Parts) -> None:
        on_reply, self.on_reply = self.on_reply, None
        if on_reply is not None:
            on_reply(reply)
