"""How does a child run while it is wanted, and not else?"""

import asyncio
from collections.abc import Callable

from gateway.processes.children import Child


class OnDemand:
    """One child that runs while it is wanted: `make` makes it, `run` keeps it."""

    def __init__(
        self, make: Callable[[], Child], run: Callable[[Child], asyncio.Task[None]]
    ) -> None:
        self._make, self._run = make, run
        self._child: Child | None = None
        self._running: dict[asyncio.Task[None], Child] = {}

    @property
    def pid(self) -> int | None:
        """The process id while one runs that is wanted."""
        return None if self._child is None else self._child.pid

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What keeps those that run or end."""
        return set(self._running)

    def want(self, is_wanted: bool) -> None:
        """Has one run from now on, or none."""
        if is_wanted and self._child is None:
            self._child = child = self._make()
            task = self._run(child)
            self._running[task] = child
            task.add_done_callback(self._running.pop)
        elif not is_wanted and self._child is not None:
            self._child.stop()
            self._child = None

    def abandon(self) -> None:
        """Ends all of them now."""
        self._child = None
        for child in self._running.values():
            child.abandon()
