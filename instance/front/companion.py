"""A process beside the workers that holds no model: started, replaced when it ends, stopped.

What it is asked, and what it says, is its kind's business.
"""

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from instance.core.lifecycle import Backoff
from instance.front.process import WorkerProcess
from instance.settings import Settings
from instance.wire.frames import Body, Frame
from instance.wire.messages import Failed, Stop

log = logging.getLogger("instance")
GRACE_S = 2.0
Sent = TypeVar("Sent", bound=tuple[Any, ...])
Received = TypeVar("Received", bound=tuple[Any, ...])


class Companion(Generic[Sent, Received]):
    """One such process after another, as the HTTP process sees them."""

    MODULE: ClassVar[str]  # what it runs
    WHO: ClassVar[str]  # as the log calls it

    def __init__(self, settings: Settings, fail: Callable[[str, BaseException], None]) -> None:
        self.ready = False
        self.first: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._fail = fail
        self._process: WorkerProcess[Sent | Stop, Received | Failed] | None = None
        self._failure = ""
        self._stopping = False
        self._task = asyncio.get_running_loop().create_task(self._live())
        self._task.add_done_callback(self._over)

    @abstractmethod
    def on_message(self, message: Received) -> None:
        """What it says, but for why it will never be ready."""

    def become_ready(self) -> None:
        """Notes that the process can be spoken to from now on."""
        self.ready = True
        if not self.first.done():
            self.first.set_result(None)

    def on_end(self) -> None:
        """Hears that the process ended, with all that it was told and had not done yet."""

    def send(self, message: Sent, blobs: list[Body] | None = None) -> None:
        """Queues a message; lost where there is no process to take it."""
        if self._process is not None:
            self._process.send(message, blobs)

    def replace(self) -> None:
        """Ends it, for it gives no sign any more: another one takes its place."""
        log.error("%s gives no sign any more; replacing it", self.WHO)
        if self._process is not None:
            self._process.kill()

    async def stop(self, hurry: asyncio.Future[None]) -> None:
        """Ends it, at once if there is a `hurry`."""
        self._stopping, self.ready = True, False
        if self._process is not None:
            self._process.send(("stop",))
            either = [self._task, hurry]
            await asyncio.wait(either, timeout=GRACE_S, return_when=asyncio.FIRST_COMPLETED)
            self._process.kill()
        await asyncio.wait([self._task], timeout=GRACE_S)
        self._task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        """Nothing but a fault of ours ends it with an exception."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.ready = False
        if not self.first.done():
            self.first.set_result(f"a fault in headgate itself: {error!r}")
        self._fail(f"keeping {self.WHO} failed", error)

    async def _live(self) -> None:
        """Process after process, until told to stop; without the first there is no instance."""
        backoff = Backoff()
        while not self._stopping:
            self._process = WorkerProcess(self._on_frame, self.MODULE)
            since = time.monotonic()
            try:
                await self._process.start(self._settings, "auto", None)
                how = await self._process.gone()
            except OSError as error:  # the machine has no process or file left
                how = f"no process: {error}"
            self.ready = False
            if not self.first.done():
                self.first.set_result(self._failure or f"{self.WHO} ended with {how}")
                return
            self.on_end()
            if not self._stopping:
                log.error("%s ended (%s); starting again", self.WHO, how)
                backoff = backoff.failed(time.monotonic() - since)
                await asyncio.sleep(backoff.delay_s)

    def _on_frame(self, frame: Frame[Received | Failed]) -> None:
        message = frame[0]
        if message[0] == "failed":
            self._failure = message[1]
        else:
            self.on_message(message)  # type: ignore[arg-type]  # all that it may be else
