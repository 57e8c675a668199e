"""Time that a test stops, and time that the machine takes from it."""

import asyncio
import time


class StoppedClock:
    """A plane's time that stands still, however long the machine takes, until `Rig.later`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Standstill:
    """How long this process did nothing although something was due, in seconds: the machine's time,
    and nobody's that is measured here."""

    TICK_S, USUAL_S = 0.005, 0.01

    def __init__(self) -> None:
        self._sum_s = 0.0
        self._began = self._used = 0.0

    async def __aenter__(self) -> "Standstill":
        self._begin()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    @property
    def seconds(self) -> float:
        return self._sum_s + self._late_s()

    def _begin(self) -> None:
        self._began, self._used = time.monotonic(), time.thread_time()

    def _late_s(self) -> float:
        took_s = time.monotonic() - self._began - (time.thread_time() - self._used)
        late_s = took_s - self.TICK_S
        return late_s if late_s > self.USUAL_S else 0.0

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.TICK_S)
            self._sum_s += self._late_s()
            self._begin()
