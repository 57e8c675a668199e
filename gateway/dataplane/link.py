"""How does a worker follow the control process, and what does it tell it?

The worker's end of the channel. It takes tables, health, names and settings down and sends
observations up, at most a few times a second. When the channel ends it is opened again and
again; meanwhile the worker serves on with what it knows. Nothing here touches a request.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from gateway.channel import Channel
from gateway.core.balancing import FADE_S
from gateway.core.table import Table
from gateway.dataplane.context import Plane
from gateway.dataplane.instance import REPORT, LiveInstance

log = logging.getLogger(__name__)
REPORT_S = 0.25
NEWS_S = 0.02


class Link:
    """One worker's channel, for as long as the worker lives.

    `made` gets the settings of the first `configure` and gives the plane; `ready` is called
    after the first table. `relieved` is set when the worker, once told to go, need accept
    connections no more.
    """

    def __init__(
        self,
        path: str,
        slot: int,
        made: Callable[[dict[str, Any]], Plane],
        ready: Callable[[], None],
        retry_s: tuple[float, float],
    ) -> None:
        self._path = path
        self._slot = slot
        self._made = made
        self._ready = ready
        self._retry_s = retry_s
        self._is_listening = self._is_leaving = False
        self.relieved = asyncio.Event()
        self._channel: Channel | None = None
        self._plane: Plane | None = None
        self._told: dict[str, dict[str, int]] = {}
        self._news: asyncio.TimerHandle | None = None

    async def follow(self) -> None:
        """Follows the control process until cancelled."""
        least, most = self._retry_s
        pause = least
        while True:
            try:
                channel = await Channel.open(self._path)
            except OSError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, most)
                continue
            pause = least
            try:
                await self._converse(channel)
            finally:
                self._channel = None
                channel.close()
            await asyncio.sleep(pause)

    async def _converse(self, channel: Channel) -> None:
        revision = self._plane.snapshot.revision if self._plane is not None else 0
        await channel.send(
            {
                "type": "hello",
                "slot": self._slot,
                "pid": os.getpid(),
                "revision": revision,
                "listening": self._is_listening,
                "leaving": self._is_leaving,
            }
        )
        self._channel = channel
        self._told = {}
        reporter = asyncio.create_task(self._report())
        try:
            while (message := await channel.receive()) is not None:
                self._take(message)
        finally:
            reporter.cancel()

    def _take(self, message: dict[str, Any]) -> None:
        """Acts on one message. A fault in one is told, and ends nothing."""
        kind = message.get("type")
        if kind == "configure":
            if self._plane is None:
                self._plane = self._made(message["settings"])
                self._plane.notify = self._soon
            return
        plane = self._plane
        if plane is None:
            log.warning("message before configure", extra={"facts": {"type": str(kind)}})
            return
        try:
            self._apply(plane, str(kind), message)
        except (KeyError, TypeError, ValueError) as error:
            log.error("unusable message", extra={"facts": {"type": kind, "detail": str(error)}})
            if kind == "table":
                self.send(
                    {"type": "applied", "revision": plane.snapshot.revision, "error": str(error)}
                )

    def _apply(self, plane: Plane, kind: str, message: dict[str, Any]) -> None:
        if kind == "table":
            table = Table.from_document(message["document"], message["revision"])
            plane.swap(table, message.get("endpoints"))
            self.send({"type": "applied", "revision": table.revision})
            self._ready()
        elif kind == "endpoints":
            plane.instances.resolve(message["endpoints"])
        elif kind == "health":
            plane.instances.hear(message["instances"])
        elif kind == "loads":
            self._loads(plane, message["in_flight"])
        elif kind == "ejections":
            self._ejections(plane, message["ejections"])
        elif kind == "failures":
            self._failures(plane, message["failures"])
        elif kind == "scrape":
            self.send(metrics(plane, message["id"]))
        elif kind == "documents":
            plane.documents = {
                path.encode(): (kind_of.encode(), body.encode())
                for path, (kind_of, body) in message["documents"].items()
            }
        elif kind == "relieved":
            self.relieved.set()

    def _loads(self, plane: Plane, in_flight: dict[str, dict[str, int]]) -> None:
        for name, backend in plane.instances.backends.items():
            known = in_flight.get(name, {})
            for address, instance in backend.instances.items():
                instance.load.others = known.get(address, 0)
            if backend.waiting:
                plane.soon(backend)

    def _ejections(self, plane: Plane, ejections: list[tuple[str, str, float, int]]) -> None:
        now = plane.now()
        for name, address, seconds, times in ejections:
            backend = plane.instances.backends.get(name)
            instance = backend.instances.get(address) if backend is not None else None
            if instance is not None:
                instance.follow_ejection(seconds, times, now)

    def _failures(self, plane: Plane, failures: list[tuple[str, str, int, bool]]) -> None:
        now = plane.now()
        for name, address, count, after_success in failures:
            backend = plane.instances.backends.get(name)
            instance = backend.instances.get(address) if backend is not None else None
            if instance is not None:
                instance.load.heard(now, count, after_success)

    # up

    @property
    def is_open(self) -> bool:
        """Whether the control process is there now."""
        return self._channel is not None

    def listening(self) -> None:
        """Connections are accepted from now on."""
        self._is_listening = True
        self.send({"type": "listening"})

    def leaving(self) -> None:
        """The worker was told to go."""
        self._is_leaving = True
        self.send({"type": "leaving"})

    async def last_words(self) -> None:
        """Sends what was counted since the last scrape: what is not told now is lost."""
        if self._channel is not None and self._plane is not None:
            try:
                await self._channel.send_last(metrics(self._plane, 0))
            except ConnectionError:
                return

    def send(self, message: Any) -> None:
        if self._channel is not None:
            self._channel.send_soon(message)

    def _soon(self) -> None:
        """There is news: it goes up shortly, together with what comes meanwhile."""
        if self._news is None:
            self._news = asyncio.get_running_loop().call_later(NEWS_S, self._tell)

    def _tell(self) -> None:
        self._news = None
        plane = self._plane
        if plane is None:
            return
        if plane.signals:
            signals, plane.signals = plane.signals, []
            self.send({"type": "signals", "signals": signals})
        if plane.ejected_news:
            ejections, plane.ejected_news = plane.ejected_news, []
            self.send({"type": "ejections", "ejections": ejections})
        if plane.failures_news:
            news, plane.failures_news = plane.failures_news, {}
            failures = [[*key, count, after] for key, (count, after) in news.items()]
            self.send({"type": "failures", "failures": failures})

    async def _report(self) -> None:
        """In-flight counts, when they changed."""
        while True:
            await asyncio.sleep(REPORT_S)
            plane = self._plane
            if plane is None:
                continue
            loads = {
                name: counts
                for name, backend in plane.instances.backends.items()
                if (
                    counts := {
                        address: instance.load.in_flight
                        for address, instance in backend.instances.items()
                        if instance.load.in_flight
                    }
                )
            }
            if loads != self._told:
                self._told = loads
                self.send({"type": "loads", "in_flight": loads})


def report(instance: LiveInstance, now: float) -> dict[str, float] | None:
    """What `instance` last said of its load; None once that is too old to be believed."""
    if now - instance.load.reported_at > FADE_S:
        return None
    return dict(zip(REPORT, instance.report, strict=False)) or None


def metrics(plane: Plane, ident: int) -> dict[str, Any]:
    """The answer to a scrape: gateway.messages.Metrics."""
    plane.ledger.settle()
    now = plane.now()
    backends = plane.instances.backends
    gauges = [
        ([name, address], instance.load.in_flight)
        for name, backend in backends.items()
        for address, instance in backend.instances.items()
    ]
    live = {
        name: {
            address: {
                "in_flight": instance.load.in_flight,
                "report": report(instance, now),
                "ejected_s": max(0.0, instance.ejection.until - now),
            }
            for address, instance in backend.instances.items()
        }
        for name, backend in backends.items()
    }
    return {
        "type": "metrics",
        "id": ident,
        "revision": plane.snapshot.revision,
        **plane.counters.message(),
        "in_flight": gauges,
        "queue_depth": [([name], len(backend.waiting)) for name, backend in backends.items()],
        "live": live,
    }
