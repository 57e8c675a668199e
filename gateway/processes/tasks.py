"""The only place where tasks are made: each has an owner, who learns of its end.

One that fails is told to its owner, who acts, or is begun again: none dies unseen. A test holds
that no other module makes tasks.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Work = Coroutine[Any, Any, T]
PAUSE_S = 1.0


def told(error: BaseException) -> str:
    """An exception in one line: its kind, and what it says where it says anything."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Tasks:
    """The tasks of one owner. `failed(name, error)` is called when one of them failed; one
    that returns has done its work, and one that was cancelled was not wanted any more."""

    def __init__(
        self, failed: Callable[[str, Exception], None], *, pause_s: float = PAUSE_S
    ) -> None:
        self._failed, self._pause_s = failed, pause_s
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, name: str, work: Work[T]) -> asyncio.Task[T]:
        """Runs `work` beside everything else."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def keep(self, name: str, work: Callable[[], Work[None]]) -> asyncio.Task[None]:
        """Runs what `work` gives, and again after a pause each time it failed."""
        return self.run(name, self._again(name, work))

    async def ended(self) -> None:
        """Returns when no task runs any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancels every task that still runs and waits for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(self, name: str, work: Callable[[], Work[None]]) -> None:
        while True:
            try:
                return await work()
            except Exception as error:
                self._failed(name, error)
            await asyncio.sleep(self._pause_s)

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failed(task.get_name(), error)


async def first_of(*works: Work[Any], timeout: float | None = None) -> None:
    """Returns when one of `works` is done, or after `timeout` seconds, and cancels the others.
    A failure is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for each in ended:
        if isinstance(each, Exception):
            raise each
