"""What is live in this worker, and what of it is news to the control process?

Requests in flight and waiting, and what instances last said of their load. Only differences are
told, and only some instances are looked at in one turn of the loop, so that a look at a large
table holds up no request.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from gateway.core.instance_load import FADE_S
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.plane import Plane
from gateway.wire.messages import LoadReport, Observed

AT_ONCE = 200
"""Instances looked at in one turn: a tenth of a millisecond."""

ByAddress = dict[str, dict[str, Any]]


class Observer:
    """Tells one channel what is live. `send` takes the messages."""

    def __init__(self, send: Callable[[Observed], None]) -> None:
        self._send = send
        self._in_flight: ByAddress = {}
        self._limits: ByAddress = {}
        self._depths: dict[str, int] = {}
        self._reports: ByAddress = {}
        self._looks: list[Iterator[None]] = []

    def look(self, plane: Plane, look_id: int, *, reports: bool) -> None:
        """Sends what is news, soon; looks end in the order in which they were asked for.

        `look_id` 0 is a look that nobody waits for: it tells nothing if there is no news.
        """
        if not look_id and self._looks:
            return
        self._looks.append(self._slices(plane, look_id, reports))
        if len(self._looks) == 1:
            self._go_on()

    def _go_on(self) -> None:
        """One slice of the first look."""
        try:
            next(self._looks[0])
        except StopIteration:
            self._looks.pop(0)
        if self._looks:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _slices(self, plane: Plane, look_id: int, reports: bool) -> Iterator[None]:
        news = Observed(
            type="observed", id=look_id, in_flight={}, limits={}, queue_depth={}, reports={}
        )
        now = plane.now()
        looked = 0
        for name, backend in list(plane.live.backends.items()):
            looked += 1 + len(backend.instances)
            if looked > AT_ONCE:
                looked = 0
                yield
            counts = {
                address: each.load.in_flight
                for address, each in backend.instances.items()
                if each.load.in_flight
            }
            if backend.leaving:
                backend.leaving = [each for each in backend.leaving if each.load.in_flight]
                for each in backend.leaving:
                    counts[each.address] = counts.get(each.address, 0) + each.load.in_flight
            _differ(self._in_flight, name, counts, 0, news["in_flight"])
            limits = {
                address: limit
                for address in counts.keys() & backend.instances.keys()
                if (limit := backend.instances[address].load.learned_limit(now))
            }
            _differ(self._limits, name, limits, 0, news["limits"])
            if reports:
                loads = {
                    address: told
                    for address, each in backend.instances.items()
                    if (told := report(each, now)) is not None
                }
                _differ(self._reports, name, loads, None, news["reports"])
            depth = len(backend.waiting)
            if depth != self._depths.get(name, 0):
                self._depths[name] = news["queue_depth"][name] = depth
        self._forget(plane, news)
        if look_id or any(
            (news["in_flight"], news["limits"], news["queue_depth"], news["reports"])
        ):
            self._send(news)

    def _forget(self, plane: Plane, news: Observed) -> None:
        """Backends that are there no more have nothing."""
        backends = plane.live.backends
        kinds: tuple[tuple[ByAddress, ByAddress, int | None], ...] = (
            (self._in_flight, news["in_flight"], 0),
            (self._limits, news["limits"], 0),
            (self._reports, news["reports"], None),
        )
        for told, changed, nothing in kinds:
            for name in [name for name in told if name not in backends]:
                _differ(told, name, {}, nothing, changed)
        for name in [name for name in self._depths if name not in backends]:
            if self._depths.pop(name):
                news["queue_depth"][name] = 0


def _differ(told: ByAddress, name: str, now: dict[str, Any], nothing: Any, news: ByAddress) -> None:
    """Notes in `news` what of `now` is not in `told`, and what of `told` is `nothing` now."""
    before = told.get(name, {})
    if now == before:
        return
    changed = {address: value for address, value in now.items() if before.get(address) != value}
    changed |= dict.fromkeys(before.keys() - now.keys(), nothing)
    news[name] = changed
    if now:
        told[name] = now
    else:
        told.pop(name, None)


def report(instance: LiveInstance, now: float) -> LoadReport | None:
    """What `instance` last said of its load, without the request that it said it with where that
    has ended since; None once that is too old to be believed."""
    if not instance.reported or now - instance.load.reported_at > FADE_S:
        return None
    queue, running, slots, wait_ms = instance.report
    if not instance.load.in_flight:
        running = max(0.0, running - 1.0)
    return {"queue": queue, "running": running, "slots": slots, "wait_ms": wait_ms}
