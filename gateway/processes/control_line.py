"""How does the supervisor talk to the control process, and how does it see that one hangs?

By a *line* to each that is started (`gateway.wire.line`): the one before it is closed.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from gateway.processes import outlet
from gateway.processes.tasks import Tasks, told
from gateway.wire.channel import Channel
from gateway.wire.line import FromControl, ToControl

STEPS = 20  # in which a silence is counted

Line = Channel[ToControl, FromControl]


class ControlLine:
    """The line, closed until there is a control process. `hear` gets its messages and `opened` is
    called before the first; `replace(why)` ends one that hangs or cannot be understood. One that
    said something and then nothing for `silence_s` hangs."""

    def __init__(
        self,
        own: Tasks,
        *,
        opened: Callable[[], None],
        hear: Callable[[FromControl], None],
        replace: Callable[[str], None],
        silence_s: float,
    ) -> None:
        self._own, self._opened, self._hear = own, opened, hear
        self._replace, self._silence_s = replace, silence_s
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._told_dropped = 0

    @property
    def is_open(self) -> bool:
        return self._line is not None

    def take_up(self, ours: socket.socket) -> None:
        """Begins to listen to the control process that was just started, whose line is `ours`."""
        if self._task is not None:
            self._task.cancel()
        self._line = None
        self._told_dropped = 0
        self._task = self._own.run("the line to control", self._listen(ours))

    def tell(self, message: ToControl) -> None:
        """Sends `message`, and waits for nobody; lost while there is no control process."""
        if self._line is not None:
            self._line.send_soon(message)

    def tell_dropped(self) -> None:
        """Says how many lines of this process nobody read, if that is news."""
        lines = outlet.dropped()
        if lines != self._told_dropped and self._line is not None:
            self._told_dropped = lines
            self._line.send_soon({"type": "dropped", "lines": lines})

    async def _listen(self, ours: socket.socket) -> None:
        line: Line
        self._line = line = Channel(*await asyncio.open_connection(sock=ours))
        self._opened()
        # How long a start may take nobody can say; afterwards silence means something.
        within_s: float | None = None
        try:
            while (message := await self._next(line, within_s)) is not None:
                within_s = self._silence_s
                self._hear(message)
        except Exception as error:
            self._replace(f"cannot be understood ({told(error)})")
        finally:
            line.close()
            if self._line is line:
                self._line = None

    async def _next(self, line: Line, within_s: float | None) -> FromControl | None:
        """The next message; ends a control process that hangs."""
        receiving = self._own.run("the next message of control", _received(line))
        try:
            if not await _is_done(receiving, within_s):
                self._replace("does not answer")
                return None
            if isinstance(received := receiving.result(), Exception):
                raise received
            return received
        finally:
            receiving.cancel()


async def _received(line: Line) -> FromControl | Exception | None:
    """The next message, or why there is none: a fault of the other end, which is no task's."""
    try:
        return await line.receive()
    except Exception as error:
        return error


async def _is_done(task: asyncio.Task[Any], within_s: float | None) -> bool:
    """Whether `task` is done after at most so long, not counted while this whole process did not
    run (Ctrl-Z, a container that was paused): what was said meanwhile is heard first."""
    step_s = None if within_s is None else within_s / STEPS
    left = STEPS
    while left:
        began = time.monotonic()
        await asyncio.wait({task}, timeout=step_s)
        if task.done():
            return True
        if step_s is not None and (left > 1 or time.monotonic() - began < 2 * step_s):
            left -= 1
    return False
